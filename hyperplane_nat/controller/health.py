# SPDX-License-Identifier: Apache-2.0
"""From what health checkers find to the health that the region keeps of targets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from hyperplane_nat.controller.network.health_checks import Place, Verdicts
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.model.balancer_wanted import WantedNode
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
        self._nodes: dict[int, WantedNode] = {}
        """Those that were looked at last, by number."""
        self._open: set[str] = set()
        """Target groups of which the region does not know yet what was found."""
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
        self._open |= self._verdicts.changed(vpcs)
        if not vpcs or not (self._open or self._revision != self._region.network_revision):
            return
        revision, wanted = self._region.network_revision, self._region.wanted()
        # A target that was registered again has the verdict that there is.
        self._open |= {
            check.group_id
            for node in wanted.load_balancer_nodes
            if self._nodes.get(node.number) is not node
            for check in node.checks
        }
        self._nodes = {node.number: node for node in wanted.load_balancer_nodes}
        if found := self._verdicts.agreed(wanted, self._open):
            await self._note(found)
        self._open.clear()
        self._revision = revision

    async def _keep(self) -> None:
        while True:
            try:
                await self.look()
            except (ModelError, StateError) as error:
                log.warning("health is not noted yet: %s", error)
            await asyncio.sleep(LOOK_SECONDS)
