# SPDX-License-Identifier: Apache-2.0
"""What becomes of packets that are too large for a link, and of the option that prevents them."""

from dataclasses import replace
from ipaddress import IPv4Address

from tests.reference import checksum, packet
from tests.reference.packet import Datagram

DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000

_COPIED = 0x80


def pieces(datagram: Datagram, mtu: int) -> list[Datagram]:
    """The fragments that a packet leaves as (RFC 791 section 3.2); itself when it is small enough.

    Options that are not to be copied are blanked in all but the first.
    """
    if datagram.total_length <= mtu:
        return [datagram]
    room = (mtu - len(datagram.header)) // 8 * 8
    field = packet.word(datagram.header, 6)
    parts = []
    for start in range(0, len(datagram.payload), room):
        part = datagram.payload[start : start + room]
        last = start + len(part) == len(datagram.payload)
        flags = field & 0xE000 if last else (field & 0xC000) | MORE_FRAGMENTS
        header = datagram.header if start == 0 else _without_options(datagram.header)
        header = packet.with_word(header, 2, len(header) + len(part))
        header = packet.with_word(header, 6, flags | ((field & 0x1FFF) + start // 8))
        parts.append(Datagram(packet.sealed_header(header), part))
    return parts


def _without_options(header: bytes) -> bytes:
    result = bytearray(header)
    for position, size in packet.options_in(header[20:]):
        at = 20 + position
        if not header[at] & _COPIED:
            result[at : at + size] = b"\x01" * size
    return bytes(result)


def datagrams(whole: Datagram) -> list[Datagram]:
    """What a UDP super-frame is cut into: each with headers of its own, the identification counted
    up (Linux, `__udp_gso_segment` and `inet_gso_segment`), the checksums computed.
    """
    content, size = whole.payload[8:], whole.segment_bytes
    summed = packet.word(whole.payload, 6) != 0
    parts = []
    for number, start in enumerate(range(0, max(len(content), 1), size)):
        data = whole.payload[:4] + bytes(4) + content[start : start + size]
        data = packet.with_word(data, 4, len(data))
        header = packet.with_word(whole.header, 2, len(whole.header) + len(data))
        identification = (packet.word(whole.header, 4) + number) % 65536
        header = packet.with_word(header, 4, identification)
        part = Datagram(packet.sealed_header(header), data)
        if summed:
            value = checksum.checksum(part.pseudo_header(len(data)) + data)
            part = part.carrying(packet.with_word(data, 6, value or 0xFFFF))
        parts.append(part)
    return parts


def completed(datagram: Datagram) -> Datagram:
    """The packet with its partial checksum made a whole one."""
    data = datagram.payload
    udp = datagram.protocol == packet.UDP
    at = 6 if udp else 16
    covered = packet.word(data, 4) if udp else len(data)
    value = checksum.checksum(data[:covered])
    return replace(
        datagram, payload=packet.with_word(data, at, 0xFFFF if udp and value == 0 else value)
    )


def finished(datagram: Datagram) -> Datagram:
    """The packet with the checksum in what it carries computed."""
    if datagram.unfinished is None:
        return datagram
    start, offset = datagram.unfinished
    end = packet.word(datagram.payload, 4)
    value = checksum.checksum(datagram.payload[start:end])
    if offset == 6 and value == 0:
        value = 0xFFFF
    payload = packet.with_word(datagram.payload, start + offset, value)
    return replace(datagram, payload=payload, unfinished=None)


def clamped(datagram: Datagram, largest: int, *, partial: bool) -> tuple[Datagram, int]:
    """The TCP segment with MSS options above `largest` lowered, and how many that were."""
    data = datagram.payload
    count = 0
    for position, size in packet.options_in(data[20 : (data[12] >> 4) * 4]):
        at = 20 + position
        if data[at] == 2 and size == 4 and packet.word(data, at + 2) > largest:
            before, data = data, packet.with_word(data, at + 2, largest)
            count += 1
            if not partial:
                value = checksum.exchanged(packet.word(data, 16), before, data)
                data = packet.with_word(data, 16, value)
    return replace(datagram, payload=data), count


def fragmentation_needed(offending: Datagram, source: IPv4Address, mtu: int) -> bytes:
    """The IPv4 packet that tells its sender what the next link carries (RFC 1191 section 4)."""
    rest = b"\0\0" + mtu.to_bytes(2)
    message = packet.icmp(3, 4, rest, offending.header + offending.payload[:8])
    return packet.ipv4(str(source), str(offending.source), packet.ICMP, message, ttl=64, tos=0xC0)
