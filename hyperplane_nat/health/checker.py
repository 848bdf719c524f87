# SPDX-License-Identifier: Apache-2.0
"""All checks of one VPC: a task for each, begun, ended and told of as the controller says.

A check lasts its time-out at most, where this process has the processor in time, and begins an
interval after the one before began. Those that begin together are spread over a part of their
interval, so that a thousand targets are not all asked in the same instant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable

from hyperplane_nat.health.checks import Check, Verdict

LOOK_SECONDS = 0.05
"""Between two looks at what is to be checked."""

TOLD_SECONDS = 0.02
"""Between a change of a verdict and its being told, with all others until then: a thousand targets
may change theirs at about the same time, and all that there are are told each time."""

TOLD_AGAIN_SECONDS = 1.0
"""After verdicts could not be told: a disk that is full, say."""

_SPREAD = 0.001
"""Seconds between the first checks of two targets."""

log = logging.getLogger(__name__)

Probe = Callable[[Check], Awaitable[str]]


class Checker:
    """The checks of one VPC."""

    def __init__(
        self,
        probe: Probe,
        tell: Callable[[dict[str, str]], None],
        told_seconds: float = TOLD_SECONDS,
    ) -> None:
        """`tell` has the reasons of all verdicts that there are, so soon after one changes; it
        may raise OSError, and is called again then.
        """
        self._told_seconds = told_seconds
        self._probe = probe
        self._tell = tell
        self._verdicts: dict[str, Verdict] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._telling: asyncio.TimerHandle | None = None
        self._failed = False

    def follow(self, wanted: Iterable[Check]) -> None:
        """Check exactly these, from now on."""
        checks = {each.name: each for each in wanted}
        gone = []
        for name, verdict in self._verdicts.items():
            check = checks.get(name)
            # Mostly they are the same thousands.
            if check is not verdict.check and check != verdict.check:
                gone.append(name)
        for name in gone:
            self._tasks.pop(name).cancel()
            del self._verdicts[name]
        new = [check for name, check in checks.items() if name not in self._verdicts]
        for place, check in enumerate(new):
            verdict = self._verdicts[check.name] = Verdict(check)
            delay = min(place * _SPREAD, check.interval_seconds / 2)
            self._tasks[check.name] = asyncio.create_task(self._keep(verdict, delay))
        if gone:
            self._say()

    async def stop(self) -> None:
        """End all checks."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._tasks.clear()
        self._verdicts.clear()
        self._hush()

    def _hush(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None

    async def _keep(self, verdict: Verdict, delay: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        while True:
            await asyncio.sleep(max(due - loop.time(), 0))
            due = max(due + verdict.check.interval_seconds, loop.time())
            if verdict.note(await self._probe(verdict.check)) and self._telling is None:
                self._telling = loop.call_later(self._told_seconds, self._say)

    def _say(self) -> None:
        self._hush()
        found = {
            name: verdict.reason
            for name, verdict in self._verdicts.items()
            if verdict.reason is not None
        }
        try:
            self._tell(found)
        except OSError as error:
            if not self._failed:
                log.error("cannot tell what is healthy: %s", error.strerror)
            self._failed = True
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(TOLD_AGAIN_SECONDS, self._say)
        else:
            self._failed = False


async def watch(
    changed: Callable[[], bool], follow: Callable[[], None], ended: asyncio.Event
) -> None:
    """Call `follow` whenever something `changed`, until it is `ended`."""
    while not ended.is_set():
        if changed():
            follow()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_SECONDS):
                await ended.wait()
