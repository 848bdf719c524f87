# SPDX-License-Identifier: Apache-2.0
"""Counting values by size, as a Prometheus histogram wants them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

COLD_START_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 10.0)
"""Upper bounds for cold starts: from what a ready environment takes to a pool that is refilled."""


class Distribution:
    """How many values were at most each of the bounds and above the one before, and their sum."""

    def __init__(self, bounds: Sequence[float] = COLD_START_SECONDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """The last one of those above every bound."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
