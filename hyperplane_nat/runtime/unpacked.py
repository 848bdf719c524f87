# SPDX-License-Identifier: Apache-2.0
"""What was unpacked of code and layers: who uses it, and when it is given back.

Theory of operation
-------------------
A directory is made of an archive once, for all environments that begin with it, and lies in memory.
It stays when none is left, for the next cold start, for as long as what it was made of is as it
was then. When that has changed or is gone (other code was sent, a version was deleted, an archive
was built anew) nobody begins with it any more, and it goes with the last environment that uses it.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperplane_nat.runtime import code as coding
from hyperplane_nat.runtime import layers as layering
from hyperplane_nat.runtime.variables import TASK_ROOT

_FORMER = ".former"


@dataclass(slots=True)
class _Made:
    """A directory that was made."""

    sources: Mapping[Path, object]
    """What it was made of, and the state that had."""
    users: int = 0


class Unpacked:
    """What was made below one directory. All of it blocks, and is called where that can be seen."""

    def __init__(self, beneath: Path) -> None:
        self._beneath = beneath
        self._lock = threading.Lock()
        self._made: dict[Path, _Made] = {}

    def use(self, code: Path, layers: Sequence[Path], used: list[Path]) -> dict[str, Path]:
        """
        The directories with a function's code and layers, by the place where they are to be seen.

        What of it was made is added to `used`, for `leave` later, also when this fails. CodeError.
        """
        with self._lock:
            with self._noted([code], used) as found:
                task = coding.directory_of(code, self._beneath)
                found.append(task)
            shown = {TASK_ROOT: task}
            if layers:
                with self._noted(layers, used) as found:
                    shown[layering.OPT] = layering.directory_of(layers, task, self._beneath)
                    found.append(shown[layering.OPT])
        return shown

    @contextlib.contextmanager
    def _noted(self, sources: Sequence[Path], used: list[Path]) -> Iterator[list[Path]]:
        # Before it is read: what changes meanwhile is another state.
        states = {source: _state(source) for source in sources}
        found: list[Path] = []
        yield found
        for directory in found:
            if directory.parent == self._beneath:
                made = self._made.setdefault(directory, _Made(states))
                made.sources = states
                made.users += 1
                used.append(directory)

    def leave(self, used: list[Path]) -> None:
        """An environment uses this no more; again: nothing happens."""
        with self._lock:
            while used:
                self._made[used.pop()].users -= 1

    @property
    def unused(self) -> bool:
        """Whether there is anything that `give_back` would look at."""
        return any(made.users == 0 for made in list(self._made.values()))

    def give_back(self) -> None:
        """Remove what nobody uses and nobody will."""
        with self._lock:
            former = [directory for directory, made in self._made.items() if _is_former(made)]
            for directory in former:
                del self._made[directory]
                # Whoever needs it again makes it anew, while this one is taken apart.
                directory.rename(directory.with_suffix(_FORMER))
        for directory in former:
            shutil.rmtree(directory.with_suffix(_FORMER), ignore_errors=True)


def _is_former(made: _Made) -> bool:
    return made.users == 0 and any(
        _state(source) != before for source, before in made.sources.items()
    )


def _state(source: Path) -> object:
    """What changes when the source does; None when it is gone."""
    try:
        if source.is_dir():
            return coding.code_sha256(source)
        status = source.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
