# SPDX-License-Identifier: Apache-2.0
"""Load balancers over time: what they are made of, and what becomes of their targets.

Theory of operation
-------------------
A load balancer has a network interface in one subnet of each of its zones, whose addresses each
have a number in the state map. It has them from the beginning, is `provisioning` for a while and
serves when it is `active`; deleted, it is gone at once.

A target is `initial` when it is registered, and again when its group is no longer forwarded to.
Health checks say when it is healthy and when it is not; how often they must is the checker's
affair. Deregistered it drains: it takes no new flows and is gone after the delay. Where its flows
are ended then it stays until the forwarder was told to (`target_ended`), so that a process killed
in between does not forget them. Registered again meanwhile, it is a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from typing import NamedTuple

from hyperplane_nat.model.balancer_entities import (
    HealthChecker,
    Listener,
    LoadBalancer,
    LoadBalancerNode,
    Target,
    TargetGroup,
)
from hyperplane_nat.model.balancer_resources import (
    BalancerProtocol,
    GroupAttributes,
    HealthCheck,
    Scheme,
    TargetGroupResource,
)
from hyperplane_nat.model.entities import (
    Host,
    InterfaceKind,
    NetworkInterface,
    RetiredHost,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.gateways import Gateways
from hyperplane_nat.model.identifiers import link_name
from hyperplane_nat.model.lifecycle import Lifecycle
from hyperplane_nat.model.states import (
    LOAD_BALANCER_STATES,
    TARGET_STATES,
    InterfaceStatus,
    LoadBalancerEvent,
    LoadBalancerState,
    TargetEvent,
    TargetState,
    following,
)
from hyperplane_nat.model.target_health import balancer_of

_ID_DIGITS = 16
Place = tuple[str, int]
"""A target's id and port."""


class NodePlace(NamedTuple):
    """Where a node is to be, and what is chosen of its addresses."""

    subnet: Subnet
    address: IPv4Address | None = None
    """Its private address; None: a free one."""
    elastic_address: IPv4Address | None = None
    """The public address that is allocated for it; None: a free one."""
    allocation_id: str = ""
    """Or the public address that it gets, which nothing has."""


_UNHEALTHY = (TargetState.UNHEALTHY, TargetState.UNHEALTHY_DRAINING)


class Balancers:
    """Changes of load balancers, inside a transaction of the caller's."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        gateways: Gateways,
        internet: Callable[[], Vpc],
        *,
        declared: bool,
    ) -> None:
        """`internet` is the VPC that it is; `declared`: whether what is made comes with a
        declaration.
        """
        self._gateways = gateways
        self._internet = internet
        self._lifecycle = lifecycle
        self._tables = lifecycle.tables
        self._declared = declared

    # -- load balancers

    def make(
        self,
        vpc_id: str,
        name: str,
        nodes: Sequence[NodePlace],
        *,
        group_ids: Iterable[str] = (),
        cross_zone: bool = False,
        secondary_addresses: int = 0,
        scheme: Scheme = Scheme.INTERNAL,
    ) -> LoadBalancer:
        """
        A load balancer that is provisioning. TooManyLoadBalancers, InvalidSubnet for one without
        free addresses, or of a VPC without internet gateway if it faces the internet,
        InvalidConfigurationRequest for an address that is taken; of public addresses those of
        `Gateways`.
        """
        quota = self._lifecycle.settings.load_balancers_per_region
        account_id = self._tables.vpcs[vpc_id].account_id
        owners = [self._tables.vpcs[each.vpc_id] for each in self._tables.load_balancers.values()]
        if sum(each.account_id == account_id for each in owners) >= quota:
            raise ModelError(
                "TooManyLoadBalancers",
                "You've reached the limit on the number of load balancers for your AWS account: "
                f"{quota}",
                "delete some, or raise lifecycle.load_balancers_per_region",
            )
        if scheme is Scheme.INTERNET_FACING and self._tables.internet_gateway_of(vpc_id) is None:
            raise without_internet_gateway(vpc_id)
        self._lifecycle.router_interface(self._tables.vpcs[vpc_id])
        if vpc_id not in self._tables.health_checkers:
            self._tables.put(HealthChecker(vpc_id, self._lifecycle.free_host_number()))
        seconds = self._lifecycle.settings.load_balancer_creation_seconds
        groups = tuple(sorted(group_ids))
        balancer = LoadBalancer(
            id=self._new_id(),
            name=name,
            vpc_id=vpc_id,
            state=LoadBalancerState.PROVISIONING,
            created=self._lifecycle.now,
            nodes=(),
            group_ids=groups,
            guarded=bool(groups),
            cross_zone=cross_zone,
            secondary_addresses=secondary_addresses,
            scheme=scheme,
            due=self._lifecycle.now + self._lifecycle.settings.scaled(seconds),
            declared=self._declared,
        )
        return self.change(balancer, nodes, group_ids=groups, secondary=secondary_addresses)

    def change(
        self,
        balancer: LoadBalancer,
        nodes: Sequence[NodePlace],
        *,
        group_ids: Iterable[str],
        secondary: int,
    ) -> LoadBalancer:
        """Other nodes, security groups or more secondary addresses; errors as of `make`."""
        groups = tuple(sorted(group_ids))
        wanted = {each.subnet.id for each in nodes}
        kept = {each.subnet_id: each for each in balancer.nodes if each.subnet_id in wanted}
        for node in balancer.nodes:
            if node.subnet_id not in kept:
                self._remove_node(node)
        changed = replace(
            balancer,
            nodes=tuple(
                kept.get(each.subnet.id) or self._make_node(balancer, each, groups)
                for each in nodes
            ),
            group_ids=groups,
            secondary_addresses=secondary,
        )
        for node in changed.nodes:
            self._resize(node, groups, secondary)
        self._tables.put(changed)
        return changed

    def _make_node(
        self,
        balancer: LoadBalancer,
        place: NodePlace,
        group_ids: tuple[str, ...],
    ) -> LoadBalancerNode:
        subnet, address = place.subnet, place.address
        if address is not None and int(address) in self._tables.addresses(subnet.vpc_id):
            raise ModelError(
                "InvalidConfigurationRequest",
                f"The private IPv4 address {address} is in use",
                "choose another one, or leave it out",
            )
        vpc = self._tables.vpcs[subnet.vpc_id]
        interface_id = self._lifecycle.new_interface_id()
        interface = NetworkInterface(
            id=interface_id,
            kind=InterfaceKind.LOAD_BALANCER,
            status=InterfaceStatus.AVAILABLE,
            description=f"ELB net/{balancer.name}/{balancer.id}",
            number=self._lifecycle.free_number(),
            link=link_name(interface_id),
            owner_id=vpc.account_id,
            vpc_id=vpc.id,
            subnet_id=subnet.id,
            group_ids=group_ids,
            address=address or self._free_address(subnet),
            requester_id=vpc.account_id,
        )
        self._tables.put(interface)
        allocation_id = ""
        if balancer.scheme is Scheme.INTERNET_FACING:
            allocation_id = self._make_public(interface, place, vpc.account_id)
        return LoadBalancerNode(subnet.id, interface_id, interface.address, allocation_id)

    def _make_public(self, interface: NetworkInterface, place: NodePlace, account_id: str) -> str:
        """Give a node a public address; its allocation id."""
        if place.allocation_id:
            elastic = self._tables.elastic_addresses[place.allocation_id]
        else:
            wanted, internet = place.elastic_address, self._internet()
            elastic = self._gateways.allocate(account_id, wanted, kept=False, internet=internet)
        return self._gateways.map_node(elastic, interface).id

    def _free_address(self, subnet: Subnet) -> IPv4Address:
        try:
            return self._lifecycle.free_address(subnet)
        except ModelError:
            raise ModelError(
                "InvalidSubnet",
                f"Not enough IP space available in {subnet.id}. ELB requires at least 1 free IP "
                "address in each subnet",
                "use another subnet",
            ) from None

    def _resize(self, node: LoadBalancerNode, group_ids: tuple[str, ...], secondary: int) -> None:
        interface = self._tables.interfaces[node.interface_id]
        interface = replace(interface, group_ids=group_ids)
        self._tables.put(interface)
        subnet = self._tables.subnets[node.subnet_id]
        while len(interface.secondary) < secondary:
            further = (self._lifecycle.free_number(), self._free_address(subnet))
            interface = replace(interface, secondary=(*interface.secondary, further))
            self._tables.put(interface)

    def _remove_node(self, node: LoadBalancerNode) -> None:
        if node.allocation_id:
            self._gateways.unmap(self._tables.elastic_addresses[node.allocation_id])
        self._lifecycle.retire(self._tables.interfaces[node.interface_id])

    def delete(self, balancer: LoadBalancer) -> None:
        """It goes at once, with its listeners; its target groups stay."""
        for listener in self._tables.listeners_of(balancer.id):
            self.delete_listener(listener)
        for node in balancer.nodes:
            self._remove_node(node)
        self._tables.remove(balancer)
        if any(each.vpc_id == balancer.vpc_id for each in self._tables.load_balancers.values()):
            return
        checker = self._tables.health_checkers[balancer.vpc_id]
        self._tables.remove(checker)
        self._tables.put(RetiredHost(checker.number))
        self._lifecycle.leave_router(balancer.vpc_id)

    # -- listeners

    def make_listener(
        self,
        balancer: LoadBalancer,
        protocol: BalancerProtocol,
        port: int,
        group: TargetGroup,
        tcp_idle_seconds: float,
    ) -> Listener:
        """A listener; the caller has looked at it."""
        listener = Listener(
            id=self._new_id(),
            load_balancer_id=balancer.id,
            protocol=protocol,
            port=port,
            target_group_id=group.id,
            tcp_idle_seconds=tcp_idle_seconds,
            declared=self._declared,
        )
        self._tables.put(listener)
        return listener

    def change_listener(self, listener: Listener, changed: Listener) -> Listener:
        """The same listener, otherwise; a group that it leaves may have no other."""
        if changed != listener:
            self._tables.put(changed)
            self._released(listener.target_group_id)
        return changed

    def delete_listener(self, listener: Listener) -> None:
        """Its flows end with it."""
        self._tables.remove(listener)
        self._released(listener.target_group_id)

    def _released(self, group_id: str) -> None:
        """Targets of a group that nothing forwards to have no health."""
        group = self._tables.target_groups[group_id]
        if balancer_of(self._tables, group) is not None:
            return
        self._put_targets(
            group,
            [
                each
                if each.state is TargetState.DRAINING
                else Target(each.id, each.port, TargetState.INITIAL)
                for each in group.targets
                if not each.ending
            ],
        )

    # -- target groups

    def make_group(
        self, vpc_id: str, wanted: TargetGroupResource, attributes: GroupAttributes
    ) -> TargetGroup:
        """A target group without targets, its attributes said in full. TooManyTargetGroups."""
        quota = self._lifecycle.settings.target_groups_per_region
        if len(self._tables.target_groups) >= quota:
            raise ModelError(
                "TooManyTargetGroups",
                "You've reached the limit on the number of target groups for your AWS account: "
                f"{quota}",
                "delete some, or raise lifecycle.target_groups_per_region",
            )
        group = TargetGroup(
            id=self._new_id(),
            name=wanted.name,
            vpc_id=vpc_id,
            protocol=wanted.protocol,
            port=wanted.port,
            type=wanted.type,
            health_check=wanted.health_check,
            attributes=attributes,
            declared=self._declared,
        )
        self._tables.put(group)
        return group

    def change_group(
        self, group: TargetGroup, health_check: HealthCheck, attributes: GroupAttributes
    ) -> TargetGroup:
        """Other checks or attributes; targets keep their health."""
        changed = replace(group, health_check=health_check, attributes=attributes)
        if changed != group:
            self._tables.put(changed)
        return changed

    def register(self, group: TargetGroup, places: Iterable[Place]) -> TargetGroup:
        """Targets that are initial; those that there are stay, unless they drain."""
        targets = list(group.targets)
        for id_, port in places:
            found = group.target((id_, port))
            if found is None:
                targets.append(Target(id_, port, TargetState.INITIAL))
            elif found.state is TargetState.DRAINING:
                state = following(TARGET_STATES, found.state, TargetEvent.REGISTERED)
                targets[targets.index(found)] = Target(id_, port, state)
        return self._put_targets(group, targets)

    def deregister(self, group: TargetGroup, places: Iterable[Place]) -> TargetGroup:
        """Targets that take no new flows and are gone after the delay."""
        going = set(places)
        seconds = group.attributes.deregistration_delay_seconds
        due = self._lifecycle.now + self._lifecycle.settings.scaled(seconds)
        targets = []
        for each in group.targets:
            if each.place not in going or each.state is TargetState.DRAINING:
                targets.append(each)
                continue
            state = following(TARGET_STATES, each.state, TargetEvent.DEREGISTERED)
            targets.append(Target(each.id, each.port, state, due=due))
        return self._put_targets(group, targets)

    def delete_group(self, group: TargetGroup) -> None:
        """It goes; the caller has seen that nothing forwards to it."""
        self._tables.remove(group)

    def forget_host(self, host: Host) -> None:
        """A host goes, and is a target no more ("Deregister targets", terminated instances)."""
        for group in list(self._tables.target_groups.values()):
            left = [each for each in group.targets if each.id != host.id]
            if len(left) < len(group.targets):
                self._put_targets(group, left)

    # -- health and time

    def note_health(self, group: TargetGroup, found: Mapping[Place, str]) -> TargetGroup:
        """What checks have found: by target nothing, or why it is unhealthy."""
        targets = []
        for each in group.targets:
            reason = found.get(each.place)
            if reason is not None and each.state is not TargetState.DRAINING:
                each = self._checked(group, each, reason)
            targets.append(each)
        return self._put_targets(group, targets)

    def _checked(self, group: TargetGroup, target: Target, reason: str) -> Target:
        if not reason:
            if target.state is TargetState.HEALTHY:
                return target
            state = following(TARGET_STATES, target.state, TargetEvent.PASSED)
            return Target(target.id, target.port, state)
        if target.state in _UNHEALTHY:
            return target if target.reason == reason else replace(target, reason=reason)
        kept = group.attributes.unhealthy_draining_seconds
        event = TargetEvent.FAILED_KEEPING if kept else TargetEvent.FAILED
        state = following(TARGET_STATES, target.state, event)
        due = None
        if state is TargetState.UNHEALTHY_DRAINING:
            due = self._lifecycle.now + self._lifecycle.settings.scaled(kept)
        return Target(target.id, target.port, state, reason, due)

    def target_ended(self, group_id: str, place: Place) -> None:
        """The flows of a target that has drained were ended: it is gone."""
        group = self._tables.target_groups.get(group_id)
        if group is not None:
            left = [each for each in group.targets if each.place != place or not each.ending]
            self._put_targets(group, left)

    def expire(self, entity: LoadBalancer | TargetGroup) -> None:
        """Do what is due."""
        if isinstance(entity, LoadBalancer):
            active = following(LOAD_BALANCER_STATES, entity.state, LoadBalancerEvent.PROVISIONED)
            self._tables.put(replace(entity, state=active, due=None))
            return
        now, targets = self._lifecycle.now, []
        forwarded = balancer_of(self._tables, entity) is not None
        for each in entity.targets:
            if each.due is None or each.due > now:
                targets.append(each)
            elif each.state is TargetState.UNHEALTHY_DRAINING:
                state = following(TARGET_STATES, each.state, TargetEvent.KEPT)
                targets.append(replace(each, state=state, due=None))
            elif entity.attributes.deregistration_terminates and forwarded:
                targets.append(replace(each, due=None, ending=True))
        self._put_targets(entity, targets)

    def _put_targets(self, group: TargetGroup, targets: Sequence[Target]) -> TargetGroup:
        due = min((each.due for each in targets if each.due is not None), default=None)
        changed = replace(group, targets=tuple(targets), due=due)
        if changed != group:
            self._tables.put(changed)
        return changed

    def _new_id(self) -> str:
        return self._lifecycle.random_hex(_ID_DIGITS)


def without_internet_gateway(vpc: str) -> ModelError:
    """An internet-facing load balancer where nobody from the internet gets (CreateLoadBalancer)."""
    return ModelError(
        "InvalidSubnet",
        f"VPC {vpc} has no internet gateway",
        "give it one: internet_gateway = true in its [[vpc]], or make the load balancer internal",
    )
