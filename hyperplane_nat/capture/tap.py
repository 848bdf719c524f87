# SPDX-License-Identifier: Apache-2.0
"""Tapping a link of the gateway: every frame once, as it was sent or received, with its time.

Theory of operation
-------------------
A packet socket bound to the link gets each frame that arrives before the ingress hook drops the
forwarder's original, and each frame that the forwarder sends; `sll_pkttype` tells which it was.
With a virtio-net header in front (PACKET_VNET_HDR) a super-frame of TCP stays whole, one of UDP is
cut into its datagrams, and a checksum that the sender left to its hardware is known to be
unfinished: it is finished here, so that a file holds what would be on a wire. Times are the
kernel's (SO_TIMESTAMPNS), of the real clock. The filter runs in the kernel. What does not fit into
the socket's buffer is lost for the capture, never for the receiver, and counted.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
from ctypes import addressof, create_string_buffer
from dataclasses import dataclass
from typing import Final

from hyperplane_nat.capture.errors import CaptureError
from hyperplane_nat.capture.partial_checksum import finish
from hyperplane_nat.capture.udp_segments import cut
from hyperplane_nat.io.packet_socket import (
    ETH_P_ALL,
    PACKET_VNET_HDR,
    SO_ATTACH_FILTER,
    SO_RCVBUFFORCE,
    SOL_PACKET,
    statistics,
)
from netns import namespace

BUFFER_BYTES = 4 << 20
"""
Of a link. A buffer larger than the processor's caches costs the forwarder: the memory of a frame
that waits here cannot be used for the next one while it is warm.
"""

_SO_TIMESTAMPNS: Final = 35
_PACKET_OUTGOING: Final = 4
_VNET: Final = struct.Struct("=BBHHHH")
_VNET_NEEDS_CSUM: Final = 1
_VNET_GSO_UDP_L4: Final = 5
_FRAME_BYTES_MAX: Final = _VNET.size + 14 + 65_535 + 8
_TIMESPEC: Final = struct.Struct("qq")
_GONE = (errno.ENETDOWN, errno.ENODEV, errno.ENXIO)


class LinkGoneError(Exception):
    """The link was removed."""


@dataclass(frozen=True, slots=True)
class Tapped:
    """A frame on a link."""

    time_ns: int
    """Since the epoch."""
    outgoing: bool
    """Whether the gateway sent it."""
    data: bytes


class Tap:
    """What passes on one link from now on; close it when done."""

    def __init__(self, where: str, link: str, program: bytes | None = None) -> None:
        """
        `program` is classic BPF; frames it refuses are not seen.

        Errors: CaptureError.
        """
        self.link = link
        self.received = 0
        """Frames that the filter let pass, those lost included."""
        self.dropped = 0
        """Frames lost because they did not fit into the buffer."""
        self._buffer = bytearray(_FRAME_BYTES_MAX)
        self._view = memoryview(self._buffer)
        try:
            self._socket = namespace.call(where, _open, link, program)
        except PermissionError:
            raise CaptureError("a capture needs root (run it with sudo)") from None
        except OSError as error:
            raise CaptureError(
                f"cannot capture on {link}: {error.strerror} (is the lab up? hyperplane-nat status)"
            ) from None

    def fileno(self) -> int:
        """To wait on."""
        return self._socket.fileno()

    def read(self, limit: int) -> list[Tapped]:
        """
        About `limit` frames that wait, more where the last ones were sent as one.

        Errors: LinkGoneError when there will be no more.
        """
        frames: list[Tapped] = []
        while len(frames) < limit:
            try:
                size, ancillary, _flags, address = self._socket.recvmsg_into([self._view], 64)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EINVAL:
                    # The kernel has no virtio-net header for this kind of super-frame.
                    self.dropped += 1
                    continue
                if error.errno in _GONE:
                    raise LinkGoneError(self.link) from None
                raise
            outgoing = address[2] == _PACKET_OUTGOING
            moment = _time_ns(ancillary)
            frames += (Tapped(moment, outgoing, each) for each in finished(self._view[:size]))
        return frames

    def count(self) -> None:
        """Bring `received` and `dropped` up to date."""
        seen, lost = statistics(self._socket)
        self.received += seen
        self.dropped += lost

    def close(self) -> None:
        """Stop."""
        self._socket.close()


def _open(link: str, program: bytes | None) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    # Without a protocol it receives nothing until it is bound with one.
    result = socket.socket(socket.AF_PACKET, kind, 0)
    try:
        result.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        result.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        result.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        if program is not None:
            code = create_string_buffer(program, len(program))
            described = struct.pack("HP", len(program) // 8, addressof(code))
            result.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, described)
        result.bind((link, ETH_P_ALL))
    except BaseException:
        result.close()
        raise
    return result


def _time_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0


def finished(data: memoryview) -> list[bytes]:
    """The frames behind a virtio-net header, their checksums complete; `data` is changed, too."""
    flags, kind, _header, size, start, offset = _VNET.unpack_from(data)
    frame = data[_VNET.size :]
    if flags & _VNET_NEEDS_CSUM:
        if kind == _VNET_GSO_UDP_L4:
            return cut(frame, size)
        finish(frame, start, start + offset)
    return [bytes(frame)]


def wait(taps: list[Tap], seconds: float) -> None:
    """Return when a tap has frames, or after so many seconds."""
    poller = select.poll()
    for tap in taps:
        poller.register(tap.fileno(), select.POLLIN)
    poller.poll(seconds * 1000)
