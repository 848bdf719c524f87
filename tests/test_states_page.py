# SPDX-License-Identifier: Apache-2.0
"""The page of state machines is drawn from today's tables, and shows what they say."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from hyperplane_nat.engine.flows.tcp_states import STEPS
from hyperplane_nat.engine.state.constants import State
from tools.states import Arrow, drawn, lifecycle, machines, page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "states.md"


class Lamp(StrEnum):
    OFF = "off"
    ON = "on"
    BROKEN = "broken"


class Event(StrEnum):
    PRESSED = "pressed"
    DROPPED = "dropped"


LAMP: Mapping[tuple[Lamp, Event], Lamp] = {
    (Lamp.OFF, Event.PRESSED): Lamp.ON,
    (Lamp.ON, Event.PRESSED): Lamp.OFF,
    (Lamp.OFF, Event.DROPPED): Lamp.OFF,
    (Lamp.ON, Event.DROPPED): Lamp.BROKEN,
}


def test_the_page_is_drawn_from_the_tables() -> None:
    assert page() == PAGE.read_text(encoding="utf-8"), "run: make docs"


def test_a_life_has_a_beginning_and_an_end() -> None:
    assert drawn(lifecycle("A lamp", "Of a room.", LAMP)) == (
        "## A lamp\n\nOf a room.\n\n```mermaid\nstateDiagram-v2\n"
        '    state "off" as OFF\n'
        '    state "on" as ON\n'
        '    state "broken" as BROKEN\n'
        "    [*] --> OFF\n"
        "    OFF --> ON : pressed\n"
        "    ON --> OFF : pressed\n"
        "    ON --> BROKEN : dropped\n"
        "    BROKEN --> [*]\n"
        "```\n"
    )


def test_reasons_of_one_arrow_stand_together() -> None:
    lamp = lifecycle("A lamp", "Of a room.", LAMP)
    twice = lamp._replace(arrows=[*lamp.arrows, Arrow("OFF", "ON", "switched")])
    assert "    OFF --> ON : pressed<br>switched\n" in drawn(twice)


def test_every_step_of_a_connection_to_another_state_is_an_arrow() -> None:
    arrows = {(arrow.before, arrow.after) for machine in machines()[:2] for arrow in machine.arrows}
    steps = {
        (state.name, step.state.name)
        for (_, state, _), step in STEPS.items()
        if step.state is not state
    }
    assert steps <= arrows
    assert {State.SYN_SENT.name, State.HELD.name} <= {before for before, _ in arrows}
