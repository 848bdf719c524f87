# SPDX-License-Identifier: Apache-2.0
"""Plays a conversation with real sockets: both programs in one, each socket in its own namespace.

What is sent is a function of the conversation, the connection, the sender and the place in the
stream, so the receiver knows what it must get. Every step has a deadline far beyond what TCP needs
with the worst impairment: what has not come of it by then, never will.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import random
import socket
import struct
import termios
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from tests.differential.conversation import Action, Conversation, End, Result, Step
from tests.differential.worlds import CLEAN, IMPAIRED, World

DEADLINE_SECONDS = 30.0
SPEAK_SECONDS = 0.05
POLL_SECONDS = 0.01
BACKLOG = 16
FIRST_SOURCE_PORT = 10000
SOURCE_PORTS = 4
"""So many source ports of its own has each conversation that is being played."""

TCP_REPAIR = 19
TCP_FASTOPEN = 23
TCP_FASTOPEN_CONNECT = 30
TCP_FASTOPEN_NO_COOKIE = 34
_TCP_CLOSE = 7
"""The first byte of struct tcp_info, <linux/tcp.h>, is the state."""

_PIECE = 1 << 16

RESULTS = {
    errno.ECONNRESET: Result.RESET,
    errno.EPIPE: Result.RESET,
    errno.ECONNABORTED: Result.RESET,
    errno.ENOTCONN: Result.RESET,
    errno.ECONNREFUSED: Result.REFUSED,
    errno.ETIMEDOUT: Result.TIMED_OUT,
    errno.EHOSTUNREACH: Result.UNREACHABLE,
    errno.ENETUNREACH: Result.UNREACHABLE,
}


class Outcome(NamedTuple):
    """What came of a conversation: the steps' results up to the first unexpected one."""

    results: tuple[Result, ...]
    carried: bool

    @property
    def last(self) -> Result:
        return self.results[-1]


class _StreamEndedError(Exception):
    """The stream ended before its time."""


class _CorruptError(Exception):
    """Other bytes than were sent."""


@dataclass
class _Stream:
    """One end of a connection."""

    socket: socket.socket
    sent: int = 0
    received: int = 0


async def play(
    conversation: Conversation, world: World, slot: int, deadline_seconds: float = DEADLINE_SECONDS
) -> Outcome:
    """Play it; `slot` is a number that no other conversation has meanwhile."""
    with contextlib.closing(_Player(conversation, world, slot, deadline_seconds)) as player:
        results: list[Result] = []
        for step in conversation.steps:
            results.append(await player.take(step))
            if results[-1] not in step.expected:
                return Outcome(tuple(results), carried=False)
        return Outcome(tuple(results), carried=True)


_Act = Callable[["_Player", Step], Coroutine[Any, Any, Result]]


class _Player:
    def __init__(
        self, conversation: Conversation, world: World, slot: int, deadline_seconds: float
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self._conversation = conversation
        self._world = world
        self._loop = asyncio.get_running_loop()
        self._address = CLEAN if conversation.impairment is None else IMPAIRED
        services = 1 + max(step.service for step in conversation.steps)
        self._ports = [world.server_port() for _ in range(services)]
        for service, port in enumerate(self._ports):
            world.middlebox.impair(conversation, port, service)
        self._source_port = FIRST_SOURCE_PORT + slot * SOURCE_PORTS - 1
        self._listeners: dict[int, socket.socket] = {}
        self._streams: dict[tuple[int, End], _Stream] = {}
        self._pads: dict[tuple[int, End], bytes] = {}

    def close(self) -> None:
        # Forgotten, not closed: nothing of this one is said any more while others speak.
        for stream in self._streams.values():
            _forget(stream.socket)
        for listener in self._listeners.values():
            listener.close()
        for port in self._ports:
            self._world.middlebox.spare(port)

    async def take(self, step: Step) -> Result:
        """A step's result."""
        try:
            async with asyncio.timeout(self._deadline_seconds + step.seconds):
                return await self._ACTIONS[step.action](self, step)
        except TimeoutError as error:
            # The deadline's has no number, ETIMEDOUT of a socket has.
            return Result.HANG if error.errno is None else Result.TIMED_OUT
        except _StreamEndedError:
            return Result.EOF
        except _CorruptError:
            return Result.CORRUPT
        except OSError as error:
            if error.errno in RESULTS:
                return RESULTS[error.errno]
            error.add_note(f"{self._conversation}\n{step}")
            raise

    # --- opening ---

    async def _listen(self, step: Step) -> Result:
        listener = self._listeners[step.service] = self._world.socket(
            End.SERVER, self._conversation.environment
        )
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self._address, self._ports[step.service]))
        listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, BACKLOG)
        listener.listen(BACKLOG)
        return Result.OK

    async def _deaf(self, step: Step) -> Result:
        self._listeners.pop(step.service).close()
        return Result.OK

    def _client(self, step: Step) -> socket.socket:
        client = self._world.socket(End.CLIENT, self._conversation.environment)
        # Known from now on, so that it is closed in any case.
        self._streams[step.connection, End.CLIENT] = _Stream(client)
        if step.port:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("", self._source_port + step.port))
        return client

    async def _connect(self, step: Step) -> Result:
        client = self._client(step)
        target = (self._address, self._ports[step.service])
        if not step.size:
            await self._loop.sock_connect(client, target)
            return Result.OK
        client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, 1)
        client.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        # Sends nothing yet: the first data takes the SYN along.
        client.connect(target)
        stream = self._streams[step.connection, End.CLIENT]
        taken = client.send(self._text(step.connection, End.CLIENT, 0, step.size))
        stream.sent = taken
        await self._writable(client)
        if code := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, "connect")
        await self._send(step.connection, End.CLIENT, step.size - taken)
        return Result.OK

    async def _writable(self, client: socket.socket) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()

        def tell() -> None:
            if not ready.done():
                ready.set_result(None)

        self._loop.add_writer(client, tell)
        try:
            await ready
        finally:
            self._loop.remove_writer(client)

    async def _give_up(self, step: Step) -> Result:
        client = self._client(step)
        target = (self._address, self._ports[step.service])
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(step.seconds):
                await self._loop.sock_connect(client, target)
        del self._streams[step.connection, End.CLIENT]
        _reset(client)
        return Result.OK

    async def _accept(self, step: Step) -> Result:
        listener = self._listeners[step.service]
        server, _address = await self._loop.sock_accept(listener)
        # A connect that was given up may have succeeded before; it has been reset.
        while _closed(server):
            server.close()
            server, _address = await self._loop.sock_accept(listener)
        self._streams[step.connection, End.SERVER] = _Stream(server)
        return Result.OK

    # --- talking ---

    def _text(self, connection: int, end: End, start: int, count: int) -> bytes:
        """The bytes at a place of what this end says."""
        pad = self._pads.get((connection, end))
        if pad is None:
            source = random.Random(f"{self._conversation.key}/{connection}/{end}")
            # Of a length that no power of two divides: a piece that is lost is missed.
            pad = self._pads[connection, end] = source.randbytes(4093)
        first = start % len(pad)
        return (pad * ((first + count) // len(pad) + 1))[first : first + count]

    async def _send(self, connection: int, end: End, size: int) -> None:
        stream = self._streams[connection, end]
        while size > 0:
            piece = self._text(connection, end, stream.sent, min(size, _PIECE))
            await self._loop.sock_sendall(stream.socket, piece)
            stream.sent += len(piece)
            size -= len(piece)

    async def _read(self, connection: int, end: End, size: int, after: float = 0.0) -> None:
        await asyncio.sleep(after)
        stream = self._streams[connection, end]
        while size > 0:
            piece = await self._loop.sock_recv(stream.socket, min(size, _PIECE))
            if not piece:
                raise _StreamEndedError
            self._check(connection, end, piece)
            size -= len(piece)

    def _check(self, connection: int, end: End, piece: bytes) -> None:
        stream = self._streams[connection, end]
        if piece != self._text(connection, end.other, stream.received, len(piece)):
            raise _CorruptError
        stream.received += len(piece)

    async def _transfer(self, step: Step) -> Result:
        sender, receiver = step.end, step.end.other
        parts: list[Coroutine[Any, Any, None]] = []
        for end, size in ((sender, step.size), (receiver, step.back)):
            if size:
                parts.append(self._send(step.connection, end, size))
                parts.append(self._read(step.connection, end.other, size, step.seconds))
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return Result.OK

    async def _receive(self, step: Step) -> Result:
        await self._read(step.connection, step.end, step.size)
        return Result.OK

    async def _stuff(self, step: Step) -> Result:
        await self._send(step.connection, step.end, step.size)
        return Result.OK

    async def _settle(self, step: Step) -> Result:
        for end in End:
            stream = self._streams.get((step.connection, end))
            # Nothing wakes who waits for an acknowledgement.
            while stream is not None and _unacknowledged(stream.socket):  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)
        return Result.OK

    async def _wait(self, step: Step) -> Result:
        """What comes after the data, if there is any."""
        stream = self._streams[step.connection, step.end]
        while piece := await self._loop.sock_recv(stream.socket, _PIECE):
            self._check(step.connection, step.end, piece)
        return Result.EOF

    async def _speak(self, step: Step) -> Result:
        while True:
            await self._send(step.connection, step.end, 1)
            await asyncio.sleep(SPEAK_SECONDS)

    async def _pause(self, step: Step) -> Result:
        await asyncio.sleep(step.seconds)
        return Result.OK

    # --- ending ---

    async def _shut(self, step: Step) -> Result:
        self._streams[step.connection, step.end].socket.shutdown(socket.SHUT_WR)
        return Result.OK

    async def _close(self, step: Step) -> Result:
        self._streams.pop((step.connection, step.end)).socket.close()
        return Result.OK

    async def _abort(self, step: Step) -> Result:
        _reset(self._streams.pop((step.connection, step.end)).socket)
        return Result.OK

    async def _forget_one(self, step: Step) -> Result:
        _forget(self._streams.pop((step.connection, step.end)).socket)
        return Result.OK

    async def _end(self, step: Step) -> Result:
        stream = self._streams[step.connection, step.end]
        while piece := await self._loop.sock_recv(stream.socket, _PIECE):
            self._check(step.connection, step.end, piece)
        whole = self._streams.get((step.connection, step.end.other))
        if whole is not None and whole.sent != stream.received:
            return Result.CORRUPT
        return Result.OK

    _ACTIONS: ClassVar[dict[Action, _Act]] = {
        Action.LISTEN: _listen,
        Action.DEAF: _deaf,
        Action.CONNECT: _connect,
        Action.GIVE_UP: _give_up,
        Action.ACCEPT: _accept,
        Action.TRANSFER: _transfer,
        Action.RECEIVE: _receive,
        Action.STUFF: _stuff,
        Action.SETTLE: _settle,
        Action.SHUT: _shut,
        Action.CLOSE: _close,
        Action.ABORT: _abort,
        Action.FORGET: _forget_one,
        Action.END: _end,
        Action.WAIT: _wait,
        Action.SPEAK: _speak,
        Action.PAUSE: _pause,
    }


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _forget(connection: socket.socket) -> None:
    # A socket under repair is closed without a segment (tcp_close of Linux).
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    connection.close()


def _closed(connection: socket.socket) -> bool:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE


def _unacknowledged(connection: socket.socket) -> int:
    """Bytes, a FIN is one, that the other end has not acknowledged and still may."""
    if _closed(connection):
        return 0
    answer = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
    return int(struct.unpack("i", answer)[0])
