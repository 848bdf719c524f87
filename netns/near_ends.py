# SPDX-License-Identifier: Apache-2.0
"""Who else is at the links of a namespace: who sees what passes there, and where it waits.

Packet sockets (tcpdump's, a capture's) see what leaves by a link, and a queueing discipline
(netem, say) has it wait. Both are passed by where a frame is handed to the other end of a veth
without leaving by this one.
"""

from __future__ import annotations

import io
import struct
from types import TracebackType
from typing import Self

from netns import namespace
from netns.formats import NLM_F_DUMP, RTM_GETQDISC, tcmsg
from netns.netlink import RouteSocket, attributes, encode

ANY = 0
"""In the place of a link's index: all of them."""

_TC_H_ROOT = 0xFFFFFFFF
_WITHOUT_A_QUEUE = b"noqueue"
# linux/rtnetlink.h: struct tcmsg, tcm_ifindex and tcm_parent.
_TCMSG, _TCA_KIND = struct.Struct("=4xi4xI4x"), 1
# net/packet/af_packet.c, packet_seq_show: sk, RefCnt, Type, Proto, Iface, R(unning).
_INTERFACE, _RUNNING = 4, 5


class Taps:
    """The packet sockets of a namespace; a context that closes it."""

    def __init__(self, where: str) -> None:
        """Raises `NetnsError`: there is no such namespace."""
        self._file = namespace.call(where, io.FileIO, "/proc/thread-self/net/packet")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the namespace."""
        self._file.close()

    def read(self) -> frozenset[int]:
        """The indexes of the links on which one receives; with `ANY` if one does on all."""
        self._file.seek(0)
        rows = [line.split() for line in self._file.readall().splitlines()[1:]]
        return frozenset(int(row[_INTERFACE]) for row in rows if int(row[_RUNNING]))


def queued(route: RouteSocket) -> frozenset[int]:
    """The indexes of the links at which what leaves waits in a queue; `NetnsError`."""
    request = encode(tcmsg(), RTM_GETQDISC, NLM_F_DUMP)
    found = route.dump(request, _queue, "cannot list queueing disciplines")
    return frozenset(index for index in found if index is not None)


def _queue(payload: bytes) -> int | None:
    index, parent = _TCMSG.unpack_from(payload)
    kind = dict(attributes(payload, _TCMSG.size)).get(_TCA_KIND, b"").rstrip(b"\0")
    return int(index) if parent == _TC_H_ROOT and kind != _WITHOUT_A_QUEUE else None
