# SPDX-License-Identifier: Apache-2.0
"""Flow log files: named as AWS names them in a bucket, bounded in size and number.

Theory of operation
-------------------
A file holds the lines of one interface and interval under a line with the names of the fields (AWS,
"Flow log files")::

    AWSLogs/ACCOUNT/vpcflowlogs/REGION/YYYY/MM/DD/
        ACCOUNT_vpcflowlogs_REGION_FLOW-LOG-ID_YYYYMMDDTHHmmZ_HASH.log

Lines are gathered and appended in pieces. A piece is in the file as a whole or not at all: when
the disk is full, the file is cut back to where it was and the lines are lost, which is the caller's
to tell. A file that has reached its size is followed by another, and the oldest ones of an
interface go.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hyperplane_nat.flow_logs.fields import Place

REGION = "local"
"""What stands for the region in names."""

PIECE_LINES = 1024
"""Lines gathered before they are written."""


def flow_log_id(place: Place) -> str:
    """The id of an interface's flow log, the same in every run."""
    return "fl-" + hashlib.sha256(place.interface_id.encode()).hexdigest()[:17]


def stamp(start_ms: int) -> str:
    """The beginning of an interval in a file's name: AWS's minutes, finer only when it must be."""
    moment = datetime.fromtimestamp(start_ms // 1000, UTC)
    if start_ms % 60_000 == 0:
        return f"{moment:%Y%m%dT%H%M}Z"
    return f"{moment:%Y%m%dT%H%M%S}.{start_ms % 1000:03d}Z"


def folder(directory: Path, place: Place, start_ms: int) -> Path:
    """Where the files of an interface and a day are."""
    day = datetime.fromtimestamp(start_ms // 1000, UTC)
    return _folder(directory, place.account_id) / f"{day:%Y}" / f"{day:%m}" / f"{day:%d}"


def _folder(directory: Path, account: str) -> Path:
    return directory / "AWSLogs" / account / "vpcflowlogs" / REGION


def log_files(directory: Path, interface_id: str | None = None) -> list[Path]:
    """All files below a directory, or those of one interface, the oldest first."""
    wanted = "*" if interface_id is None else flow_log_id(Place(interface_id))
    found = _folder(directory, "*").relative_to(directory)
    paths = directory.glob(f"{found}/*/*/*/*_vpcflowlogs_{REGION}_{wanted}_*.log")
    return sorted(paths, key=_age)


def _age(path: Path) -> tuple[str, int]:
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0
    # Seconds come after the bare minute they are in.
    return path.name.split("_")[-2].replace("Z", ""), changed


@dataclass(slots=True)
class _Open:
    """What is being written of one interface in this interval."""

    place: Place
    lines: list[str] = field(default_factory=list)
    path: Path | None = None
    part: int = 0


class FlowLogFiles:
    """The files of one lab below `directory`."""

    def __init__(
        self, directory: Path, header: str, *, max_file_bytes: int, files_kept: int
    ) -> None:
        self._directory = directory
        self._header = header.encode() + b"\n"
        self._max_bytes = max_file_bytes
        self._files_kept = files_kept
        self._start_ms = 0
        self._open: dict[str, _Open] = {}
        self._kept: dict[str, deque[Path]] = {}

    def begin(self, start_ms: int) -> None:
        """An interval begins, at `start_ms` after the epoch; what is written belongs to it."""
        self._start_ms = start_ms
        self._open = {}

    def write(self, place: Place, lines: Iterable[str]) -> int:
        """Append lines of an interface; how many were lost, of these or of those before."""
        current = self._open.setdefault(place.interface_id, _Open(place))
        current.lines += lines
        return self._flush(current) if len(current.lines) >= PIECE_LINES else 0

    def flush(self) -> dict[str, int]:
        """Write what is gathered; lines lost by interface, those that lost any."""
        lost = {name: self._flush(current) for name, current in self._open.items()}
        return {name: count for name, count in lost.items() if count}

    def _flush(self, current: _Open) -> int:
        lines, current.lines = current.lines, []
        if not lines:
            return 0
        data = "\n".join(lines).encode() + b"\n"
        try:
            self._append(current, data)
        except OSError:
            return len(lines)
        return 0

    def _append(self, current: _Open, data: bytes) -> None:
        if current.path is None:
            current.path = self._next(current)
        descriptor = opened(current.path)
        try:
            size = os.fstat(descriptor).st_size
            if size > len(self._header) and size + len(data) > self._max_bytes:
                os.close(descriptor)
                descriptor = -1
                current.part += 1
                current.path = self._next(current)
                descriptor = opened(current.path)
                size = os.fstat(descriptor).st_size
            try:
                append_whole(descriptor, size, data if size else self._header + data)
            except OSError:
                if size == 0:
                    current.path.unlink(missing_ok=True)
                raise
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _next(self, current: _Open) -> Path:
        """A new file's path; the oldest files of the interface make room."""
        place = current.place
        kept = self._kept.get(place.interface_id)
        if kept is None:
            kept = deque(log_files(self._directory, place.interface_id))
            self._kept[place.interface_id] = kept
        name = "_".join(
            (place.account_id, "vpcflowlogs", REGION, flow_log_id(place), stamp(self._start_ms))
        )
        unique = f"{place.interface_id} {self._start_ms} {current.part}"
        digest = hashlib.sha256(unique.encode()).hexdigest()[:8]
        path = folder(self._directory, place, self._start_ms) / f"{name}_{digest}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path not in kept:
            kept.append(path)
        while len(kept) > self._files_kept:
            _remove(kept.popleft())
        return path


def opened(path: Path) -> int:
    """A descriptor to append to a file, which may be new. OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, 0o640)


def append_whole(descriptor: int, size: int, data: bytes) -> None:
    """Append all of it, or leave the file as it was and raise OSError."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
        # Day, month and year, as far as they are empty.
        for parent in list(path.parents)[:3]:
            parent.rmdir()
