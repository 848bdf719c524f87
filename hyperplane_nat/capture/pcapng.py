# SPDX-License-Identifier: Apache-2.0
"""Writing pcapng, the capture file format of Wireshark (draft-ietf-opsawg-pcapng).

Theory of operation
-------------------
A file is a sequence of blocks, each with its type, its length in front and behind, and options of
(code, length, value), everything padded to 32 bits. One section header comes first, then a
description of every interface, then an enhanced packet for each frame, with a comment; at the end,
statistics tell for every interface what was seen and what was lost. Numbers are in the byte order
of the host, which the section header tells. Times are nanoseconds since the epoch. Blocks are
complete when they are written, so what a killed capture leaves can be read up to its last whole
block.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, Protocol

SECTION_HEADER: Final = 0x0A0D0D0A
INTERFACE_DESCRIPTION: Final = 1
ENHANCED_PACKET: Final = 6
INTERFACE_STATISTICS: Final = 5

_BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
_LENGTH_UNKNOWN: Final = 0xFFFFFFFFFFFFFFFF
_LINKTYPE_ETHERNET: Final = 1
_OPTION_BYTES_MAX: Final = 0xFFFF

_COMMENT: Final = 1
_USER_APPLICATION: Final = 4
_NAME: Final = 2
_DESCRIPTION: Final = 3
_TIME_RESOLUTION: Final = 9
_FILTER: Final = 11
_FLAGS: Final = 2
_START_TIME: Final = 2
_END_TIME: Final = 3
_RECEIVED: Final = 4
_DROPPED: Final = 5

_NANOSECONDS: Final = b"\x09"
_FILTER_IS_TEXT: Final = b"\x00"
_INBOUND: Final = 1
_OUTBOUND: Final = 2

Option = tuple[int, bytes]


class Output(Protocol):
    """Where a file goes."""

    def write(self, data: bytes, /) -> int:
        """Take all of `data`."""


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(options: Sequence[Option]) -> bytes:
    if not options:
        return b""
    pieces = [struct.pack("=HH", code, len(value)) + _padded(value) for code, value in options]
    return b"".join(pieces) + bytes(4)


def _block(kind: int, body: bytes) -> bytes:
    length = struct.pack("=I", 12 + len(body))
    return struct.pack("=I", kind) + length + body + length


def _text(value: str) -> bytes:
    return value.encode("utf-8", "replace")[:_OPTION_BYTES_MAX]


def _time(nanoseconds: int) -> bytes:
    return struct.pack("=II", nanoseconds >> 32, nanoseconds & 0xFFFFFFFF)


class Writer:
    """A pcapng file being written; `output` takes whole blocks."""

    def __init__(self, output: Output, application: str) -> None:
        self._output = output
        self._interfaces = 0
        self.bytes = 0
        """Written so far."""
        header = struct.pack("=IHHQ", _BYTE_ORDER_MAGIC, 1, 0, _LENGTH_UNKNOWN)
        self._write(SECTION_HEADER, header + _options([(_USER_APPLICATION, _text(application))]))

    def interface(self, name: str, description: str, filter_text: str | None = None) -> int:
        """Describe an interface, of Ethernet frames of any length; its number."""
        options = [
            (_NAME, _text(name)),
            (_DESCRIPTION, _text(description)),
            (_TIME_RESOLUTION, _NANOSECONDS),
        ]
        if filter_text is not None:
            options.append((_FILTER, _FILTER_IS_TEXT + _text(filter_text)))
        body = struct.pack("=HHI", _LINKTYPE_ETHERNET, 0, 0) + _options(options)
        self._write(INTERFACE_DESCRIPTION, body)
        self._interfaces += 1
        return self._interfaces - 1

    def packet(
        self, interface: int, time_ns: int, frame: bytes, *, outbound: bool, comment: str
    ) -> None:
        """A whole frame; an empty comment is none."""
        size = len(frame)
        options = [(_COMMENT, _text(comment))] if comment else []
        options.append((_FLAGS, struct.pack("=I", _OUTBOUND if outbound else _INBOUND)))
        head = struct.pack("=I", interface) + _time(time_ns) + struct.pack("=II", size, size)
        self._write(ENHANCED_PACKET, head + _padded(frame) + _options(options))

    def statistics(
        self, interface: int, start_ns: int, end_ns: int, *, received: int, dropped: int
    ) -> None:
        """What an interface saw from start to end, and how much of it was lost."""
        options = [
            (_START_TIME, _time(start_ns)),
            (_END_TIME, _time(end_ns)),
            (_RECEIVED, struct.pack("=Q", received)),
            (_DROPPED, struct.pack("=Q", dropped)),
        ]
        body = struct.pack("=I", interface) + _time(end_ns) + _options(options)
        self._write(INTERFACE_STATISTICS, body)

    def _write(self, kind: int, body: bytes) -> None:
        block = _block(kind, body)
        self._output.write(block)
        self.bytes += len(block)
