# SPDX-License-Identifier: Apache-2.0
"""What becomes of the forwarder of a lab, as a table.

Theory of operation
-------------------
In each state but ABSENT the supervisor does one thing, named below, and its outcome is the event
that leads on. A first forwarder that fails is told to whoever wanted it; from then on one that is
DEAD has a successor, whatever it takes.

=========  ========================================================================================
state      what is done in it
=========  ========================================================================================
ABSENT     nothing: there is none, or none that is ours
RETIRING   one of another version goes on until a standby stands by; then it is ended
STARTING   the standby is handed what it is to work with, connected to and configured
JOINING    one that was at work before is connected to and configured
UP         it moves packets and is watched
LOST       its connection is gone: it is dying, or has only closed it
HUNG       it gives no sign of life, which is counted and told
DEAD       what is left of it is killed and its end awaited; then a pause, if it has not lived long
=========  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class ForwarderState(StrEnum):
    """What the supervisor is about."""

    ABSENT = "absent"
    RETIRING = "retiring"
    STARTING = "starting"
    JOINING = "joining"
    UP = "up"
    LOST = "lost"
    HUNG = "hung"
    DEAD = "dead"


class ForwarderEvent(StrEnum):
    """What comes of it."""

    WANTED = "wanted"
    FOUND = "found"
    FOUND_FORMER = "found of another version"
    JOINED = "joined"
    REFUSED = "refused"
    FAILED = "failed"
    EXITED = "exited"
    DISCONNECTED = "disconnected"
    STAYED = "did not exit"
    SILENT = "silent"
    TOLD = "told"
    DUE = "due"


_S, _E = ForwarderState, ForwarderEvent

FORWARDER_STATES: Mapping[tuple[ForwarderState, ForwarderEvent], ForwarderState] = {
    (_S.ABSENT, _E.WANTED): _S.STARTING,
    (_S.ABSENT, _E.FOUND): _S.JOINING,
    (_S.ABSENT, _E.FOUND_FORMER): _S.RETIRING,
    (_S.RETIRING, _E.EXITED): _S.ABSENT,
    (_S.RETIRING, _E.FAILED): _S.ABSENT,
    (_S.STARTING, _E.JOINED): _S.UP,
    (_S.STARTING, _E.FAILED): _S.DEAD,
    (_S.JOINING, _E.JOINED): _S.UP,
    (_S.JOINING, _E.REFUSED): _S.DEAD,
    (_S.JOINING, _E.SILENT): _S.HUNG,
    (_S.UP, _E.EXITED): _S.DEAD,
    (_S.UP, _E.DISCONNECTED): _S.LOST,
    (_S.UP, _E.SILENT): _S.HUNG,
    (_S.LOST, _E.EXITED): _S.DEAD,
    (_S.LOST, _E.STAYED): _S.JOINING,
    (_S.HUNG, _E.TOLD): _S.DEAD,
    (_S.DEAD, _E.DUE): _S.STARTING,
}
