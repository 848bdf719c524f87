# SPDX-License-Identifier: Apache-2.0
"""Opening packet sockets, and the numbers of <linux/if_packet.h> that Python lacks.

A receiving socket is bound to no interface and so sees every link of its network namespace;
`sll_ifindex` tells them apart, and on a punt link, the only one of its namespace, the VLAN tag does
(`io.ring`). Its protocol is ETH_P_ALL: a socket for one ethertype sits
behind the ingress hook, which drops everything here. Such a socket receives from its creation,
before it has a ring: a filter that drops all is attached first, what was queued until then is
read away, and the filter is removed when the ring stands.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import socket
import struct
from dataclasses import dataclass
from typing import Final

__all__ = [
    "PacketSocketError",
    "ReceiveRing",
    "map_ring",
    "open_receiver",
    "open_sender",
    "statistics",
]

SOL_PACKET: Final = 263
PACKET_RX_RING: Final = 5
PACKET_STATISTICS: Final = 6
PACKET_COPY_THRESH: Final = 7
PACKET_VERSION: Final = 10
PACKET_VNET_HDR: Final = 15
PACKET_IGNORE_OUTGOING: Final = 23
TPACKET_V2: Final = 1
ETH_P_ALL: Final = 0x0003
SO_ATTACH_FILTER: Final = 26
SO_DETACH_FILTER: Final = 27
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33

_BLOCK_BYTES: Final = 1 << 20
_OVERSIZE_QUEUE_BYTES: Final = 64 << 20
_SEND_BUFFER_BYTES: Final = 16 << 20


class PacketSocketError(Exception):
    """A packet socket cannot be had; the text says why and what to do."""


@dataclass(slots=True)
class ReceiveRing:
    """A TPACKET_V2 ring of ``slots`` slots of ``slot_bytes`` bytes, mapped at ``memory``."""

    socket: socket.socket
    memory: mmap.mmap
    slots: int
    slot_bytes: int

    def close(self) -> None:
        """Unmap the ring and close its socket."""
        self.memory.close()
        self.socket.close()


def _open(protocol: int) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        return socket.socket(socket.AF_PACKET, kind, socket.htons(protocol))
    except PermissionError as error:
        raise PacketSocketError("packet sockets need CAP_NET_RAW: run as root") from error
    except OSError as error:
        raise PacketSocketError(
            f"no packet sockets ({error.strerror}): the kernel needs CONFIG_PACKET"
        ) from error


def _drop_all(receiver: socket.socket) -> None:
    """Attach the one-instruction classic BPF program ``ret 0``."""
    code = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(code))
    receiver.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def _drain(receiver: socket.socket) -> None:
    while True:
        try:
            receiver.recv(1)
        except BlockingIOError:
            return


def open_receiver(*, slots: int, slot_bytes: int) -> socket.socket:
    """A socket with a ring that receives every frame of the present network namespace.

    Frames carry a virtio-net header, so that segments of 64 KiB pass whole; one larger than its
    slot waits whole in the socket's queue (TP_STATUS_COPY).  Raises PacketSocketError.
    """
    receiver = _open(ETH_P_ALL)
    try:
        _drop_all(receiver)
        _drain(receiver)
        receiver.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
        receiver.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        receiver.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _OVERSIZE_QUEUE_BYTES)
        receiver.setsockopt(SOL_PACKET, PACKET_COPY_THRESH, 1)
        size = slots * slot_bytes
        block = min(_BLOCK_BYTES, size)
        receiver.setsockopt(
            SOL_PACKET,
            PACKET_RX_RING,
            struct.pack("IIII", block, size // block, slot_bytes, slots),
        )
        receiver.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    except OSError as error:
        receiver.close()
        if error.errno == errno.ENOMEM:
            raise PacketSocketError(
                f"no memory for a ring of {slots} slots of {slot_bytes} bytes: "
                "lower forwarder.ring_slots"
            ) from error
        raise PacketSocketError(
            f"cannot set up the receive ring: {error.strerror} "
            "(Linux 4.20 or later with PACKET_MMAP is needed)"
        ) from error
    return receiver


def map_ring(receiver: socket.socket, *, slots: int, slot_bytes: int) -> ReceiveRing:
    """The ring of a socket of :func:`open_receiver`, mapped; raises PacketSocketError."""
    try:
        memory = mmap.mmap(receiver.fileno(), slots * slot_bytes, mmap.MAP_SHARED)
    except OSError as error:
        raise PacketSocketError(f"cannot map the receive ring: {error.strerror}") from error
    return ReceiveRing(receiver, memory, slots, slot_bytes)


def open_sender() -> socket.socket:
    """A socket for frames with a virtio-net header in front; it receives nothing."""
    sender = _open(0)
    try:
        sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sender.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, _SEND_BUFFER_BYTES)
    except OSError as error:
        sender.close()
        raise PacketSocketError(f"cannot set up the sending socket: {error.strerror}") from error
    return sender


def statistics(receiver: socket.socket) -> tuple[int, int]:
    """Frames seen and frames lost for want of a slot since the last call."""
    packets, drops = struct.unpack("II", receiver.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return packets, drops
