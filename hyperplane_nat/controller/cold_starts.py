# SPDX-License-Identifier: Apache-2.0
"""The cold starts of functions: counted by size for the metrics, the latest of them kept."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from hyperplane_nat.metrics.distribution import Distribution

HISTORY = 1000


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One of them as it is shown."""

    number: int
    time: float
    """Seconds since the epoch."""
    function: str
    networking: str
    network_ready_seconds: float
    """Measured: from the request to an attached environment."""
    modelled_seconds: float
    """What AWS would take for it."""


class ColdStarts:
    """Those of one lab; used from one thread."""

    def __init__(self, *, history: int = HISTORY, clock: Callable[[], float] = time.time) -> None:
        """`clock` is in seconds since the epoch."""
        self._clock = clock
        self._history: deque[ColdStart] = deque(maxlen=history)
        self._number = 0
        self.distribution = Distribution()
        """Until the network of the environment was ready, in seconds."""

    def note(self, function: str, networking: str, measured: float, modelled: float) -> None:
        """An environment of a function is ready; both times in seconds."""
        self.distribution.observe(measured)
        now = self._clock()
        # As events are numbered: upwards, after a restart of the controller too.
        self._number = max(self._number + 1, int(now))
        started = ColdStart(
            self._number, round(now, 3), function, networking, round(measured, 6), modelled
        )
        self._history.append(started)

    def rows(self, after: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """Those with a higher number than `after`, oldest first, the newest `limit` of them."""
        found = [asdict(each) for each in self._history if each.number > after]
        return found if limit is None else found[-limit:]
