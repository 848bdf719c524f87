# SPDX-License-Identifier: Apache-2.0
"""The tables of the life cycles: complete, and left in no way but theirs."""

from __future__ import annotations

import pytest

from hyperplane_nat.model.states import (
    ENVIRONMENT_STATES,
    FUNCTION_STATES,
    INTERFACE_STATES,
    UPDATE_STATES,
    EnvironmentEvent,
    EnvironmentState,
    FunctionEvent,
    FunctionState,
    InterfaceEvent,
    InterfaceStatus,
    UpdateEvent,
    UpdateStatus,
    following,
)

TABLES = [
    (FUNCTION_STATES, FunctionState, FunctionEvent, "Pending"),
    (UPDATE_STATES, UpdateStatus, UpdateEvent, "Successful"),
    (INTERFACE_STATES, InterfaceStatus, InterfaceEvent, "pending"),
    (ENVIRONMENT_STATES, EnvironmentState, EnvironmentEvent, "initializing"),
]


@pytest.mark.parametrize(("table", "states", "events", "start"), TABLES)
def test_every_state_is_reached_and_every_event_means_something(
    table: dict[tuple[str, str], str], states: list[str], events: list[str], start: str
) -> None:
    reached, fresh = {start}, {start}
    while fresh:
        fresh = {after for (before, _), after in table.items() if before in fresh} - reached
        reached |= fresh
    assert reached == set(states)
    assert {event for _, event in table} == set(events)


def test_the_ends_of_life_cycles_are_ends() -> None:
    ends = {EnvironmentState.TERMINATING, InterfaceStatus.DELETING}
    befores: set[str] = {state for state, _ in ENVIRONMENT_STATES}
    befores |= {status for status, _ in INTERFACE_STATES}
    assert not befores & ends


def test_a_pair_outside_the_table_is_a_fault() -> None:
    with pytest.raises(AssertionError, match="cannot happen"):
        following(ENVIRONMENT_STATES, EnvironmentState.IDLE, EnvironmentEvent.READY)
