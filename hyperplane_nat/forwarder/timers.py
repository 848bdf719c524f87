# SPDX-License-Identifier: Apache-2.0
"""Work that is due again and again, whatever becomes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

__all__ = ["FAILED_SECONDS", "Timers"]

log = logging.getLogger(__name__)

FAILED_SECONDS: Final = 0.5
"""When work that failed is tried again."""


class Timers:
    """Pieces of work by name, each with at most one time at which it is due."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_failure: Callable[[], None]) -> None:
        """`on_failure` is called, besides a line in the log, for each failure."""
        self._loop = loop
        self._on_failure = on_failure
        self._due: dict[str, asyncio.TimerHandle] = {}

    def do(self, name: str, work: Callable[[], float | None]) -> None:
        """Do the work now, not when it was due, and again in as many seconds as it returns, if any.

        Failures are noted and the work goes on: flows must end whatever went wrong once.
        """
        if timer := self._due.pop(name, None):
            timer.cancel()
        try:
            delay = work()
        except Exception:
            log.exception("%s failed, next try in %g s", name, FAILED_SECONDS)
            self._on_failure()
            delay = FAILED_SECONDS
        if delay is not None:
            self._due[name] = self._loop.call_later(delay, self.do, name, work)

    def begin(self, name: str, work: Callable[[], float | None], delay: float) -> None:
        """Do the work in so many seconds, unless it is due some time already."""
        if name not in self._due:
            self._due[name] = self._loop.call_later(delay, self.do, name, work)

    def cancel(self) -> None:
        """Nothing is due any more."""
        for timer in self._due.values():
            timer.cancel()
        self._due.clear()
