# SPDX-License-Identifier: Apache-2.0
"""The code of published versions: kept in the lab, because a version never changes.

A function's code is used where it is, and changed there. When a version has been published, an
archive of it as it is then is kept beside the uploads, and the version has that from then on.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hyperplane_nat import runtime
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.model.entities import ExecutionEnvironment, Function
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.states import EnvironmentState
from hyperplane_nat.runtime.places import uploads_path

if TYPE_CHECKING:
    from hyperplane_nat.runtime.uploads import Archive

log = logging.getLogger(__name__)


class PublishedCode:
    """That of the versions of one lab."""

    def __init__(self, region: Region, directory: Path) -> None:
        self._region = region
        self._directory = directory
        self._given_up: set[str] = set()
        """Ids of versions whose code cannot be kept."""
        self._kept = uploads_path(directory)
        # Those of a former controller, too.
        self._had = {str(path) for path in self._kept.glob("*.zip")}
        self._keeping = 0

    @contextlib.contextmanager
    def keeping(self) -> Iterator[Callable[[Archive], None]]:
        """Nothing is dropped meanwhile: an archive is kept, and told, that no function has yet."""
        self._keeping += 1
        try:
            yield lambda archive: self._had.add(str(archive.path))
        finally:
            self._keeping -= 1

    def former(self) -> set[str]:
        """Archives that no function or version has any more, and no environment is made of."""
        if self._keeping:
            return set()
        functions = self._region.tables.functions
        now = {each.code.path for each in functions.values() if each.code is not None}
        self._had |= {path for path in now if Path(path).parent == self._kept}
        gone = self._had - now
        if gone and any(map(self._is_former, self._region.tables.environments.values())):
            return set()
        return gone

    def _is_former(self, environment: ExecutionEnvironment) -> bool:
        """Whether it has, or may have, other code than its function."""
        function = self._region.tables.functions.get(environment.function_id)
        return environment.state is not EnvironmentState.PROVISIONED and (
            function is None or function.version != environment.version
        )

    async def drop(self) -> None:
        """Drop those archives."""
        # Here, not in a thread: what is kept in one meanwhile may have been there before.
        gone = self.former()
        runtime.uploads.drop(gone)
        self._had -= gone

    def missing(self) -> list[Function]:
        """Versions whose code is not kept yet."""
        return [
            each
            for each in self._region.tables.functions.values()
            if each.function_id
            and each.code is not None
            and Path(each.code.path).parent != self._kept
            and each.id not in self._given_up
        ]

    async def keep(self) -> None:
        """Keep it; what cannot be read is told in the log, and used where it is."""
        for version in self.missing():
            assert version.code is not None
            with self.keeping() as note:
                try:
                    archive = await in_thread(
                        runtime.uploads.keep_state, self._directory, Path(version.code.path)
                    )
                except (runtime.code.CodeError, OSError) as error:
                    self._given_up.add(version.id)
                    log.warning("the code of %s is not kept: %s", version.name, error)
                else:
                    note(archive)
                    self._region.keep_code(version.id, str(archive.path))
