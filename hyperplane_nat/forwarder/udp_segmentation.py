# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel cuts up UDP frames of a packet socket (Linux 6.2: VIRTIO_NET_HDR_GSO_UDP_L4).

Tried instead of looked up: a frame of two datagrams goes to the loopback of a network namespace
that is made for it, in a thread that ends with it.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from typing import Final

from hyperplane_nat.io.packet_socket import open_sender
from netns import namespace, syscalls

__all__ = ["available"]

_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 1
_LOOPBACK: Final = "lo"
_ETH_P_IP: Final = 0x0800
_PAYLOAD: Final = 16
_SEGMENT: Final = 8

# virtio-net header (partial checksum, GSO_UDP_L4), Ethernet to nobody, IPv4, UDP.
_FRAME: Final = (
    struct.pack("=BBHHHH", 1, 5, 42, _SEGMENT, 34, 6)
    + struct.pack("!6s6sH", b"\x02\0\0\0\0\x01", bytes(6), _ETH_P_IP)
    + struct.pack("!BBHHHBBH", 0x45, 0, 28 + _PAYLOAD, 0, 0x4000, 64, socket.IPPROTO_UDP, 0)
    + socket.inet_aton("127.0.0.1") * 2
    + struct.pack("!HHHH", 9, 9, 8 + _PAYLOAD, 0)
    + bytes(_PAYLOAD)
)


def available() -> bool:
    """Whether such frames can be sent. OSError and PacketSocketError where nothing can be tried."""
    return namespace.run_in_thread(_try)


def _try() -> bool:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        # struct ifreq with its flags.
        request = struct.pack("16sh14x", _LOOPBACK.encode(), _IFF_UP)
        fcntl.ioctl(control, _SIOCSIFFLAGS, request)
    with open_sender() as sender:
        try:
            sender.sendto(_FRAME, (_LOOPBACK, _ETH_P_IP))
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
    return True
