# SPDX-License-Identifier: Apache-2.0
"""Frames as they are on a link: sent past the sender's IP stack, and captured as they arrive."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from netns import namespace

SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_IGNORE_OUTGOING = 23
ETH_P_ALL = 3
SO_RCVBUFFORCE = 33
UDP_SEGMENT = 103

VNET_NEEDS_CSUM = 1

REFUSALS = (errno.EINVAL, errno.EMSGSIZE, errno.ENOMEM, errno.ENOBUFS)
CAPTURE_BUFFER_BYTES = 16 << 20


def mac_of(where: str, link: str) -> str:
    """The hardware address of a link in namespace `where`."""
    with _packet_socket(where, link, 0) as probe:
        name: tuple[Any, ...] = probe.getsockname()
    return bytes(name[4]).hex(":")


def _packet_socket(where: str, link: str, protocol: int) -> socket.socket:
    result = namespace.call(where, socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        result.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        result.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, CAPTURE_BUFFER_BYTES)
        result.bind((link, protocol))
    except BaseException:
        result.close()
        raise
    return result


def inject(where: str, link: str, frames: Iterable[bytes]) -> None:
    """Send whole frames, Ethernet header included, on a link, as they are."""
    with _packet_socket(where, link, 0) as sender:
        for frame in frames:
            sender.send(frame)


def inject_offloaded(where: str, link: str, frames: Iterable[tuple[bytes, bytes]]) -> int:
    """
    Send frames with these virtio-net headers: requests for checksums and segmentation.

    The sender's kernel refuses what it cannot make sense of; how many it has taken.
    """
    taken = 0
    with _packet_socket(where, link, 0) as sender:
        sender.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        for header, frame in frames:
            try:
                sender.send(header + frame)
            except OSError as error:
                if error.errno not in REFUSALS:
                    raise
            else:
                taken += 1
    return taken


def offload(
    *,
    flags: int = VNET_NEEDS_CSUM,
    gso_type: int = 0,
    header_length: int = 0,
    gso_size: int = 0,
    checksum_start: int = 0,
    checksum_offset: int = 0,
) -> bytes:
    """A virtio-net header (VIRTIO 1.2, 5.1.6); the checksum's offset counts from its start."""
    return struct.pack(
        "=BBHHHH", flags, gso_type, header_length, gso_size, checksum_start, checksum_offset
    )


class Capture:
    """What arrives on a link, seen before the receiver's IP stack; what it sends is left out."""

    def __init__(self, where: str, link: str) -> None:
        self.where = where
        self._socket = _packet_socket(where, link, ETH_P_ALL)
        self._socket.setblocking(False)

    def take(self) -> list[bytes]:
        """The frames that have arrived since the last call."""
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(self._socket.recv(1 << 17))
        return frames

    def close(self) -> None:
        """Stop capturing."""
        self._socket.close()


@contextlib.contextmanager
def capturing(*links: tuple[str, str]) -> Iterator[list[Capture]]:
    """A capture on each (namespace, link)."""
    with contextlib.ExitStack() as stack:
        captures = []
        for where, link in links:
            capture = Capture(where, link)
            stack.callback(capture.close)
            captures.append(capture)
        yield captures


def ethertype(frame: bytes) -> int:
    """The Ethernet type of a frame, 0 if it has none."""
    return int.from_bytes(frame[12:14], "big")
