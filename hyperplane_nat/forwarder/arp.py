# SPDX-License-Identifier: Apache-2.0
"""ARP frames (RFC 826) that the forwarder sends by itself.

They carry the virtio-net header that packet sockets here expect; for ARP it is zero.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

__all__ = ["announcement"]

_VNET_BYTES: Final = 10
_ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
_BROADCAST: Final = b"\xff" * 6
_NOBODY: Final = bytes(6)


def announcement(*, mac: str, address: str) -> bytes:
    """Tell the subnet that ``address`` is here (RFC 5227 section 2.3)."""
    source, sender = bytes.fromhex(mac.replace(":", "")), socket.inet_aton(address)
    body = _ARP.pack(1, 0x0800, 6, 4, 1, source, sender, _NOBODY, sender)
    return bytes(_VNET_BYTES) + _BROADCAST + source + b"\x08\x06" + body
