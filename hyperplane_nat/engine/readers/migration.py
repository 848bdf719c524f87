# SPDX-License-Identifier: Apache-2.0
"""A state map of a former layout made into one of this layout, flows and counters kept.

Theory of operation
-------------------
A successor calls `migrate` before it opens the map, and after its predecessor has ended: who holds
the file's lock is the only writer. The new map is made beside the file and takes its name when it
is whole, so that a process killed meanwhile leaves the old one as it was, and the next begins anew.
Whoever has the old file mapped keeps it: readers open the map again when a forwarder takes over.

What is in front of the entries is the same in every layout that can be read, but for the places of
counters: a newer one may stand among the others. Entries and tracks are converted
(`former_entries`), those that were ever used; everything behind is derived from them.
Both files exist for a moment: as much room as the map takes must be free.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from mmap import mmap
from pathlib import Path

from hyperplane_nat.engine.readers.former_entries import convert_layout_3, convert_layout_4
from hyperplane_nat.engine.readers.state_map import (
    ENTRY_BYTES,
    HEADER_BYTES,
    TRACK_BYTES,
    Header,
    StateMap,
    StateMapError,
    read_header,
)
from hyperplane_nat.engine.state.constants import COUNTER_NAMES, LAYOUT_VERSION

Convert = Callable[[bytes, bytes, mmap, int, int], None]

_CONVERSIONS: Mapping[int, Convert] = {3: convert_layout_3, 4: convert_layout_4}
"""By layout: entries, tracks, the new map's memory, the first entry's number, the clock."""

_NEW_COUNTERS: Mapping[int, frozenset[str]] = {
    3: frozenset(
        {
            "flows_ended_tcp_replaced",
            "flows_ended_udp_replaced",
            "flows_ended_icmp_replaced",
            "forwarder_timer_failures",
            "ring_slots",
            "ring_slots_used",
            "ring_slots_peak",
        }
    ),
    4: frozenset(),
}
"""By layout: the counters that it did not have; the others are in the order of today's."""

_CHUNK = 8192
"""Entries converted at a time."""


def new_path(path: Path) -> Path:
    """Where the new map is made, until it is whole."""
    return path.with_suffix(".new")


def migrate(path: str | Path, *, now_ms: int) -> bool:
    """Turn the map at ``path`` into one of this layout; whether there was anything to do.

    ``now_ms`` is the map's clock, CLOCK_MONOTONIC in ms. Raises StateMapError when the file is no
    map that can be read, or when there is no room: it is left as it is then.
    """
    path = Path(path)
    with path.open("rb", buffering=0) as file:
        source = file.fileno()
        header = read_header(path, os.pread(source, HEADER_BYTES, 0), os.fstat(source).st_size)
        if header.layout == LAYOUT_VERSION:
            return False
        beside = new_path(path)
        beside.unlink(missing_ok=True)
        target = StateMap.create(
            beside,
            flows_max=header.flows_max,
            slots_max=header.slots_max,
            interfaces_max=header.interfaces_max,
        )
        try:
            _fill(target, source, header, now_ms)
            target.close()
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    return True


def _fill(target: StateMap, source: int, header: Header, now_ms: int) -> None:
    for offset, page in _pages(source, HEADER_BYTES, header.entries_offset):
        target.memory[offset : offset + len(page)] = page
    _move_counters(target, header.layout)
    convert = _CONVERSIONS[header.layout]
    track_bytes = TRACK_BYTES[header.layout]
    for start in range(0, header.watermark, _CHUNK):
        count = min(_CHUNK, header.watermark - start)
        entries = _read(source, header.entries_offset + start * ENTRY_BYTES, count * ENTRY_BYTES)
        tracks = _read(source, header.tracks_offset + start * track_bytes, count * track_bytes)
        convert(entries, tracks, target.memory, start, now_ms)
    target.set_watermark(header.watermark)


def _move_counters(target: StateMap, layout: int) -> None:
    """Give each counter that was copied with its page the place that it has now."""
    place = struct.Struct(f"={len(COUNTER_NAMES)}Q")
    former = iter(place.unpack_from(target.memory, HEADER_BYTES))
    values = [0 if name in _NEW_COUNTERS[layout] else next(former) for name in COUNTER_NAMES]
    place.pack_into(target.memory, HEADER_BYTES, *values)


def _pages(source: int, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The pages that hold anything: the others are zero in the new map already."""
    nothing = bytes(HEADER_BYTES)
    for offset in range(start, end, HEADER_BYTES):
        page = _read(source, offset, HEADER_BYTES)
        if page != nothing:
            yield offset, page


def _read(source: int, offset: int, count: int) -> bytes:
    data = os.pread(source, count, offset)
    if len(data) != count:
        raise StateMapError(f"the state map ends at {offset + len(data)}: it was cut meanwhile")
    return data
