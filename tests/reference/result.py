# SPDX-License-Identifier: Apache-2.0
"""What becomes of a frame."""

from dataclasses import dataclass

DROP = "drop"
FORWARD = "forward"
REPLY = "reply"
HOLD = "hold"
LEARN = "learn"
WAIT = "wait"


@dataclass(frozen=True)
class Result:
    """What becomes of a frame; side and port say where `frame` leaves, -1 when it does not."""

    action: str
    reason: str | None = None
    side: int = -1
    port: int = -1
    frame: bytes = b""
