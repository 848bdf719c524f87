# SPDX-License-Identifier: Apache-2.0
"""The file through which flow records go from the forwarder to the writer of flow logs.

Theory of operation
-------------------
A page with the header, the records lost of each interface and each host, then the records, 104
bytes each::

    header | lost by interface, by host (4 B each) | records

The forwarder makes the file and fills it (`flow_records`); the writer takes records
(`flow_deltas`) and notes in the header how many lines it wrote and lost. Each may be killed
and started again: the two counters of the ring are in the file. The file belongs on a tmpfs
beside the state map.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple

from hyperplane_nat.engine.readers.state_map import (
    HOSTS_MAX,
    INTERFACES_MAX,
    StateMapError,
    open_own,
)

__all__ = ["CAPACITY", "FlowRecordFigures", "FlowRecordRing", "read_figures"]

CAPACITY = 131_072
"""Records of a new ring: 13 MiB."""

PLACES_MAX = INTERFACES_MAX + HOSTS_MAX
"""Interfaces and hosts that it has room for, unless it is told otherwise."""

_MAGIC: Final = b"HPNATREC"
_VERSION: Final = 4
_PAGE: Final = 4096
_RECORD_BYTES: Final = 104
_HEADER: Final = struct.Struct("<8sIIII40xQ56xQQQ")
_ATTACHED: Final = struct.Struct("<I")
_ATTACHED_OFFSET: Final = 20
_LINES: Final = struct.Struct("<QQ")
_LINES_OFFSET: Final = 136
# In the directory others may have made something of the same name.


class FlowRecordFigures(NamedTuple):
    """What a ring's header counts, from its beginning."""

    recorded: int
    taken: int
    lines: int
    """Lines of flow logs written."""
    lines_lost: int
    """Lines that could not be written, on a full disk for example."""


class FlowRecordRing:
    """A mapped file of flow records; `close` fails with BufferError while an engine uses it."""

    def __init__(self, path: Path, memory: mmap.mmap) -> None:
        self.path = path
        self.memory = memory

    @classmethod
    def create(
        cls, path: str | Path, *, capacity: int = CAPACITY, places_max: int = PLACES_MAX
    ) -> FlowRecordRing:
        """Make a new ring; `capacity` is a power of two, `places_max` how many interfaces and hosts
        the map has. StateMapError when there is no room.
        """
        path = Path(path)
        size = _size(capacity, places_max)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
                memory = mmap.mmap(descriptor, size)
            except OSError:
                path.unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StateMapError(
                f"{path}: no room for {size} bytes of flow records ({error.strerror}): "
                "choose another lab.state_directory or set flow_logs.enabled to false"
            ) from error
        header = _HEADER.pack(_MAGIC, _VERSION, capacity, places_max, 0, 0, 0, 0, 0)
        # The magic comes last: a ring half made is never taken for one.
        memory[8 : len(header)] = header[8:]
        memory[0:8] = _MAGIC
        return cls(path, memory)

    @classmethod
    def open(cls, path: str | Path) -> FlowRecordRing:
        """Map an existing ring for reading and writing; StateMapError when it is none."""
        descriptor = open_own(path, writable=True)
        try:
            return cls.of(path, descriptor)
        finally:
            os.close(descriptor)

    @classmethod
    def of(cls, path: str | Path, descriptor: int) -> FlowRecordRing:
        """Map an open file, whose name is `path`; StateMapError when it is none."""
        path = Path(path)
        try:
            size = os.fstat(descriptor).st_size
            memory = mmap.mmap(descriptor, max(size, 1))
        except (OSError, ValueError) as error:
            raise StateMapError(f"{path}: cannot open the flow records: {error}") from error
        fields = _HEADER.unpack_from(memory) if size >= _PAGE else (b"", 0, 0, 0)
        capacity, places = int(fields[2]), int(fields[3])
        if (
            fields[0] != _MAGIC
            or fields[1] != _VERSION
            or capacity < 1
            or capacity & (capacity - 1)
            or _size(capacity, places) != size
        ):
            memory.close()
            raise StateMapError(f"{path}: not a file of flow records: remove it")
        return cls(path, memory)

    def attach(self) -> bool:
        """A writer begins; whether it is the first, so that nothing was taken before."""
        before: int = _ATTACHED.unpack_from(self.memory, _ATTACHED_OFFSET)[0]
        _ATTACHED.pack_into(self.memory, _ATTACHED_OFFSET, 1)
        return before == 0

    def count_lines(self, written: int, lost: int) -> None:
        """The writer wrote and lost so many lines more."""
        lines, lines_lost = _LINES.unpack_from(self.memory, _LINES_OFFSET)
        _LINES.pack_into(self.memory, _LINES_OFFSET, lines + written, lines_lost + lost)

    @property
    def figures(self) -> FlowRecordFigures:
        """What the header counts now."""
        return FlowRecordFigures(*_HEADER.unpack_from(self.memory)[5:])

    def close(self) -> None:
        """Unmap the file; it stays."""
        self.memory.close()


def _size(capacity: int, places_max: int) -> int:
    lost = (places_max * 4 + _PAGE - 1) // _PAGE * _PAGE
    return _PAGE + lost + capacity * _RECORD_BYTES


def read_figures(path: Path) -> FlowRecordFigures | None:
    """The figures of the ring at `path`; None when there is none."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
    except OSError:
        return None
    if len(header) < _HEADER.size or header[:8] != _MAGIC:
        return None
    return FlowRecordFigures(*_HEADER.unpack(header)[5:])
