# SPDX-License-Identifier: Apache-2.0
"""Control groups: programs that stand still, are killed together, and have limits.

Theory of operation
-------------------
`Mounts` says where the host has them (cgroups(7)): the unified hierarchy of version 2, which
freezes and kills, and for each limit either that or a hierarchy of version 1. A *family* is a
directory of a name in each of them; a group is a directory in the family's. What the host lacks is
in `Family.missing`, and the group does without.

A program is in its groups from its first instruction on, so nothing that it starts is outside
(`Group.members`): who starts it (`init`, see `launch`) joins those of version 1 before it forks,
and forks into that of version 2 (CLONE_INTO_CGROUP, Linux 5.7). To join that one has the kernel
wait until every processor has passed a point of rest, some 10 ms. None can leave without a
privilege, whatever namespaces it makes.

A kill is one write of the kernel's own (`cgroup.kill`, Linux 5.14), which no fork outruns. Before
that a group is frozen, and nothing in it forks any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from netns.errors import NetnsError, from_errno

LIMITS = ("memory", "pids")
"""Controllers (cgroups(7)) that are used."""

ROOT = "hyperplane-nat"
"""The directory of all families."""

_PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 0.001
_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Mounts:
    """Where the host has its control groups."""

    unified: Path | None = None
    """Of version 2."""
    legacy: dict[str, Path] = field(default_factory=dict)
    """Of version 1, by controller."""

    @classmethod
    def find(cls, mountinfo: str | None = None) -> Self:
        """As of /proc/self/mountinfo, or of such a text (proc(5))."""
        if mountinfo is None:
            mountinfo = Path("/proc/thread-self/mountinfo").read_text(encoding="utf-8")
        unified = None
        legacy: dict[str, Path] = {}
        for line in mountinfo.splitlines():
            before, _, after = line.partition(" - ")
            point = Path(before.split()[4].encode().decode("unicode_escape"))
            kind, _, options = after.split(" ", 2)
            if kind == "cgroup2" and unified is None:
                unified = point
            elif kind == "cgroup":
                for name in set(options.split(",")) & set(LIMITS):
                    legacy.setdefault(name, point)
        return cls(unified, legacy)


@dataclass(frozen=True, slots=True)
class Membership:
    """Descriptors by which a program is put into a group before it begins."""

    files: tuple[int, ...] = ()
    """Those that list who is in the directories of version 1: a process of one thread joins by
    writing "0" to each."""
    directory: int | None = None
    """That of version 2, for CLONE_INTO_CGROUP."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return self.files if self.directory is None else (*self.files, self.directory)


class Group:
    """One group, as far as the host has it. Its methods block; errors are NetnsError."""

    def __init__(self, unified: Path | None, limited: dict[str, Path]) -> None:
        """`limited` are the directories with the files of each controller."""
        self._unified = unified
        self._limited = limited

    @property
    def freezes(self) -> bool:
        """Whether it can stand still, and be killed as a whole."""
        return self._unified is not None

    @property
    def exists(self) -> bool:
        """Whether there is one of version 2."""
        return self._unified is not None and self._unified.is_dir()

    @property
    def _legacy(self) -> list[Path]:
        """Those of version 1."""
        return [path for path in self._limited.values() if path != self._unified]

    def make(self, *, memory_bytes: int, processes: int) -> None:
        """Make it, with so much memory and so many processes and threads of the program.

        Its `init` comes on top, which is in directories of version 1 alone, from Linux 5.7 on.
        """
        for directory in self._directories():
            with _told(f"cannot make control group {directory}"):
                directory.mkdir(exist_ok=True)
        memory, pids = (self._limited.get(name) for name in LIMITS)
        if memory is not None and memory == self._unified:
            _write(memory / "memory.max", memory_bytes)
            _write_if_there(memory / "memory.swap.max", 0)
        elif memory is not None:
            _write(memory / "memory.limit_in_bytes", memory_bytes)
            _write_if_there(memory / "memory.memsw.limit_in_bytes", memory_bytes)
        if pids is not None:
            _write(pids / "pids.max", processes + (pids != self._unified))

    @contextlib.contextmanager
    def members(self) -> Iterator[Membership]:
        """How a program becomes one, as long as the context lasts."""
        wanted = [(directory / "tasks", os.O_WRONLY) for directory in self._legacy]
        if self._unified is not None:
            wanted.append((self._unified, os.O_RDONLY | os.O_DIRECTORY))
        with contextlib.ExitStack() as stack:
            opened = []
            for path, flags in wanted:
                with _told(f"cannot join control group {path}"):
                    opened.append(os.open(path, flags | os.O_CLOEXEC))
                stack.callback(os.close, opened[-1])
            directory = None if self._unified is None else opened.pop()
            yield Membership(tuple(opened), directory)

    def freeze(self) -> None:
        """Let it stand still; returns before all of it does."""
        self._set_frozen(1)

    def thaw(self) -> None:
        """Let it go on."""
        self._set_frozen(0)

    def _set_frozen(self, value: int) -> None:
        if self._unified is not None:
            _write_if_there(self._unified / "cgroup.freeze", value)

    def kill(self) -> None:
        """Kill all that is in it, and return when that has ended; nothing when nothing is.

        Only for what `freezes`.
        """
        if self._unified is None:
            raise RuntimeError("a group of version 1 cannot be killed as a whole")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        kill = self._unified / "cgroup.kill"
        if kill.exists():
            _write_if_there(kill, 1)
        else:
            self.freeze()
            for pid in self.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if not _emptied(self._unified / "cgroup.events", deadline):
            left = " ".join(map(str, self.processes()))
            raise NetnsError(
                f"processes do not end: {left}",
                "see what state they are in: ps -o pid,stat,wchan,cmd",
            )

    def processes(self) -> list[int]:
        """What is in it."""
        for directory in self._directories():
            with contextlib.suppress(FileNotFoundError):
                return [int(line) for line in (directory / "cgroup.procs").read_text().split()]
        return []

    def out_of_memory(self) -> int:
        """How many processes the kernel has killed because it had no more memory."""
        memory = self._limited.get("memory")
        if memory is None:
            return 0
        with contextlib.suppress(FileNotFoundError):
            return _killed((memory / self._kills).read_bytes())
        return 0

    @property
    def _kills(self) -> str:
        memory = self._limited.get("memory")
        return "memory.events" if memory == self._unified else "memory.oom_control"

    def opened(self) -> dict[str, int]:
        """Descriptors of the files by which another process does for it what `OpenGroup` does, as
        far as they are there; to be closed.
        """
        wanted: dict[str, tuple[Path, int]] = {}
        if self._unified is not None:
            wanted["freeze"] = self._unified / "cgroup.freeze", os.O_WRONLY
        if (memory := self._limited.get("memory")) is not None:
            wanted["kills"] = memory / self._kills, os.O_RDONLY
        found = {}
        for name, (path, flags) in wanted.items():
            # It may be gone already.
            with contextlib.suppress(FileNotFoundError):
                found[name] = os.open(path, flags | os.O_CLOEXEC)
        return found

    def remove(self) -> None:
        """Remove it; what `freezes` is killed before."""
        if self._unified is not None:
            self.kill()
        for directory in self._directories():
            _remove(directory)

    def _directories(self) -> list[Path]:
        own = [] if self._unified is None else [self._unified]
        return own + self._legacy


class OpenGroup:
    """A group that another process has made and removes, by its `Group.opened`."""

    def __init__(self, files: Mapping[str, int]) -> None:
        self._files = dict(files)

    @property
    def freezes(self) -> bool:
        """See `Group`."""
        return "freeze" in self._files

    def freeze(self) -> None:
        """See `Group`."""
        self._set_frozen(b"1")

    def thaw(self) -> None:
        """See `Group`."""
        self._set_frozen(b"0")

    def _set_frozen(self, value: bytes) -> None:
        try:
            os.pwrite(self._files["freeze"], value, 0)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise from_errno("cannot write cgroup.freeze", error.errno or 0) from None

    def out_of_memory(self) -> int:
        """See `Group`."""
        if "kills" not in self._files:
            return 0
        try:
            return _killed(os.pread(self._files["kills"], _FILE_BYTES, 0))
        except OSError:
            return 0

    def opened(self) -> dict[str, int]:
        """Copies of what it has; to be closed."""
        return {name: os.dup(file) for name, file in self._files.items()}

    def remove(self) -> None:
        """Close what it has."""
        while self._files:
            os.close(self._files.popitem()[1])


class Family:
    """The groups of one name."""

    def __init__(self, mounts: Mounts, name: str) -> None:
        """Nothing is made before `make`."""
        self.missing: list[str] = []
        """What the host does not offer, a line each; known after `make`."""
        self._place = f"{ROOT}/{name}"
        self._unified = None if mounts.unified is None else mounts.unified / self._place
        self._mounts = mounts
        self._limited: dict[str, Path] = {}

    def make(self) -> None:
        """Make the directories; removes what is left in them of others. NetnsError."""
        self.remove()
        self.missing = []
        if self._unified is None:
            self.missing.append("freezing: no cgroup of version 2 is mounted")
        elif problem := _tried(self._unified):
            self.missing.append(f"freezing: {problem}")
            self._unified = None
        for name in LIMITS:
            self._limit(name)

    def _limit(self, name: str) -> None:
        problem = "its controller is not there, neither of version 1 nor of 2"
        if self._unified is not None and self._mounts.unified is not None:
            offered = self._mounts.unified / "cgroup.controllers"
            if name in offered.read_text(encoding="ascii").split():
                problem = _enabled(self._mounts.unified, self._unified, name)
                if not problem:
                    self._limited[name] = self._unified
                    return
        if name in self._mounts.legacy:
            directory = self._mounts.legacy[name] / self._place
            problem = _tried(directory)
            if not problem:
                self._limited[name] = directory
                return
        self.missing.append(f"limit of {name}: {problem}")

    def group(self, name: str) -> Group:
        """A group of the family, which `Group.make` makes."""
        unified = None if self._unified is None else self._unified / name
        return Group(unified, {each: path / name for each, path in self._limited.items()})

    def remove(self) -> list[str]:
        """Remove all of it with what runs in it; the names of the groups there were."""
        found: set[str] = set()
        places = {path / self._place for path in self._mounts.legacy.values()}
        if self._mounts.unified is not None:
            unified = self._mounts.unified / self._place
            for name in _names(unified):
                found.add(name)
                Group(unified / name, {}).remove()
            places.add(unified)
        for place in places:
            for name in _names(place):
                found.add(name)
                _remove(place / name)
            _remove(place)
            # Other families may be in it.
            with contextlib.suppress(OSError):
                place.parent.rmdir()
        return sorted(found)


def group_of(family: str, name: str) -> Group:
    """A group that another process has made, as far as that can freeze; there may be none."""
    unified = Mounts.find().unified
    return Group(None if unified is None else unified / ROOT / family / name, {})


def _killed(told: bytes) -> int:
    """How many processes the kernel has killed, of memory.events or memory.oom_control."""
    for line in told.splitlines():
        word, _, value = line.partition(b" ")
        if word == b"oom_kill":
            return int(value)
    return 0


def _names(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in directory.iterdir() if entry.is_dir()]
    except OSError:
        return []


def _tried(directory: Path) -> str:
    """Make a directory; why it cannot be made, or an empty text."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{directory} cannot be made: {error.strerror}"
    return ""


def _enabled(root: Path, directory: Path, name: str) -> str:
    """Have a controller in the groups of a directory; why not, or an empty text."""
    above = [root, *(root / part for part in directory.relative_to(root).parents), directory]
    for each in sorted(set(above)):
        try:
            (each / "cgroup.subtree_control").write_text(f"+{name}", encoding="ascii")
        except OSError as error:
            return f"{each} does not pass it on: {error.strerror}"
    return ""


def _write(path: Path, value: int) -> None:
    with _told(f"cannot write {path}"):
        path.write_text(str(value), encoding="ascii")


def _write_if_there(path: Path, value: int) -> None:
    """What not every kernel has, or has gone meanwhile."""
    try:
        path.write_text(str(value), encoding="ascii")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise from_errno(f"cannot write {path}", error.errno or 0) from None


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise from_errno(what, error.errno or 0) from None


def _emptied(events: Path, deadline: float) -> bool:
    """Whether nothing is left, in time (cgroup-v2: a change of the file is an event of its own)."""
    try:
        file = events.open("rb", buffering=0)
    except FileNotFoundError:
        return True
    with file:
        changed = select.poll()
        changed.register(file, select.POLLPRI)
        while True:
            file.seek(0)
            try:
                if b"populated 0" in file.read():
                    return True
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return True
                raise
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            changed.poll(left * 1000)


def _remove(directory: Path) -> None:
    """Remove a directory, which may be busy for a moment with what has just ended."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            directory.rmdir()
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise from_errno(f"cannot remove {directory}", error.errno or 0) from None
            time.sleep(_PAUSE_SECONDS)
        else:
            return
