# SPDX-License-Identifier: Apache-2.0
"""Small servers for a VPC: `python -m netns.services http|udp-echo|mailbox --address A --port P`.

Theory of operation
-------------------
Each server is one process with one asyncio loop, started inside its namespace (`--namespace`).
It prints "ready" when it listens and ends at once on SIGTERM. With `--uid` it has given up by then
what it can do without (`netns.privileges`): it listens and has read its content before, and opens
nothing but connections that come to it. What it logs is what it finds wrong with itself; what
clients do wrong is answered to them.

`http` must bear a thousand downloads at the same time in little memory. One period of the
content (`netns.content`) lies in an anonymous file, and sendfile(2) puts its pages straight into
the sockets: a request costs a task and a socket buffer, never a copy of the file.

* `GET /file?bytes=M`: the first M bytes of the content, by default `--size-bytes`
* `GET /slow?bytes=M&seconds=S`: the same at an even pace over S seconds
* `GET /sha256?bytes=M`: the hexadecimal digest of the same, as text
* `GET /`: a line with the client's address and port as the server sees them, and the paths here
* `GET /peer`: `{"address", "port"}` of the client as the server sees it

`udp-echo` (RFC 862) sends every datagram back from the address it was sent to.

`mailbox` takes what is PUT for a program of the host (`netns.mailbox`), which reads it on the unix
socket `--reader`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import ipaddress
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from netns import content, mailbox, namespace, privileges, sockets, syscalls
from netns.ending import leave
from netns.errors import NetnsError, from_errno

SIZE_BYTES = 4 * 1024 * 1024
"""What `/file` serves by default."""

_BACKLOG = 4096
_CONGESTION_CONTROL = b"cubic"
_CONNECTIONS = 4096
_BYTES_MAX = 1 << 36
_SECONDS_MAX = 86400.0
_PACE_SECONDS = 0.05
_ECHO_BUDGET = 256
_ECHO_BUFFER_BYTES = 8 << 20
_DATAGRAM_BYTES = 65535
_SO_RCVBUFFORCE = 33
_SO_SNDBUFFORCE = 32


class HttpService:
    """The handlers of the HTTP server."""

    def __init__(self, size_bytes: int = SIZE_BYTES) -> None:
        self._size_bytes = size_bytes
        descriptor = os.memfd_create("content", os.MFD_CLOEXEC)
        self._file: BinaryIO = os.fdopen(descriptor, "r+b")
        self._file.write(content.period())
        self._file.flush()

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application()
        application.add_routes(
            [
                web.get("/", self._serve_root),
                web.get("/file", self._serve_file),
                web.get("/slow", self._serve_slow),
                web.get("/sha256", self._serve_sha256),
                web.get("/peer", self._serve_peer),
            ]
        )
        return application

    def close(self) -> None:
        """Release the content."""
        self._file.close()

    def _length(self, request: web.Request) -> int:
        text = request.query.get("bytes", str(self._size_bytes))
        if not text.isascii() or not text.isdigit() or int(text) > _BYTES_MAX:
            raise web.HTTPBadRequest(text=f"bytes={text}: 0 to {_BYTES_MAX} is possible\n")
        return int(text)

    async def _start(self, request: web.Request, length: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
        response.content_length = length
        await response.prepare(request)
        return response

    async def _serve_file(self, request: web.Request) -> web.StreamResponse:
        length = self._length(request)
        response = await self._start(request, length)
        if request.method == "HEAD":
            return response
        loop = asyncio.get_running_loop()
        # A client that goes away is its own affair.
        with contextlib.suppress(ConnectionError):
            for start, size in content.segments(length):
                if request.transport is None:
                    raise ConnectionResetError
                await loop.sendfile(request.transport, self._file, start, size, fallback=False)
            await response.write_eof()
        return response

    async def _serve_slow(self, request: web.Request) -> web.StreamResponse:
        length = self._length(request)
        text = request.query.get("seconds", "1")
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds <= _SECONDS_MAX:
            raise web.HTTPBadRequest(text=f"seconds={text}: 0 to {_SECONDS_MAX} is possible\n")
        response = await self._start(request, length)
        if request.method == "HEAD":
            return response
        loop = asyncio.get_running_loop()
        begin = loop.time()
        steps = max(1, round(seconds / _PACE_SECONDS))
        sent = 0
        with contextlib.suppress(ConnectionError):
            for step in range(1, steps + 1):
                until = length * step // steps
                while sent < until:
                    size = min(until - sent, 1 << 16)
                    await response.write(content.read(size, sent))
                    sent += size
                await asyncio.sleep(begin + seconds * step / steps - loop.time())
            await response.write_eof()
        return response

    async def _serve_sha256(self, request: web.Request) -> web.Response:
        digest = await asyncio.to_thread(content.sha256, self._length(request))
        return web.Response(text=digest)

    async def _serve_root(self, request: web.Request) -> web.Response:
        address, port = self._peer(request)
        return web.Response(
            text=f"you are {address} port {port}; there are /file /slow /sha256 /peer\n"
        )

    async def _serve_peer(self, request: web.Request) -> web.Response:
        address, port = self._peer(request)
        return web.json_response({"address": address, "port": port})

    def _peer(self, request: web.Request) -> tuple[str, int]:
        peer = None if request.transport is None else request.transport.get_extra_info("peername")
        if peer is None:
            raise ConnectionResetError
        return peer[0], peer[1]


class UdpEcho:
    """Answers on one bound UDP socket for as long as it is open."""

    def __init__(self, address: str, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._buffer = bytearray(_DATAGRAM_BYTES)
        try:
            self.socket.setblocking(False)
            # A thousand environments send in the same instant; past the sysctl limit if allowed.
            for forced, plain in (
                (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
                (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
            ):
                try:
                    self.socket.setsockopt(socket.SOL_SOCKET, forced, _ECHO_BUFFER_BYTES)
                except PermissionError:
                    self.socket.setsockopt(socket.SOL_SOCKET, plain, _ECHO_BUFFER_BYTES)
            self.socket.bind((address, port))
        except BaseException:
            self.socket.close()
            raise

    def answer(self) -> None:
        """Echo what is waiting, up to a budget; what cannot be sent is lost, as UDP may be."""
        view = memoryview(self._buffer)
        for _ in range(_ECHO_BUDGET):
            try:
                size, peer = self.socket.recvfrom_into(self._buffer)
            except BlockingIOError:
                return
            except OSError:
                # An ICMP error about an earlier answer.
                continue
            with contextlib.suppress(OSError):
                self.socket.sendto(view[:size], peer)


@contextlib.asynccontextmanager
async def _running(application: web.Application) -> AsyncIterator[web.AppRunner]:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        yield runner
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def _served(application: web.Application, listener: socket.socket) -> AsyncIterator[None]:
    async with _running(application) as runner:
        await web.SockSite(runner, listener, backlog=_BACKLOG).start()
        yield


@contextlib.asynccontextmanager
async def _served_to_strangers(
    application: web.Application, listener: socket.socket, connections_max: int
) -> AsyncIterator[None]:
    """The same with so many connections; for more the oldest are closed."""
    async with _running(application) as runner:
        server = runner.server
        assert server is not None

        def accepted() -> asyncio.Protocol:
            for each in server.connections[: 1 - connections_max]:
                each.force_close()
            return server()

        # What is accepted in one turn of the loop comes on top.
        loop = asyncio.get_running_loop()
        site = await loop.create_server(accepted, sock=listener, backlog=connections_max)
        try:
            yield
        finally:
            site.close()


async def _serve_http(service: HttpService, listener: socket.socket) -> None:
    try:
        async with _served(service.application(), listener):
            await _until_terminated()
    finally:
        service.close()


async def _serve_mailbox(listener: socket.socket, reader: socket.socket) -> None:
    found = mailbox.Mailbox()
    async with (
        _served(found.inside(), reader),
        _served_to_strangers(found.outside(), listener, mailbox.CONNECTIONS_MAX),
    ):
        await _until_terminated()


def _listener(address: str, port: int) -> socket.socket:
    listener = socket.create_server((address, port), backlog=_BACKLOG, reuse_port=False)
    # What a lab does should not depend on the host's choice; BBR's least window of four segments,
    # for one, is too much for a thousand downloads at once on a small machine. A namespace's own
    # default may only be what the host allows to unprivileged users, a socket's anything.
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_CONTROL)
    listener.setblocking(False)
    return listener


async def _serve_udp_echo(echo: UdpEcho) -> None:
    loop = asyncio.get_running_loop()
    loop.add_reader(echo.socket, echo.answer)
    try:
        await _until_terminated()
    finally:
        loop.remove_reader(echo.socket)
        echo.socket.close()


async def _until_terminated() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    print("ready", flush=True)
    await ended.wait()


class _OwnFaults(logging.Filter):
    """Lets through what a server finds wrong with itself, not what its clients do wrong."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, (ConnectionError, HttpProcessingError))


def _opened(options: argparse.Namespace) -> Callable[[], Coroutine[Any, Any, None]]:
    """What serves, on a socket that is bound; raises `NetnsError`."""
    try:
        if options.kind == "http":
            listener = _listener(options.address, options.port)
            return functools.partial(_serve_http, HttpService(options.size_bytes), listener)
        if options.kind == "mailbox":
            listener = _listener(options.address, options.port)
            reading = sockets.private_listener(options.reader)
            return functools.partial(_serve_mailbox, listener, reading)
        return functools.partial(_serve_udp_echo, UdpEcho(options.address, options.port))
    except OSError as error:
        where = f"cannot serve {options.kind} on {options.address}:{options.port}"
        raise from_errno(where, error.errno or 0) from None


def _die_with_parent(parent: int) -> None:
    syscalls.set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:
        raise NetnsError("the parent process has ended already", "start the service again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m netns.services", description="Test services.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("http", "udp-echo", "mailbox"):
        sub = kinds.add_parser(kind)
        sub.add_argument("--address", required=True, help="IPv4 address to listen on")
        sub.add_argument("--port", required=True, type=int)
        sub.add_argument("--namespace", help="network namespace to enter first")
        sub.add_argument("--die-with-parent", action="store_true")
        sub.add_argument("--uid", type=int, help="give up privileges for this user's, 0 is root")
        if kind == "mailbox":
            sub.add_argument("--reader", required=True, type=Path, help="socket to read it on")
        if kind == "http":
            sub.add_argument("--size-bytes", type=int, default=SIZE_BYTES, help="size of /file")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a service until SIGTERM; 0 then, 2 with one line on stderr when it cannot start."""
    parent = os.getppid()
    options = _parser().parse_args(arguments)
    try:
        if not 0 < options.port < 65536:
            raise NetnsError(f"port {options.port} is impossible", "1 to 65535 is possible")
        try:
            ipaddress.IPv4Address(options.address)
        except ValueError:
            raise NetnsError(
                f"{options.address!r} is not an IPv4 address", "give one in dotted notation"
            ) from None
        if options.kind == "http" and not 0 <= options.size_bytes <= _BYTES_MAX:
            raise NetnsError("the size is impossible", f"0 to {_BYTES_MAX} bytes is possible")
        if options.namespace:
            namespace.enter(options.namespace)
        sockets.ensure_files(_CONNECTIONS)
        logging.getLogger("aiohttp.server").addFilter(_OwnFaults())
        serve = _opened(options)
        if options.uid is not None:
            privileges.drop(privileges.SERVICE, uid=options.uid)
        if options.die_with_parent:
            _die_with_parent(parent)
        asyncio.run(serve())
    except NetnsError as error:
        print(f"netns.services: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    leave(main())
