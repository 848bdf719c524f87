# SPDX-License-Identifier: Apache-2.0
"""The maps of the flow cache: what stands in them, and the four of one program, opened.

The forms are those of `flow_cache.bpf.c`, which says what each field means. `records`, `links` and
`control` are mapped into memory: reading and writing them is no system call. Whoever writes a
record does so before its key; the key leads to it from then on.
"""

from __future__ import annotations

import ctypes
import ipaddress
import mmap
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from hyperplane_nat.flow_cache.errors import FlowCacheError
from netns import syscalls

KEYS, RECORDS, LINKS, CONTROL = "keys", "records", "links", "control"
LIMITS: Final = 6
FLOW_RECORDS: Final = 2
"""Lines of `records` per flow."""

BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_ARRAY = 1, 2
_BPF_MAP_CREATE, _BPF_MAP_LOOKUP_ELEM, _BPF_MAP_UPDATE_ELEM, _BPF_MAP_DELETE_ELEM = 0, 1, 2, 3
_BPF_MAP_GET_NEXT_KEY = 4
_BPF_NOEXIST = 1
_KEY = struct.Struct("=4s4s2s2sHBx")
_RECORD = struct.Struct("=QQQII4s4s2s2sHH6sHHHHBx")
_LINK = struct.Struct("=IHH6sH")
_FLAGS = struct.Struct("=H")
_LINK_FLAGS = _LINK.size - _FLAGS.size
_CONTROL = struct.Struct(f"=q{LIMITS}QII")
_PUNT, _GRACE = _CONTROL.size - 8, _CONTROL.size - 4
"""Where in it the index of the punt link is, and the request for a grace period."""
_CELLS: Final = 65536
_CELL_FULL: Final = 255
_DIGESTED = struct.Struct("=QQ")
_FIRST_FACTOR: Final = 0x9E3779B97F4A7C15
_SECOND_FACTOR: Final = 0xC2B2AE3D27D4EB4F
_LINE = struct.Struct("=I")
_LINK_HAS_PEER = 1
VALUES: Mapping[str, int] = {
    KEYS: _LINE.size,
    RECORDS: _RECORD.size,
    LINKS: _LINK.size,
    CONTROL: _CONTROL.size + _CELLS,
}
"""Bytes of a value of each map."""


@dataclass(frozen=True, slots=True)
class MapKind:
    """How a map is to be made, apart from its size: linux/bpf.h, BPF_MAP_CREATE."""

    kind: int
    key_bytes: int
    value_bytes: int
    flags: int


@dataclass(frozen=True, slots=True)
class Key:
    """What a frame of a flow's direction has when it arrives."""

    attachment: int
    protocol: int
    source: tuple[str, int]
    destination: tuple[str, int]

    def packed(self) -> bytes:
        """It as the program compares it."""
        source, destination = _address(self.source), _address(self.destination)
        return _KEY.pack(
            source[:4],
            destination[:4],
            source[4:],
            destination[4:],
            self.attachment,
            self.protocol,
        )


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What becomes of the frames of a flow's direction."""

    source: tuple[str, int]
    destination: tuple[str, int]
    next_hop: bytes
    """MAC address."""
    out: int
    """Attachment."""
    generations: tuple[int, int]
    """Of the attachment they come from, and of `out`."""
    limit: int = 0
    """Which of the idle limits is the flow's."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a record remembers of its direction."""

    last_use: int
    """ns, by the program's clock."""
    packets: int
    bytes: int
    """Of IP, each segment with headers of its own."""
    sequence_end: int = 0
    acknowledged: int = 0
    window: int = 0
    """TCP alone."""


@dataclass(frozen=True, slots=True)
class Link:
    """What all flows through an attachment share; generation 0 is nobody's."""

    generation: int
    index: int
    """Of the link, in the namespace that the program's filters are in."""
    address: bytes
    """MAC address of the link's near end."""
    mtu: int
    """Bytes of IP."""
    has_peer: bool = True
    """Frames go right to the other end's namespace; else out by the near end, where taps are."""

    def packed(self) -> bytes:
        """It as it stands in the map."""
        flags = _LINK_HAS_PEER if self.has_peer else 0
        return _LINK.pack(self.index, self.generation, self.mtu, self.address, flags)


class Maps:
    """The four maps; a context that closes them. What is attached goes on without."""

    def __init__(self, descriptors: Mapping[str, int], entries: Mapping[str, int]) -> None:
        """Takes over open descriptors of maps with so many entries, by name."""
        self.descriptors = dict(descriptors)
        self.flows = entries[RECORDS] // FLOW_RECORDS
        self.attachments = entries[LINKS]
        self._mapped: dict[str, mmap.mmap] = {}
        for name in (RECORDS, LINKS, CONTROL):
            size = -(-_stride(name) * entries[name] // mmap.PAGESIZE) * mmap.PAGESIZE
            try:
                self._mapped[name] = mmap.mmap(self.descriptors[name], size)
            except OSError as error:
                self.close()
                raise FlowCacheError(f"cannot map {name}: {error.strerror}") from None

    @classmethod
    def create(cls, kinds: Mapping[str, MapKind], *, flows: int, attachments: int) -> Self:
        """New ones, with room for so many flows, and attachments with numbers below."""
        entries = {
            KEYS: flows * FLOW_RECORDS,
            RECORDS: flows * FLOW_RECORDS,
            LINKS: attachments,
            CONTROL: 1,
        }
        made: dict[str, int] = {}
        for name, count in entries.items():
            try:
                made[name] = create_map(kinds[name], count, f"hp_{name}")
            except OSError as error:
                for descriptor in made.values():
                    os.close(descriptor)
                raise FlowCacheError(
                    f"cannot make map {name} of {count} entries: {error.strerror}"
                ) from None
        return cls(made, entries)

    @classmethod
    def of(cls, descriptors: Mapping[str, int], *, flows: int, attachments: int) -> Self:
        """Those that somebody else has made with so much room; the descriptors are taken over."""
        entries = {
            KEYS: flows * FLOW_RECORDS,
            RECORDS: flows * FLOW_RECORDS,
            LINKS: attachments,
            CONTROL: 1,
        }
        return cls(descriptors, entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmap and close; twice is fine."""
        for mapped in self._mapped.values():
            mapped.close()
        self._mapped.clear()
        for descriptor in self.descriptors.values():
            os.close(descriptor)
        self.descriptors.clear()

    def set_link(self, attachment: int, link: Link) -> None:
        """Have an attachment served so from the next frame on."""
        start = attachment * _stride(LINKS)
        self._mapped[LINKS][start : start + _LINK.size] = link.packed()

    def set_shortcut(self, attachment: int, taken: bool) -> None:
        """Whether hits that leave by an attachment go right to its link's far end from now on."""
        start = attachment * _stride(LINKS) + _LINK_FLAGS
        self._mapped[LINKS][start : start + 2] = _FLAGS.pack(_LINK_HAS_PEER if taken else 0)

    def has_shortcut(self, attachment: int) -> bool:
        """Whether they do."""
        start = attachment * _stride(LINKS) + _LINK_FLAGS
        (flags,) = _FLAGS.unpack(self._mapped[LINKS][start : start + 2])
        return bool(flags & _LINK_HAS_PEER)

    def set_control(
        self, limits: tuple[int, ...] = (), clock_offset: int = 0, *, punt: int = 0
    ) -> None:
        """Idle limits in ns, at most `LIMITS`, what is added to CLOCK_MONOTONIC, and the index of
        the punt link's near end; 0 without one.
        """
        whole = (*limits, *(0,) * (LIMITS - len(limits)))
        self._mapped[CONTROL][: _CONTROL.size] = _CONTROL.pack(clock_offset, *whole, punt, 0)

    def set_punt(self, index: int) -> None:
        """Have misses go by the punt link whose near end has this index; nothing else changes."""
        self._mapped[CONTROL][_PUNT:_GRACE] = _LINE.pack(index)

    def grant(self, wait: Callable[[], None]) -> bool:
        """Let lines be used again that rest, if somebody asks for that; whether it is so.

        `wait` returns when every program that was at work has ended. The word is odd while that is
        asked for, and made even by who has waited.
        """
        control = self._mapped[CONTROL]
        asked = control[_GRACE : _GRACE + 4]
        (number,) = _LINE.unpack(asked)
        if number % 2 == 0:
            return False
        wait()
        if control[_GRACE : _GRACE + 4] == asked:
            control[_GRACE : _GRACE + 4] = _LINE.pack((number + 1) & 0xFFFFFFFF)
        return True

    def memory(self, name: str) -> memoryview:
        """What stands in `records`, `links` or `control`."""
        return memoryview(self._mapped[name])

    def put_key(self, key: bytes, line: int) -> None:
        """Have a key lead to a record. OSError: E2BIG when the map is full."""
        # A key that the program finds has to be in its cell by then.
        self._count(key, 1)
        try:
            update(self.descriptors[KEYS], key, _LINE.pack(line), _BPF_NOEXIST)
        except FileExistsError:
            self._count(key, -1)
            update(self.descriptors[KEYS], key, _LINE.pack(line))
        except OSError:
            self._count(key, -1)
            raise

    def remove_key(self, key: bytes) -> bool:
        """Have a key lead nowhere; whether it led anywhere."""
        try:
            delete(self.descriptors[KEYS], key)
        except FileNotFoundError:
            return False
        self._count(key, -1)
        return True

    def _count(self, key: bytes, change: int) -> None:
        """Have a key counted where the program looks first, or counted no longer.

        A cell that is full stays so: how many keys it has is not known any more.
        """
        cells, cell = self._mapped[CONTROL], _CONTROL.size + _digest(key)
        count = cells[cell]
        if count < _CELL_FULL:
            cells[cell] = max(0, count + change)

    def counted(self, key: bytes) -> int:
        """How many keys the program takes to be there that have this one's digest; 255 is full."""
        return self._mapped[CONTROL][_CONTROL.size + _digest(key)]

    def line_of(self, key: bytes) -> int | None:
        """The record that a key leads to."""
        found = lookup(self.descriptors[KEYS], key, _LINE.size)
        return None if found is None else int(_LINE.unpack(found)[0])

    def count_keys(self) -> int:
        """How many keys there are; asks for one after the other."""
        count, key = 0, following(self.descriptors[KEYS], None, _KEY.size)
        while key is not None:
            count, key = count + 1, following(self.descriptors[KEYS], key, _KEY.size)
        return count

    def put(self, line: int, key: Key, rewrite: Rewrite, use: Use) -> None:
        """Cache one direction of a flow; `FlowCacheError` when there is no room."""
        before = _address(key.source) + _address(key.destination)
        source, destination = _address(rewrite.source), _address(rewrite.destination)
        after = source + destination
        self._mapped[RECORDS][line * _RECORD.size : (line + 1) * _RECORD.size] = _RECORD.pack(
            use.last_use,
            use.packets,
            use.bytes,
            use.sequence_end,
            use.acknowledged,
            source[:4],
            destination[:4],
            source[4:],
            destination[4:],
            _difference(before[:4] + before[6:10], after[:4] + after[6:10]),
            _difference(before[4:6] + before[10:], after[4:6] + after[10:]),
            rewrite.next_hop,
            rewrite.out,
            *rewrite.generations,
            use.window,
            rewrite.limit,
        )
        try:
            self.put_key(key.packed(), line)
        except OSError as error:
            raise FlowCacheError(f"cannot cache a flow: {error.strerror}") from None

    def remove(self, key: Key) -> bool:
        """Cache a direction no longer; whether it was.

        A packet may still be on its way with the record: nobody else may have it for a while.
        """
        return self.remove_key(key.packed())

    def line(self, key: Key) -> int | None:
        """The record that a key leads to."""
        return self.line_of(key.packed())

    def use(self, line: int) -> Use:
        """What a record remembers."""
        fields = _RECORD.unpack_from(self._mapped[RECORDS], line * _RECORD.size)
        last_use, packets, size, sequence_end, acknowledged = fields[:5]
        return Use(last_use, packets, size, sequence_end, acknowledged, fields[-2])


def _stride(name: str) -> int:
    """Values of an array begin on 8 bytes each."""
    return -(-VALUES[name] // 8) * 8


def _digest(key: bytes) -> int:
    """Which cell is a key's: `may_be_cached` of the program."""
    first: int
    second: int
    first, second = _DIGESTED.unpack(key)
    return (first * _FIRST_FACTOR + second * _SECOND_FACTOR) >> 48 & 0xFFFF


def _address(value: tuple[str, int]) -> bytes:
    return ipaddress.IPv4Address(value[0]).packed + value[1].to_bytes(2, "big")


def _difference(before: bytes, after: bytes) -> int:
    """The sum of words after less that before, in one's complement, as they stand in memory."""
    words = struct.Struct(f"={len(before) // 2}H")
    total: int = sum(words.unpack(after)) + sum(0xFFFF - word for word in words.unpack(before))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def create_map(kind: MapKind, entries: int, name: str) -> int:
    """BPF_MAP_CREATE; a close-on-exec descriptor. Raises OSError."""
    attributes = struct.pack(
        "=IIIIIII16s",
        kind.kind,
        kind.key_bytes,
        kind.value_bytes,
        entries,
        kind.flags,
        0,
        0,
        name.encode()[:15],
    )
    return syscalls.bpf(_BPF_MAP_CREATE, attributes)


def update(descriptor: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """BPF_MAP_UPDATE_ELEM. Raises OSError: E2BIG when the map is full."""
    held = ctypes.create_string_buffer(value, len(value))
    _element(_BPF_MAP_UPDATE_ELEM, descriptor, key, held, flags)


def delete(descriptor: int, key: bytes) -> None:
    """BPF_MAP_DELETE_ELEM. Raises FileNotFoundError."""
    _element(_BPF_MAP_DELETE_ELEM, descriptor, key, None)


def lookup(descriptor: int, key: bytes, size: int) -> bytes | None:
    """BPF_MAP_LOOKUP_ELEM: a value of `size` bytes, if there is one."""
    value = ctypes.create_string_buffer(size)
    try:
        _element(_BPF_MAP_LOOKUP_ELEM, descriptor, key, value)
    except FileNotFoundError:
        return None
    return value.raw


def following(descriptor: int, key: bytes | None, size: int) -> bytes | None:
    """BPF_MAP_GET_NEXT_KEY: the key behind one, the first without; None at the end."""
    held = None if key is None else ctypes.create_string_buffer(key, len(key))
    found = ctypes.create_string_buffer(size)
    at = 0 if held is None else ctypes.addressof(held)
    request = struct.pack("=IxxxxQQQ", descriptor, at, ctypes.addressof(found), 0)
    try:
        syscalls.bpf(_BPF_MAP_GET_NEXT_KEY, request)
    except FileNotFoundError:
        return None
    return found.raw


def _element(
    command: int,
    descriptor: int,
    key: bytes,
    value: ctypes.Array[ctypes.c_char] | None,
    flags: int = 0,
) -> None:
    held = ctypes.create_string_buffer(key, len(key))
    at = 0 if value is None else ctypes.addressof(value)
    syscalls.bpf(command, struct.pack("=IxxxxQQQ", descriptor, ctypes.addressof(held), at, flags))
