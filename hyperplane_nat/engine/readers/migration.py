# SPDX-License-Identifier: Apache-2.0
"""A state map of a former layout made into one of this layout, flows and counters kept.

Theory of operation
-------------------
A successor calls `migrate` before it opens the map, and after its predecessor has ended: who holds
the file's lock is the only writer. The new map is made beside the file and takes its name when it
is whole, so that a process killed meanwhile leaves the old one as it was, and the next begins anew.
Whoever has the old file mapped keeps it: readers open the map again when a forwarder takes over.

Of entries and tracks those count that were ever used; everything behind them is derived from them.

*Layouts 3 to 5.* Counters keep their order, though a newer one may stand among the others. Slots
and interfaces had numbers and figures apart; they are attachments now, first the slots and then the
interfaces. Entries and tracks are converted (`former_entries`). There were no hosts.

*Layout 6* differs in its extensions alone: those of today are the first half of its own. Most
entries have none and no memory for one; what is a hole there is one here. A map that was made
before there were hosts gets room for them.

Both files exist for a moment: as much room as the map takes must be free.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Mapping
from mmap import mmap
from pathlib import Path
from typing import Final

from hyperplane_nat.engine.readers.former_entries import (
    convert_layout_3,
    convert_layout_4,
    convert_layout_5,
)
from hyperplane_nat.engine.readers.state_map import (
    ATTACHMENT_BYTES,
    ENTRY_BYTES,
    EXHAUSTION_BYTES,
    EXTENSION_BYTES,
    HEADER_BYTES,
    HOSTS_MAX,
    INTERFACE_COUNTER_BYTES,
    SLOT_COUNTER_BYTES,
    SLOT_COUNTERS,
    TRACK_BYTES,
    Header,
    StateMap,
    StateMapError,
    read_header,
)
from hyperplane_nat.engine.state.constants import (
    ATTACHMENT_COUNTER_NAMES,
    ATTACHMENT_COUNTERS,
    COUNTER_NAMES,
    COUNTERS_MAX,
    EXHAUSTIONS,
    INTERFACE_COUNTER_NAMES,
    LAYOUT_VERSION,
)

Convert = Callable[[bytes, bytes, mmap, int, int], None]

_CONVERSIONS: Mapping[int, Convert] = {
    3: convert_layout_3,
    4: convert_layout_4,
    5: convert_layout_5,
}
"""By layout: entries, tracks, the new map's memory, the first entry's number, the clock."""

_OF_FLOW_CACHE = frozenset(
    f"flow_cache_{what}"
    for what in ("flows", "promotions", "demotions", "full", "packets", "network_acl")
)

_NEW_COUNTERS: Mapping[int, frozenset[str]] = {
    3: _OF_FLOW_CACHE
    | frozenset(
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
    4: _OF_FLOW_CACHE,
    5: _OF_FLOW_CACHE,
}
"""By layout: the counters that it did not have; the others are in the order of today's."""

_SLOT = struct.Struct("=8Q")
_SLOT_FIELDS = ("packets_out", "bytes_out", "packets_in", "bytes_in", "drops", "flows")
"""Then its owner, then ``tcp_flows``."""
_EXHAUSTION = struct.Struct("=QQIHHHBB4x")
_ATTACHMENT = struct.Struct(f"={ATTACHMENT_COUNTERS}QQ4s52x")

_CHUNK = 8192
"""Entries converted at a time."""

_EXTENSIONS = 1024
"""Extensions copied at a time: those for which the engine has memory together."""

_EXTENDED: Final = 6
"""The layout that has all that this one has."""


def new_path(path: Path) -> Path:
    """Where the new map is made, until it is whole."""
    return path.with_suffix(".new")


def migrate(path: str | Path, *, now_ms: int) -> bool:
    """Turn the map at ``path`` into one of this layout; whether there was anything to do.

    ``now_ms`` is CLOCK_MONOTONIC in ms. Raises StateMapError when the file is no
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
            hosts_max=header.hosts_max or HOSTS_MAX,
        )
        try:
            target.advance_clock(header.clock_offset_ms)
            if header.layout == _EXTENDED:
                _copy(target, source, header)
            else:
                _fill(target, source, header, now_ms + header.clock_offset_ms)
            target.set_watermark(header.watermark)
            target.close()
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    return True


def _offsets(target: StateMap) -> dict[str, int]:
    return read_header(target.path, target.memory[:HEADER_BYTES], len(target.memory)).offsets


def _copy(target: StateMap, source: int, header: Header) -> None:
    offsets = _offsets(target)
    attachments = header.slots_max + header.interfaces_max + header.hosts_max
    for part, size in (
        ("counters", COUNTERS_MAX * 8),
        ("attachments", attachments * ATTACHMENT_BYTES),
        ("exhaustions", EXHAUSTIONS * EXHAUSTION_BYTES),
        ("entries", header.watermark * ENTRY_BYTES),
        ("tracks", header.watermark * TRACK_BYTES[_EXTENDED]),
    ):
        for start in range(0, size, _CHUNK * ENTRY_BYTES):
            length = min(_CHUNK * ENTRY_BYTES, size - start)
            at = offsets[part] + start
            target.memory[at : at + length] = _part(source, header, part, length, start)
    with target.path.open("r+b", buffering=0) as file:
        _copy_extensions(file.fileno(), offsets["extensions"], source, header)


def _copy_extensions(target: int, offset: int, source: int, header: Header) -> None:
    """The first half of each; what is nobody's yet stays a hole."""
    first, size = header.offsets["extensions"], EXTENSION_BYTES[_EXTENDED]
    blank = bytes(_EXTENSIONS * size)
    position, end = first, first + header.watermark * size
    while position < end:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        start = (position - first) // size // _EXTENSIONS * _EXTENSIONS
        count = min(_EXTENSIONS, header.watermark - start)
        if count <= 0:
            return
        former = _part(source, header, "extensions", count * size, start * size)
        if former != blank[: len(former)]:
            _write(target, _halved(former), offset + start * size // 2)
        position = first + (start + count) * size


def _halved(extensions: bytes) -> bytes:
    former, result = memoryview(extensions).cast("Q"), bytearray(len(extensions) // 2)
    words = memoryview(result).cast("Q")
    half, whole = (EXTENSION_BYTES[each] // 8 for each in (LAYOUT_VERSION, _EXTENDED))
    for place in range(half):
        words[place::half] = former[place::whole]
    return bytes(result)


def _write(target: int, data: bytes, position: int) -> None:
    try:
        while data:
            written = os.pwrite(target, data, position)
            data, position = data[written:], position + written
    except OSError as error:
        raise StateMapError(
            f"no room for the state map's extensions ({error.strerror}): "
            "choose another lab.state_directory"
        ) from error


def _fill(target: StateMap, source: int, header: Header, now_ms: int) -> None:
    offsets = _offsets(target)
    size = COUNTERS_MAX * 8
    counters = offsets["counters"]
    target.memory[counters : counters + size] = _read(source, header.offsets["counters"], size)
    _move_counters(target, header.layout)
    _fill_attachments(target, source, header, offsets["attachments"])
    _fill_exhaustions(target, source, header, offsets["exhaustions"])
    convert = _CONVERSIONS[header.layout]
    track_bytes = TRACK_BYTES[header.layout]
    for start in range(0, header.watermark, _CHUNK):
        count = min(_CHUNK, header.watermark - start)
        entries = _part(source, header, "entries", count * ENTRY_BYTES, start * ENTRY_BYTES)
        tracks = _part(source, header, "tracks", count * track_bytes, start * track_bytes)
        convert(entries, tracks, target.memory, start, now_ms)


def _fill_attachments(target: StateMap, source: int, header: Header, offset: int) -> None:
    """Slots and interfaces as attachments; those without figures are zero in the new map."""

    def put(number: int, counters: dict[str, int], owner: int, address: bytes) -> None:
        if owner or any(counters.values()) or any(address):
            values = [counters.get(name, 0) for name in ATTACHMENT_COUNTER_NAMES]
            _ATTACHMENT.pack_into(
                target.memory, offset + number * ATTACHMENT_BYTES, *values, owner, address
            )

    slots, interfaces = header.slots_max, header.interfaces_max
    figures = _part(source, header, "slot_counters", slots * SLOT_COUNTER_BYTES)
    addresses = _part(source, header, "slot_addresses", slots * 4)
    for number, values in enumerate(_SLOT.iter_unpack(figures)):
        *first, owner, tcp_flows = values
        counters = {
            SLOT_COUNTERS[name]: value for name, value in zip(_SLOT_FIELDS, first, strict=True)
        }
        counters["tcp_flows"] = tcp_flows
        put(number, counters, owner, addresses[number * 4 : number * 4 + 4])
    figures = _part(source, header, "interface_counters", interfaces * INTERFACE_COUNTER_BYTES)
    addresses = _part(source, header, "interface_addresses", interfaces * 4)
    for number, values in enumerate(struct.iter_unpack("=16Q", figures)):
        counters = dict(zip(INTERFACE_COUNTER_NAMES, values, strict=False))
        put(slots + number, counters, 0, addresses[number * 4 : number * 4 + 4])


def _fill_exhaustions(target: StateMap, source: int, header: Header, offset: int) -> None:
    former = _part(source, header, "exhaustions", EXHAUSTIONS * EXHAUSTION_BYTES)
    for place, values in enumerate(_EXHAUSTION.iter_unpack(former)):
        errors, last, address, port, interface, *rest = values
        if errors and interface < header.interfaces_max:
            values = (errors, last, address, port, header.slots_max + interface, *rest)
            _EXHAUSTION.pack_into(target.memory, offset + place * EXHAUSTION_BYTES, *values)


def _move_counters(target: StateMap, layout: int) -> None:
    """Give each counter that was copied with its page the place that it has now."""
    place = struct.Struct(f"={len(COUNTER_NAMES)}Q")
    former = iter(place.unpack_from(target.memory, HEADER_BYTES))
    values = [0 if name in _NEW_COUNTERS[layout] else next(former) for name in COUNTER_NAMES]
    place.pack_into(target.memory, HEADER_BYTES, *values)


def _part(source: int, header: Header, part: str, size: int, start: int = 0) -> bytes:
    return _read(source, header.offsets[part] + start, size)


def _read(source: int, offset: int, count: int) -> bytes:
    data = os.pread(source, count, offset)
    if len(data) != count:
        raise StateMapError(f"the state map ends at {offset + len(data)}: it was cut meanwhile")
    return data
