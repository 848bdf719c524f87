# SPDX-License-Identifier: Apache-2.0
"""Fragments as the rules want them: each datagram a list of what has come.

Memory is not limited here; what the engine does when its own runs out is tested on it alone.
"""

from dataclasses import dataclass, field
from ipaddress import IPv4Address

from tests.reference import identification, packet, tracker
from tests.reference.errors import DroppedError
from tests.reference.packet import Datagram
from tests.reference.settings import Behaviour

Key = tuple[int, int, IPv4Address, IPv4Address, int, int]

MORE_FRAGMENTS = 0x2000

_HEADER = {packet.ICMP: 8, packet.TCP: 20, packet.UDP: 8}


@dataclass
class Context:
    """A datagram whose fragments come."""

    created: int
    came: list[tuple[int, int]] = field(default_factory=list)
    """First and last byte but one of what has come."""
    end: int | None = None
    waiting: list[Datagram] = field(default_factory=list)
    began: bytes | None = None
    """The payload of the first fragment, whatever became of it."""
    first: Datagram | None = None
    """The first fragment before and (`became`) after its translation, and where it went to."""
    became: Datagram | None = None
    left: tuple[int, int] = (0, 0)
    reason: str | None = None
    holds: tuple[identification.Key, int] | None = None
    """An identification of what leaves, which no other datagram may have meanwhile."""

    def is_other_than(self, piece: Datagram) -> bool:
        """Whether a fragment begins another datagram, whose key is the same."""
        return extent(piece)[0] == 0 and self.began not in (None, piece.payload)

    def admit(self, piece: Datagram) -> None:
        """Take note of a fragment; DroppedError if it does not go with those before it."""
        start, end = extent(piece)
        more = bool(packet.word(piece.header, 6) & MORE_FRAGMENTS)
        units = {unit for first, last in self.came for unit in range(first // 8, -(-last // 8))}
        mine = set(range(start // 8, -(-end // 8)))
        if mine <= units:
            raise DroppedError("fragment_overlap")
        beyond = self.end is not None and (end >= self.end if more else end != self.end)
        if mine & units or beyond or (not more and max(units, default=-1) > max(mine)):
            self.reason = "fragment_overlap"
            raise DroppedError("fragment_overlap")
        self.came.append((start, end))
        if start == 0:
            self.began = piece.payload
        if not more:
            self.end = end

    @property
    def whole(self) -> bool:
        """Whether every byte has come."""
        return sum(last - first for first, last in self.came) == self.end


def extent(piece: Datagram) -> tuple[int, int]:
    """Where in its datagram the payload of a fragment begins and ends, in bytes."""
    start = (packet.word(piece.header, 6) & 0x1FFF) * 8
    return start, start + len(piece.payload)


def key_of(piece: Datagram, side: int, port: int) -> Key:
    """What identifies a datagram (RFC 791 section 3.2), and the link it comes from."""
    number = identification.number_of(piece)
    return side, port, piece.source, piece.destination, piece.protocol, number


def check(piece: Datagram, behaviour: Behaviour, *, partial: bool) -> None:
    """DroppedError for a fragment that is none by itself, or is not wanted."""
    allowed = {
        packet.ICMP: behaviour.icmp_fragments,
        packet.TCP: behaviour.tcp_fragments,
        packet.UDP: behaviour.udp_fragments,
    }
    if piece.protocol not in allowed:
        raise DroppedError("protocol")
    if not allowed[piece.protocol]:
        raise DroppedError("fragment_refused")
    if partial or piece.unfinished or piece.segment_bytes:
        raise DroppedError("offload")
    start, end = extent(piece)
    more = packet.word(piece.header, 6) & MORE_FRAGMENTS
    if len(piece.header) + end > 65535:
        raise DroppedError("fragment")
    if start == end or (more and len(piece.payload) % 8):
        raise DroppedError("fragment_tiny")
    if start:
        if start < _HEADER[piece.protocol]:
            raise DroppedError("fragment_tiny")
        return
    _check_first(piece)


def _check_first(piece: Datagram) -> None:
    data = piece.payload
    if len(data) < _HEADER[piece.protocol]:
        raise DroppedError("fragment_tiny")
    if piece.protocol == packet.TCP:
        header_length = (data[12] >> 4) * 4
        if header_length < 20:
            raise DroppedError("tcp_header")
        if header_length > len(data):
            raise DroppedError("fragment_tiny")
        if tracker.kind_of(data[13]) is None:
            raise DroppedError("tcp_flags")
    elif piece.protocol == packet.UDP and packet.word(data, 4) < 8:
        raise DroppedError("udp_header")
    elif piece.protocol == packet.ICMP and data[0] in (3, 11, 12):
        raise DroppedError("fragment")
