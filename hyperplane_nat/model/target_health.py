# SPDX-License-Identifier: Apache-2.0
"""The health of targets, and which of them a node may use: pure functions of the tables.

Theory of operation
-------------------
What is kept of a target is what checks and deregistration make of it. The rest follows from other
things: it is `unused` while no load balancer forwards to its group, when its availability zone has
no node, and when its address has become one of a load balancer's or an endpoint's.

A node uses targets of its own zone, or all with cross-zone load balancing, which the group says or
else its load balancer. Of these it uses the healthy ones; with fewer of them than the group's
minimum it uses all ("fail open"), so that a group whose checks are wrong goes on to serve. What
drains takes no new flows in any case.

States, reasons and texts: Elastic Load Balancing API, `TargetHealth`, and "Health checks for
Network Load Balancer target groups".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Self

from hyperplane_nat.model.balancer_entities import (
    LoadBalancer,
    LoadBalancerNode,
    Target,
    TargetGroup,
)
from hyperplane_nat.model.entities import InterfaceKind
from hyperplane_nat.model.states import LoadBalancerState, TargetState
from hyperplane_nat.model.tables import Tables

UNUSED = "unused"
NOT_IN_USE = "Target.NotInUse"

DESCRIPTIONS = {
    "Elb.RegistrationInProgress": "Target registration is in progress",
    "Elb.InitialHealthChecking": "Initial health checks in progress",
    "Target.ResponseCodeMismatch": "Health checks failed with an unexpected code",
    "Target.Timeout": "Request timed out",
    "Target.FailedHealthChecks": "Health checks failed",
    "Target.DeregistrationInProgress": "Target deregistration is in progress",
    "Target.IpUnusable": "The target IP address is used by a load balancer or an endpoint",
}


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """What is told of a target: nothing but the state when it is healthy."""

    state: str
    reason: str = ""
    description: str = ""


def balancer_of(tables: Tables, group: TargetGroup) -> LoadBalancer | None:
    """The load balancer that forwards to a group: a group has one at most."""
    listener = tables.listener_to(group.id)
    return None if listener is None else tables.load_balancers[listener.load_balancer_id]


def address_of(tables: Tables, target: Target) -> IPv4Address:
    """The address of a target, which is a host's or is one."""
    host = tables.hosts.get(target.id)
    return _address(target.id) if host is None else host.address


# The same ones, whenever something changes.
@lru_cache(4096)
def _address(text: str) -> IPv4Address:
    return IPv4Address(text)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is around the targets of a VPC."""

    subnets: tuple[tuple[int, int, str], ...]
    """First and last address as numbers, and the availability zone."""
    taken: frozenset[int]
    """Addresses of load balancers and endpoints, as numbers."""

    @classmethod
    def of(cls, tables: Tables, vpc_id: str) -> Self:
        """What is around those of that VPC."""
        known: dict[str, Self] = tables.derived.get("surroundings", ("subnet", "interface"), dict)
        if vpc_id not in known:
            known[vpc_id] = cls._of(tables, vpc_id)
        return known[vpc_id]

    @classmethod
    def _of(cls, tables: Tables, vpc_id: str) -> Self:
        return cls(
            tuple(
                (
                    int(subnet.cidr.network_address),
                    int(subnet.cidr.broadcast_address),
                    subnet.availability_zone,
                )
                for subnet in tables.subnets.values()
                if subnet.vpc_id == vpc_id
            ),
            frozenset(
                int(address)
                for interface in tables.in_vpc(vpc_id)
                if interface.kind in (InterfaceKind.LOAD_BALANCER, InterfaceKind.VPC_ENDPOINT)
                for address in interface.addresses
            ),
        )

    def is_taken(self, address: IPv4Address) -> bool:
        """Whether an address is one of a load balancer or an endpoint."""
        return int(address) in self.taken

    def zone(self, address: IPv4Address) -> str | None:
        """The availability zone of an address; None outside the VPC, which is in all."""
        number = int(address)
        for first, last, zone in self.subnets:
            if first <= number <= last:
                return zone
        return None


def zone_of_node(tables: Tables, node: LoadBalancerNode) -> str:
    """The availability zone of a node."""
    return tables.subnets[node.subnet_id].availability_zone


def crosses_zones(group: TargetGroup, balancer: LoadBalancer) -> bool:
    """Whether nodes use targets of all zones."""
    own = group.attributes.cross_zone
    return balancer.cross_zone if own is None else own


def unused(
    tables: Tables, target: Target, balancer: LoadBalancer | None, around: Surroundings
) -> TargetHealth | None:
    """Why nothing uses a target; None when something does."""
    if balancer is None:
        text = "Target group is not configured to receive traffic from the load balancer"
        return TargetHealth(UNUSED, NOT_IN_USE, text)
    address = address_of(tables, target)
    if around.is_taken(address):
        reason = "Target.IpUnusable"
        return TargetHealth(UNUSED, reason, DESCRIPTIONS[reason])
    if around.zone(address) not in _zones(tables, balancer):
        text = "Target is in an Availability Zone that is not enabled for the load balancer"
        return TargetHealth(UNUSED, NOT_IN_USE, text)
    return None


def _zones(tables: Tables, balancer: LoadBalancer) -> set[str | None]:
    """The zones of a load balancer's targets; what is in none is in all."""
    return {None, *(zone_of_node(tables, each) for each in balancer.nodes)}


def health_of(
    tables: Tables, group: TargetGroup, target: Target, around: Surroundings
) -> TargetHealth:
    """What DescribeTargetHealth says of a target; `around` are the surroundings in its VPC."""
    state, reason = target.state.value, target.reason
    if target.state is TargetState.DRAINING:
        reason = "Target.DeregistrationInProgress"
        return TargetHealth(state, reason, DESCRIPTIONS[reason])
    balancer = balancer_of(tables, group)
    if (found := unused(tables, target, balancer, around)) is not None:
        return found
    assert balancer is not None
    if target.state is TargetState.INITIAL:
        active = balancer.state is LoadBalancerState.ACTIVE
        reason = "Elb.InitialHealthChecking" if active else "Elb.RegistrationInProgress"
    return TargetHealth(state, reason, DESCRIPTIONS.get(reason, ""))


def in_reach(
    tables: Tables,
    group: TargetGroup,
    balancer: LoadBalancer,
    node: LoadBalancerNode,
    around: Surroundings,
) -> list[Target]:
    """The targets that a node checks, and could use: those of its zone, or of all.

    `around` are the surroundings in the VPC.
    """
    usable = _zones(tables, balancer)
    if not crosses_zones(group, balancer):
        usable = {None, zone_of_node(tables, node)}
    found = []
    for target in group.targets:
        if target.state is TargetState.DRAINING:
            continue
        address = address_of(tables, target)
        if around.zone(address) in usable and not around.is_taken(address):
            found.append(target)
    return found


def healthy(targets: Sequence[Target]) -> list[Target]:
    """Those of them that are."""
    return [target for target in targets if target.state is TargetState.HEALTHY]


def eligible(group: TargetGroup, reached: Sequence[Target]) -> list[Target]:
    """The targets for new flows of a node, of those in its reach."""
    good = healthy(reached)
    return good if len(good) >= group.attributes.minimum_healthy else list(reached)


def to_end(group: TargetGroup, reached: Sequence[Target]) -> list[Target]:
    """The targets whose flows of a node are ended: unhealthy ones, unless all are used, and what
    has drained.
    """
    all_used = len(healthy(reached)) < group.attributes.minimum_healthy
    unhealthy = [
        target
        for target in reached
        if group.attributes.unhealthy_terminates
        and target.state is TargetState.UNHEALTHY
        and not all_used
    ]
    return [*unhealthy, *(target for target in group.targets if target.ending)]


def named(group: TargetGroup, reached: Sequence[Target]) -> bool:
    """Whether DNS may name a node, of whose reach these are: enough of them are healthy."""
    return len(healthy(reached)) >= group.attributes.dns_minimum_healthy
