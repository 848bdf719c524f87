# SPDX-License-Identifier: Apache-2.0
"""The socket pair between the process that speaks HTTP and the one that starts runtimes.

Messages are JSON objects, one a packet (SOCK_SEQPACKET), some with descriptors (SCM_RIGHTS), which
only the one that starts runtimes sends. The other is not trusted: what it sends is looked at field
by field, and descriptors of it are not taken.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

PACKET_BYTES_MAX = 64 << 10
DESCRIPTORS_MAX = 8

TEXT_MAX = 4000
"""Characters of an error's text."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a channel."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, message: Mapping[str, object], files: Sequence[int] = ()) -> None:
    """Send a message; the receiver has copies of the descriptors. Blocks; OSError."""
    data = json.dumps(message).encode()
    if files:
        socket.send_fds(channel, [data], files)
    else:
        channel.send(data)


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """The next message, which has no descriptors; None in the end. ValueError for what is none."""
    data = channel.recv(PACKET_BYTES_MAX)
    if not data:
        return None
    try:
        found = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def receive_files(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message with its descriptors, if there is one by now; None in the end.

    BlockingIOError when there is none yet.
    """
    data, files, _, _ = socket.recv_fds(
        channel, PACKET_BYTES_MAX, DESCRIPTORS_MAX, socket.MSG_DONTWAIT
    )
    if not data:
        return None
    return json.loads(data), files


def close_all(files: Sequence[int]) -> None:
    """Close descriptors."""
    for each in files:
        with contextlib.suppress(OSError):
            os.close(each)
