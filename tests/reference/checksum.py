# SPDX-License-Identifier: Apache-2.0
"""Internet checksums (RFC 1071), computed over the whole data every time.

Zero has two representations in ones' complement, and which one is written matters. A sum over
data that is not all zero bits lies in 1..0xFFFF, so its complement lies in 0..0xFFFE: an IP
header, a TCP segment and a UDP datagram (their pseudo-header holds the protocol number) never
carry 0xFFFF by themselves. UDP then writes 0xFFFF for 0 because 0 means "no checksum" (RFC 768).
An ICMP echo reply with identifier 0, sequence 0 and no other bit set is all zero bits: its
checksum is 0xFFFF, and 0x0000 would be refused by the receiver, whose sum would be 0.
"""

import struct


def ones_sum(data: bytes) -> int:
    """The ones' complement sum of the 16-bit words of `data`, padded with a zero octet."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def checksum(data: bytes) -> int:
    """The Internet checksum of `data`, whose checksum field must be zero (RFC 1071)."""
    return ~ones_sum(data) & 0xFFFF


def is_right(data: bytes) -> bool:
    """Whether `data`, checksum field included, sums to all ones (RFC 1071 section 1)."""
    return ones_sum(data) == 0xFFFF


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """The IPv4 pseudo-header of TCP and UDP (RFC 9293 section 3.1, RFC 768)."""
    return source + destination + struct.pack("!BBH", 0, protocol, length)


def with_zero(data: bytes, offset: int) -> bytes:
    """`data` with the 16-bit field at `offset` set to zero."""
    return data[:offset] + b"\0\0" + data[offset + 2 :]


def _exchanged_sum(total: int, old: bytes, new: bytes) -> int:
    """A sum from which the words of `old` are taken and to which those of `new` are added.

    Plain arithmetic modulo 0xFFFF; zero is written 0xFFFF unless every part is zero bits.
    """
    result = (total - ones_sum(old) + ones_sum(new)) % 0xFFFF
    if result == 0 and (total or ones_sum(new)):
        return 0xFFFF
    return result


def exchanged(field: int, old: bytes, new: bytes) -> int:
    """The checksum `field` after `old` became `new` in data that cannot be seen whole.

    Only for what an ICMP error quotes: its checksum is not verified and its end is missing
    (RFC 5508 REQ-3).
    """
    return ~_exchanged_sum(~field & 0xFFFF, old, new) & 0xFFFF


def exchanged_partial(field: int, old: bytes, new: bytes) -> int:
    """A partial checksum (uncomplemented pseudo-header sum) after an address changed."""
    return _exchanged_sum(field, old, new)
