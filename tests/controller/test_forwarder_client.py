# SPDX-License-Identifier: Apache-2.0
"""Requests to a forwarder, their answers, and a connection that breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.controller.errors import ForwarderError
from hyperplane_nat.controller.forwarder.client import ForwarderClient
from tests.controller.support import eventually, run

pytestmark = pytest.mark.races

Conversation = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read(reader: asyncio.StreamReader) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await reader.readline())
    return message


def converse(
    directory: Path, server_side: Conversation, client_side: Callable[[ForwarderClient], Any]
) -> list[Any]:
    """Run both sides; the events that came."""
    events: list[Any] = []

    async def work() -> None:
        failures: list[BaseException] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await server_side(reader, writer)
            except Exception as error:
                failures.append(error)
            finally:
                writer.close()

        server = await asyncio.start_unix_server(serve, directory / "sock")
        client = await ForwarderClient.connect(directory / "sock", events.append)
        await client_side(client)
        await client.close()
        assert not client.connected
        server.close()
        assert not failures

    run(work())
    return events


def test_answers_in_any_order(directory: Path) -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, second = await read(reader), await read(reader)
        assert (first["command"], second["command"]) == ("a", "b")
        assert second["arguments"] == {"x": 1}
        writer.write(b'{"event": "ready"}\n')
        for request in (second, first):
            reply = {"id": request["id"], "ok": True, "result": request["command"]}
            writer.write(json.dumps(reply).encode() + b"\n")

    async def client(connection: ForwarderClient) -> None:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(connection.call("a"))
            await asyncio.sleep(0)
            second = group.create_task(connection.call("b", {"x": 1}))
        assert (first.result(), second.result()) == ("a", "b")

    assert converse(directory, server, client) == [{"event": "ready"}]


def test_refusal(directory: Path) -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read(reader)
        reply = {"id": request["id"], "ok": False, "error": "no such link"}
        writer.write(json.dumps(reply).encode() + b"\n")
        await writer.drain()
        await reader.read()

    async def client(connection: ForwarderClient) -> None:
        with pytest.raises(ForwarderError, match=r"^forwarder: configure: no such link$"):
            await connection.call("configure")

    converse(directory, server, client)


@pytest.mark.parametrize("garbage", [b"", b"not json\n", b'{"id": 1, "ok'])
def test_broken_connection_fails_what_waits_and_what_comes(directory: Path, garbage: bytes) -> None:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(garbage)

    async def client(connection: ForwarderClient) -> None:
        with pytest.raises(ForwarderError, match="connection was lost"):
            await connection.call("status")
        await connection.lost()
        with pytest.raises(ForwarderError, match="connection is lost"):
            await connection.call("status")

    converse(directory, server, client)


def test_late_answer_is_not_taken_for_another(directory: Path) -> None:
    asked = asyncio.Event()

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await read(reader)
        asked.set()
        second = await read(reader)
        for request, result in ((first, "late"), (second, "right")):
            reply = {"id": request["id"], "ok": True, "result": result}
            writer.write(json.dumps(reply).encode() + b"\n")

    async def client(connection: ForwarderClient) -> None:
        with pytest.raises(ForwarderError, match="no answer within"):
            await connection.call("verify", timeout_seconds=0.05)
        await eventually(asked.is_set)
        assert await connection.call("status") == "right"

    converse(directory, server, client)
