# SPDX-License-Identifier: Apache-2.0
"""ICMP errors: reading what they quote, rewriting it, and building time exceeded.

RFC 5508 REQ-3 to REQ-5: the checksum of the message and that of the quoted IP header are
verified, that of the quoted transport is not; both the outer and the quoted addresses are
translated, and the quoted port or identifier with them. A quoted header with options, which
routers change, is believed whatever its checksum is, and keeps the error there is in it.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address

from tests.reference import checksum, packet
from tests.reference.packet import Datagram

ERROR_TYPES = frozenset({3, 11, 12})
"""The errors that are translated: unreachable, time exceeded, parameter problem."""

NEVER_ANSWERED = frozenset({3, 4, 5, 11, 12})
"""Errors that must not cause another error (RFC 1122 section 3.2.2)."""

_CHECKSUM_AT = {packet.ICMP: 2, packet.TCP: 16, packet.UDP: 6}


@dataclass(frozen=True)
class Quote:
    """The packet an error speaks of, as far as it is quoted."""

    inner: Datagram

    @property
    def protocol(self) -> int:
        return self.inner.protocol

    def port(self, *, of_source: bool) -> int:
        """The quoted source or destination port; of ICMP the identifier for either."""
        if self.protocol == packet.ICMP:
            return packet.word(self.inner.payload, 4)
        return packet.word(self.inner.payload, 0 if of_source else 2)

    def rewritten(self, *, address: IPv4Address, port: int, source: bool) -> bytes:
        """The quoted octets with the source (or destination) address and port exchanged."""
        transport = self.inner.payload
        icmp = self.protocol == packet.ICMP
        at = 4 if icmp else (0 if source else 2)
        address_at = 12 if source else 16
        old_address = self.inner.header[address_at : address_at + 4]
        old_port = transport[at : at + 2]
        new_port = port.to_bytes(2)
        old = old_port if icmp else old_address + old_port
        new = new_port if icmp else address.packed + new_port
        transport = transport[:at] + new_port + transport[at + 2 :]
        field_at = _CHECKSUM_AT[self.protocol]
        if len(transport) >= field_at + 2:
            value = packet.word(transport, field_at)
            if not (self.protocol == packet.UDP and value == 0):
                value = checksum.exchanged(value, old, new)
                if self.protocol == packet.UDP and value == 0:
                    value = 0xFFFF
                transport = packet.with_word(transport, field_at, value)
        header = self.inner.header
        seal = checksum.exchanged(packet.word(header, 10), old_address, address.packed)
        header = header[:address_at] + address.packed + header[address_at + 4 :]
        return packet.with_word(header, 10, seal) + transport


def quote_of(message: bytes, echo_type: int) -> Quote | str:
    """What the ICMP error `message` quotes, or the reason it cannot be used.

    An error can speak only of what went the other way: `echo_type` is the ICMP message that is
    translated in that direction.
    """
    if len(message) < 8 + 20:
        return "icmp_header"
    quoted = message[8:]
    header_length = (quoted[0] & 0x0F) * 4
    if quoted[0] >> 4 != 4 or header_length < 20:
        return "icmp_error_malformed"
    if len(quoted) < header_length + 8:
        return "icmp_error_malformed"
    if header_length == 20 and not checksum.is_right(quoted[:20]):
        return "icmp_error_malformed"
    if message[:2] == b"\x03\x04" and packet.word(message, 6) in range(1, 68):
        return "icmp_error_malformed"
    inner = Datagram(quoted[:header_length], quoted[header_length:])
    if inner.fragment & 0x1FFF:
        return "icmp_error_malformed"
    if inner.protocol not in (packet.ICMP, packet.TCP, packet.UDP):
        return "icmp_error_malformed"
    if inner.protocol == packet.ICMP and inner.payload[0] != echo_type:
        return "icmp_error_malformed"
    return Quote(inner)


def resealed(message: bytes) -> bytes:
    """An ICMP message with its checksum computed anew."""
    return packet.with_word(message, 2, checksum.checksum(checksum.with_zero(message, 2)))


def about(
    offending: Datagram, gateway: IPv4Address, slot: IPv4Address, kind: int, code: int
) -> bytes:
    """The IPv4 packet that tells an environment what became of its own (RFC 792)."""
    message = packet.icmp(kind, code, bytes(4), offending.header + offending.payload[:8])
    return packet.ipv4(str(gateway), str(slot), packet.ICMP, message, ttl=64, tos=0xC0)
