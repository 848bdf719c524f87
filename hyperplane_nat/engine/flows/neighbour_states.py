# SPDX-License-Identifier: Apache-2.0
"""What becomes of a next hop, as data.

Theory of operation
-------------------
=============  =====================================================  ====================
state          what is known                                          its timer
=============  =====================================================  ====================
INCOMPLETE     nothing: it is being asked for, and frames wait        retry
REACHABLE      its MAC address, from an answer to a question          reachable
PROBING        a MAC address that is being asked for again; frames    retry
               go on to it (RFC 1122, section 2.3.2.1)
FAILED         that it does not answer: frames to it are dropped      failed
=============  =====================================================  ====================

`TRANSITIONS` lists what happens; a pair that it does not name changes nothing. ANSWERED is an
answer to a question of ours, and nothing else teaches an address. HINTED is any other word of a
host that an address is, or is no longer, where we believe: it is not believed, but is reason to ask
everybody at once, so that an address that moves is followed as fast as it announces itself. DUE
and SPENT are the two ends of a timer: with, and without, reason to ask (again).
"""

from __future__ import annotations

from hyperplane_nat.engine.state.constants import (
    NeighbourAction,
    NeighbourEvent,
    NeighbourState,
)

__all__ = ["TRANSITIONS"]

TRANSITIONS: dict[tuple[NeighbourState, NeighbourEvent], tuple[NeighbourState, NeighbourAction]] = {
    (NeighbourState.INCOMPLETE, NeighbourEvent.ANSWERED): (
        NeighbourState.REACHABLE,
        NeighbourAction.LEARN,
    ),
    (NeighbourState.INCOMPLETE, NeighbourEvent.DUE): (
        NeighbourState.INCOMPLETE,
        NeighbourAction.ASK,
    ),
    (NeighbourState.INCOMPLETE, NeighbourEvent.SPENT): (
        NeighbourState.FAILED,
        NeighbourAction.FAIL,
    ),
    (NeighbourState.REACHABLE, NeighbourEvent.ANSWERED): (
        NeighbourState.REACHABLE,
        NeighbourAction.LEARN,
    ),
    (NeighbourState.REACHABLE, NeighbourEvent.HINTED): (
        NeighbourState.PROBING,
        NeighbourAction.DOUBT,
    ),
    (NeighbourState.REACHABLE, NeighbourEvent.DUE): (
        NeighbourState.PROBING,
        NeighbourAction.ASK,
    ),
    (NeighbourState.REACHABLE, NeighbourEvent.SPENT): (
        NeighbourState.NONE,
        NeighbourAction.FORGET,
    ),
    (NeighbourState.PROBING, NeighbourEvent.ANSWERED): (
        NeighbourState.REACHABLE,
        NeighbourAction.LEARN,
    ),
    (NeighbourState.PROBING, NeighbourEvent.HINTED): (
        NeighbourState.PROBING,
        NeighbourAction.DOUBT,
    ),
    (NeighbourState.PROBING, NeighbourEvent.DUE): (
        NeighbourState.PROBING,
        NeighbourAction.ASK,
    ),
    (NeighbourState.PROBING, NeighbourEvent.SPENT): (
        NeighbourState.NONE,
        NeighbourAction.FORGET,
    ),
    (NeighbourState.FAILED, NeighbourEvent.HINTED): (
        NeighbourState.INCOMPLETE,
        NeighbourAction.DOUBT,
    ),
    (NeighbourState.FAILED, NeighbourEvent.SPENT): (
        NeighbourState.NONE,
        NeighbourAction.FORGET,
    ),
}
