# SPDX-License-Identifier: Apache-2.0
"""The part of a plan that is about load balancers: see `planner`.

Target groups come before listeners, which lead to them, load balancers and targets after the hosts
whose addresses they have or must not have. What goes, goes the other way round. A target group
whose protocol, port or type changes is another one, and so is a load balancer that gets its first
security group, loses its last, has fewer secondary addresses, or another scheme or address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from hyperplane_nat.model.balancer_checks import resolved, used_by_balancer
from hyperplane_nat.model.balancer_entities import Listener, LoadBalancer, TargetGroup
from hyperplane_nat.model.balancer_resources import (
    LoadBalancerResource,
    TargetGroupResource,
    TargetResource,
)
from hyperplane_nat.model.balancers import NodePlace
from hyperplane_nat.model.changes import Changes, by_name, parts_of
from hyperplane_nat.model.entities import Account, Host, SecurityGroup, Subnet, Vpc
from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.private_link_checks import services_of
from hyperplane_nat.model.private_link_planner import Line, PrivateLinkPlanner
from hyperplane_nat.model.resources import VpcResource
from hyperplane_nat.model.states import TargetState
from hyperplane_nat.model.target_health import Surroundings, balancer_of


class BalancerPlanner:
    """Those steps of one run."""

    def __init__(
        self,
        changes: Changes,
        line: Line,
        accounts: Mapping[str, Account],
        subnets: Mapping[tuple[str, str], Subnet],
        groups: Mapping[tuple[str, str], SecurityGroup],
        hosts: Mapping[tuple[str, str], Host],
    ) -> None:
        """What the declaration names, by the name of its VPC and its own; accounts by their own."""
        self._private_link = PrivateLinkPlanner(changes, line, accounts, subnets, groups)
        self._balancers = changes.balancers
        self._tables = changes.tables
        self._line = line
        self._subnets = subnets
        self._groups = groups
        self._hosts = hosts

    def make(self, vpc: Vpc, wanted: VpcResource) -> None:
        """The load balancers of a VPC, with all that belongs to them."""
        groups = {each.name: self._make_group(vpc, each) for each in wanted.target_groups}
        for item in wanted.load_balancers:
            name = f"{vpc.name}/{item.name}"
            try:
                balancer = self._make_balancer(vpc, item, name)
                self._make_listeners(balancer, item, groups, name)
            except ModelError as error:
                raise error.at(entry_of("load-balancer", name)) from None
        for each in wanted.target_groups:
            name = f"{vpc.name}/{each.name}"
            try:
                self._register(vpc, self._tables.target_groups[groups[each.name].id], each)
            except ModelError as error:
                raise error.at(entry_of("target-group", name, "targets")) from None

    def share(self, vpcs: Mapping[str, Vpc], wanted: Iterable[VpcResource]) -> None:
        """What is about endpoints: the load balancers of all VPCs are there."""
        self._private_link.make(vpcs, wanted)

    # -- target groups

    def _make_group(self, vpc: Vpc, wanted: TargetGroupResource) -> TargetGroup:
        name = f"{vpc.name}/{wanted.name}"
        attributes = resolved(wanted.attributes, wanted.protocol, wanted.type)
        found = self._named_group(vpc, wanted.name)
        same = found is not None and (found.protocol, found.port, found.type) == (
            wanted.protocol,
            wanted.port,
            wanted.type,
        )
        if found is not None and not same:
            self._delete_group(found)
            found = None
        if found is None:
            made = self._balancers.make_group(vpc.id, wanted, attributes)
            self._line("create", "target-group", name, f"{wanted.protocol.value} {wanted.port}")
            return made
        found = self._declared_group(found)
        changed = self._balancers.change_group(found, wanted.health_check, attributes)
        if changed != found:
            self._line("change", "target-group", name, "health checks or attributes")
        return changed

    def _named_group(self, vpc: Vpc, name: str) -> TargetGroup | None:
        found = parts_of(vpc, self._tables.target_groups)
        return next((each for each in found if each.name == name), None)

    def _declared_group(self, group: TargetGroup) -> TargetGroup:
        if not group.declared:
            group = replace(group, declared=True)
            self._tables.put(group)
        return group

    def _register(self, vpc: Vpc, group: TargetGroup, wanted: TargetGroupResource) -> None:
        """Exactly these: the others are deregistered."""
        around = Surroundings.of(self._tables, vpc.id)
        for target in wanted.targets:
            if target.address is not None and around.is_taken(target.address):
                raise used_by_balancer(target.address)
        places = [self._place(vpc, group, target) for target in wanted.targets]
        there = [each.place for each in group.targets if each.state is not TargetState.DRAINING]
        going = [place for place in there if place not in places]
        new = [place for place in places if place not in there]
        if new:
            group = self._balancers.register(group, new)
        if going:
            self._balancers.deregister(group, going)
        if new or going:
            name, detail = f"{vpc.name}/{group.name}", f"{len(places)} targets"
            self._line("change", "target-group", name, detail)

    def _place(self, vpc: Vpc, group: TargetGroup, target: TargetResource) -> tuple[str, int]:
        port = target.port or group.port
        if target.host is not None:
            return self._hosts[vpc.name, target.host].id, port
        return str(target.address), port

    def _delete_group(self, group: TargetGroup) -> None:
        for listener in list(self._tables.listeners.values()):
            if listener.target_group_id == group.id:
                self._balancers.delete_listener(listener)
        self._balancers.delete_group(self._tables.target_groups[group.id])
        self._line("delete", "target-group", self._name(group), "")

    # -- load balancers

    def _make_balancer(self, vpc: Vpc, wanted: LoadBalancerResource, name: str) -> LoadBalancer:
        nodes = [
            NodePlace(self._subnets[vpc.name, each.subnet], each.address, each.elastic_address)
            for each in wanted.nodes
        ]
        group_ids = sorted(self._groups[vpc.name, each].id for each in wanted.security_groups)
        there = parts_of(vpc, self._tables.load_balancers)
        found = next((each for each in there if each.name == wanted.name), None)
        if found is not None and not self._continues(found, wanted, vpc):
            self._delete_balancer(found)
            found = None
        if found is None:
            made = self._balancers.make(
                vpc.id,
                wanted.name,
                nodes,
                group_ids=group_ids,
                cross_zone=wanted.cross_zone,
                secondary_addresses=wanted.secondary_addresses,
                scheme=wanted.scheme,
            )
            shown = ", ".join(str(node.address) for node in made.nodes)
            self._line("create", "load-balancer", name, shown)
            return made
        kept = replace(found, cross_zone=wanted.cross_zone, declared=True)
        changed = self._balancers.change(
            kept, nodes, group_ids=group_ids, secondary=wanted.secondary_addresses
        )
        if changed != replace(found, declared=True):
            self._line("change", "load-balancer", name, f"{len(changed.nodes)} zones")
        return changed

    def _continues(self, found: LoadBalancer, wanted: LoadBalancerResource, vpc: Vpc) -> bool:
        """Whether it is the same load balancer, whatever can be changed of it."""
        there = {each.subnet_id: each.address for each in found.nodes}
        moved = any(
            each.address is not None
            and there.get(self._subnets[vpc.name, each.subnet].id, each.address) != each.address
            for each in wanted.nodes
        )
        elastic = {
            each.subnet_id: self._tables.elastic_addresses[each.allocation_id].address
            for each in found.nodes
            if each.allocation_id
        }
        moved = moved or any(
            each.elastic_address is not None
            and elastic.get(self._subnets[vpc.name, each.subnet].id, each.elastic_address)
            != each.elastic_address
            for each in wanted.nodes
        )
        fewer = wanted.secondary_addresses < found.secondary_addresses
        guarded = found.guarded == bool(wanted.security_groups)
        return found.scheme is wanted.scheme and guarded and not moved and not fewer

    def _make_listeners(
        self,
        balancer: LoadBalancer,
        wanted: LoadBalancerResource,
        groups: Mapping[str, TargetGroup],
        name: str,
    ) -> None:
        present = {each.port: each for each in self._tables.listeners_of(balancer.id)}
        ports = {each.port for each in wanted.listeners}
        for port, listener in present.items():
            if listener.declared and port not in ports:
                self._balancers.delete_listener(listener)
                self._line("delete", "listener", f"{name}:{port}", "")
        for item in wanted.listeners:
            detail = f"{item.protocol.value} to {item.target_group}"
            old, group = present.get(item.port), groups[item.target_group]
            if old is None:
                self._balancers.make_listener(
                    balancer, item.protocol, item.port, group, item.tcp_idle_seconds
                )
                self._line("create", "listener", f"{name}:{item.port}", detail)
                continue
            new = Listener(
                id=old.id,
                load_balancer_id=old.load_balancer_id,
                protocol=item.protocol,
                port=item.port,
                target_group_id=group.id,
                tcp_idle_seconds=item.tcp_idle_seconds,
            )
            if self._balancers.change_listener(old, new) != replace(old, declared=True):
                self._line("change", "listener", f"{name}:{item.port}", detail)

    def _delete_balancer(self, balancer: LoadBalancer) -> None:
        self._balancers.delete(balancer)
        self._line("delete", "load-balancer", self._name(balancer), "")

    def _name(self, item: LoadBalancer | TargetGroup) -> str:
        return f"{self._tables.vpcs[item.vpc_id].name}/{item.name}"

    # -- what goes

    def delete_unused(self, wanted: Mapping[str, VpcResource]) -> None:
        """What no declaration names any more; `wanted` are VPCs that stay, by id."""
        self._private_link.delete_unused(wanted)
        for balancer in by_name(self._tables.load_balancers.values()):
            vpc = wanted.get(balancer.vpc_id)
            names = {each.name for each in vpc.load_balancers} if vpc is not None else set()
            if (
                balancer.declared
                and balancer.name not in names
                and not services_of(self._tables, balancer)
            ):
                self._delete_balancer(balancer)
        for group in by_name(self._tables.target_groups.values()):
            vpc = wanted.get(group.vpc_id)
            names = {each.name for each in vpc.target_groups} if vpc is not None else set()
            if group.declared and group.name not in names and self._free(group):
                self._delete_group(group)

    def _free(self, group: TargetGroup) -> bool:
        """Whether nothing that stays forwards to it, which a command has made."""
        return balancer_of(self._tables, group) is None
