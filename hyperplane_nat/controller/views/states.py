# SPDX-License-Identifier: Apache-2.0
"""The TCP tracker's table as a diagram, GET /v1/tcp-states."""

from __future__ import annotations

from typing import Any

from hyperplane_nat.engine.flows.tcp_states import TIMER_OF_STATE, arrows


def tcp_diagram() -> dict[str, Any]:
    """States with their timers, and the arrows between them."""
    drawn = arrows(restarts=False)
    there = {state for arrow in drawn for state in (arrow.before, arrow.after)}
    return {
        "states": [
            {"state": state.name, "timer": timer}
            for state, timer in TIMER_OF_STATE.items()
            if state in there
        ],
        "arrows": [
            {
                "before": arrow.before.name,
                "after": arrow.after.name,
                "segment": arrow.segment.name,
                "side": "both" if len(arrow.sides) > 1 else next(iter(arrow.sides)).name.lower(),
            }
            for arrow in drawn
        ],
    }
