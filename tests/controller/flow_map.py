# SPDX-License-Identifier: Apache-2.0
"""A state map with as many flows as a test wants, written without an engine."""

from __future__ import annotations

import os
import secrets
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyperplane_nat.engine import State, StateMap

ENTRY = struct.Struct("=4s4s2s2sHBB4s2sHIHBB2Q2Q")
MAPPING = 0x10
TRACK = struct.Struct("=2I2I2HIHBBI")
ATTACHMENT_BYTES, ADDRESS_OFFSET = 192, 136
WATERMARK_OFFSET = struct.calcsize("<8sIIQ6I9Q")
PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1}

NOW = 5_000


def fields(index: int) -> dict[str, Any]:
    """What the flow of an entry is, unless a test has it otherwise."""
    protocol = ("tcp", "udp", "icmp")[index % 3]
    return {
        "protocol": protocol,
        "state": {"tcp": "ESTABLISHED", "udp": "UDP", "icmp": "ICMP"}[protocol],
        "slot": index % 7 + 1,
        "interface": index % 2,
        "remote": "10.0.1.80",
        "remote_port": 80,
        "inside_port": 1000,
        "nat_port": 2000,
        "packets": (1, 3),
        "bytes": (2, 4),
        "created": NOW - 3_000,
        "last_seen": NOW - 1_000,
    }


def entry(values: dict[str, Any], slots_max: int) -> bytes:
    """The bytes of an entry in a map with so many slots."""
    return ENTRY.pack(
        b"\xa9\xfe\x64\x02",
        socket.inet_aton(values["remote"]),
        values["inside_port"].to_bytes(2, "big"),
        values["remote_port"].to_bytes(2, "big"),
        values["slot"],
        PROTOCOLS[values["protocol"]],
        State[values["state"]],
        b"\x0a\x00\x01\x0a",
        values["nat_port"].to_bytes(2, "big"),
        slots_max + values["interface"],
        values["last_seen"] & 0xFFFFFFFF,
        0,
        MAPPING if values["remote"] == "0.0.0.0" else 0,
        values["created"] >> 32,
        *values["packets"],
        *values["bytes"],
    )


def track(values: dict[str, Any], _slots_max: int) -> bytes:
    """The bytes of its track."""
    return TRACK.pack(*[0] * 10, values["created"] & 0xFFFFFFFF)


def write_flows(
    state_map: StateMap,
    count: int,
    make: Callable[[int], dict[str, Any] | None] = fields,
    period: int | None = None,
) -> None:
    """Make the flows `make(0)` to `make(count - 1)`, None for a free entry.

    With a `period`, only so many different ones: that is quick.
    """
    made = [make(index) for index in range(min(count, period or count))]
    # The header has the offsets of attachments, entries and tracks as the second, fourth and fifth.
    _, attachments, _, *places = struct.unpack_from("<5Q", state_map.memory, WATERMARK_OFFSET - 72)
    slots_max = state_map.slots_max
    for offset, size, record in zip(places, (ENTRY.size, TRACK.size), (entry, track), strict=True):
        text = b"".join(bytes(size) if each is None else record(each, slots_max) for each in made)
        text = (text * (count // max(len(made), 1) + 1))[: count * size]
        state_map.memory[offset : offset + len(text)] = text
    struct.pack_into("<I", state_map.memory, WATERMARK_OFFSET, count)
    addresses = dict.fromkeys(range(1, 8), b"\xa9\xfe\x64\x02")
    addresses |= {slots_max + number: b"\x0a\x00\x01\x0a" for number in range(2)}
    for number, address in addresses.items():
        at = attachments + number * ATTACHMENT_BYTES + ADDRESS_OFFSET
        struct.pack_into("=4s", state_map.memory, at, address)


def new_map(
    count: int,
    make: Callable[[int], dict[str, Any] | None] = fields,
    period: int | None = 42,
) -> StateMap:
    """A map with these flows; the file is gone at once, the memory when the map is closed."""
    path = Path("/dev/shm") / f"hyperplane-nat-test-{os.getpid()}-{secrets.token_hex(4)}.map"
    state_map = StateMap.create(path, flows_max=max(count, 1), slots_max=64, interfaces_max=64)
    path.unlink()
    write_flows(state_map, count, make, period)
    return state_map


@contextmanager
def flow_map(
    count: int,
    make: Callable[[int], dict[str, Any] | None] = fields,
    period: int | None = 42,
) -> Iterator[StateMap]:
    """The same while the context lasts."""
    state_map = new_map(count, make, period)
    try:
        yield state_map
    finally:
        if not state_map.memory.closed:
            state_map.close()
