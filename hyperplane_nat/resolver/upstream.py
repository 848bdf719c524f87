# SPDX-License-Identifier: Apache-2.0
"""The resolver that is asked what a VPC does not know, over sockets that were opened before.

Theory of operation
-------------------
A resolver that has given up its privileges opens no socket, and is in a namespace that leads
nowhere. So there is a handful of sockets, opened outside and connected, each with a port of its own
(RFC 5452 section 9: a forger has to guess port and id). A question goes out on one of them by
chance, under an id by chance; only what comes from the upstream's address and port, on that socket,
with that id and question, is its answer. All of it is UDP: what does not fit is said to be
truncated, also to a client that came by TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from dataclasses import dataclass

import dns.message

from hyperplane_nat.resolver import answers

SOCKETS = 16
WAITING_MAX = 1024
"""Questions that wait for an answer at a time."""

ANSWER_SECONDS = 4.0
"""Less than the five that resolv.conf(5) has a client wait."""

_BYTES = 65535
_READ_BUDGET = 64


def open_sockets(address: str, port: int, number: int = SOCKETS) -> list[socket.socket]:
    """Sockets to an upstream resolver, in the namespace of the caller; OSError."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(number):
            each = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            each.setblocking(False)
            each.connect((address, port))
            opened.append(each)
        stack.pop_all()
        return opened


@dataclass(frozen=True, slots=True)
class _Waiting:
    query: dns.message.Message
    size: int
    answer: asyncio.Future[bytes]


class Upstream:
    """Asks, in the loop that runs."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self._waiting: dict[tuple[int, int], _Waiting] = {}
        loop = asyncio.get_running_loop()
        for number, each in enumerate(sockets):
            loop.add_reader(each, self._read, number)

    def close(self) -> None:
        """Ask no more."""
        for each in self._sockets:
            asyncio.get_running_loop().remove_reader(each)
            each.close()

    async def answer(self, query: dns.message.Message, size: int) -> bytes | None:
        """The upstream's answer as the client of `query` gets it; None when there is none."""
        if len(self._waiting) >= WAITING_MAX:
            return None
        asked = answers.upstream_query(query)
        number = secrets.randbelow(len(self._sockets))
        while (number, asked.id) in self._waiting:
            asked.id = secrets.randbits(16)
        key = (number, asked.id)
        waiting = _Waiting(query, size, asyncio.get_running_loop().create_future())
        self._waiting[key] = waiting
        try:
            # OSError: nobody listens there (ICMP), or this host has no way there.
            self._sockets[number].send(asked.to_wire())
            return await asyncio.wait_for(waiting.answer, ANSWER_SECONDS)
        except (OSError, TimeoutError):
            return None
        finally:
            del self._waiting[key]

    def _read(self, number: int) -> None:
        for _ in range(_READ_BUDGET):
            try:
                wire = self._sockets[number].recv(_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._fail(number, error)
                continue
            waiting = self._waiting.get((number, int.from_bytes(wire[:2], "big")))
            if waiting is None or waiting.answer.done():
                continue
            # What is not its answer may be a forger's: the real one can still come.
            if (found := answers.upstream_answer(waiting.query, wire, waiting.size)) is not None:
                waiting.answer.set_result(found)

    def _fail(self, number: int, error: OSError) -> None:
        # The error is about one of those that wait there, and nobody says which.
        for (place, _), waiting in self._waiting.items():
            if place == number and not waiting.answer.done():
                waiting.answer.set_exception(error)
