# SPDX-License-Identifier: Apache-2.0
"""ARP frames (RFC 826) as the neighbour module sends and reads them.

Frames carry the virtio-net header that packet sockets here expect; for ARP it is zero.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, NamedTuple

__all__ = ["ArpReply", "announcement", "parse_reply", "request"]

VNET_BYTES: Final = 10
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_BROADCAST: Final = b"\xff" * 6
_NOBODY: Final = bytes(6)


class ArpReply(NamedTuple):
    """Who answered, and with which MAC address."""

    address: str
    mac: bytes


def _frame(destination: bytes, source: bytes, sender: str, target_mac: bytes, target: str) -> bytes:
    body = _ARP.pack(
        1,
        0x0800,
        6,
        4,
        1,
        source,
        socket.inet_aton(sender),
        target_mac,
        socket.inet_aton(target),
    )
    return bytes(VNET_BYTES) + destination + source + b"\x08\x06" + body


def request(*, mac: bytes, address: str, target: str, target_mac: bytes | None = None) -> bytes:
    """Ask who has ``target``: everybody, or only ``target_mac`` to see if it still answers."""
    return _frame(target_mac or _BROADCAST, mac, address, target_mac or _NOBODY, target)


def announcement(*, mac: bytes, address: str) -> bytes:
    """Tell the subnet that ``address`` is here (RFC 5227 section 2.3)."""
    return _frame(_BROADCAST, mac, address, _NOBODY, address)


def parse_reply(frame: bytes) -> ArpReply:
    """Sender of an ARP reply that the engine has checked; ``frame`` with virtio-net header."""
    fields = _ARP.unpack_from(frame, VNET_BYTES + 14)
    return ArpReply(socket.inet_ntoa(fields[6]), fields[5])
