# SPDX-License-Identifier: Apache-2.0
"""The table of the forwarder's life: complete, and what becomes of one whatever happens to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperplane_nat.controller.forwarder.states import FORWARDER_STATES as TABLE
from hyperplane_nat.controller.forwarder.states import ForwarderEvent as Event
from hyperplane_nat.controller.forwarder.states import ForwarderState as State
from hyperplane_nat.model.states import following
from tests.controller.test_supervisor import supervisor


def reached(starts: set[State]) -> set[State]:
    found, fresh = set(starts), set(starts)
    while fresh:
        fresh = {after for (before, _), after in TABLE.items() if before in fresh} - found
        found |= fresh
    return found


def test_every_state_is_reached_and_every_event_means_something() -> None:
    assert reached({State.ABSENT}) == set(State)
    assert {event for _, event in TABLE} == set(Event)


def test_there_is_something_to_do_in_every_state_but_the_first(
    directory: Path,
) -> None:
    keeper, _ = supervisor(directory)
    assert set(keeper._work) == set(State) - {State.ABSENT}


def test_one_that_has_begun_always_has_a_successor() -> None:
    """Whatever happens, nothing leads back to where nobody is wanted, and all leads up."""
    kept = reached({State.STARTING})
    assert State.ABSENT not in kept
    for state in kept:
        assert State.UP in reached({state})


def test_another_begins_only_when_the_former_is_dead() -> None:
    """There is one writer to the map at a time."""
    assert {before for (before, _), after in TABLE.items() if after is State.STARTING} == {
        State.ABSENT,
        State.DEAD,
    }


@pytest.mark.parametrize(
    ("story", "states"),
    [
        pytest.param("wanted, joined", "starting, up", id="started"),
        pytest.param("wanted, failed, due, joined", "starting, dead, starting, up", id="retried"),
        pytest.param("exited, due, joined", "dead, starting, up", id="killed"),
        pytest.param(
            "disconnected, exited, due, joined", "lost, dead, starting, up", id="seen-dying"
        ),
        pytest.param("disconnected, did not exit, joined", "lost, joining, up", id="hung-up"),
        pytest.param("silent, told, due, joined", "hung, dead, starting, up", id="hung"),
        pytest.param("found, joined", "joining, up", id="adopted"),
        pytest.param(
            "found, silent, told, due, joined",
            "joining, hung, dead, starting, up",
            id="hangs-when-found",
        ),
        pytest.param(
            "found, refused, due, joined", "joining, dead, starting, up", id="refuses-when-found"
        ),
        pytest.param(
            "found of another version, exited, wanted, joined",
            "retiring, absent, starting, up",
            id="upgraded",
        ),
        pytest.param("found of another version, failed", "retiring, absent", id="cannot-upgrade"),
    ],
)
def test_what_becomes_of_it(story: str, states: str) -> None:
    events = [Event(each) for each in story.split(", ")]
    state = State.UP if (State.UP, events[0]) in TABLE else State.ABSENT
    for event, expected in zip(events, states.split(", "), strict=True):
        state = following(TABLE, state, event)
        assert state == expected
