# SPDX-License-Identifier: Apache-2.0
"""The header of the PROXY protocol (version 2, section 2.2) before what a client sends to a target.

Whoever is between the two knows where the client's bytes begin from the SYN-ACK, and whether the
target has the header from what it acknowledges. Checksums are computed over the whole segment.
"""

import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from tests.reference import checksum, packet
from tests.reference.packet import Datagram
from tests.reference.tracker import signed

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
End = tuple[IPv4Address, int]


def header(client: End, listener: End) -> bytes:
    """Who is connected to whom, by TCP over IPv4."""
    addresses = client[0].packed + listener[0].packed
    return (
        SIGNATURE
        + struct.pack("!BBH", 0x21, 0x11, 12)
        + addresses
        + struct.pack("!HH", client[1], listener[1])
    )


@dataclass
class Proxied:
    """What becomes of one flow's segments."""

    client: End
    listener: End
    begins: int | None = None
    """The number of the client's first byte."""
    sent: bool = False
    acknowledged: bool = False

    @property
    def header(self) -> bytes:
        return header(self.client, self.listener)

    def forth(self, datagram: Datagram, largest: int, partial: bool) -> tuple[Datagram, bool, int]:
        """A client's segment as it goes on in packets of so many bytes, whether its checksum is
        partial, and what its number is to be raised by.
        """
        if datagram.payload[13] & packet.SYN:
            return *bared(datagram, partial), 0
        if not self.carries(datagram):
            return datagram, partial, self.shift(datagram)
        partial = partial and datagram.segment_bytes > 0
        return sealed(self.with_header(datagram, largest), partial=partial), partial, 0

    def back(
        self, datagram: Datagram, scale: int | None, *, opening: bool, partial: bool
    ) -> Datagram:
        """The target's segment as the client has it."""
        segment = packet.parse_segment(datagram.payload)
        if segment.flags & packet.SYN and opening:
            self.begins, self.sent, self.acknowledged = segment.ack, False, False
        return sealed(datagram.carrying(self.answer(datagram, scale)), partial=partial)

    def carries(self, datagram: Datagram) -> bool:
        """Whether a client's segment goes on with the header in it."""
        segment = packet.parse_segment(datagram.payload)
        return (
            not segment.flags & (packet.SYN | packet.RST)
            and not self.acknowledged
            and segment.seq == self.begins
        )

    def with_header(self, datagram: Datagram, largest: int) -> Datagram:
        """The segment with it; whatever is more than the largest packet is left out."""
        self.sent = True
        fixed = (datagram.payload[12] >> 4) * 4
        room = (65535 if datagram.segment_bytes else largest) - len(datagram.header) - fixed
        data = datagram.payload[fixed:]
        kept = data[: room - len(self.header)]
        start = datagram.payload[:fixed]
        if len(kept) < len(data):
            start = start[:13] + bytes([start[13] & ~packet.FIN]) + start[14:]
        return resized(datagram, start + self.header + kept)

    def shift(self, datagram: Datagram) -> int:
        """What is added to the number of a client's segment that goes on as it is."""
        segment = packet.parse_segment(datagram.payload)
        if self.begins is None or segment.flags & packet.SYN:
            return 0
        if segment.flags & packet.RST and not self.sent:
            return 0
        ahead = signed(segment.seq - self.begins)
        return len(self.header) if self.acknowledged or ahead >= 0 else 0

    def known(self, number: int) -> int:
        """A number that the target has acknowledged, as the client knows it."""
        assert self.begins is not None
        ahead = signed(number - self.begins)
        if not self.acknowledged and ahead <= len(self.header):
            return number if ahead <= 0 else self.begins
        return (number - len(self.header)) & 0xFFFFFFFF

    def answer(self, datagram: Datagram, scale: int | None) -> bytes:
        """The target's segment, without a new checksum."""
        segment, data = packet.parse_segment(datagram.payload), bytearray(datagram.payload)
        opens = bool(segment.flags & packet.SYN)
        if not opens:
            if not segment.has_ack or self.begins is None:
                return bytes(data)
            beyond = signed(segment.ack - self.begins) >= len(self.header)
            self.acknowledged = self.acknowledged or beyond
            data[8:12] = self.known(segment.ack).to_bytes(4)
        if opens or not self.acknowledged:
            unit = 0 if opens or scale is None else scale
            window = max((segment.window << unit) - len(self.header), 0) >> unit
            data[14:16] = window.to_bytes(2)
        end = (data[12] >> 4) * 4
        for position, length in packet.options_in(bytes(data[20:end])):
            kind, at = data[20 + position], 22 + position
            if opens and (kind, length) == (2, 4):
                largest = packet.word(bytes(data), at)
                if largest > len(self.header):
                    data[at : at + 2] = (largest - len(self.header)).to_bytes(2)
            elif kind == 5 and not opens:
                for edge in range(at, at + (length - 2) // 4 * 4, 4):
                    number = int.from_bytes(data[edge : edge + 4])
                    data[edge : edge + 4] = self.known(number).to_bytes(4)
        return bytes(data)


def resized(datagram: Datagram, payload: bytes) -> Datagram:
    """The packet with another content, its length and header checksum for that."""
    header = packet.with_word(datagram.header, 2, len(datagram.header) + len(payload))
    return replace(datagram, header=packet.sealed_header(header), payload=payload)


def sealed(datagram: Datagram, *, partial: bool) -> Datagram:
    """The segment with the checksum computed, or the sum of its pseudo-header."""
    data = checksum.with_zero(datagram.payload, 16)
    pseudo = datagram.pseudo_header(len(data))
    value = checksum.ones_sum(pseudo) if partial else checksum.checksum(pseudo + data)
    return datagram.carrying(packet.with_word(data, 16, value))


def bared(datagram: Datagram, partial: bool) -> tuple[Datagram, bool]:
    """A SYN, or what else it is, whose data have been cut off; its checksum is whole then."""
    if not datagram.payload[13] & packet.SYN or datagram.headers == datagram.total_length:
        return datagram, partial
    fixed = (datagram.payload[12] >> 4) * 4
    bare = replace(resized(datagram, datagram.payload[:fixed]), segment_bytes=0)
    return sealed(bare, partial=False), False


def shifted(datagram: Datagram, shift: int) -> Datagram:
    """A segment with a higher number, and the checksum that it had."""
    number = (int.from_bytes(datagram.payload[4:8]) + shift) & 0xFFFFFFFF
    return datagram.carrying(datagram.payload[:4] + number.to_bytes(4) + datagram.payload[8:])


def told(quoted: bytes, flow: Proxied) -> bytes:
    """What an ICMP error quotes of a client's segment, as the client has sent it."""
    at = (quoted[0] & 0x0F) * 4
    if flow.begins is None:
        return quoted
    old = quoted[at + 4 : at + 8]
    new = flow.known(int.from_bytes(old)).to_bytes(4)
    result = quoted[: at + 4] + new + quoted[at + 8 :]
    if len(result) >= at + 18:
        field = checksum.exchanged(packet.word(result, at + 16), old, new)
        result = packet.with_word(result, at + 16, field)
    return result
