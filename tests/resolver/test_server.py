# SPDX-License-Identifier: Apache-2.0
"""A resolver on sockets of its own: datagrams, connections, an upstream, and who is in the way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import IPv4Network
from typing import cast

import dns.message
import dns.rcode
import dns.rrset
import pytest

from hyperplane_nat.resolver import server, upstream
from hyperplane_nat.resolver.answers import Answers
from hyperplane_nat.resolver.figures import Outcome
from hyperplane_nat.resolver.limits import PacketLimit
from hyperplane_nat.resolver.zone import Zone

ZONE = Zone(IPv4Network("127.0.0.0/8"), {"store.customer.internal": "10.0.1.54"})
HOST = "127.0.0.1"
SECONDS = 30.0


class Served:
    """A server that runs, and what it has counted."""

    def __init__(self, ports: tuple[int, int], counts: Counter[Outcome]) -> None:
        self.udp, self.tcp = ports
        self.counts = counts

    async def ask(self, query: dns.message.Message) -> dns.message.Message:
        """By UDP."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            client.connect((HOST, self.udp))
            await loop.sock_sendall(client, query.to_wire())
            async with asyncio.timeout(SECONDS):
                return dns.message.from_wire(await loop.sock_recv(client, 65535))


@contextlib.asynccontextmanager
async def serving(outside: list[socket.socket] | None = None) -> AsyncIterator[Served]:
    counts: Counter[Outcome] = Counter()
    pair = server.open_sockets(HOST, 0)
    ports = (pair[0].getsockname()[1], pair[1].getsockname()[1])
    asked = upstream.Upstream(outside) if outside else None
    answers = Answers(lambda: ZONE, PacketLimit(), upstream=asked is not None)
    made = server.Server([pair], answers, lambda each: counts.update([each]), lambda: 0.0, asked)
    await made.start()
    try:
        yield Served(ports, counts)
    finally:
        await made.stop()
        if asked is not None:
            asked.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        async with asyncio.timeout(120):
            await work()

    asyncio.run(all_of_it())


async def by_tcp(writer: asyncio.StreamWriter, query: dns.message.Message) -> None:
    writer.write(query.to_wire(prepend_length=True))
    await writer.drain()


async def answer_of(reader: asyncio.StreamReader) -> dns.message.Message:
    async with asyncio.timeout(SECONDS):
        size = int.from_bytes(await reader.readexactly(2), "big")
        return dns.message.from_wire(await reader.readexactly(size))


def store() -> dns.message.Message:
    return dns.message.make_query("store.customer.internal", "A")


def test_both_transports_and_several_questions_on_one_connection() -> None:
    async def work() -> None:
        async with serving() as served:
            query = store()
            assert query.is_response(await served.ask(query))
            reader, writer = await asyncio.open_connection(HOST, served.tcp)
            queries = [store() for _ in range(3)]
            for query in queries:
                await by_tcp(writer, query)
            for query in queries:
                assert query.is_response(await answer_of(reader))
            writer.close()
            assert served.counts == {Outcome.ANSWERED: 4}

    run(work)


def test_rubbish_on_a_connection_ends_it_and_nothing_else() -> None:
    async def work() -> None:
        async with serving() as served:
            for rubbish in (b"\xff\xff", b"\0\3abc", b"\0\0"):
                reader, writer = await asyncio.open_connection(HOST, served.tcp)
                writer.write(rubbish)
                async with asyncio.timeout(SECONDS):
                    assert await reader.read() == b""
                writer.close()
            assert served.counts == {Outcome.MALFORMED: 3}
            await served.ask(store())

    run(work)


def test_who_holds_connections_open_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CONNECTIONS_PER_SOURCE", 4)
    monkeypatch.setattr(server, "IDLE_SECONDS", 3600.0)

    async def work() -> None:
        async with serving() as served:
            held = [await asyncio.open_connection(HOST, served.tcp) for _ in range(4)]
            for _, writer in held:
                # The beginning of a message that never comes.
                writer.write(b"\0\x20")
                await writer.drain()
            reader, writer = await asyncio.open_connection(HOST, served.tcp)
            async with asyncio.timeout(SECONDS):
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
            assert served.counts == {Outcome.CONNECTION_LIMITED: 1}
            writer.close()
            reader, writer = await asyncio.open_connection(
                HOST, served.tcp, local_addr=("127.0.0.2", 0)
            )
            query = store()
            await by_tcp(writer, query)
            assert query.is_response(await answer_of(reader))
            for _, each in [*held, (reader, writer)]:
                each.close()

    run(work)


def test_a_connection_on_which_nothing_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "IDLE_SECONDS", 0.01)

    async def work() -> None:
        async with serving() as served:
            reader, writer = await asyncio.open_connection(HOST, served.tcp)
            async with asyncio.timeout(SECONDS):
                assert await reader.read() == b""
            writer.close()

    run(work)


class Elsewhere(asyncio.DatagramProtocol):
    """An upstream resolver that answers what it is told to, after a forger's attempts."""

    def __init__(self) -> None:
        self.asked: list[dns.message.Message] = []
        self.silent = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        self.asked.append(query)
        if self.silent:
            return
        other = dns.message.make_query("elsewhere.example", "A", id=query.id)
        self.transport.sendto(dns.message.make_response(other).to_wire(), addr)
        answer = dns.message.make_response(query)
        answer.answer.append(dns.rrset.from_text(query.question[0].name, 5, "IN", "A", "192.0.2.7"))
        wrong = dns.message.make_response(query)
        wrong.id ^= 1
        self.transport.sendto(wrong.to_wire(), addr)
        self.transport.sendto(answer.to_wire(), addr)


@contextlib.asynccontextmanager
async def elsewhere() -> AsyncIterator[tuple[Elsewhere, int]]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Elsewhere, local_addr=(HOST, 0))
    try:
        yield protocol, transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def test_the_rest_is_asked_upstream() -> None:
    async def work() -> None:
        async with (
            elsewhere() as (other, port),
            serving(upstream.open_sockets(HOST, port)) as served,
        ):
            query = dns.message.make_query("www.example.com", "A")
            answer = await served.ask(query)
            assert query.is_response(answer)
            assert str(answer.answer[0][0]) == "192.0.2.7"
            reader, writer = await asyncio.open_connection(HOST, served.tcp)
            await by_tcp(writer, query)
            assert str((await answer_of(reader)).answer[0][0]) == "192.0.2.7"
            writer.close()
            await served.ask(store())
            assert [each.question for each in other.asked] == [query.question] * 2
            assert served.counts == {Outcome.FORWARDED: 2, Outcome.ANSWERED: 1}

    run(work)


def test_an_upstream_that_is_silent_gone_or_busy_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream, "ANSWER_SECONDS", 0.05)

    async def work() -> None:
        query = dns.message.make_query("www.example.com", "A")
        async with (
            elsewhere() as (other, port),
            serving(upstream.open_sockets(HOST, port)) as served,
        ):
            other.silent = True
            assert (await served.ask(query)).rcode() == dns.rcode.SERVFAIL
            other.transport.close()
            await asyncio.sleep(0)
            assert (await served.ask(query)).rcode() == dns.rcode.SERVFAIL
            monkeypatch.setattr(upstream, "WAITING_MAX", 0)
            assert (await served.ask(query)).rcode() == dns.rcode.SERVFAIL
            assert served.counts == {Outcome.UPSTREAM_FAILED: 3}
            # What the VPC has is answered all the same.
            assert (await served.ask(store())).rcode() == dns.rcode.NOERROR

    run(work)
