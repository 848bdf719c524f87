# SPDX-License-Identifier: Apache-2.0
"""Conversations of a seed: scripts drawn by their weights, and impairments beside them."""

from __future__ import annotations

from tests.differential.conversation import Conversation, Fault, Impairment
from tests.differential.drafts import SHORT_PAUSES, Draw
from tests.differential.scripts import SCRIPTS, Script
from tests.differential.worlds import CLOSING_SECONDS, ENVIRONMENTS, HASTY

CLEAN_SHARE = 0.3

SAMPLE_PAUSES = (*SHORT_PAUSES, *SHORT_PAUSES, *SHORT_PAUSES, CLOSING_SECONDS + 2.0)
"""Also longer than the NATs remember what is closed."""

LONG_PAUSES = (*SHORT_PAUSES, *SHORT_PAUSES, CLOSING_SECONDS + 2.0, 2 * CLOSING_SECONDS + 2.0)
"""Also longer than the gateway holds the port of that."""


def _impairment(draw: Draw, faults: tuple[Fault, ...]) -> Impairment:
    return Impairment(
        loss=draw.choice((0.0, 0.01, 0.03, 0.08)),
        duplicate=draw.choice((0.0, 0.0, 0.05)),
        reorder=draw.choice((0.0, 0.05, 0.2)),
        delay_seconds=draw.choice((0.002, 0.03)),
        faults=faults,
    )


def conversation(
    seed: int, number: int, pauses: tuple[float, ...], script: Script | None = None
) -> Conversation:
    """The conversation of that number; of a script that is given, or of one that is drawn."""
    key = f"{seed}/{number}"
    draw = Draw(key, pauses)
    (drawn,) = draw.choices(list(SCRIPTS), list(SCRIPTS.values()))
    chosen = script or drawn
    draft = chosen(draw)
    clean = draft.clean or (not draft.faults and draw.random() < CLEAN_SHARE)
    impairment = _impairment(draw, draft.faults)
    if draft.quiet:
        impairment = Impairment(faults=draft.faults)
    return Conversation(
        number=number,
        kind=chosen.__name__,
        key=key,
        environment=draw.choice(HASTY if draft.hasty else list(ENVIRONMENTS)),
        impairment=None if clean else impairment,
        steps=draft.steps,
    )


def generate(
    seed: int, count: int, pauses: tuple[float, ...] = SAMPLE_PAUSES
) -> list[Conversation]:
    """
    So many conversations of a seed.

    Each script has its turn once before chance decides, so that a sample leaves none out.
    """
    first = list(SCRIPTS)[:count]
    return [
        conversation(seed, number, pauses, first[number] if number < len(first) else None)
        for number in range(count)
    ]
