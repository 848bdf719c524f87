# SPDX-License-Identifier: Apache-2.0
"""The forwarder that waits, so that another one is ready whenever one dies.

Theory of operation
-------------------
It has imported everything, has given up every privilege, and waits on its stdin for what it is to
work with, so it holds nothing and needs no configuration. One whose controller dies reads
end-of-file instead and exits. The next one is not started while a forwarder is, with which a
starting interpreter would compete.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.processes import Process
from hyperplane_nat.controller.threads import in_thread

READY_SECONDS = 60.0
"""To load everything: under a second, but on a loaded machine."""

PAUSE_SECONDS = 1.0
"""After one that died by itself: the next one may do the same."""

log = logging.getLogger(__name__)


class Standby:
    """Started again whenever it dies or is put to work."""

    def __init__(
        self,
        paths: LabPaths,
        command: Sequence[str],
        word: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`command` starts a forwarder and contains `word`."""
        self._paths = paths
        self._command = command
        self._word = word
        self._clock = clock
        self._process: Process | None = None
        self._taken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.starting = asyncio.Lock()
        """Held by whoever starts one, or puts one to work."""

    @property
    def pid(self) -> int | None:
        """The process that waits."""
        return self._process.pid if self._process is not None else None

    def prepare(self) -> None:
        """Have one from now on."""
        if self._task is None:
            self._task = asyncio.create_task(self._keep(), name="standby")

    async def ready(self) -> None:
        """Return when it has loaded everything; ControllerError when it cannot."""
        self.prepare()
        deadline = self._clock() + READY_SECONDS
        async with self.starting:
            process = await self.ensure()
        while process.alive and not await in_thread(process.says, "standby"):
            if self._clock() > deadline:
                raise ControllerError(
                    f"the standby forwarder is not ready after {READY_SECONDS:g} seconds "
                    f"(see {self._paths.forwarder_log})"
                )
            await asyncio.sleep(0.01)
        if not process.alive:
            raise ControllerError(
                f"the standby forwarder {process.describe_exit()}: {process.last_words()}"
            )

    async def ensure(self) -> Process:
        """The one there is, or another one if it has died; `starting` is held. ControllerError."""

        def spawn() -> Process:
            # Assigned in the thread: a cancelled caller must not lose sight of the process.
            self._process = Process.spawn(
                self._command,
                self._word,
                directory=self._paths.directory,
                pid_file=self._paths.standby_pid,
                log=self._paths.forwarder_log,
                held=True,
            )
            return self._process

        if self._process is not None:
            if self._process.alive:
                return self._process
            self._process.close()
            self._process = None
        self._taken = asyncio.Event()
        return await in_thread(spawn)

    def take(self) -> Process:
        """What `ensure` gave, to be put to work; `starting` is held."""
        assert self._process is not None
        process, self._process = self._process, None
        self._taken.set()
        return process

    async def stop(self) -> list[Process]:
        """Have none any more; the processes that are left, for `end`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        return [] if self._process is None else [self.take()]

    async def _keep(self) -> None:
        while True:
            try:
                async with self.starting:
                    process, taken = await self.ensure(), self._taken
            except ControllerError as error:
                log.error("%s", error)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            waits = [asyncio.ensure_future(each) for each in (process.wait(), taken.wait())]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
            if not taken.is_set():
                log.error("standby forwarder %s: %s", process.describe_exit(), process.last_words())
                await asyncio.sleep(PAUSE_SECONDS)
