# SPDX-License-Identifier: Apache-2.0
"""The state map: the file in which flows and counters outlive a forwarder.

Theory of operation
-------------------
One file, mapped shared by the forwarder, which writes, and by readers, which never lock. A
header of one page says what follows, and holds the forwarder's heartbeat and how far the lab's
clock is ahead; everything is allocated when the file is made::

    header | counters | attachments (192 B each) | exhaustions | entries (64 B) | tracks (32 B)
           | index | remotes (16 B) | port bitmaps | extensions (32 B)

The attachments are the environments, by their slots, then the interface addresses, by theirs, and
then the hosts of VPCs.

Times in it are of the lab's clock (`now_ms`), which is CLOCK_MONOTONIC and what it was advanced by.

Only entries, tracks, attachments and counters carry state; index, remotes and bitmaps are derived
from the entries and rebuilt whenever a forwarder opens the map, because a forwarder may have been
killed between any two stores.

All pages but those of the extensions are allocated when the file is made, whether flows ever use
them or not: a page that were only had when it is first touched would be a SIGBUS on a tmpfs that
others have filled meanwhile. None is given back while the file is there. Extensions are a hole in
the file, which is longer for them and no larger: the engine has memory for those that it uses
(`extensions`), and nobody reads another.

The file belongs on a tmpfs: on a disk the kernel would write dirty pages back and stall the
packet path while it does.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import struct
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hyperplane_nat.engine.readers._port_reader import read_remotes
from hyperplane_nat.engine.readers._reader import (
    read_attachment,
    read_counters,
    read_exhaustions,
    read_flows,
    read_host_flows,
    read_node,
    read_served,
    read_sums,
)
from hyperplane_nat.engine.readers.flow_search import SearchKey, find_flows
from hyperplane_nat.engine.state.constants import (
    ATTACHMENT_COUNTER_NAMES,
    COUNTERS_MAX,
    EXHAUSTIONS,
    LAYOUT_VERSION,
    NODE_COUNTER_NAMES,
    counter_names,
)
from hyperplane_nat.engine.state.settings import Exhaustion, Flow, HostFlow, RemotePorts

__all__ = ["StateMap", "StateMapError"]

MAGIC: Final = b"HPNATMAP"
_DERIVED: Final = ("index", "remotes", "bitmaps")
_PARTS: Final = (
    "counters",
    "attachments",
    "exhaustions",
    "entries",
    "tracks",
    *_DERIVED,
    "extensions",
)
_FORMER_PARTS: Final = (
    "counters",
    "slot_counters",
    "slot_addresses",
    "interface_addresses",
    "exhaustions",
    "interface_counters",
    "entries",
    "tracks",
    *_DERIVED,
)
LAYOUTS: Final = {
    3: _FORMER_PARTS,
    4: _FORMER_PARTS,
    5: _FORMER_PARTS,
    6: _PARTS,
    LAYOUT_VERSION: _PARTS,
}
"""What the file of each layout that can be read has behind its header, in order."""

HEADER_BYTES: Final = 4096
ENTRY_BYTES: Final = 64
TRACK_BYTES: Final = {3: 16, 4: 32, 5: 32, 6: 32, LAYOUT_VERSION: 32}
EXTENSION_BYTES: Final = {6: 64, LAYOUT_VERSION: 32}

_WORD: Final = struct.Struct("<Q")
_HEARTBEAT_PLACE: Final = HEADER_BYTES - 64
"""A cache line of its own, away from what packets look at."""
_CLOCK_PLACE: Final = _HEARTBEAT_PLACE + _WORD.size
CLOCK_OFFSET_MS_MAX: Final = 1 << 39
"""What the lab's clock may be ahead, 17 years: the time at which a flow began has 40 bits."""

_REMOTE_BYTES: Final = 16
SLOTS_MAX = 16_384
"""Environments that a state map has room for, unless it is told otherwise."""
INTERFACES_MAX = 4_096
"""Network interfaces that it has room for, unless it is told otherwise."""
HOSTS_MAX = 1_024
"""Hosts of VPCs that it has room for, unless it is told otherwise."""

ATTACHMENT_BYTES: Final = 192
SLOT_COUNTER_BYTES: Final = 64
EXHAUSTION_BYTES: Final = 32
INTERFACE_COUNTER_BYTES: Final = 128
_ATTACHMENTS_LIMIT: Final = 65_535
SLOT_COUNTERS: Final = {
    "packets_out": "packets_out_to_destination",
    "bytes_out": "bytes_out_to_destination",
    "packets_in": "packets_out_to_source",
    "bytes_in": "bytes_out_to_source",
    "drops": "drops",
    "flows": "flows",
    "tcp_flows": "tcp_flows",
}
"""What the counters of an environment's attachment are to it."""

_FLOWS_LIMIT: Final = 1 << 26
_CLEARED_BYTES: Final = 1 << 20
# Of <linux/mman.h>; the module mmap has no name for it.
_MADV_POPULATE_WRITE: Final = 23
_LAYOUT_LIMIT: Final = 1_000
"""No version will have a layout above it: such a number is damage."""


class StateMapError(Exception):
    """The file cannot serve as a state map; the text says why and what to do."""


class DamagedMapError(StateMapError):
    """What the file holds is no state map of any version: nothing in it can be kept."""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a map says that can be read."""

    layout: int
    bytes: int
    flows_max: int
    slots_max: int
    interfaces_max: int
    hosts_max: int
    offsets: dict[str, int]
    """Where each part begins, by name."""
    watermark: int
    """Entries at or above this index were never used."""
    clock_offset_ms: int
    """What the lab's clock is ahead of CLOCK_MONOTONIC."""


def open_own(path: str | Path, *, writable: bool) -> int:
    """A descriptor of a file that its owner alone has made and may write.

    StateMapError where it is missing, no plain file, or somebody else's: in a directory like
    /dev/shm anybody can put one, or a link, under any name.
    """
    access = os.O_RDWR if writable else os.O_RDONLY
    try:
        descriptor = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        what = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise StateMapError(f"{path}: cannot open it: {what}") from error
    found = os.fstat(descriptor)
    problem = None
    if not stat.S_ISREG(found.st_mode):
        problem = "it is no plain file"
    elif found.st_uid not in (0, os.geteuid()):
        problem = f"it belongs to user {found.st_uid}"
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = f"others may write it (mode {stat.S_IMODE(found.st_mode):o})"
    if problem is not None:
        os.close(descriptor)
        raise StateMapError(f"{path}: {problem}: remove it")
    return descriptor


def _header(layout: int) -> struct.Struct:
    """The header's fields: numbers, a place for each part, the watermark, and how many hosts there
    may be, 0 in maps that were made before there were any.
    """
    return struct.Struct(f"<8sIIQ6I{len(LAYOUTS[layout])}QII")


def _layout(
    flows_max: int,
    slots_max: int,
    interfaces_max: int,
    hosts_max: int = 0,
    layout: int = LAYOUT_VERSION,
) -> tuple[int, ...]:
    """The header's numbers after the magic."""
    index_cells = 1
    while index_cells < 4 * flows_max:
        index_cells *= 2
    # Linear probing over inline records stays short up to three quarters.
    remote_cells = flows_max * 4 // 3 + 16
    # A crowded remote endpoint has at least a thirty-second of the range in use and needs
    # a bit per port of the range: four bytes a flow, and a 64th of that for the summary.
    bitmap_bytes = (flows_max * 4 * 65 // 64 + 131072) // 8 * 8
    sizes = {
        "counters": COUNTERS_MAX * 8,
        "attachments": (slots_max + interfaces_max + hosts_max) * ATTACHMENT_BYTES,
        "slot_counters": slots_max * SLOT_COUNTER_BYTES,
        "slot_addresses": slots_max * 4,
        "interface_addresses": interfaces_max * 4,
        "exhaustions": EXHAUSTIONS * EXHAUSTION_BYTES,
        "interface_counters": interfaces_max * INTERFACE_COUNTER_BYTES,
        "entries": flows_max * ENTRY_BYTES,
        "tracks": flows_max * TRACK_BYTES[layout],
        "index": index_cells * 4,
        "remotes": remote_cells * _REMOTE_BYTES,
        "bitmaps": bitmap_bytes,
        "extensions": flows_max * EXTENSION_BYTES.get(layout, 0),
    }
    offsets = []
    offset = HEADER_BYTES
    for part in LAYOUTS[layout]:
        offsets.append(offset)
        offset += (sizes[part] + 4095) // 4096 * 4096
    return (
        layout,
        HEADER_BYTES,
        offset,
        flows_max,
        slots_max,
        interfaces_max,
        index_cells,
        remote_cells,
        bitmap_bytes,
        *offsets,
    )


def _attachable(slots_max: int, interfaces_max: int, hosts_max: int) -> bool:
    attachments = slots_max + interfaces_max + hosts_max
    return (
        min(slots_max, interfaces_max) >= 1 and 0 <= hosts_max <= attachments <= _ATTACHMENTS_LIMIT
    )


def _named(counters: Sequence[int]) -> dict[str, int]:
    return dict(zip(ATTACHMENT_COUNTER_NAMES, counters, strict=True))


def read_header(path: Path, header: bytes, size: int) -> Header:
    """What the first page of a file of ``size`` bytes says, in any layout that can be read.

    Raises StateMapError: DamagedMapError unless another version may know what to do with it.
    """
    if len(header) < HEADER_BYTES:
        raise DamagedMapError(f"{path}: {size} bytes are too few for a state map: remove the file")
    if header[:8] != MAGIC:
        raise DamagedMapError(
            f"{path}: not a state map (wrong magic): remove the file or choose another path"
        )
    layout = int.from_bytes(header[8:12], "little")
    if layout not in LAYOUTS:
        error = StateMapError if 1 <= layout <= _LAYOUT_LIMIT else DamagedMapError
        raise error(
            f"{path}: state map layout {layout}, this version reads {LAYOUT_VERSION}: "
            "run the version that made it, or remove the file and its flows"
        )
    _, _, *fields, watermark, hosts_max = _header(layout).unpack_from(header)
    if fields[1] != size:
        raise DamagedMapError(
            f"{path}: header says {fields[1]} bytes, the file has {size}: remove the file"
        )
    flows_max, slots_max, interfaces_max = fields[2:5]
    (clock_offset_ms,) = _WORD.unpack_from(header, _CLOCK_PLACE)
    if (
        not 1 <= flows_max <= _FLOWS_LIMIT
        or not _attachable(slots_max, interfaces_max, hosts_max)
        or (layout, *fields) != _layout(flows_max, slots_max, interfaces_max, hosts_max, layout)
        or watermark > flows_max
        or clock_offset_ms > CLOCK_OFFSET_MS_MAX
    ):
        raise DamagedMapError(f"{path}: damaged header: remove the file and its flows")
    return Header(
        layout,
        size,
        flows_max,
        slots_max,
        interfaces_max,
        hosts_max,
        offsets=dict(zip(LAYOUTS[layout], fields[8:], strict=True)),
        watermark=watermark,
        clock_offset_ms=clock_offset_ms,
    )


_HEADER: Final = _header(LAYOUT_VERSION)


class StateMap:
    """A mapped state file.

    Use :meth:`create`, :meth:`open` or :meth:`of`.  ``close`` fails with BufferError while an
    engine uses the map.
    """

    def __init__(self, path: Path, descriptor: int, memory: mmap.mmap, *, writable: bool) -> None:
        self.path = path
        self._descriptor = descriptor
        # Not only by `close`: who replaces a map leaves the former one to those who still read it.
        self._close_file = weakref.finalize(self, os.close, descriptor)
        self.memory = memory
        self.writable = writable
        fields = _HEADER.unpack_from(memory)
        self.flows_max: int = fields[4]
        self.slots_max: int = fields[5]
        self.interfaces_max: int = fields[6]
        self.hosts_max: int = fields[-1]
        self.remote_cells: int = fields[8]
        offsets = dict(zip(_PARTS, fields[10:], strict=False))
        self.bytes: int = offsets["extensions"]
        """What of the file is in memory from the start."""
        self._derived = (offsets["index"], self.bytes)
        self._remotes_offset: int = offsets["remotes"]
        self.attachments_offset: int = offsets["attachments"]
        self._counter_names = counter_names()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        flows_max: int,
        slots_max: int = SLOTS_MAX,
        interfaces_max: int = INTERFACES_MAX,
        hosts_max: int = HOSTS_MAX,
    ) -> StateMap:
        """Make a new map; raises StateMapError when the file exists or has no room."""
        path = Path(path)
        if not 1 <= flows_max <= _FLOWS_LIMIT:
            raise StateMapError(f"flows.max is {flows_max}: choose 1 to {_FLOWS_LIMIT}")
        if not _attachable(slots_max, interfaces_max, hosts_max):
            raise StateMapError(
                "a state map has room for 1 to 65535 slots, interfaces and hosts together"
            )
        layout = _layout(flows_max, slots_max, interfaces_max, hosts_max)
        header = _HEADER.pack(MAGIC, *layout, 0, hosts_max)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise StateMapError(f"{path}: cannot create the state map: {error.strerror}") from error
        try:
            os.posix_fallocate(descriptor, 0, layout[-1])
            os.ftruncate(descriptor, layout[2])
            memory = mmap.mmap(descriptor, layout[2])
        except OSError as error:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise StateMapError(
                f"{path}: no room for {layout[-1]} bytes ({error.strerror}): "
                "lower flows.max or choose another lab.state_directory"
            ) from error
        # The magic comes last: a map half made is never taken for one.
        memory[8 : _HEADER.size] = header[8:]
        memory[0:8] = MAGIC
        return cls(path, descriptor, memory, writable=True)

    @classmethod
    def open(cls, path: str | Path, *, writable: bool = False) -> StateMap:
        """Map an existing file; raises StateMapError when it is not one of ours."""
        return cls.of(path, open_own(path, writable=writable), writable=writable)

    @classmethod
    def of(cls, path: str | Path, descriptor: int, *, writable: bool = False) -> StateMap:
        """Map an open file, whose name is ``path``; it is closed with the map, or on errors.

        Raises StateMapError when it is no map of this layout.
        """
        path = Path(path)
        try:
            size = os.fstat(descriptor).st_size
            header = read_header(path, os.pread(descriptor, HEADER_BYTES, 0), size)
            if header.layout != LAYOUT_VERSION:
                raise StateMapError(
                    f"{path}: state map layout {header.layout}, this version reads "
                    f"{LAYOUT_VERSION}: a controller of this version turns it into that"
                )
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            memory = mmap.mmap(descriptor, size, access=access)
        except OSError as error:
            os.close(descriptor)
            raise StateMapError(f"{path}: cannot map the state map: {error.strerror}") from error
        except StateMapError:
            os.close(descriptor)
            raise
        return cls(path, descriptor, memory, writable=writable)

    def clear_derived(self) -> None:
        """Zero index, remotes and bitmaps where anything was ever written.

        Pages that were allocated and never touched are holes to lseek(2) and cost nothing; no page
        is given back.
        """
        position, end = self._derived
        zeros = memoryview(bytes(_CLEARED_BYTES))
        while position < end:
            try:
                position = os.lseek(self._descriptor, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            stop = min(os.lseek(self._descriptor, position, os.SEEK_HOLE), end)
            while position < stop:
                position += os.pwrite(self._descriptor, zeros[: stop - position], position)

    def populate(self, position: int, step: int) -> int:
        """Have the pages of ``step`` bytes from ``position`` in memory and in the page tables.

        A page's first use otherwise costs the packet that meets it a fault, most of the time that a
        new flow takes.  Returns where to go on, ``bytes`` at the end.  Raises OSError where the
        kernel has no MADV_POPULATE_WRITE (Linux 5.14).
        """
        end = min(position + step, self.bytes)
        self.memory.madvise(_MADV_POPULATE_WRITE, position, end - position)
        return end

    def counters(self) -> dict[str, int]:
        """Every counter by name; packets, bytes, flows or frames as the name says."""
        values = read_counters(self.memory)
        return {name: values[index] for name, index in self._counter_names.items()}

    def slot_counters(self, slot: int) -> dict[str, int]:
        """Packets and bytes (IPv4 total length) of one slot, its drops, flows, and TCP flows."""
        return self.slot_sums((slot,))

    def slot_sums(self, slots: Sequence[int]) -> dict[str, int]:
        """The same of many slots together."""
        for slot in (min(slots), max(slots)) if slots else ():
            if not 0 <= slot < self.slots_max:
                raise IndexError(f"slot {slot}: the map has {self.slots_max}")
        sums = _named(read_sums(self.memory, slots))
        return {name: sums[counter] for name, counter in SLOT_COUNTERS.items()}

    def flows(self, start: int = 0, limit: int | None = None) -> list[Flow]:
        """Flows among the ``limit`` entries from ``start``, held ones included."""
        count = self.flows_max - start if limit is None else limit
        return read_flows(self.memory, start, count)

    def host_flows(self, start: int = 0, limit: int | None = None) -> list[HostFlow]:
        """Flows of hosts among the ``limit`` entries from ``start``."""
        count = self.flows_max - start if limit is None else limit
        return read_host_flows(self.memory, start, count)

    def mappings(self, start: int = 0, limit: int | None = None) -> list[Flow]:
        """Endpoint-independent mappings among the ``limit`` entries from ``start``.

        The remote address is 0.0.0.0 and ``packets_out`` the number of flows behind the mapping.
        """
        count = self.flows_max - start if limit is None else limit
        return read_flows(self.memory, start, count, mappings=True)

    def exhaustions(self) -> list[Exhaustion]:
        """Where ports ran out or a limit was reached, in no order; the most recent ones."""
        return read_exhaustions(self.memory)

    def find(self, keys: list[SearchKey]) -> list[int | None]:
        """The entry of each key: one walk through the table, and gone again at any moment."""
        return find_flows(self.memory, keys)

    def interface_counters(self, number: int) -> dict[str, int]:
        """What passed one interface number, by name, since its address has it; and its flows, but
        for those of environments, which are theirs.

        What passed an address of a NAT gateway is what passed the public one that stands for it.
        """
        if not 0 <= number < self.interfaces_max:
            raise IndexError(f"interface {number}: the map has {self.interfaces_max}")
        return self._attachment(self.slots_max + number)[0]

    def node_counters(self, number: int) -> dict[str, int]:
        """What passed a load balancer's node, by the interface number of its first address.

        Packets and bytes (IPv4 total length) of both ways, flows, resets by who sent them (clients,
        targets, the node itself), packets refused.
        """
        own = self.interface_counters(number)
        place = self.slots_max + number
        flows = self._attachment(place)[0]
        return {
            "active_flows": flows["flows"],
            "active_flows_tcp": flows["tcp_flows"],
            # A node has no other protocols.
            "active_flows_udp": flows["flows"] - flows["tcp_flows"],
            # A SYN at a node is one that has begun a flow.
            "new_flows_tcp": own["tcp_syns_from_source"],
            **dict(zip(NODE_COUNTER_NAMES, read_node(self.memory, place), strict=True)),
            "processed_packets": own["packets_out_to_destination"] + own["packets_out_to_source"],
            "processed_bytes": own["bytes_out_to_destination"] + own["bytes_out_to_source"],
            "port_allocation_errors": own["port_allocation_errors"],
            "drops": own["drops"],
        }

    def interface_address(self, number: int) -> str:
        """The address that the flows of an interface number leave with."""
        if not 0 <= number < self.interfaces_max:
            raise IndexError(f"interface {number}: the map has {self.interfaces_max}")
        return self._attachment(self.slots_max + number)[1]

    def host_counters(self, number: int) -> dict[str, int]:
        """Packets and bytes (IPv4 total length) of one host, its drops, flows, and TCP flows."""
        if not 0 <= number < self.hosts_max:
            raise IndexError(f"host {number}: the map has {self.hosts_max}")
        counters = self._attachment(self.slots_max + self.interfaces_max + number)[0]
        return {name: counters[counter] for name, counter in SLOT_COUNTERS.items()}

    def _attachment(self, number: int) -> tuple[dict[str, int], str]:
        """Counters by name, and the address."""
        counters, address = read_attachment(self.memory, number)
        return _named(counters), address

    def remotes(
        self,
        start: int,
        limit: int,
        *,
        least: int = 1,
        address: str | None = None,
        port: int | None = None,
    ) -> list[RemotePorts]:
        """Remote endpoints among ``limit`` of the ``remote_cells`` records from ``start``.

        Only those of ``address`` and ``port`` with at least ``least`` ports taken.  Those of a
        public address of a NAT gateway are the gateway's.
        """
        # Read and not looked at in the mapping: whoever lists them would have all of it resident.
        offset = self._remotes_offset + start * _REMOTE_BYTES
        size = max(min(limit, self.remote_cells - start), 0) * _REMOTE_BYTES
        found = read_remotes(
            os.pread(self._descriptor, size, offset), self.slots_max, least, address, port
        )
        return [each._replace(interface=read_served(self.memory, each.interface)) for each in found]

    @property
    def entries_watermark(self) -> int:
        """Entries at or above this index were never used."""
        return int(_HEADER.unpack_from(self.memory)[-2])

    def set_watermark(self, entries: int) -> None:
        """Say how many entries were ever used; for who fills a new map."""
        struct.pack_into("<I", self.memory, _HEADER.size - 8, entries)

    @property
    def heartbeat(self) -> int:
        """What `beat` was last given; 0 in a map that no forwarder has served."""
        return int(_WORD.unpack_from(self.memory, _HEARTBEAT_PLACE)[0])

    def beat(self, now_ms: int) -> None:
        """The forwarder is at work at this time, CLOCK_MONOTONIC in ms."""
        _WORD.pack_into(self.memory, _HEARTBEAT_PLACE, now_ms)

    @property
    def clock_offset_ms(self) -> int:
        """What the lab's clock is ahead of CLOCK_MONOTONIC."""
        return int(_WORD.unpack_from(self.memory, _CLOCK_PLACE)[0])

    def advance_clock(self, offset_ms: int) -> None:
        """The lab's clock is so far ahead; ValueError where that would be back."""
        if offset_ms < self.clock_offset_ms:
            raise ValueError("the lab's clock does not go back")
        _WORD.pack_into(self.memory, _CLOCK_PLACE, offset_ms)

    def now_ms(self, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> int:
        """The lab's clock, of which all times in the map are."""
        return monotonic_ns() // 1_000_000 + self.clock_offset_ms

    def close(self) -> None:
        """Unmap the file; it stays."""
        self.memory.close()
        self._close_file()
