# SPDX-License-Identifier: Apache-2.0
"""The clock of a region, which can be advanced."""

from __future__ import annotations

import time
from collections.abc import Callable

AHEAD_SECONDS_MAX = 10 * 365 * 86_400
"""What a lab's clock can be advanced by, in all: ten years."""


class LabClock:
    """Seconds since the epoch, and what was added to them; `wall` tells the former."""

    def __init__(self, offset_ms: int = 0, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self.offset_ms = offset_ms
        """What it is ahead; it only grows."""

    def __call__(self) -> float:
        """The time."""
        return self._wall() + self.offset_ms / 1000
