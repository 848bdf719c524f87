# SPDX-License-Identifier: Apache-2.0
"""A route netlink socket that sends messages in bulk.

pyroute2 knows the formats: its message classes build every request here. Requests that differ in a
few values are copies of one, and of an answer only the attributes are read that are wanted, because
there are thousands of both.
Its own sockets are not used, because `IPRoute(netns=...)` forks a child per namespace and waits
for each answer before the next request. This socket belongs to the namespace of the thread that
makes it, sends many requests per system call, and gathers the acknowledgements afterwards.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from netns.errors import from_errno
from netns.formats import (
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
)

_NETLINK_ROUTE = 0
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_NLM_F_ACK_TLVS = 0x200
_NLMSGERR_ATTR_MSG = 1
_NLA_TYPE_MASK = 0x3FFF

T = TypeVar("T")

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
# Each acknowledgement takes about 1 KiB of the receive buffer (208 KiB by default) before it
# is read, each request about 150 bytes of the send buffer.
_WINDOW = 64
# A dump comes in pieces of 32 KiB at most (af_netlink.c). malloc would map and unmap a buffer of
# 128 KiB or more for each of them.
_RECEIVE_BYTES = 1 << 16


def encode(message: Any, kind: int, flags: int = NLM_F_ACK) -> bytes:
    """The bytes of a pyroute2 message as a request of type `kind`; reusable any number of times."""
    message["header"] = {
        "length": 0,
        "type": kind,
        "flags": NLM_F_REQUEST | flags,
        "sequence_number": 0,
        "pid": 0,
    }
    message.encode()
    return bytes(message.data)


class RouteSocket:
    """NETLINK_ROUTE in the namespace of the thread that creates it; one thread at a time."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE
            )
        except OSError as error:
            raise from_errno("cannot open a netlink socket", error.errno or 0) from None
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """The descriptor, for requests about the namespace's links that netlink does not have."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; twice is fine."""
        self._socket.close()

    def request(
        self, messages: Sequence[bytes], what: str, *, ignore: frozenset[int] = frozenset()
    ) -> None:
        """Send encoded requests and wait for all acknowledgements.

        All are carried out in order even when one fails; the first failure whose errno is not
        in `ignore` is then raised as a `NetnsError` that starts with `what`.
        """
        failure: tuple[int, str] | None = None
        for start in range(0, len(messages), _WINDOW):
            window = messages[start : start + _WINDOW]
            pending = self._send(window)
            while pending:
                for number, kind, flags, payload in self._receive():
                    if kind != NLMSG_ERROR or number not in pending:
                        continue
                    pending.discard(number)
                    code = -struct.unpack_from("=i", payload)[0]
                    if code and code not in ignore and failure is None:
                        failure = code, _extended_error(flags, payload)
        if failure is not None:
            raise from_errno(what, *failure)

    def get(self, message: bytes, parser: Callable[[bytes], T], what: str) -> T | None:
        """Send one request that is answered by one message; None when there is no such object.

        `parser` gets what follows the answer's netlink header.
        """
        pending = self._send([message])
        while True:
            for number, kind, flags, payload in self._receive():
                if number not in pending:
                    continue
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    if code in (errno.ENODEV, errno.ENOENT):
                        return None
                    raise from_errno(what, code, _extended_error(flags, payload))
                return parser(payload)

    def dump(self, message: bytes, parser: Callable[[bytes], T], what: str) -> list[T]:
        """Send one request (with NLM_F_DUMP) that is answered by any number of messages.

        `parser` as for `get`.
        """
        pending = self._send([message])
        results: list[T] = []
        while True:
            for number, answer, flags, payload in self._receive():
                if number not in pending:
                    continue
                if answer in (NLMSG_DONE, NLMSG_ERROR):
                    code = -struct.unpack_from("=i", payload)[0]
                    if code:
                        raise from_errno(what, code, _extended_error(flags, payload))
                    return results
                results.append(parser(payload))

    def _send(self, messages: Sequence[bytes]) -> set[int]:
        numbers = []
        buffer = bytearray()
        for message in messages:
            number = next(self._numbers)
            struct.pack_into("=I", whole := bytearray(message), 8, number)
            buffer += whole
            numbers.append(number)
        self._socket.send(buffer)
        return set(numbers)

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(_RECEIVE_BYTES)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, number, _port = _HEADER.unpack_from(data, offset)
            yield number, kind, flags, data[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3


def attributes(payload: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """The attributes (type, value) of a message from `offset` on, of a nest likewise from 0."""
    last = len(payload) - _ATTRIBUTE.size
    while offset <= last:
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _NLA_TYPE_MASK, payload[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _extended_error(flags: int, payload: bytes) -> str:
    """The kernel's words about an error, if it gave any (NETLINK_EXT_ACK)."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    for kind, value in attributes(payload, 4 + _HEADER.size):
        if kind == _NLMSGERR_ATTR_MSG:
            return os.fsdecode(value.rstrip(b"\0"))
    return ""
