# SPDX-License-Identifier: Apache-2.0
"""How stacks wait: rounds that move nothing, each a little after the one before, for so long."""

from __future__ import annotations

import time

SECONDS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Between rounds that move nothing, the last one again and again."""


class Pauses:
    """Those of one wait, which begins now."""

    def __init__(self, patience: float) -> None:
        self._end = time.monotonic() + patience
        self._next = iter(SECONDS)

    @property
    def over(self) -> bool:
        """Whether its seconds have passed."""
        return time.monotonic() > self._end

    def moved(self) -> None:
        """Something was done, and more may soon be: pauses are short again."""
        self._next = iter(SECONDS)

    def rest(self) -> None:
        """Until the next round."""
        time.sleep(next(self._next, SECONDS[-1]))
