# SPDX-License-Identifier: Apache-2.0
"""What becomes of a datagram that comes in fragments, as data.

Theory of operation
-------------------
========  ==============================================================================
state     what is known
========  ==============================================================================
WAITING   not where it goes: its first fragment has not come, and those that have wait
ANSWERED  what the first fragment was translated to: the others follow it
REFUSED   why nothing more of it passes
========  ==============================================================================

`TRANSITIONS` lists what happens. FIRST and LATER are fragments that come; that they fit in with
those before them is seen to besides. The first is translated like any packet, so that the
datagram has PASSED, or was DENIED; where one is ANSWERED already it is the same again. SPOILED:
its fragments overlap, or whoever is to put them together has enough. WHOLE: every byte has come.
GIVEN_UP: it took too long, others need the room, its link is gone, or another datagram begins that
says it is the same.
"""

from __future__ import annotations

from hyperplane_nat.engine.state.constants import (
    FragmentAction,
    FragmentEvent,
    FragmentState,
)

__all__ = ["TRANSITIONS"]

TRANSITIONS: dict[tuple[FragmentState, FragmentEvent], tuple[FragmentState, FragmentAction]] = {
    (FragmentState.WAITING, FragmentEvent.FIRST): (
        FragmentState.WAITING,
        FragmentAction.TRANSLATE,
    ),
    (FragmentState.WAITING, FragmentEvent.LATER): (
        FragmentState.WAITING,
        FragmentAction.KEEP,
    ),
    (FragmentState.WAITING, FragmentEvent.PASSED): (
        FragmentState.ANSWERED,
        FragmentAction.LET_GO,
    ),
    (FragmentState.WAITING, FragmentEvent.DENIED): (
        FragmentState.REFUSED,
        FragmentAction.REFUSE,
    ),
    (FragmentState.WAITING, FragmentEvent.SPOILED): (
        FragmentState.REFUSED,
        FragmentAction.REFUSE,
    ),
    (FragmentState.WAITING, FragmentEvent.GIVEN_UP): (
        FragmentState.NONE,
        FragmentAction.FORGET,
    ),
    (FragmentState.ANSWERED, FragmentEvent.FIRST): (
        FragmentState.ANSWERED,
        FragmentAction.DROP,
    ),
    (FragmentState.ANSWERED, FragmentEvent.LATER): (
        FragmentState.ANSWERED,
        FragmentAction.FOLLOW,
    ),
    (FragmentState.ANSWERED, FragmentEvent.SPOILED): (
        FragmentState.REFUSED,
        FragmentAction.REFUSE,
    ),
    (FragmentState.ANSWERED, FragmentEvent.WHOLE): (
        FragmentState.NONE,
        FragmentAction.FORGET,
    ),
    (FragmentState.ANSWERED, FragmentEvent.GIVEN_UP): (
        FragmentState.NONE,
        FragmentAction.FORGET,
    ),
    (FragmentState.REFUSED, FragmentEvent.FIRST): (
        FragmentState.REFUSED,
        FragmentAction.DROP,
    ),
    (FragmentState.REFUSED, FragmentEvent.LATER): (
        FragmentState.REFUSED,
        FragmentAction.DROP,
    ),
    (FragmentState.REFUSED, FragmentEvent.GIVEN_UP): (
        FragmentState.NONE,
        FragmentAction.FORGET,
    ),
}
