# SPDX-License-Identifier: Apache-2.0
"""Building and taking apart frames: Ethernet, ARP, IPv4, TCP, UDP, ICMP.

Builders compute every length and checksum unless told otherwise, so that a test can lie about
exactly one of them. Addresses are text in builders and octets in parsed packets.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address

from tests.reference import checksum
from tests.reference.settings import mac_bytes

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD

ICMP = 1
TCP = 6
UDP = 17

ECHO_REPLY = 0
ECHO_REQUEST = 8

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10
URG = 0x20

BROADCAST = "ff:ff:ff:ff:ff:ff"
ZERO_MAC = bytes(6)


def octets(address: str) -> bytes:
    """The four octets of a dotted IPv4 address."""
    return IPv4Address(address).packed


def ethernet(destination: str, source: str, ethertype: int, payload: bytes) -> bytes:
    """An Ethernet II frame without padding and frame check sequence."""
    return mac_bytes(destination) + mac_bytes(source) + struct.pack("!H", ethertype) + payload


def arp(
    *,
    operation: int,
    sender_mac: str,
    sender: str,
    target: str,
    target_mac: str = "00:00:00:00:00:00",
    hardware: int = 1,
    protocol: int = ETHERTYPE_IPV4,
    hardware_length: int = 6,
    protocol_length: int = 4,
) -> bytes:
    """An ARP packet for Ethernet and IPv4 (RFC 826), 28 octets."""
    return (
        struct.pack("!HHBBH", hardware, protocol, hardware_length, protocol_length, operation)
        + mac_bytes(sender_mac)
        + octets(sender)
        + mac_bytes(target_mac)
        + octets(target)
    )


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    identification: int = 0,
    fragment: int = 0,
    options: bytes = b"",
    version: int = 4,
    header_words: int | None = None,
    total_length: int | None = None,
    header_checksum: int | None = None,
) -> bytes:
    """An IPv4 packet (RFC 791); `fragment` is the 16-bit field of flags and offset."""
    options += b"\0" * (-len(options) % 4)
    words = 5 + len(options) // 4 if header_words is None else header_words
    length = 20 + len(options) + len(payload) if total_length is None else total_length
    header = (
        struct.pack(
            "!BBHHHBBH",
            version << 4 | words,
            tos,
            length,
            identification,
            fragment,
            ttl,
            protocol,
            0,
        )
        + octets(source)
        + octets(destination)
        + options
    )
    value = checksum.checksum(header) if header_checksum is None else header_checksum
    return header[:10] + struct.pack("!H", value) + header[12:] + payload


def _seal(
    segment: bytes,
    offset: int,
    source: str,
    destination: str,
    protocol: int,
    value: int | None,
    partial: bool,
) -> bytes:
    """`segment` with the checksum at `offset`: complete, partial, or the given lie."""
    pseudo = checksum.pseudo_header(octets(source), octets(destination), protocol, len(segment))
    if value is None:
        if partial:
            value = checksum.ones_sum(pseudo)
        else:
            value = checksum.checksum(pseudo + segment)
            if protocol == UDP and value == 0:
                value = 0xFFFF
    return segment[:offset] + struct.pack("!H", value) + segment[offset + 2 :]


def tcp(
    source: str,
    destination: str,
    source_port: int,
    destination_port: int,
    flags: int,
    *,
    seq: int = 0,
    ack: int = 0,
    window: int = 65535,
    options: bytes = b"",
    payload: bytes = b"",
    urgent: int = 0,
    header_words: int | None = None,
    checksum_field: int | None = None,
    partial: bool = False,
) -> bytes:
    """A TCP segment (RFC 9293) with the checksum for these addresses."""
    options += b"\0" * (-len(options) % 4)
    words = 5 + len(options) // 4 if header_words is None else header_words
    segment = (
        struct.pack(
            "!HHIIBBHHH",
            source_port,
            destination_port,
            seq & 0xFFFFFFFF,
            ack & 0xFFFFFFFF,
            words << 4,
            flags,
            window,
            0,
            urgent,
        )
        + options
        + payload
    )
    return _seal(segment, 16, source, destination, TCP, checksum_field, partial)


def udp(
    source: str,
    destination: str,
    source_port: int,
    destination_port: int,
    payload: bytes = b"",
    *,
    length: int | None = None,
    checksum_field: int | None = None,
    partial: bool = False,
) -> bytes:
    """A UDP datagram (RFC 768) with the checksum for these addresses."""
    size = 8 + len(payload)
    datagram = (
        struct.pack("!HHHH", source_port, destination_port, size if length is None else length, 0)
        + payload
    )
    return _seal(datagram, 6, source, destination, UDP, checksum_field, partial)


def icmp(
    kind: int,
    code: int,
    rest: bytes,
    payload: bytes = b"",
    *,
    checksum_field: int | None = None,
) -> bytes:
    """An ICMP message (RFC 792); `rest` is the four octets after the checksum."""
    message = struct.pack("!BBH", kind, code, 0) + rest + payload
    value = checksum.checksum(message) if checksum_field is None else checksum_field
    return message[:2] + struct.pack("!H", value) + message[4:]


def echo(
    kind: int,
    identifier: int,
    sequence: int,
    payload: bytes = b"",
    *,
    code: int = 0,
    checksum_field: int | None = None,
) -> bytes:
    """An ICMP echo request or reply."""
    rest = struct.pack("!HH", identifier, sequence)
    return icmp(kind, code, rest, payload, checksum_field=checksum_field)


@dataclass(frozen=True)
class Datagram:
    """An IPv4 packet cut at its header; `header` holds the options, `payload` ends at the
    total length.  Nothing is verified here.
    """

    header: bytes
    payload: bytes
    segment_bytes: int = 0
    """Payload of a segment of one that is yet to be segmented."""
    unfinished: tuple[int, int] | None = None
    """Where in the payload begins what a checksum not yet computed is about, and the offset of its
    field from there; None where it is the transport's own.
    """

    @property
    def total_length(self) -> int:
        return len(self.header) + len(self.payload)

    @property
    def headers(self) -> int:
        """Bytes that each segment has besides its payload."""
        own = 0
        if self.protocol == UDP:
            own = 8
        elif self.protocol == TCP and len(self.payload) >= 20:
            own = (self.payload[12] >> 4) * 4
        return len(self.header) + own

    def segments(self) -> list[int]:
        """The length of each packet that this will be on a wire, with its headers."""
        content = self.total_length - self.headers
        if not self.segment_bytes or self.headers == len(self.header) or content <= 0:
            return [self.total_length]
        full, rest = divmod(content, self.segment_bytes)
        sizes = [self.segment_bytes] * full + ([rest] if rest else [])
        return [self.headers + size for size in sizes]

    @property
    def ttl(self) -> int:
        return self.header[8]

    @property
    def protocol(self) -> int:
        return self.header[9]

    @property
    def fragment(self) -> int:
        """More fragments and the offset; without the reserved and the don't-fragment bit."""
        return int.from_bytes(self.header[6:8]) & 0x3FFF

    @property
    def source(self) -> IPv4Address:
        return IPv4Address(self.header[12:16])

    @property
    def destination(self) -> IPv4Address:
        return IPv4Address(self.header[16:20])

    def readdressed(
        self, *, source: IPv4Address | None = None, destination: IPv4Address | None = None
    ) -> "Datagram":
        """The same packet with other addresses; the header checksum is computed anew."""
        header = bytearray(self.header)
        if source is not None:
            header[12:16] = source.packed
        if destination is not None:
            header[16:20] = destination.packed
        return replace(self, header=sealed_header(bytes(header)))

    def one_hop_older(self) -> "Datagram":
        """The same packet with its time to live less one."""
        header = bytearray(self.header)
        header[8] -= 1
        return replace(self, header=sealed_header(bytes(header)))

    def carrying(self, payload: bytes) -> "Datagram":
        """The same header in front of another payload of the same length."""
        if len(payload) != len(self.payload):
            raise ValueError("the payload must keep its length")
        return replace(self, payload=payload)

    def pseudo_header(self, length: int) -> bytes:
        """The pseudo-header of the transport for `length` octets."""
        return checksum.pseudo_header(self.header[12:16], self.header[16:20], self.protocol, length)

    def packed(self) -> bytes:
        return self.header + self.payload


def sealed_header(header: bytes) -> bytes:
    """An IPv4 header with its checksum computed anew."""
    value = checksum.checksum(checksum.with_zero(header, 10))
    return header[:10] + struct.pack("!H", value) + header[12:]


def word(data: bytes, offset: int) -> int:
    """The 16-bit field at `offset`."""
    return int.from_bytes(data[offset : offset + 2])


def with_word(data: bytes, offset: int, value: int) -> bytes:
    """`data` with the 16-bit field at `offset` set to `value`."""
    return data[:offset] + struct.pack("!H", value) + data[offset + 2 :]


@dataclass(frozen=True)
class Segment:
    """What the tracker needs of a TCP segment."""

    flags: int
    seq: int
    ack: int
    window: int
    payload_length: int
    window_scale: int | None
    """Shift of the window scale option (RFC 7323), 14 at most; None when not offered."""

    @property
    def has_ack(self) -> bool:
        return bool(self.flags & ACK)


def parse_segment(data: bytes) -> Segment:
    """Read a TCP header whose lengths were checked before."""
    header_length = (data[12] >> 4) * 4
    return Segment(
        flags=data[13],
        seq=int.from_bytes(data[4:8]),
        ack=int.from_bytes(data[8:12]),
        window=word(data, 14),
        payload_length=len(data) - header_length,
        window_scale=_window_scale(data[20:header_length]),
    )


def options_in(options: bytes) -> Iterator[tuple[int, int]]:
    """(position, length) of the options of an IPv4 or TCP header that have a length (RFC 791, RFC
    9293); reading stops at the end of the list and at a length that cannot be.
    """
    position = 0
    while position < len(options) and options[position] != 0:
        length = 1
        if options[position] != 1:
            length = options[position + 1] if position + 1 < len(options) else 0
            if length < 2 or position + length > len(options):
                return
            yield position, length
        position += length


def _window_scale(options: bytes) -> int | None:
    """The window scale option among `options`; reading stops at the first malformed one."""
    for position, length in options_in(options):
        if options[position] == 3 and length == 3:
            return min(options[position + 2], 14)
    return None
