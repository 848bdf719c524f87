# SPDX-License-Identifier: Apache-2.0
"""Events are told once in a while, and all are counted."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.controller.events import WINDOWS_MAX, Event, EventLog, Kind

EPOCH = 1_700_000_000.0


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def log_of(clock: Clock, history: int = 1000) -> EventLog:
    return EventLog(
        seconds=10.0, history=history, clock=clock, wall_clock=lambda: EPOCH + clock.now
    )


def exhausted(interface: str = "eni-a", remote: str = "tcp 10.0.1.80:80") -> Event:
    return Event(kind=Kind.PORT_EXHAUSTION, message="no port", interface=interface, remote=remote)


def shown(events: EventLog) -> list[tuple[str | None, int]]:
    return [(row["remote"], row["suppressed"]) for row in events.rows()]


def test_the_first_is_shown_and_the_others_are_counted() -> None:
    clock = Clock()
    events = log_of(clock)
    for _ in range(5):
        events.report(exhausted())
    assert shown(events) == [("tcp 10.0.1.80:80", 0)]
    clock.now = 9.9
    events.flush()
    assert len(shown(events)) == 1
    clock.now = 10.0
    events.flush()
    assert shown(events) == [("tcp 10.0.1.80:80", 0), ("tcp 10.0.1.80:80", 3)]


def test_everything_that_happened_is_counted_by_kind() -> None:
    events = log_of(Clock())
    for _ in range(5):
        events.report(exhausted(), count=7)
    assert events.counts == dict.fromkeys(map(str, Kind), 0) | {"port-exhaustion": 35}


def test_what_goes_on_is_one_line_a_window() -> None:
    clock = Clock()
    events = log_of(clock)
    for tenth in range(600):
        clock.now = tenth / 10
        events.report(exhausted(), count=7)
    assert len(events.rows()) == 6


def test_an_event_after_a_quiet_window_is_shown_at_once() -> None:
    clock = Clock()
    events = log_of(clock)
    events.report(exhausted())
    clock.now = 10.0
    events.report(exhausted())
    assert shown(events) == [("tcp 10.0.1.80:80", 0)] * 2


def test_other_interfaces_remotes_and_kinds_have_windows_of_their_own() -> None:
    events = log_of(Clock())
    events.report(exhausted())
    events.report(exhausted(remote="tcp 10.0.1.81:80"))
    events.report(exhausted(interface="eni-b"))
    events.report(Event(kind=Kind.FLOW_TABLE_FULL, message="full"))
    assert len(events.rows()) == 4


def test_many_remotes_share_a_window() -> None:
    clock = Clock()
    events = log_of(clock)
    for number in range(10_000):
        events.report(exhausted(remote=f"udp 10.0.0.1:{number}"))
    assert len(events.rows()) == WINDOWS_MAX + 1
    clock.now = 10.0
    events.flush()
    assert sum(1 + row["suppressed"] for row in events.rows()) == 10_000


def test_history_is_bounded() -> None:
    clock = Clock()
    events = log_of(clock, history=3)
    for hour in range(10):
        clock.now = hour * 3600.0
        events.report(exhausted())
    assert [row["time"] for row in events.rows()] == [EPOCH + hour * 3600 for hour in (7, 8, 9)]


def test_rows_after_a_number_and_the_newest() -> None:
    events = log_of(Clock())
    for number in range(5):
        events.report(exhausted(remote=f"udp 10.0.0.1:{number}"))
    rows = events.rows()
    assert events.rows(after=rows[2]["number"]) == rows[3:]
    assert events.rows(limit=2) == rows[3:]
    assert events.rows(after=rows[4]["number"]) == []


def test_numbers_of_a_later_controller_are_higher() -> None:
    clock = Clock()
    former, later = log_of(clock), log_of(clock)
    for number in range(5):
        former.report(exhausted(remote=f"udp 10.0.0.1:{number}"))
    clock.now = 6.0
    later.report(exhausted())
    assert later.rows()[0]["number"] > former.rows()[-1]["number"]


def test_a_line_of_the_log_is_a_json_object(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        log_of(Clock()).report(exhausted(), count=3)
    assert json.loads(caplog.messages[0]) == {
        "number": int(EPOCH),
        "time": EPOCH,
        "kind": "port-exhaustion",
        "message": "no port",
        "interface": "eni-a",
        "remote": "tcp 10.0.1.80:80",
        "suppressed": 2,
    }


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 100), st.integers(1, 50)), max_size=60))
def test_shown_and_suppressed_are_all_that_happened(
    steps: list[tuple[float, int, int]],
) -> None:
    clock = Clock()
    events = log_of(clock)
    for pause, remote, count in steps:
        clock.now += pause
        events.report(exhausted(remote=f"udp 10.0.0.1:{remote}"), count)
    clock.now += 10.0
    events.flush()
    assert sum(1 + row["suppressed"] for row in events.rows()) == sum(step[2] for step in steps)
