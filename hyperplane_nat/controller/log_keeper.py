# SPDX-License-Identifier: Apache-2.0
"""The task of a controller that keeps its lab's logs from growing (`logs`)."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from hyperplane_nat.controller import logs
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.threads import in_thread

LOOK_SECONDS = 1.0

SETTLED_SECONDS = 30.0
"""No word of a process that was started is waited for any longer."""

log = logging.getLogger(__name__)


def _young(pid_file: Path) -> bool:
    try:
        return time.time() - pid_file.stat().st_mtime < SETTLED_SECONDS
    except FileNotFoundError:
        return False


class LogKeeper:
    """Keeps the logs of a lab from growing."""

    def __init__(self, paths: LabPaths) -> None:
        self._paths = paths
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._keep(), name="logs")

    async def stop(self) -> None:
        """End looking."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    def look(self) -> None:
        """Empty what is full."""
        for path, pid_file in self._paths.logs().items():
            if pid_file is not None and _young(pid_file):
                continue
            try:
                logs.bound(path)
            except OSError as error:
                log.warning("%s: its end is lost: %s", path, error.strerror)

    async def _keep(self) -> None:
        while True:
            await in_thread(self.look)
            await asyncio.sleep(LOOK_SECONDS)
