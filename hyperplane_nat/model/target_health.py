# SPDX-License-Identifier: Apache-2.0
"""The health of targets, and which of them a node may use: pure functions of the tables.

Theory of operation
-------------------
What is kept of a target is what checks and deregistration make of it. The rest follows from other
things: it is `unused` while no load balancer forwards to its group, when its availability zone has
no node, and when its address has become one of a load balancer's.

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
from ipaddress import IPv4Address

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
    "Target.IpUnusable": "The target IP address is used by a load balancer",
}


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """What is told of a target: nothing but the state when it is healthy."""

    state: str
    reason: str = ""
    description: str = ""


def balancer_of(tables: Tables, group: TargetGroup) -> LoadBalancer | None:
    """The load balancer that forwards to a group: a group has one at most."""
    for listener in tables.listeners.values():
        if listener.target_group_id == group.id:
            return tables.load_balancers[listener.load_balancer_id]
    return None


def address_of(tables: Tables, target: Target) -> IPv4Address:
    """The address of a target, which is a host's or is one."""
    host = tables.hosts.get(target.id)
    return IPv4Address(target.id) if host is None else host.address


def zone_of(tables: Tables, group: TargetGroup, target: Target) -> str | None:
    """The availability zone of a target; None for an address outside the VPC, which is in all."""
    address = address_of(tables, target)
    for subnet in tables.subnets.values():
        if subnet.vpc_id == group.vpc_id and address in subnet.cidr:
            return subnet.availability_zone
    return None


def zone_of_node(tables: Tables, node: LoadBalancerNode) -> str:
    """The availability zone of a node."""
    return tables.subnets[node.subnet_id].availability_zone


def is_balancers(tables: Tables, vpc_id: str, address: IPv4Address) -> bool:
    """Whether an address of a VPC is that of a load balancer."""
    return any(
        interface.kind is InterfaceKind.LOAD_BALANCER and address in interface.addresses
        for interface in tables.in_vpc(vpc_id)
    )


def crosses_zones(group: TargetGroup, balancer: LoadBalancer) -> bool:
    """Whether nodes use targets of all zones."""
    own = group.attributes.cross_zone
    return balancer.cross_zone if own is None else own


def unused(
    tables: Tables, group: TargetGroup, target: Target, balancer: LoadBalancer | None
) -> TargetHealth | None:
    """Why nothing uses a target; None when something does."""
    if balancer is None:
        text = "Target group is not configured to receive traffic from the load balancer"
        return TargetHealth(UNUSED, NOT_IN_USE, text)
    if is_balancers(tables, group.vpc_id, address_of(tables, target)):
        reason = "Target.IpUnusable"
        return TargetHealth(UNUSED, reason, DESCRIPTIONS[reason])
    zone = zone_of(tables, group, target)
    if zone is not None and zone not in {zone_of_node(tables, each) for each in balancer.nodes}:
        text = "Target is in an Availability Zone that is not enabled for the load balancer"
        return TargetHealth(UNUSED, NOT_IN_USE, text)
    return None


def health_of(tables: Tables, group: TargetGroup, target: Target) -> TargetHealth:
    """What DescribeTargetHealth says of a target."""
    state, reason = target.state.value, target.reason
    if target.state is TargetState.DRAINING:
        reason = "Target.DeregistrationInProgress"
        return TargetHealth(state, reason, DESCRIPTIONS[reason])
    balancer = balancer_of(tables, group)
    if (found := unused(tables, group, target, balancer)) is not None:
        return found
    assert balancer is not None
    if target.state is TargetState.INITIAL:
        active = balancer.state is LoadBalancerState.ACTIVE
        reason = "Elb.InitialHealthChecking" if active else "Elb.RegistrationInProgress"
    return TargetHealth(state, reason, DESCRIPTIONS.get(reason, ""))


def in_reach(
    tables: Tables, group: TargetGroup, balancer: LoadBalancer, node: LoadBalancerNode
) -> list[Target]:
    """The targets that a node checks, and could use: those of its zone, or of all."""
    zone, everywhere = zone_of_node(tables, node), crosses_zones(group, balancer)
    return [
        target
        for target in group.targets
        if target.state is not TargetState.DRAINING
        and (everywhere or zone_of(tables, group, target) in (None, zone))
        and unused(tables, group, target, balancer) is None
    ]


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
    used = eligible(group, reached)
    unhealthy = [
        target
        for target in reached
        if group.attributes.unhealthy_terminates
        and target.state is TargetState.UNHEALTHY
        and target not in used
    ]
    return [*unhealthy, *(target for target in group.targets if target.ending)]


def answers(tables: Tables, balancer: LoadBalancer) -> list[LoadBalancerNode]:
    """The nodes that DNS names: those whose groups have healthy targets enough; all if none has."""
    groups = {
        listener.target_group_id
        for listener in tables.listeners.values()
        if listener.load_balancer_id == balancer.id
    }
    found = []
    for node in balancer.nodes:
        enough = True
        for key in groups:
            group = tables.target_groups[key]
            good = healthy(in_reach(tables, group, balancer, node))
            enough = enough and len(good) >= group.attributes.dns_minimum_healthy
        if enough:
            found.append(node)
    return found or list(balancer.nodes)
