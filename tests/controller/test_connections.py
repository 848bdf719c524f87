# SPDX-License-Identifier: Apache-2.0
"""Many connections, and clients that never come to the point."""

from __future__ import annotations

import asyncio
import json
import resource
from pathlib import Path

import aiohttp
import pytest

from hyperplane_nat import connections
from hyperplane_nat.controller.api import connections as limits
from hyperplane_nat.controller.api.connections import file_shares
from tests.controller.region_lab import RegionLab, talk
from tests.controller.support import eventually

pytestmark = pytest.mark.races

LIMIT = 8
HALF = b"GET /v1/status HTTP/1.1\r\nHost: lab\r\n"
REQUEST = HALF + b"\r\n"
BODY = b"POST /v1/apply HTTP/1.1\r\nHost: lab\r\nContent-Length: 99\r\n\r\n{"

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(directory: Path, said: bytes = b"") -> Connection:
    reader, writer = await asyncio.open_unix_connection(directory / "control.sock")
    writer.write(said)
    await writer.drain()
    return reader, writer


async def status_of(client: aiohttp.ClientSession) -> int:
    async with client.get("/v1/status") as response:
        await response.read()
        return response.status


async def ended(connection: Connection) -> bytes:
    """What the server has sent when it has closed the connection."""
    try:
        return await connection[0].read()
    except ConnectionResetError:
        return b""
    finally:
        connection[1].close()


@pytest.mark.parametrize("said", [b"", HALF, BODY], ids=["nothing", "half a head", "half a body"])
def test_who_only_connects_makes_room(directory: Path, said: bytes) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        opened = [await connect(directory, said) for _ in range(3 * LIMIT)]
        assert await status_of(client) == 200
        # The first ones had to go, the last ones are there; the client has one.
        for connection in opened[: 2 * LIMIT + 1]:
            assert await ended(connection) == b""
        for connection in opened[2 * LIMIT + 1 :]:
            assert not connection[0].at_eof()
            connection[1].close()

    talk(directory, RegionLab(), work, LIMIT)


def test_a_burst_beyond_the_limit_leaves_the_limit(directory: Path) -> None:
    """All of them are accepted before the first is told that it exists."""

    async def work(client: aiohttp.ClientSession) -> None:
        opened = await asyncio.gather(*(connect(directory, HALF) for _ in range(100)))
        assert await status_of(client) == 200
        reads = [asyncio.create_task(ended(each)) for each in opened]
        await eventually(lambda: sum(read.done() for read in reads) == 100 - LIMIT + 1)
        for _, writer in opened:
            writer.close()
        await asyncio.gather(*reads)

    talk(directory, RegionLab(), work, LIMIT)


def test_those_being_served_stay(directory: Path) -> None:
    lab = RegionLab()
    go_on = asyncio.Event()
    begun = 0
    status = lab.status

    async def slow() -> object:
        nonlocal begun
        begun += 1
        await go_on.wait()
        return await status()

    lab.status = slow  # type: ignore[method-assign,assignment]

    async def work(_client: aiohttp.ClientSession) -> None:
        busy = [await connect(directory, REQUEST) for _ in range(LIMIT)]
        await eventually(lambda: begun == LIMIT)
        answer = await ended(await connect(directory))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "busy"
        go_on.set()
        for reader, writer in busy:
            assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
            writer.close()

    talk(directory, lab, work, LIMIT)


def test_who_leaves_makes_room(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        for _ in range(5 * LIMIT):
            _, writer = await connect(directory, REQUEST)
            writer.close()
        assert await status_of(client) == 200

    talk(directory, RegionLab(), work, LIMIT)


@pytest.mark.parametrize("said", [b"", HALF, REQUEST], ids=["nothing", "half a head", "idle"])
def test_an_idle_client_is_not_waited_for(
    directory: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not so short that a request which is on its way would come too late.
    monkeypatch.setattr(connections, "IDLE_SECONDS", 1.0)

    async def work(_client: aiohttp.ClientSession) -> None:
        answer = await ended(await connect(directory, said))
        assert answer.startswith(b"HTTP/1.1 200 ") == (said == REQUEST)

    talk(directory, RegionLab(), work)


def test_a_body_that_does_not_come(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BODY_SECONDS", 0.05)

    async def work(_client: aiohttp.ClientSession) -> None:
        reader, writer = await connect(directory, BODY)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in head
        writer.close()

    talk(directory, RegionLab(), work)


def test_limits_leave_files_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, shares in ((1024, (256, 64)), (65536, (4096, 64)), (-1, (4096, 64))):
        monkeypatch.setattr(resource, "getrlimit", lambda _which, soft=soft: (soft, soft))
        assert file_shares() == shares
