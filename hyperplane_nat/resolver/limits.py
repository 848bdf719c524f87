# SPDX-License-Identifier: Apache-2.0
"""How much one network interface may ask."""

from __future__ import annotations

from collections import Counter

PACKETS_PER_SECOND = 1024
"""Of a network interface to the resolver (AWS, "DNS quotas"); it cannot be raised."""


class PacketLimit:
    """Counts packets by the address that they come from, in whole seconds of the caller's clock."""

    def __init__(self, per_second: int = PACKETS_PER_SECOND) -> None:
        self._per_second = per_second
        self._second = -1
        self._counts: Counter[str] = Counter()

    def admits(self, source: str, now: float) -> bool:
        """Whether a packet that comes at `now` is one of the first of its second."""
        if int(now) != self._second:
            self._second = int(now)
            self._counts.clear()
        self._counts[source] += 1
        return self._counts[source] <= self._per_second
