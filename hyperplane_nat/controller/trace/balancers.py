# SPDX-License-Identifier: Apache-2.0
"""Load balancers in a trace, and endpoints that lead to them: listener, target group, and each
target that may be chosen.

Theory of operation
-------------------
Which of a listener's targets a flow gets is told by a hash under a key that nobody knows, so the
way is gone through for each that new flows may have: the engine's node is given that one alone, and
a packet. It is reached when all of them are; else the way to the first that is not is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from hyperplane_nat.controller.trace import grants
from hyperplane_nat.controller.trace.journey import Journey
from hyperplane_nat.controller.trace.question import Step
from hyperplane_nat.controller.trace.rehearsal import node_item
from hyperplane_nat.model.balancer_entities import LoadBalancer, LoadBalancerNode, TargetGroup
from hyperplane_nat.model.balancer_wanted import WantedListener, WantedNode
from hyperplane_nat.model.entities import NetworkInterface
from hyperplane_nat.model.states import EndpointState
from hyperplane_nat.model.target_health import Surroundings, healthy, in_reach

TARGETS_MAX = 32
"""Of a listener that are looked at."""

_Function = Callable[[Journey], Step | None]


def endpoint(journey: Journey) -> Step | None:
    """Whether the endpoint that the target is leads to a load balancer."""
    if journey.endpoint is None or journey.sent is None:
        return None
    tables = journey.tables
    own = tables.endpoints[journey.endpoint.endpoint_id]
    rule = f"{own.name} ({own.id})"
    if own.state is not EndpointState.AVAILABLE:
        return Step("endpoint", False, rule, f"it is {own.state.value}")
    balancer = tables.load_balancers[tables.endpoint_services[own.service_id].load_balancer_id]
    if journey.node is None:
        text = f"load balancer {balancer.name} is {balancer.state.value}"
        return Step("endpoint", False, rule, text)
    vpc = tables.vpcs[balancer.vpc_id].name
    text = f"{own.state.value}: to load balancer {balancer.name} of VPC {vpc}"
    return Step("endpoint", True, rule, text)


def take(journey: Journey, beyond: Sequence[_Function]) -> None:
    """Take the steps from the node on; `beyond` are those from the target on."""
    node = journey.node
    assert node is not None
    balancer, place = _owner(journey, node)
    interface = journey.tables.interfaces[place.interface_id]
    if (step := grants.into_endpoint(journey)) is not None:
        journey.taken.append(step)
        if not step.passes:
            return
    found = _listener(journey, node)
    journey.taken.append(_balancer(journey, balancer, place, found))
    if found is None:
        return
    if (step := grants.into_node(journey, interface)) is not None:
        journey.taken.append(step)
        if not step.passes:
            return
    group = _group(journey, balancer)
    journey.taken.append(_targets(journey, balancer, place, group, found))
    if not found.targets:
        return
    ways = [
        _way(journey, node, interface, found, number, beyond)
        for number in range(min(len(found.targets), TARGETS_MAX))
    ]
    bad = [way for way in ways if not all(step.passes for step in way.taken)]
    journey.taken.append(_choice(found, ways, bad))
    shown = (bad or ways)[0]
    journey.taken += shown.taken
    journey.sent = shown.sent


def _owner(journey: Journey, node: WantedNode) -> tuple[LoadBalancer, LoadBalancerNode]:
    tables = journey.tables
    return next(
        (balancer, each)
        for balancer in tables.load_balancers.values()
        for each in balancer.nodes
        if tables.interfaces[each.interface_id].number == node.number
    )


def _listener(journey: Journey, node: WantedNode) -> WantedListener | None:
    asked = (journey.question.protocol, journey.port)
    # Listeners are the first address's, where endpoints and public addresses lead.
    public = journey.endpoint or journey.public
    listens = public is not None or str(journey.address) == node.address
    listeners = node.listeners if listens else ()
    return next((each for each in listeners if (each.protocol, each.port) == asked), None)


def _balancer(
    journey: Journey,
    balancer: LoadBalancer,
    place: LoadBalancerNode,
    found: WantedListener | None,
) -> Step:
    rule, zone = f"{balancer.name} ({balancer.id})", journey.tables.subnets[place.subnet_id]
    protocol, port = journey.question.protocol, journey.port
    if protocol == "icmp":
        return Step("load balancer", False, rule, "its nodes answer no pings")
    if found is None:
        return Step("load balancer", False, rule, f"it has no listener for {protocol} {port}")
    text = f"its node in zone {zone.availability_zone} listens to {protocol} {port}"
    return Step("load balancer", True, rule, text)


def _group(journey: Journey, balancer: LoadBalancer) -> TargetGroup:
    tables = journey.tables
    return next(
        tables.target_groups[each.target_group_id]
        for each in tables.listeners_of(balancer.id)
        if each.port == journey.port and journey.question.protocol in each.protocol.transports
    )


def _targets(
    journey: Journey,
    balancer: LoadBalancer,
    place: LoadBalancerNode,
    group: TargetGroup,
    found: WantedListener,
) -> Step:
    around = Surroundings.of(journey.tables, balancer.vpc_id)
    reached = in_reach(journey.tables, group, balancer, place, around)
    good, least = len(healthy(reached)), group.attributes.minimum_healthy
    rule = f"{group.name} ({group.id})"
    if not found.targets:
        text = "no target that is registered is in a zone that the node uses"
        return Step("target group", False, rule, text)
    text = f"{good} of {len(reached)} targets in the node's reach are healthy"
    if good < least:
        text += f", fewer than {least}: all of them are used"
    return Step("target group", True, rule, text)


def _choice(found: WantedListener, ways: Sequence[Journey], bad: Sequence[Journey]) -> Step:
    rule = "source address" if found.sticky else "hash"
    names = ", ".join(f"{address}:{port}" for address, port in found.targets[: len(ways)])
    if not bad:
        return Step("choice", True, rule, f"one of {names}")
    if len(bad) == len(ways):
        return Step("choice", True, rule, f"one of {names}: none of them is reached")
    lost = ", ".join(f"{way.end[0]}:{way.end[1]}" for way in bad)
    return Step("choice", True, rule, f"one of {names}: {lost} is not reached")


def _way(
    journey: Journey,
    node: WantedNode,
    interface: NetworkInterface,
    found: WantedListener,
    number: int,
    beyond: Sequence[_Function],
) -> Journey:
    """The way to one target, which is the only one that the node has."""
    address, port = found.targets[number]
    way = replace(journey, far=(IPv4Address(address), port), sent=None, taken=[])
    only = replace(found, targets=(found.targets[number],))
    assert way.rehearsal is not None
    way.rehearsal.aim(node_item(journey.config, replace(node, listeners=(only,))))
    way.send(1 + number)
    steps = (lambda each: grants.out_of_node(each, interface), *beyond)
    for function in steps:
        if (step := function(way)) is not None:
            way.taken.append(step)
    return way
