# SPDX-License-Identifier: Apache-2.0
"""Checks of servers on this host's loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hyperplane_nat.health.checks import FAILED, MISMATCH, TIMEOUT, Check
from hyperplane_nat.health.probes import any_certificate, probe
from tests.conftest import free_port
from tests.health.support import check

SOURCE = "127.0.0.9"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def found(work: Callable[[], Awaitable[str]]) -> str:
    async def run() -> str:
        return await work()

    return asyncio.run(run())


@contextlib.asynccontextmanager
async def server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """An HTTP server; its port."""
    application = web.Application()
    application.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def probed(wanted: Check) -> str:
    return await probe(wanted, any_certificate())


def test_who_listens_is_good_and_sees_the_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert found(lambda: probed(check(port=port, source=SOURCE))) == ""
        connection, peer = listener.accept()
        connection.close()
        assert peer[0] == SOURCE


@pytest.mark.parametrize("listens", [True, False])
def test_a_checker_that_was_held_up_looks_again(listens: bool) -> None:
    """What was there in time while it had no processor is not late; silence is what it was."""
    # Whoever has a full queue says nothing.
    with socket.create_server(("127.0.0.1", 0), backlog=8 if listens else 0) as listener:
        port = listener.getsockname()[1]

        async def work() -> str:
            asked = asyncio.create_task(probed(check(port=port, timeout_seconds=0.2)))
            await asyncio.sleep(0)
            time.sleep(0.5)  # noqa: ASYNC251
            return await asked

        with contextlib.ExitStack() as stack:
            for _ in range(0 if listens else 2):
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", port))
            assert found(work) == ("" if listens else TIMEOUT)


def test_a_check_of_a_group_with_the_proxy_protocol_names_no_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert found(lambda: probed(check(port=port, proxy_protocol=True))) == ""
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            assert stream.read() == b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


def test_the_header_comes_before_a_request() -> None:
    begins = []

    async def work() -> str:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            begins.append(await reader.readuntil(b"HTTP/1.1\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as serving:
            port = serving.sockets[0].getsockname()[1]
            return await probed(check(protocol="HTTP", port=port, proxy_protocol=True))

    assert found(work) == ""
    header = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
    assert begins == [header + b"GET / HTTP/1.1\r\n"]


def test_who_does_not_listen_is_bad() -> None:
    # Of those that are given to whoever asks for any, the check's own connection might have it.
    port = free_port()
    assert found(lambda: probed(check(port=port))) == FAILED


def test_an_address_that_is_not_there_is_bad_and_raises_nothing() -> None:
    assert found(lambda: probed(check(source="203.0.113.77"))) == FAILED


def test_a_request_is_a_node_s() -> None:
    asked: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        asked.update(path=request.path, host=request.host, peer=request.remote)
        return web.Response(status=204)

    async def work() -> str:
        async with server(handler) as port:
            wanted = check(protocol="HTTP", port=port, path="/ok", codes="204", source=SOURCE)
            return await probed(wanted)

    assert found(work) == ""
    assert asked == {"path": "/ok", "host": "127.0.0.2:80", "peer": SOURCE}


@pytest.mark.parametrize("status", [404, 500, 302])
def test_another_code_is_bad_and_no_redirection_is_followed(status: int) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async def work() -> str:
        async with server(handler) as port:
            return await probed(check(protocol="HTTP", port=port, codes="200"))

    assert found(work) == MISMATCH


def test_who_does_not_answer_in_time_is_bad() -> None:
    async def work() -> str:
        ended = asyncio.Event()

        async def handler(_request: web.Request) -> web.Response:
            await ended.wait()
            return web.Response()

        async with server(handler) as port:
            try:
                return await probed(check(protocol="HTTP", port=port, timeout_seconds=0.1))
            finally:
                ended.set()

    assert found(work) == TIMEOUT


def test_what_is_no_http_is_bad() -> None:
    async def work() -> str:
        async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 hello\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as serving:
            port = serving.sockets[0].getsockname()[1]
            return await probed(check(protocol="HTTP", port=port))

    assert found(work) == FAILED


def test_whatever_certificate_will_do(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "1"),
            *("-subj", "/CN=somebody.else"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def handler(_request: web.Request) -> web.Response:
        return web.Response()

    async def work() -> str:
        async with server(handler, context) as port:
            return await probed(check(protocol="HTTPS", port=port))

    assert found(work) == ""
