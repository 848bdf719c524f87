# SPDX-License-Identifier: Apache-2.0
"""Whether a socket of a namespace takes what comes to an address and port, by the kernel's account.

/proc/net is that of the namespace of the thread that reads it. A socket of IPv6 at the unspecified
address is taken for one that has IPv4 as well, which Linux makes it unless `IPV6_V6ONLY` is set:
the kernel does not tell that there.

Source: proc_net_tcp(5), <net/tcp_states.h>.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Literal

from netns import namespace
from netns.errors import NetnsError

_TABLES = Path("/proc/thread-self/net")
_STATES = {"tcp": "0A", "udp": "07"}
"""LISTEN, and CLOSE: a datagram socket that is connected hears its peer alone."""

_ANY = ("0.0.0.0", "::")
_MAPPED = "::ffff:"


def listening(where: str, protocol: Literal["tcp", "udp"], address: str, port: int) -> bool:
    """Whether somebody in namespace `where` listens there; `NetnsError` when it is not there."""
    try:
        return namespace.call(where, _listening, protocol, address, port)
    except OSError as error:
        raise NetnsError(
            f"cannot read the sockets of namespace {where}: {error.strerror}", "is /proc mounted?"
        ) from None


def _listening(protocol: str, address: str, port: int) -> bool:
    wanted = {address, *_ANY, f"{_MAPPED}{address}"}
    for table in (protocol, f"{protocol}6"):
        try:
            lines = (_TABLES / table).open(encoding="ascii")
        except FileNotFoundError:
            # A kernel without IPv6.
            continue
        with lines:
            next(lines)
            for line in lines:
                _, local, _, state, *_ = line.split()
                place, _, number = local.partition(":")
                if (
                    state == _STATES[protocol]
                    and int(number, 16) == port
                    and _text(place) in wanted
                ):
                    return True
    return False


def _text(place: str) -> str:
    """An address as the kernel prints it there: words in its own byte order."""
    words = [int(place[start : start + 8], 16) for start in range(0, len(place), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, struct.pack(f"={len(words)}I", *words))
