# SPDX-License-Identifier: Apache-2.0
"""The flow cache's program once more, in plain Python: what becomes of a frame, by its description.

Written from what `flow_cache.bpf.c` says of itself, not from its code. Memory is bytes as the maps'
values; keys are those of whoever does what the engine asks for (`follow`).
"""

import struct
from dataclasses import dataclass, field
from typing import Any

from hyperplane_nat.engine.nat.cached_flows import CachedFlows
from tests.reference import checksum, packet

RECORD = struct.Struct("=QQQII4s4s2s2sHH6sHHHHBx")
LINK = struct.Struct("=IHH6sH")
CONTROL = struct.Struct("=q6QII")
KEY = struct.Struct("=4s4s2s2sHBx")
ARMED = 1 << 63
NS = 1_000_000
FORWARDED, MISSED, COUNTED = "forwarded", "missed", "counted"


@dataclass
class Outcome:
    """What becomes of a frame: forwarded by an attachment, missed, or counted and missed."""

    kind: str
    out: int = 0
    frame: bytes = b""


@dataclass
class Kernel:
    """Maps with room for so many flows and attachments, and the program."""

    flows: int = 8
    attachments: int = 128
    room: int | None = None
    """Keys that the hash has room for, if not all."""
    keys: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.records = bytearray(RECORD.size * 2 * self.flows)
        self.links = bytearray(LINK.size * self.attachments)
        self.control = bytearray(CONTROL.size)

    def follow(self, cached: CachedFlows) -> list[tuple[int, bool]]:
        """Do what is to be done with keys; numbers, and whether they were put."""
        done = []
        for number, put, keys in cached.take_changes(1000):
            done.append((number, put))
            if not put:
                for line, key in enumerate(keys, 2 * number):
                    if self.keys.get(key) == line:
                        del self.keys[key]
                cached.removed(number)
            elif self.room is not None and len(self.keys) + 2 > self.room:
                cached.refused(number)
            else:
                for line, key in enumerate(keys, 2 * number):
                    assert key not in self.keys
                    self.keys[key] = line
        return done

    def grant(self) -> None:
        """A grace period has passed, if somebody waits for one."""
        *others, grace = CONTROL.unpack(self.control)
        CONTROL.pack_into(self.control, 0, *others, grace + grace % 2)

    def arrives(self, attachment: int, frame: bytes, now_ms: int) -> Outcome:
        """A frame at an attachment, at a time by CLOCK_MONOTONIC in ms."""
        miss = Outcome(MISSED)
        index, generation, *_ = LINK.unpack_from(self.links, attachment * LINK.size)
        header = frame[14:34]
        if not index or not generation or frame[12:15] != b"\x08\x00\x45" or len(frame) < 42:
            return miss
        length, flags, ttl, protocol = struct.unpack("!2xH2xHBB10x", header)
        if flags != 0x4000 or ttl <= 1 or length != len(frame) - 14:
            return miss
        if protocol == packet.TCP:
            offset, bits = frame[46] >> 4, frame[47]
            if bits & (packet.SYN | packet.FIN | packet.RST) or not bits & packet.ACK:
                return miss
            headers = 20 + offset * 4
        elif protocol == packet.UDP:
            headers = 28
        else:
            return miss
        key = KEY.pack(
            header[12:16], header[16:20], frame[34:36], frame[36:38], attachment, protocol
        )
        line = self.keys.get(key)
        if line is None:
            return miss
        return self._by_record(line, generation, frame, now_ms, headers)

    def _by_record(
        self, line: int, generation: int, frame: bytes, now_ms: int, headers: int
    ) -> Outcome:
        offset, *limits, _punt, _grace = CONTROL.unpack(self.control)
        record = list(RECORD.unpack_from(self.records, line * RECORD.size))
        other = RECORD.unpack_from(self.records, (line ^ 1) * RECORD.size)
        out = record[12]
        _, out_generation, mtu, mac, _ = LINK.unpack_from(self.links, out * LINK.size)
        if record[13] != generation or record[14] != out_generation or not out_generation:
            return Outcome(MISSED)
        now, limit = now_ms * NS + offset, limits[record[16]]
        idle = all(now - each >= limit for each in (record[0], other[0]))
        if idle or len(frame) - 14 > mtu:
            return Outcome(MISSED)
        if record[1] & ARMED:
            record[1] += 1
            RECORD.pack_into(self.records, line * RECORD.size, *record)
            return Outcome(COUNTED)
        record[0] = now
        record[1] += 1
        record[2] += len(frame) - 14
        if frame[23] == packet.TCP:
            self._track(record, other, frame, headers)
        RECORD.pack_into(self.records, line * RECORD.size, *record)
        return Outcome(FORWARDED, out, _rewritten(frame, record, mac))

    @staticmethod
    def _track(record: list[Any], other: tuple[Any, ...], frame: bytes, headers: int) -> None:
        sequence, acknowledgement, window = struct.unpack_from("!II2xH", frame, 38)
        end = (sequence + len(frame) - 14 - headers) % 2**32
        if 0 < (end - record[3]) % 2**32 < 2**31:
            record[3] = end
        sent = (other[3] - acknowledgement) % 2**32 < 2**31
        if sent and (acknowledgement - record[4]) % 2**32 < 2**31:
            record[4], record[15] = acknowledgement, window


def _rewritten(frame: bytes, record: list[Any], mac: bytes) -> bytes:
    """The frame that leaves, its checksums made anew from what is in it."""
    _, _, _, _, _, source, destination, source_port, destination_port, _, _, hop, *_ = record
    header = bytearray(frame[14:34])
    header[8] -= 1
    header[10:12] = bytes(2)
    header[12:20] = source + destination
    header[10:12] = checksum.checksum(bytes(header)).to_bytes(2, "big")
    body = bytearray(frame[34:])
    body[:4] = source_port + destination_port
    field_at = 16 if header[9] == packet.TCP else 6
    if header[9] == packet.TCP or body[6:8] != bytes(2):
        body[field_at : field_at + 2] = bytes(2)
        pseudo = source + destination + struct.pack("!BBH", 0, header[9], len(body))
        total = checksum.checksum(pseudo + bytes(body))
        if header[9] == packet.UDP:
            total = total or 0xFFFF
        body[field_at : field_at + 2] = total.to_bytes(2, "big")
    return bytes(hop) + mac + frame[12:14] + bytes(header) + bytes(body)
