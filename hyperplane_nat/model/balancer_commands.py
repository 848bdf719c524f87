# SPDX-License-Identifier: Apache-2.0
"""Commands on load balancers, listeners and target groups: see `commands`.

Those that create may be repeated: a resource of that name and with the same settings is the one
that there is (Elastic Load Balancing API, "This operation is idempotent").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from hyperplane_nat.model.balancer_checks import (
    association_limit,
    check_group,
    check_listener,
    check_listener_count,
    check_name,
    check_node_address,
    check_public_node,
    check_secondary,
    check_target,
    check_target_count,
    check_zones,
    duplicate_listener,
    invalid_target,
    no_group,
    no_security_group,
    no_subnet,
    no_target,
    resolved,
    used_by_balancer,
)
from hyperplane_nat.model.balancer_entities import (
    Listener,
    LoadBalancer,
    LoadBalancerNode,
    TargetGroup,
)
from hyperplane_nat.model.balancer_resources import (
    TCP_IDLE_SECONDS,
    BalancerProtocol,
    GroupAttributes,
    HealthCheck,
    NodeResource,
    Scheme,
    TargetGroupResource,
    TargetResource,
)
from hyperplane_nat.model.balancers import NodePlace, Place
from hyperplane_nat.model.entities import Vpc
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.gateway_commands import GatewayCommands
from hyperplane_nat.model.target_health import Surroundings, balancer_of

B = TypeVar("B", LoadBalancer, TargetGroup)


class BalancerCommands(GatewayCommands):
    """Those commands on one region."""

    # -- what is named

    def load_balancer(self, named: str) -> LoadBalancer:
        """By id, VPC/name or name. LoadBalancerNotFound."""
        balancers = self._tables.load_balancers
        return self._part(balancers, named, "LoadBalancerNotFound", "load balancer")

    def target_group(self, named: str) -> TargetGroup:
        """By id, VPC/name or name. TargetGroupNotFound."""
        return self._part(self._tables.target_groups, named, "TargetGroupNotFound", "target group")

    def listener(self, named: str) -> Listener:
        """By id, or BALANCER:PORT. ListenerNotFound."""
        if (found := self._tables.listeners.get(named)) is not None:
            return found
        name, _, port = named.rpartition(":")
        for listener in self._tables.listeners_of(self.load_balancer(name).id) if name else ():
            if str(listener.port) == port:
                return listener
        raise ModelError(
            "ListenerNotFound", f"One or more listeners not found: '{named}'", "name another"
        )

    # -- load balancers

    def create_load_balancer(
        self,
        vpc: str,
        name: str,
        nodes: Sequence[NodeResource],
        *,
        security_groups: Sequence[str] = (),
        cross_zone: bool = False,
        secondary_addresses: int = 0,
        scheme: Scheme = Scheme.INTERNAL,
    ) -> LoadBalancer:
        """
        CreateLoadBalancer, of type network.

        Errors: InvalidVpcID.NotFound, DuplicateLoadBalancerName, TooManyLoadBalancers,
        SubnetNotFound, InvalidSubnet, InvalidSecurityGroup, InvalidConfigurationRequest,
        ValidationError; of public addresses AllocationIdNotFound, ResourceInUse,
        InvalidIPAddress.InUse.
        """
        place = self._customer_vpc(vpc)
        check_name("load balancer", name)
        check_secondary(secondary_addresses)
        places = self._node_places(place, scheme, nodes)
        groups = self._security_groups(place, security_groups)
        found = self._of_account(self._tables.load_balancers.values(), place, name)
        if found is not None:
            settings = (found.group_ids, found.cross_zone, found.secondary_addresses, found.scheme)
            asked = (groups, cross_zone, secondary_addresses, scheme)
            if found.vpc_id == place.id and settings == asked and self._has_nodes(found, places):
                return found
            raise ModelError(
                "DuplicateLoadBalancerName",
                f"A load balancer with the same name '{name}' exists, but with different settings",
                "choose another name, or change that one",
            )
        self._check_allocations(places)
        return self._balancers.make(
            place.id,
            name,
            places,
            group_ids=groups,
            cross_zone=cross_zone,
            secondary_addresses=secondary_addresses,
            scheme=scheme,
        )

    def modify_load_balancer(
        self,
        balancer: str,
        *,
        nodes: Sequence[NodeResource] | None = None,
        security_groups: Sequence[str] | None = None,
        cross_zone: bool | None = None,
        secondary_addresses: int | None = None,
    ) -> LoadBalancer:
        """
        SetSubnets, SetSecurityGroups and ModifyLoadBalancerAttributes, of what is not None: the
        errors of `create_load_balancer`, LoadBalancerNotFound.
        """
        found = self.load_balancer(balancer)
        vpc = self._tables.vpcs[found.vpc_id]
        if cross_zone is not None and cross_zone != found.cross_zone:
            found = replace(found, cross_zone=cross_zone)
        kept = [NodePlace(self._tables.subnets[each.subnet_id]) for each in found.nodes]
        if nodes is not None:
            kept = self._node_places(vpc, found.scheme, nodes)
            self._check_moved(found, kept)
            there = {each.subnet_id for each in found.nodes}
            self._check_allocations(each for each in kept if each.subnet.id not in there)
        groups = found.group_ids
        if security_groups is not None:
            groups = self._security_groups(vpc, security_groups)
            check_guarded(found, groups)
        secondary = found.secondary_addresses
        if secondary_addresses is not None:
            check_secondary(secondary_addresses)
            check_not_fewer(secondary, secondary_addresses)
            secondary = secondary_addresses
        return self._balancers.change(found, kept, group_ids=groups, secondary=secondary)

    def delete_load_balancer(self, balancer: str) -> None:
        """DeleteLoadBalancer, with its listeners: LoadBalancerNotFound."""
        self._balancers.delete(self.load_balancer(balancer))

    # -- listeners

    def create_listener(
        self,
        balancer: str,
        protocol: BalancerProtocol,
        port: int,
        target_group: str,
        tcp_idle_seconds: float = TCP_IDLE_SECONDS,
    ) -> Listener:
        """
        CreateListener, with one action, `forward`.

        Errors: LoadBalancerNotFound, TargetGroupNotFound, DuplicateListener, TooManyListeners,
        IncompatibleProtocols, TargetGroupAssociationLimit, InvalidConfigurationRequest.
        """
        found = self.load_balancer(balancer)
        group = self._group_for(found, target_group)
        check_listener(protocol, port, tcp_idle_seconds, group.protocol)
        others = self._tables.listeners_of(found.id)
        for each in others:
            if each.port != port:
                continue
            asked = (protocol, group.id, tcp_idle_seconds)
            if (each.protocol, each.target_group_id, each.tcp_idle_seconds) == asked:
                return each
            raise duplicate_listener(port)
        check_listener_count(found.name, len(others) + 1, self._lifecycle.settings)
        return self._balancers.make_listener(found, protocol, port, group, tcp_idle_seconds)

    def modify_listener(
        self,
        listener: str,
        *,
        protocol: BalancerProtocol | None = None,
        port: int | None = None,
        target_group: str | None = None,
        tcp_idle_seconds: float | None = None,
    ) -> Listener:
        """ModifyListener and ModifyListenerAttributes, of what is not None: ListenerNotFound."""
        found = self.listener(listener)
        balancer = self._tables.load_balancers[found.load_balancer_id]
        group = self._tables.target_groups[found.target_group_id]
        if target_group is not None:
            group = self._group_for(balancer, target_group)
        changed = replace(
            found,
            protocol=protocol or found.protocol,
            port=port or found.port,
            target_group_id=group.id,
            tcp_idle_seconds=tcp_idle_seconds or found.tcp_idle_seconds,
        )
        check_listener(changed.protocol, changed.port, changed.tcp_idle_seconds, group.protocol)
        for each in self._tables.listeners_of(balancer.id):
            if each.port == changed.port and each.id != found.id:
                raise duplicate_listener(changed.port)
        return self._balancers.change_listener(found, changed)

    def delete_listener(self, listener: str) -> None:
        """DeleteListener: ListenerNotFound."""
        self._balancers.delete_listener(self.listener(listener))

    # -- target groups

    def create_target_group(self, vpc: str, wanted: TargetGroupResource) -> TargetGroup:
        """
        CreateTargetGroup, without targets: DuplicateTargetGroupName, TooManyTargetGroups,
        InvalidConfigurationRequest, ValidationError.
        """
        place = self._customer_vpc(vpc)
        check_group(wanted)
        attributes = resolved(wanted.attributes, wanted.protocol, wanted.type)
        found = self._of_account(self._tables.target_groups.values(), place, wanted.name)
        if found is not None:
            asked = (place.id, wanted.protocol, wanted.port, wanted.type, wanted.health_check)
            there = (found.vpc_id, found.protocol, found.port, found.type, found.health_check)
            if (*asked, attributes) == (*there, found.attributes):
                return found
            raise ModelError(
                "DuplicateTargetGroupName",
                f"A target group with the same name '{wanted.name}' exists, but with different "
                "settings",
                "choose another name, or change that one",
            )
        return self._balancers.make_group(place.id, wanted, attributes)

    def modify_target_group(
        self,
        group: str,
        health_check: HealthCheck | None = None,
        attributes: GroupAttributes | None = None,
    ) -> TargetGroup:
        """ModifyTargetGroup and ModifyTargetGroupAttributes: all of what is not None."""
        found = self.target_group(group)
        check = health_check or found.health_check
        wanted = TargetGroupResource(found.name, found.protocol, found.port, found.type, check)
        check_group(wanted)
        chosen = resolved(attributes or found.attributes, found.protocol, found.type)
        return self._balancers.change_group(found, check, chosen)

    def delete_target_group(self, group: str) -> None:
        """DeleteTargetGroup: TargetGroupNotFound, ResourceInUse."""
        found = self.target_group(group)
        if (balancer := balancer_of(self._tables, found)) is not None:
            raise ModelError(
                "ResourceInUse",
                f"Target group '{found.name}' is currently in use by a listener or a rule of load "
                f"balancer {balancer.name}",
                "delete its listener first",
            )
        self._balancers.delete_group(found)

    def register_targets(self, group: str, targets: Iterable[TargetResource]) -> TargetGroup:
        """RegisterTargets: TargetGroupNotFound, InvalidTarget, TooManyTargets."""
        found = self.target_group(group)
        places = self._places(found, targets)
        known = {each.place for each in found.targets} | set(places)
        check_target_count(found.name, len(known), self._lifecycle.settings)
        return self._balancers.register(found, places)

    def deregister_targets(self, group: str, targets: Iterable[TargetResource]) -> TargetGroup:
        """DeregisterTargets: TargetGroupNotFound, InvalidTarget for one that is not registered."""
        found = self.target_group(group)
        places = []
        for target in targets:
            id_ = self._target_id(found, target)
            own = [each.place for each in found.targets if each.id == id_]
            if target.port is not None:
                own = [place for place in own if place[1] == target.port]
            if not own:
                raise invalid_target(
                    f"The following targets are not registered with the target group: "
                    f"'{target.host or target.address}'",
                    "hyperplane-nat target-health lists those that are",
                )
            places += own
        return self._balancers.deregister(found, places)

    def note_health(self, found: Mapping[str, Mapping[Place, str]]) -> None:
        """
        What health checks have found: by target group and target nothing, or the reason for which
        it is unhealthy. What has gone meanwhile is passed over.
        """
        for group_id, targets in found.items():
            if (group := self._tables.target_groups.get(group_id)) is not None:
                self._balancers.note_health(group, targets)

    # -- how

    def _of_account(self, there: Iterable[B], vpc: Vpc, name: str) -> B | None:
        """Names are an account's, whatever the VPC."""
        vpcs = self._tables.vpcs
        for each in there:
            if each.name == name and vpcs[each.vpc_id].account_id == vpc.account_id:
                return each
        return None

    def _node_places(
        self, vpc: Vpc, scheme: Scheme, nodes: Sequence[NodeResource]
    ) -> list[NodePlace]:
        found: list[NodePlace] = []
        for (_, key), node in zip(
            self._in(vpc, self._tables.subnets, [each.subnet for each in nodes]),
            nodes,
            strict=True,
        ):
            subnet = self._tables.subnets.get(key)
            if subnet is None:
                raise no_subnet(node.subnet)
            check_node_address(subnet.cidr, node.address)
            check_public_node(scheme, node)
            allocation = "" if node.allocation is None else self._allocation(node.allocation)
            found.append(NodePlace(subnet, node.address, node.elastic_address, allocation))
        check_zones([each.subnet.availability_zone for each in found])
        return found

    def _check_allocations(self, places: Iterable[NodePlace]) -> None:
        """Public addresses that are there, and nobody's yet. AllocationIdNotFound,
        ResourceInUse.
        """
        seen: set[str] = set()
        for each in places:
            if not each.allocation_id:
                continue
            address = self._tables.elastic_addresses.get(each.allocation_id)
            if address is None:
                raise ModelError(
                    "AllocationIdNotFound",
                    f"The allocation IDs '{each.allocation_id}' do not exist",
                    "allocate an address first, or leave it out",
                )
            if address.association_id or each.allocation_id in seen:
                raise ModelError(
                    "ResourceInUse",
                    "The allocation IDs are not available for use",
                    f"disassociate {address.address}, or use another address",
                )
            seen.add(each.allocation_id)

    def _has_nodes(self, balancer: LoadBalancer, places: Sequence[NodePlace]) -> bool:
        """Whether these are its nodes, as far as they say something."""
        there = {each.subnet_id: each for each in balancer.nodes}
        return there.keys() == {each.subnet.id for each in places} and all(
            self._is_there(there[each.subnet.id], each) for each in places
        )

    def _is_there(self, node: LoadBalancerNode, place: NodePlace) -> bool:
        elastic = self._tables.elastic_addresses.get(node.allocation_id)
        return (
            place.address in (None, node.address)
            and place.allocation_id in ("", node.allocation_id)
            and place.elastic_address in (None, elastic and elastic.address)
        )

    def _check_moved(self, balancer: LoadBalancer, places: Sequence[NodePlace]) -> None:
        """A node keeps its addresses."""
        there = {each.subnet_id: each for each in balancer.nodes}
        for each in places:
            node = there.get(each.subnet.id)
            if node is not None and not self._is_there(node, each):
                kind = "private IPv4" if each.address is not None else "elastic"
                raise ModelError(
                    "InvalidConfigurationRequest",
                    f"The {kind} address of {each.subnet.id} cannot be changed",
                    "take the subnet away first, then add it with the other address",
                )

    def _security_groups(self, vpc: Vpc, named: Sequence[str]) -> tuple[str, ...]:
        keys = [key for _, key in self._in(vpc, self._tables.groups, named)]
        for name, key in zip(named, keys, strict=True):
            if key not in self._tables.groups:
                raise no_security_group(name)
        return tuple(sorted(set(keys)))

    def _group_for(self, balancer: LoadBalancer, named: str) -> TargetGroup:
        vpc = self._tables.vpcs[balancer.vpc_id]
        ((_, key),) = self._in(vpc, self._tables.target_groups, [named])
        group = self._tables.target_groups.get(key)
        if group is None or group.vpc_id != vpc.id:
            raise no_group(named)
        owner = balancer_of(self._tables, group)
        if owner is not None and owner.id != balancer.id:
            raise association_limit(group.name, owner.name)
        return group

    def _places(self, group: TargetGroup, targets: Iterable[TargetResource]) -> list[Place]:
        vpc, around = self._tables.vpcs[group.vpc_id], Surroundings.of(self._tables, group.vpc_id)
        places = []
        for target in targets:
            check_target(vpc.cidr, group.type, target)
            if target.address is not None and around.is_taken(target.address):
                raise used_by_balancer(target.address)
            places.append((self._target_id(group, target), target.port or group.port))
        return places

    def _target_id(self, group: TargetGroup, target: TargetResource) -> str:
        if target.address is not None:
            return str(target.address)
        vpc = self._tables.vpcs[group.vpc_id]
        ((_, key),) = self._in(vpc, self._tables.hosts, [target.host or ""])
        if key not in self._tables.hosts:
            raise no_target(target.host or "", vpc.name)
        return key


def check_guarded(balancer: LoadBalancer, groups: Sequence[str]) -> None:
    """Security groups only where there was one at creation. InvalidConfigurationRequest."""
    if bool(groups) != balancer.guarded:
        text = (
            "You cannot remove all security groups from a load balancer that has any"
            if balancer.guarded
            else "You cannot set security groups on a load balancer that was created without any"
        )
        raise ModelError("InvalidConfigurationRequest", text, "make another load balancer")


def check_not_fewer(there: int, wanted: int) -> None:
    """Secondary addresses are not taken away. InvalidConfigurationRequest."""
    if wanted < there:
        raise ModelError(
            "InvalidConfigurationRequest",
            f"secondary_ips.auto_assigned.per_subnet cannot be lowered from {there} to {wanted}",
            "make another load balancer",
        )
