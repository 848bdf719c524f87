# SPDX-License-Identifier: Apache-2.0
"""Sockets of a resolver: datagrams and connections in, answers out of the address that was asked.

Who asks by TCP has a share of the connections, and a while to say something in; so one network
interface that holds connections open holds up nobody else's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Coroutine

from hyperplane_nat.resolver import answers
from hyperplane_nat.resolver.answers import Answers, Reply
from hyperplane_nat.resolver.figures import Outcome
from hyperplane_nat.resolver.upstream import Upstream

PORT = 53

CONNECTIONS_MAX = 1024
CONNECTIONS_PER_SOURCE = 64
IDLE_SECONDS = 10.0
"""Until a connection on which nothing whole comes is closed (RFC 7766 section 6.2.3)."""

_BACKLOG = 512
_READ_BUDGET = 64
_BUFFER_BYTES = 1 << 20


def open_sockets(address: str, port: int = PORT) -> tuple[socket.socket, socket.socket]:
    """A socket for datagrams and one that listens, in the namespace of the caller; OSError."""
    with contextlib.ExitStack() as stack:
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        datagrams.setblocking(False)
        datagrams.bind((address, port))
        listener = socket.create_server((address, port), backlog=_BACKLOG)
        listener.setblocking(False)
        stack.pop_all()
        return datagrams, listener


class Server:
    """Serves on sockets that are open."""

    def __init__(
        self,
        sockets: list[tuple[socket.socket, socket.socket]],
        reply: Answers,
        count: Callable[[Outcome], None],
        clock: Callable[[], float],
        upstream: Upstream | None = None,
    ) -> None:
        self._sockets = sockets
        self._answers = reply
        self._count = count
        self._clock = clock
        self._upstream = upstream
        self._connections: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Answer, in the loop that runs."""
        loop = asyncio.get_running_loop()
        for datagrams, listener in self._sockets:
            loop.add_reader(datagrams, self._read, datagrams)
            self._servers.append(
                await asyncio.start_server(
                    self._connected, sock=listener, limit=answers.MESSAGE_BYTES_MAX + 2
                )
            )

    async def stop(self) -> None:
        """Answer no more; connections end."""
        loop = asyncio.get_running_loop()
        for datagrams, _ in self._sockets:
            loop.remove_reader(datagrams)
            datagrams.close()
        for server in self._servers:
            server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _read(self, datagrams: socket.socket) -> None:
        for _ in range(_READ_BUDGET):
            try:
                # One byte more than may be, so that too much is seen.
                wire, peer = datagrams.recvfrom(answers.MESSAGE_BYTES_MAX + 1)
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error about an earlier answer.
                continue
            reply = self._answers.reply(wire, peer[0], self._clock(), stream=False)
            if reply.query is None:
                self._count(reply.outcome)
                _send(datagrams, reply.wire, peer)
            else:
                self._begin(self._forward(datagrams, reply, peer))

    async def _forward(self, datagrams: socket.socket, reply: Reply, peer: tuple[str, int]) -> None:
        _send(datagrams, await self._ask(reply), peer)

    async def _ask(self, reply: Reply) -> bytes:
        assert self._upstream is not None
        assert reply.query is not None
        found = await self._upstream.answer(reply.query, reply.size)
        self._count(Outcome.UPSTREAM_FAILED if found is None else reply.outcome)
        return answers.failure(reply.query, reply.size) if found is None else found

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        peer = writer.get_extra_info("peername")
        source = peer[0] if peer else ""
        if (
            not source
            or self._connections[source] >= CONNECTIONS_PER_SOURCE
            or self._connections.total() >= CONNECTIONS_MAX
        ):
            self._count(Outcome.CONNECTION_LIMITED)
            writer.transport.abort()
            return
        self._connections[source] += 1
        try:
            # A client that goes away, or says nothing, is its own affair.
            with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
                await self._converse(reader, writer, source)
        finally:
            self._connections[source] -= 1
            if not self._connections[source]:
                del self._connections[source]
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, source: str
    ) -> None:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                size = int.from_bytes(await reader.readexactly(2), "big")
                if size > answers.MESSAGE_BYTES_MAX:
                    self._count(Outcome.MALFORMED)
                    return
                wire = await reader.readexactly(size)
            reply = self._answers.reply(wire, source, self._clock(), stream=True)
            if reply.query is not None:
                told: bytes | None = await self._ask(reply)
            else:
                self._count(reply.outcome)
                told = reply.wire
            if told is None:
                if reply.outcome is Outcome.MALFORMED:
                    return
                continue
            writer.write(len(told).to_bytes(2, "big") + told)
            async with asyncio.timeout(IDLE_SECONDS):
                await writer.drain()


def _send(datagrams: socket.socket, wire: bytes | None, peer: tuple[str, int]) -> None:
    if wire is not None:
        # What cannot be sent is lost, as UDP may be.
        with contextlib.suppress(OSError):
            datagrams.sendto(wire, peer)
