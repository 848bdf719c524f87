# SPDX-License-Identifier: Apache-2.0
"""What a program writes and how it ended, in one stream of bytes.

A frame is a byte that says what it has, the number of its bytes in network order, and these: output
of the program under its descriptor's number, and in the last frame, `END`, a JSON object. A stream
without that one was broken off.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

END, STDOUT, STDERR = 0, 1, 2

_HEADER = struct.Struct("!BI")


def frame(kind: int, data: bytes) -> bytes:
    """One frame."""
    return _HEADER.pack(kind, len(data)) + data


def frames(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The frames of a stream that comes in pieces, each as soon as it is there."""
    held = bytearray()
    for piece in pieces:
        held += piece
        while len(held) >= _HEADER.size:
            kind, length = _HEADER.unpack_from(held)
            end = _HEADER.size + length
            if len(held) < end:
                break
            yield kind, bytes(held[_HEADER.size : end])
            del held[:end]
