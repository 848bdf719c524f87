# SPDX-License-Identifier: Apache-2.0
"""From what health checkers find to the health that the region keeps of targets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from hyperplane_nat.controller.network.health_checks import Place, Verdicts
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.model.errors import ModelError, StateError
from hyperplane_nat.model.region import Region

LOOK_SECONDS = 0.1

Note = Callable[[Mapping[str, Mapping[Place, str]]], Awaitable[object]]

log = logging.getLogger(__name__)


class HealthWatch:
    """Looks at the checkers' files while a lab is up."""

    def __init__(self, paths: LabPaths, region: Region, note: Note) -> None:
        """`note` has the region know what was found; ModelError, StateError."""
        self._verdicts = Verdicts(paths)
        self._region = region
        self._note = note
        self._revision = -1
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._keep(), name="health")

    async def stop(self) -> None:
        """End looking."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def look(self) -> None:
        """Have the region know what is new."""
        tables = self._region.tables
        vpcs = [tables.vpcs[each].name for each in tables.health_checkers]
        # A target that was registered again has the verdict that there is.
        changed = self._verdicts.changed(vpcs) or self._revision != self._region.network_revision
        if not vpcs or not changed:
            return
        revision = self._region.network_revision
        found = self._verdicts.agreed(self._region.wanted())
        await self._note(found)
        if self._region.network_revision == revision:
            self._revision = revision

    async def _keep(self) -> None:
        while True:
            try:
                await self.look()
            except (ModelError, StateError) as error:
                log.warning("health is not noted yet: %s", error)
                self._revision = -1
            await asyncio.sleep(LOOK_SECONDS)
