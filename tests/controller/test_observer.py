# SPDX-License-Identifier: Apache-2.0
"""What the forwarder reports becomes events that name who is concerned."""

from __future__ import annotations

from typing import Any

import pytest

from hyperplane_nat.controller.events import EventLog
from hyperplane_nat.controller.observer import Observer
from hyperplane_nat.engine.state.constants import EventKind
from hyperplane_nat.engine.state.settings import Event
from hyperplane_nat.forwarder.engine_events import messages


class Lab:
    """What an observer asks of a lab."""

    def __init__(self) -> None:
        self.interfaces = {0: "eni-a"}
        self.nat_gateways: dict[str, str] = {}
        self.counters: dict[str, int] = {}
        self.observer = Observer(
            EventLog(seconds=10.0, clock=lambda: 0.0),
            interfaces=lambda: self.interfaces,
            nat_gateways=lambda: dict(self.nat_gateways),
            host_of={300: "shop/worker"}.get,
            function_of={7: "checkout"}.get,
            counters=lambda: self.counters,
        )

    def rows(self) -> list[dict[str, Any]]:
        return self.observer.events.rows()


@pytest.fixture
def lab() -> Lab:
    return Lab()


def of_engine(kind: EventKind, slot: int) -> Event:
    return Event(kind, 1, 6, slot, 0, "10.0.1.80", 443)


def test_exhausted_ports_name_interface_remote_and_function(lab: Lab) -> None:
    for message in messages([of_engine(EventKind.PORT_ALLOCATION, 7)] * 5):
        lab.observer.take(message)
    (row,) = lab.rows()
    assert row["kind"] == "port-exhaustion"
    assert (row["interface"], row["remote"]) == ("eni-a", "tcp 10.0.1.80:443")
    assert (row["environment"], row["function"]) == ("env-7", "checkout")
    assert row["suppressed"] == 4
    assert "env-7 of function checkout" in row["message"]


def test_what_becomes_of_the_flow_cache(lab: Lab) -> None:
    lab.observer.note_uncached(["mapped BPF arrays (Linux 5.5): no", "another: yes"])
    lab.observer.note_restored("link 7 had lost the flow cache's program: put back")
    off, restored = lab.rows()
    assert off["kind"] == "flow-cache-off"
    assert off["message"] == (
        "the flow cache is off: mapped BPF arrays (Linux 5.5): no; another: yes "
        "(see hyperplane-nat doctor)"
    )
    assert restored["kind"] == "flow-cache-restored"
    assert restored["message"] == "link 7 had lost the flow cache's program: put back"


def test_a_full_table_is_of_no_interface(lab: Lab) -> None:
    for message in messages([of_engine(EventKind.FLOW_TABLE_FULL, 3)]):
        lab.observer.take(message)
    (row,) = lab.rows()
    assert (row["kind"], row["interface"], row["remote"]) == ("flow-table-full", None, None)
    assert (row["environment"], row["function"]) == ("env-3", None)


def test_an_interface_that_nobody_knows_any_more_is_told_by_number(lab: Lab) -> None:
    lab.interfaces = {}
    for message in messages([of_engine(EventKind.PORT_ALLOCATION, 7)]):
        lab.observer.take(message)
    assert lab.rows()[0]["interface"] == "0"


def test_a_forwarder_that_took_over(lab: Lab) -> None:
    lab.observer.take({"event": "forwarder-restarted", "pid": 4711, "seconds": 0.025})
    assert lab.rows()[0]["message"] == "forwarder 4711 took over after 25 ms"


def test_a_forwarder_that_hung(lab: Lab) -> None:
    lab.observer.take({"event": "forwarder-hung", "pid": 4711, "seconds": 2.0})
    (row,) = lab.rows()
    assert row["kind"] == "forwarder-hung"
    assert row["message"] == "forwarder 4711 gave no sign of life for 2 s and was killed"


def test_what_handlers_do_without(lab: Lab) -> None:
    lab.observer.note_missing(["freezing: none", "limit of pids: none"])
    (row,) = lab.rows()
    assert row["kind"] == "handlers-unbound"
    assert "freezing: none; limit of pids: none" in row["message"]


def test_a_map_that_was_discarded(lab: Lab) -> None:
    lab.observer.take({"event": "state-map-discarded", "reason": "damaged header"})
    (row,) = lab.rows()
    assert row["kind"] == "state-map-discarded"
    assert row["message"] == "the state map was discarded with all flows: damaged header"


@pytest.mark.parametrize(
    "message",
    [
        {"event": "seen"},
        {"event": "engine"},
        {"event": "engine", "kind": "unheard_of", "slot": 1, "count": 1},
        {"event": "engine", "kind": "port_allocation", "slot": "1", "count": 1},
    ],
)
def test_unknown_messages_are_no_events(lab: Lab, message: dict[str, Any]) -> None:
    lab.observer.take(message)
    assert lab.rows() == []


def test_interfaces_come_and_go(lab: Lab) -> None:
    lab.observer.look()
    lab.interfaces = {0: "eni-a", 1: "eni-a", 5: "eni-b"}
    lab.observer.look()
    lab.observer.look()
    lab.interfaces = {0: "eni-a", 5: "eni-c"}
    lab.observer.look()
    assert [(row["kind"], row["interface"]) for row in lab.rows()] == [
        ("interface-added", "eni-a"),
        ("interface-added", "eni-b"),
        ("interface-removed", "eni-b"),
        ("interface-added", "eni-c"),
    ]


def test_lost_records_are_those_since_the_last_look(lab: Lab) -> None:
    lab.counters = {"flow_records_lost": 100}
    lab.observer.look()
    assert [row["kind"] for row in lab.rows()] == ["interface-added"]
    lab.counters = {"flow_records_lost": 103}
    lab.observer.look()
    lab.observer.look()
    assert [(row["kind"], row["suppressed"]) for row in lab.rows()[1:]] == [("flow-log-loss", 2)]


def test_lines_that_no_disk_took_are_lost_as_well(lab: Lab) -> None:
    lab.counters = {"flow_records_lost": 100, "flow_log_lines_lost": 5}
    lab.observer.look()
    lab.counters = {"flow_records_lost": 100, "flow_log_lines_lost": 6}
    lab.observer.look()
    assert [row["kind"] for row in lab.rows()[1:]] == ["flow-log-loss"]


def test_what_a_nat_gateway_is_is_told_when_it_changes(lab: Lab) -> None:
    for state in ("pending", "pending", "available"):
        lab.nat_gateways["customer/out (nat-1)"] = state
        lab.observer.look()
    assert lab.observer.events.counts["nat-gateway"] == 2
    (row,) = (row for row in lab.rows() if row["kind"] == "nat-gateway")
    assert row["message"] == "NAT gateway customer/out (nat-1) is pending"


def test_ports_that_a_host_was_refused_are_the_host_s(lab: Lab) -> None:
    for message in messages([of_engine(EventKind.PORT_ALLOCATION, 300)]):
        lab.observer.take(message)
    (row,) = lab.rows()
    assert (row["environment"], row["function"]) == (None, None)
    assert "(host shop/worker)" in row["message"]
