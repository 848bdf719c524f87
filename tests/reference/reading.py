# SPDX-License-Identifier: Apache-2.0
"""Reading packets that anybody may have made; each function drops what cannot be right."""

from tests.reference import checksum, icmp_error, packet, tracker
from tests.reference.errors import DroppedError
from tests.reference.packet import Datagram

DATAGRAMS_MAX = 128
"""Datagrams in one super-frame, at most (Linux, UDP_MAX_SEGMENTS)."""


def checked_ipv4(
    data: bytes, segment_bytes: int = 0, unfinished: tuple[int, int] | None = None
) -> Datagram:
    """The packet in `data` without trailing padding (RFC 791; RFC 1122 section 3.2.1.2).

    `unfinished` counts from the beginning of `data` here.
    """
    if len(data) < 20:
        raise DroppedError("ip_truncated")
    header_length = (data[0] & 0x0F) * 4
    if data[0] >> 4 != 4 or header_length < 20 or header_length > len(data):
        raise DroppedError("ip_header")
    total_length = packet.word(data, 2)
    if total_length == 0 and segment_bytes:
        raise DroppedError("big_tcp")
    if total_length < header_length or total_length > len(data):
        raise DroppedError("ip_length")
    if not checksum.is_right(data[:header_length]):
        raise DroppedError("ip_checksum")
    if unfinished is not None:
        unfinished = (unfinished[0] - header_length, unfinished[1])
    payload = data[header_length:total_length]
    return Datagram(data[:header_length], payload, segment_bytes, unfinished)


def refuse_source_routes(datagram: Datagram) -> None:
    """Loose and strict source routes (RFC 791, RFC 7126 sections 4.3.5 and 4.4.5)."""
    options = datagram.header[20:]
    if any(options[position] in (131, 137) for position, _ in packet.options_in(options)):
        raise DroppedError("source_route")


def check_transport(datagram: Datagram, partial: bool) -> None:
    """Lengths, checksum and flags of TCP, UDP or ICMP."""
    data = datagram.payload
    match datagram.protocol:
        case packet.TCP:
            header_length = (data[12] >> 4) * 4 if len(data) >= 20 else 0
            if header_length < 20 or header_length > len(data):
                raise DroppedError("tcp_header")
            if datagram.unfinished:
                raise DroppedError("offload")
            if not partial and not checksum.is_right(datagram.pseudo_header(len(data)) + data):
                raise DroppedError("l4_checksum")
            if tracker.kind_of(data[13]) is None:
                raise DroppedError("tcp_flags")
        case packet.UDP:
            length = packet.word(data, 4) if len(data) >= 8 else 0
            if length < 8 or length > len(data):
                raise DroppedError("udp_header")
            if len(datagram.segments()) > DATAGRAMS_MAX:
                raise DroppedError("offload")
            if datagram.unfinished:
                _check_tunnel(datagram, length)
                return
            covered = datagram.pseudo_header(length) + data[:length]
            if not partial and packet.word(data, 6) and not checksum.is_right(covered):
                raise DroppedError("l4_checksum")
        case packet.ICMP:
            if len(data) < 8:
                raise DroppedError("icmp_header")
            if partial or datagram.unfinished or datagram.segment_bytes:
                raise DroppedError("offload")
            if not checksum.is_right(data):
                raise DroppedError("l4_checksum")
        case _:
            raise DroppedError("protocol")


def _check_tunnel(datagram: Datagram, length: int) -> None:
    """A checksum to be completed must lie in what UDP carries."""
    assert datagram.unfinished is not None
    start, offset = datagram.unfinished
    if start < 8 or start + offset + 2 > length or datagram.segment_bytes:
        raise DroppedError("offload")


def is_error(datagram: Datagram) -> bool:
    """Whether it is an ICMP error."""
    return datagram.protocol == packet.ICMP and datagram.payload[0] in icmp_error.ERROR_TYPES


def quote_in(datagram: Datagram, echo_type: int) -> icmp_error.Quote:
    """The packet that an ICMP error quotes."""
    quote = icmp_error.quote_of(datagram.payload, echo_type)
    if isinstance(quote, str):
        raise DroppedError(quote)
    return quote


def ports_inside(datagram: Datagram) -> tuple[int, int]:
    """(remote port, inside port) of a packet from inside."""
    data = datagram.payload
    if datagram.protocol == packet.ICMP:
        if data[0] != packet.ECHO_REQUEST or data[1] != 0:
            raise DroppedError("icmp_type")
        return 0, packet.word(data, 4)
    return packet.word(data, 2), packet.word(data, 0)


def ports_outside(datagram: Datagram) -> tuple[int, int]:
    """(remote port, NAT port) of a packet from outside."""
    data = datagram.payload
    if datagram.protocol == packet.ICMP:
        if data[0] != packet.ECHO_REPLY or data[1] != 0:
            raise DroppedError("icmp_type")
        return 0, packet.word(data, 4)
    return packet.word(data, 0), packet.word(data, 2)
