# SPDX-License-Identifier: Apache-2.0
"""UDP frames that stand for several datagrams, as the datagrams they are.

Theory of operation
-------------------
The forwarder lets datagrams of one flow leave as one frame, and a program may send them so
(UDP_SEGMENT). Unlike the bytes of a TCP stream they have borders, so a file holds them one by one,
cut as Linux cuts them (net/ipv4/udp_offload.c): all but the last as long as the header says, the
identification counted up, lengths and checksums each their own. What does not look like such a
frame is left whole.
"""

from __future__ import annotations

import struct
from typing import Final

from hyperplane_nat.capture.partial_checksum import finish

__all__ = ["cut"]

_ETHERNET_BYTES: Final = 14
_UDP_BYTES: Final = 8
_NO_OPTIONS: Final = 0x45
_IPV4: Final = b"\x08\x00"
_UDP: Final = 17
_IP_START: Final = _ETHERNET_BYTES
_UDP_START: Final = _IP_START + 20
_PAYLOAD_START: Final = _UDP_START + _UDP_BYTES


def cut(frame: memoryview, payload_bytes: int) -> list[bytes]:
    """The datagrams of an Ethernet frame whose UDP checksum is partial, each complete."""
    if (
        payload_bytes <= 0
        or len(frame) <= _PAYLOAD_START
        or bytes(frame[12:14]) != _IPV4
        or frame[_IP_START] != _NO_OPTIONS
        or frame[_IP_START + 9] != _UDP
    ):
        return [bytes(frame)]
    identification, flags = struct.unpack_from("!HH", frame, _IP_START + 4)
    length, partial = struct.unpack_from("!HH", frame, _UDP_START + 4)
    payload = frame[_PAYLOAD_START:]
    result = []
    for number, start in enumerate(range(0, len(payload), payload_bytes)):
        datagram = bytearray(frame[:_PAYLOAD_START])
        datagram += payload[start : start + payload_bytes]
        own = len(datagram) - _UDP_START
        struct.pack_into(
            "!HHH", datagram, _IP_START + 2, own + 20, (identification + number) & 0xFFFF, flags
        )
        struct.pack_into("!H", datagram, _IP_START + 10, 0)
        finish(memoryview(datagram)[:_UDP_START], _IP_START, _IP_START + 10)
        # The sum of the pseudo-header, with this length in place of the other (RFC 1624).
        total = partial + (length ^ 0xFFFF) + own
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        struct.pack_into("!HH", datagram, _UDP_START + 4, own, total)
        finish(memoryview(datagram), _UDP_START, _UDP_START + 6)
        result.append(bytes(datagram))
    return result
