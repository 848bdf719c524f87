# SPDX-License-Identifier: Apache-2.0
"""Events of the engine are summed up by what they are about."""

from __future__ import annotations

from hyperplane_nat.engine.state.constants import EventKind
from hyperplane_nat.engine.state.settings import Event
from hyperplane_nat.forwarder.engine_events import GROUPS_MAX, messages


def event(
    slot: int = 1,
    port: int = 80,
    kind: EventKind = EventKind.PORT_ALLOCATION,
    protocol: int = 6,
    interface: int = 0,
) -> Event:
    return Event(kind, 1, protocol, slot, interface, "10.0.1.80", port)


def test_events_of_one_remote_are_one_message_that_names_the_culprit() -> None:
    found = messages([event(slot=slot) for slot in (3, 7, 7, 4, 7)])
    assert found == [
        {
            "event": "engine",
            "kind": "port_allocation",
            "interface": 0,
            "remote": "tcp 10.0.1.80:80",
            "slot": 7,
            "count": 5,
        }
    ]


def test_protocols_interfaces_and_ports_are_told_apart() -> None:
    assert len(messages([event(), event(port=81), event(protocol=17), event(interface=1)])) == 4


def test_a_full_table_is_one_message_whatever_the_remote() -> None:
    full = [event(port=port, kind=EventKind.FLOW_TABLE_FULL) for port in range(200)]
    (message,) = messages(full)
    assert (message["interface"], message["remote"], message["count"]) == (None, None, 200)


def test_messages_are_bounded_and_count_all() -> None:
    found = messages([event(port=port) for port in range(250)])
    assert len(found) == GROUPS_MAX + 1
    assert sum(message["count"] for message in found) == 250


def test_nothing_is_no_message() -> None:
    assert messages([]) == []
