# SPDX-License-Identifier: Apache-2.0
"""A thousand environments with the same address and the same source port talk to one service at
once.

The sockets are opened inside the environments; one event loop drives them all. Every environment
sends a token of its own and must get the answer to that token, on the socket it sent it from.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from bench import exchange
from netns import content, sockets
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_ADDRESS,
    INTERFACE_ADDRESS,
    WEB,
    Lab,
    tcp_socket,
    udp_socket,
)

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.alone]

ENVIRONMENTS = 1000
SOURCE_PORT = 40000
SERVICE = (WEB[0], 7000)
FETCH_BYTES = 1 << 20
DEADLINE_SECONDS = 180.0

ANSWER_SECONDS = 2.0
ATTEMPTS = 10

T = TypeVar("T")


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    sockets.ensure_files(4 * ENVIRONMENTS)
    return launch_shared(environments=ENVIRONMENTS)


def token(number: int) -> bytes:
    return f"token-{number:06d}".encode()


def answer(question: bytes) -> bytes:
    """What the service makes of a token; nobody else's token gives the same."""
    return hashlib.sha256(question).digest()


def play(work: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await work

    return asyncio.run(limited())


@contextlib.contextmanager
def endpoints(lab: Lab, kind: sockets.Kind, port: int) -> Iterator[list[socket.socket]]:
    """A socket in each environment, all bound to the same port."""
    opened = sockets.open_each(lab.environments(), kind, port=port)
    try:
        yield opened
    finally:
        for each in opened:
            each.close()


def test_listings(lab: Lab) -> None:
    environments = lab.json("environments")
    assert [row["name"] for row in environments] == [
        f"env-{number}" for number in range(1, ENVIRONMENTS + 1)
    ]
    assert {row["address"] for row in environments} == {INSIDE_ADDRESS}
    assert {row["interface_address"] for row in environments} == {INTERFACE_ADDRESS}
    (interface,) = lab.json("interfaces")
    assert interface["address"] == INTERFACE_ADDRESS
    assert interface["environments"] == ENVIRONMENTS


@pytest.mark.requirement("RFC4787-7", profile="both")
def test_tcp(lab: Lab) -> None:
    """All connections are open at the same time before the first token is sent."""
    peers: set[tuple[str, int]] = set()
    served: list[asyncio.Future[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        served.append(over)
        peers.add(writer.get_extra_info("peername"))
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                writer.write(answer(await reader.readexactly(len(token(0)))))
        writer.close()
        over.set_result(None)

    async def ask(number: int, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(connection, token(number))
        expected = answer(token(number))
        received = b""
        while len(received) < len(expected):
            piece = await loop.sock_recv(connection, 1024)
            assert piece, f"environment {number}: the connection ended"
            received += piece
        assert received == expected, f"environment {number} got another one's answer"

    async def all_at_once(listener: socket.socket, clients: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        async with await asyncio.start_server(serve, sock=listener, backlog=4096):
            await asyncio.gather(*(loop.sock_connect(each, SERVICE) for each in clients))
            active = lab.counters()["flows_active_tcp"]
            assert active == ENVIRONMENTS
            for _round in range(2):
                await asyncio.gather(*(ask(n, each) for n, each in enumerate(clients, start=1)))
            for each in clients:
                each.close()
            await asyncio.gather(*served)

    with tcp_socket(lab.vpc) as listener, endpoints(lab, "tcp", SOURCE_PORT) as clients:
        listener.bind(SERVICE)
        listener.setblocking(False)
        play(all_at_once(listener, clients))
    assert {address for address, _port in peers} == {INTERFACE_ADDRESS}
    assert len({port for _address, port in peers}) == ENVIRONMENTS


@pytest.mark.requirement("RFC4787-7", profile="both")
def test_udp(lab: Lab) -> None:
    peers: dict[bytes, set[tuple[str, int]]] = {}

    def serve(server: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                question, peer = server.recvfrom(1024)
                peers.setdefault(question, set()).add(peer)
                server.sendto(answer(question), peer)

    async def ask(number: int, endpoint: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _attempt in range(ATTEMPTS):
            await loop.sock_sendto(endpoint, token(number), SERVICE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    received = await loop.sock_recvfrom(endpoint, 1024)
                    assert received == (answer(token(number)), SERVICE)
                    return
        pytest.fail(f"environment {number} got no answer")

    async def all_at_once(server: socket.socket, clients: list[socket.socket]) -> None:
        asyncio.get_running_loop().add_reader(server, serve, server)
        await asyncio.gather(*(ask(n, each) for n, each in enumerate(clients, start=1)))

    with udp_socket(lab.vpc) as server, endpoints(lab, "udp", SOURCE_PORT) as clients:
        server.bind(SERVICE)
        server.setblocking(False)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        play(all_at_once(server, clients))
        assert lab.counters()["flows_active_udp"] == ENVIRONMENTS
    assert len(peers) == ENVIRONMENTS
    # A token sent again comes from the same port, for its flow is still there.
    seen = [peer for each in peers.values() for peer in each]
    assert len(seen) == len(set(seen)) == ENVIRONMENTS
    assert {address for address, _port in seen} == {INTERFACE_ADDRESS}


@pytest.mark.requirement("RFC7857-6", profile="both")
def test_tcp_and_udp_share_neither_flows_nor_answers(lab: Lab) -> None:
    """Both protocols, the same ports, the same moment: a file by TCP while datagrams come back."""
    count = 200

    async def both(connections: list[socket.socket], echoes: list[socket.socket]) -> None:
        size = 1 << 16
        path = f"/file?bytes={size}"
        digest = content.sha256(size)
        # Only so many frames wait for a next hop that is not known yet.
        await exchange.echo(echoes[0], ECHO, token(0))
        await asyncio.gather(
            *(exchange.fetch(each, WEB, path, digest, lambda _count: None) for each in connections),
            *(exchange.echo(each, ECHO, token(n)) for n, each in enumerate(echoes)),
        )

    with (
        endpoints(lab, "tcp", SOURCE_PORT + 1) as connections,
        endpoints(lab, "udp", SOURCE_PORT + 1) as echoes,
    ):
        play(both(connections[:count], echoes[:count]))


def test_all_fetch_at_once(lab: Lab) -> None:
    digest = content.sha256(FETCH_BYTES)
    path = f"/file?bytes={FETCH_BYTES}"

    async def all_at_once(clients: list[socket.socket]) -> int:
        counts = await asyncio.gather(
            *(exchange.fetch(each, WEB, path, digest, lambda _count: None) for each in clients)
        )
        return sum(counts)

    with endpoints(lab, "tcp", SOURCE_PORT + 2) as clients:
        assert play(all_at_once(clients)) == ENVIRONMENTS * FETCH_BYTES


def test_nothing_was_wrong(lab: Lab) -> None:
    """Tables agree; every environment's own counters moved; no forwarder was replaced."""
    assert lab.verify() == []
    status = lab.status()
    assert status["forwarder"]["restarts"] == 0
    lost = {name: status["counters"][name] for name in ("ring_dropped", "transmit_full")}
    print(f"lost by the gateway in all of it: {lost}; drops {status['drops']}")
    assert all(
        row["bytes_in"] > FETCH_BYTES and row["packets_out"] > 0 for row in lab.rows("environments")
    )
