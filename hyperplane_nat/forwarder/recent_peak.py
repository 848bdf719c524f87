# SPDX-License-Identifier: Apache-2.0
"""The highest of what was seen lately, whoever asks and however often."""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["PEAK_SECONDS", "RecentPeak"]

PEAK_SECONDS: Final = 60.0
"""As long as anybody waits between two scrapes."""


class RecentPeak:
    """Keeps those values alone that are above every later one: the first is the peak."""

    def __init__(self, seconds: float = PEAK_SECONDS) -> None:
        self._seconds = seconds
        self._kept: deque[tuple[float, int]] = deque()

    def add(self, value: int, now: float) -> int:
        """Another value, at `now` in seconds; the highest of those no older than that."""
        while self._kept and self._kept[-1][1] <= value:
            self._kept.pop()
        self._kept.append((now, value))
        while self._kept[0][0] < now - self._seconds:
            self._kept.popleft()
        return self._kept[0][1]
