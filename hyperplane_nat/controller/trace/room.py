# SPDX-License-Identifier: Apache-2.0
"""Limits in a trace: whether the gateway has room for one more flow to this target.

The figures are the forwarder's, of the state map, as `ports` and `status` have them; the limits are
those it is told. A port that another flow may use again is taken for one that is not free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing

from hyperplane_nat.controller.trace.journey import Journey
from hyperplane_nat.controller.trace.question import Step
from hyperplane_nat.engine import DropReason, Side, StateMap
from hyperplane_nat.model.identifiers import environment_name

_RECORDS = 65_536
_ENTRIES = 4_096
_ANY = ("0.0.0.0", 0)
"""The remote endpoint of mappings, which are towards any."""


def limits(journey: Journey) -> Step | None:
    """Flow table, flows of the sender and of its addresses, ports towards the target."""
    if journey.sent is None or journey.sent.reason is not DropReason.NONE:
        return None
    if journey.node is not None:
        return None
    with closing(journey.looks.state_map()) as state_map:
        used = state_map.counters().get("flows_entries_used", 0)
        if used >= state_map.flows_max:
            text = f"the flow table is full: {used} of {state_map.flows_max}"
            return Step("limits", False, "flow_table_full", text)
        return _sender(journey, state_map) or _ports(journey, state_map)


def _sender(journey: Journey, state_map: StateMap) -> Step | None:
    limit, host, slot = (
        journey.config.ports.limit_per_environment,
        journey.sender.host,
        journey.sender.slot,
    )
    if not limit or (host is None and slot is None):
        return None
    flows = sum(_held(state_map, host=None if host is None else host.number, slot=slot))
    who = environment_name(slot or 0) if host is None else f"host {host.name}"
    if flows < limit:
        return None
    text = f"{who} has {flows} flows of {limit}"
    return Step("limits", False, "ports.limit_per_environment", text)


def _held(state_map: StateMap, *, host: int | None, slot: int | None) -> Iterator[int]:
    """How many entries of the flow table are a host's or an environment's, slice by slice."""
    for start in range(0, state_map.entries_watermark, _ENTRIES):
        if host is not None:
            end = (Side.HOST, host)
            yield sum(
                end
                in ((each.originator_side, each.originator), (each.responder_side, each.responder))
                for each in state_map.host_flows(start, _ENTRIES)
            )
        else:
            found = state_map.flows(start, _ENTRIES)
            found += state_map.mappings(start, _ENTRIES)
            yield sum(each.slot == slot for each in found)


def _ports(journey: Journey, state_map: StateMap) -> Step | None:
    """Each place where a port is taken needs one address with room."""
    ports, gateway, interface = journey.config.ports, journey.nat_gateway, journey.sender.interface
    room = min(ports.limit_per_remote, ports.last - ports.first + 1)
    places: list[tuple[str, tuple[int, ...], bool]] = []
    if interface is not None:
        places.append((interface.id, interface.numbers, True))
    if gateway is not None:
        served = journey.tables.interfaces[gateway.interface_id]
        numbers = dict(zip(served.addresses, served.numbers, strict=True))
        given = tuple(numbers[each.address] for each in gateway.addresses if each.due is None)
        places.append((gateway.id, given, False))
    mapped = journey.config.nat.mapping == "endpoint-independent" and gateway is None
    taken = _taken(journey, state_map, mapped=mapped)
    least: int | None = None
    for what, numbers_there, counted in places:
        free = [
            number
            for number in numbers_there
            if not (counted and _full(journey, state_map, number))
        ]
        if not free:
            text = f"{what} has as many flows as it may"
            return Step(
                "limits", False, f"ports.limit_per_interface {ports.limit_per_interface}", text
            )
        left = sum(max(room - taken[number], 0) for number in free)
        if left == 0:
            text = f"{what} has no port left towards {journey.address}:{journey.port}"
            return Step("limits", False, f"ports.limit_per_remote {room}", text)
        least = left if least is None else min(least, left)
    if least is None:
        return Step("limits", True, "", "it takes no port")
    return Step("limits", True, f"ports.limit_per_remote {room}", f"{least} ports left towards it")


def _full(journey: Journey, state_map: StateMap, number: int) -> bool:
    limit = journey.config.ports.limit_per_interface
    if not limit or number >= state_map.interfaces_max:
        return False
    return state_map.interface_counters(number).get("ports", 0) >= limit


def _taken(journey: Journey, state_map: StateMap, *, mapped: bool) -> Counter[int]:
    """Ports taken towards the target, by interface number."""
    address, port = _ANY if mapped else (str(journey.address), journey.port)
    found: Counter[int] = Counter()
    for start in range(0, state_map.remote_cells, _RECORDS):
        for each in state_map.remotes(start, _RECORDS, address=address, port=port):
            if each.protocol == journey.question.protocol:
                found[each.interface] += each.ports
    return found
