# SPDX-License-Identifier: Apache-2.0
"""The code of published versions: kept in the lab, because a version never changes.

A function's code is used where it is, and changed there. When a version has been published, an
archive of it as it is then is kept beside the uploads, and the version has that from then on.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.model.entities import Function
from hyperplane_nat.model.region import Region
from hyperplane_nat.runtime import uploads
from hyperplane_nat.runtime.code import CodeError

log = logging.getLogger(__name__)


class PublishedCode:
    """That of the versions of one lab."""

    def __init__(self, region: Region, directory: Path) -> None:
        self._region = region
        self._directory = directory
        self._given_up: set[str] = set()
        """Ids of versions whose code cannot be kept."""
        self._last_used: set[str] = set()
        self.keeping = asyncio.Lock()
        """Held while an archive is kept that no function has yet, which another one would drop."""

    def used(self) -> set[str]:
        """Paths of the code of functions and versions; to be asked while `keeping` is held.

        Those of last time are among them: an environment of one that is gone may be starting.
        """
        functions = self._region.tables.functions.values()
        now = {each.code.path for each in functions if each.code is not None}
        result = now | self._last_used
        self._last_used = now
        return result

    def missing(self) -> list[Function]:
        """Versions whose code is not kept yet."""
        kept = uploads.uploads_path(self._directory)
        return [
            each
            for each in self._region.tables.functions.values()
            if each.function_id
            and each.code is not None
            and Path(each.code.path).parent != kept
            and each.id not in self._given_up
        ]

    async def keep(self) -> None:
        """Keep it; what cannot be read is told in the log, and used where it is."""
        for version in self.missing():
            assert version.code is not None
            async with self.keeping:
                try:
                    archive = await in_thread(
                        uploads.keep_state,
                        self._directory,
                        Path(version.code.path),
                        self.used(),
                    )
                except (CodeError, OSError) as error:
                    self._given_up.add(version.id)
                    log.warning("the code of %s is not kept: %s", version.name, error)
                else:
                    self._last_used.add(str(archive.path))
                    self._region.keep_code(version.id, str(archive.path))
