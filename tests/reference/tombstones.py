# SPDX-License-Identifier: Apache-2.0
"""TCP connections that were idle too long, and the reset that answers their late segments.

A table of limited room may forget; the engine says when it has (`forgotten`), as it says which port
it took. What it may never have forgotten is the last one.
"""

from tests.reference import packet
from tests.reference.errors import IllegalChoiceError
from tests.reference.flow import InsideKey
from tests.reference.packet import Datagram
from tests.reference.tracker import Kind, kind_of


class Tombstones:
    """Inside keys of flows whose hold time after a timeout is over, the oldest first."""

    def __init__(self) -> None:
        self.room = 65536
        self.forgotten = False
        """Whether the engine knows nothing of the connection of the packet at hand."""
        self._keys: dict[InsideKey, None] = {}

    def put(self, key: InsideKey) -> None:
        self.remove(key)
        if key[1] == packet.TCP and self.room:
            self._keys[key] = None

    def remove(self, key: InsideKey) -> None:
        self._keys.pop(key, None)

    def has(self, key: InsideKey) -> bool:
        if key not in self._keys:
            return False
        if not self.forgotten:
            return True
        if key == next(reversed(self._keys)):
            raise IllegalChoiceError(f"the last tombstone was forgotten: {key}")
        self.remove(key)
        return False


def deserves_answer(datagram: Datagram) -> bool:
    """Whether this is a TCP segment that neither begins a connection nor resets one."""
    return datagram.protocol == packet.TCP and kind_of(datagram.payload[13]) not in (
        Kind.SYN,
        Kind.RST,
    )


def reset(datagram: Datagram) -> bytes:
    """The IPv4 packet with the reset for a segment of no connection (RFC 9293 section 3.10.7.1)."""
    segment = packet.parse_segment(datagram.payload)
    source, destination = str(datagram.destination), str(datagram.source)
    if segment.has_ack:
        flags, seq, ack = packet.RST, segment.ack, 0
    else:
        length = segment.payload_length + bool(segment.flags & packet.FIN)
        flags, seq, ack = packet.RST | packet.ACK, 0, (segment.seq + length) & 0xFFFFFFFF
    content = packet.tcp(
        source,
        destination,
        packet.word(datagram.payload, 2),
        packet.word(datagram.payload, 0),
        flags,
        seq=seq,
        ack=ack,
        window=0,
    )
    return packet.ipv4(source, destination, packet.TCP, content)
