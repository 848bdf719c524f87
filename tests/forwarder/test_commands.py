# SPDX-License-Identifier: Apache-2.0
"""The command socket answers everything with one line and survives every client."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.forwarder.commands import CommandError, CommandServer
from hyperplane_nat.forwarder.slices import Work


def refuse(_arguments: dict[str, Any]) -> None:
    raise CommandError("not today")


def listener(path: Path) -> socket.socket:
    result = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    result.bind(str(path))
    result.listen()
    return result


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[CommandServer]:
    server = CommandServer(
        listener(path),
        {
            "echo": lambda arguments: arguments,
            "refuse": refuse,
            "need": lambda arguments: arguments["field"],
        },
    )
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def ask(path: Path, *lines: bytes) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    answers = []
    for line in lines:
        writer.write(line + b"\n")
        answers.append(json.loads(await reader.readline()))
    writer.close()
    return answers


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (
            b'{"id": 1, "command": "echo", "arguments": {"a": 1}}',
            {"id": 1, "ok": True, "result": {"a": 1}},
        ),
        (b'{"id": 2, "command": "echo"}', {"id": 2, "ok": True, "result": {}}),
        (b'{"id": 3, "command": "refuse"}', {"id": 3, "ok": False, "error": "not today"}),
        (b'{"id": 4, "command": "need"}', {"id": 4, "ok": False, "error": "missing field 'field'"}),
        (
            b'{"id": 5, "command": "nonsense"}',
            {
                "id": 5,
                "ok": False,
                "error": "unknown command 'nonsense'; known: echo, need, refuse",
            },
        ),
        (b"[]", {"id": None, "ok": False, "error": "a request is a JSON object"}),
        (
            b'{"id": 6, "command": "echo", "arguments": 7}',
            {"id": 6, "ok": False, "error": "arguments are a JSON object"},
        ),
    ],
)
def test_answers(tmp_path: Path, line: bytes, answer: dict[str, Any]) -> None:
    async def body() -> None:
        async with served(tmp_path / "s"):
            assert await ask(tmp_path / "s", line) == [answer]

    run(body)


def test_garbage_does_not_end_the_connection(tmp_path: Path) -> None:
    async def body() -> None:
        async with served(tmp_path / "s"):
            bad, good = await ask(tmp_path / "s", b"\xff{not json", b'{"id": 9, "command": "echo"}')
            assert not bad["ok"]
            assert good == {"id": 9, "ok": True, "result": {}}

    run(body)


def test_events_reach_every_client(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def body() -> None:
        async with served(path) as server:
            connections = [await asyncio.open_unix_connection(str(path)) for _ in range(3)]
            for reader, writer in connections:
                writer.write(b'{"id": 1, "command": "echo"}\n')
                await reader.readline()
            server.broadcast({"event": "hello"})
            for reader, writer in connections:
                line = await reader.readline()
                assert json.loads(line) == {"event": "hello"}
                writer.close()

    run(body)


def test_a_long_command_lets_others_wait_and_the_loop_go_on(tmp_path: Path) -> None:
    path = tmp_path / "s"
    happened: list[str] = []
    begun = asyncio.Event()
    turns = 0

    def slow(_arguments: dict[str, Any]) -> Work[str]:
        happened.append("slow begins")
        begun.set()
        # It ends only when the loop has gone on meanwhile, however slow the machine.
        while turns < 20:
            yield
        happened.append("slow ends")
        return "done"

    async def body() -> None:
        nonlocal turns
        server = CommandServer(
            listener(path), {"slow": slow, "quick": lambda _: happened.append("quick")}
        )
        await server.start()
        first = asyncio.create_task(ask(path, b'{"id": 1, "command": "slow"}'))
        await begun.wait()
        second = asyncio.create_task(ask(path, b'{"id": 2, "command": "quick"}'))
        while not first.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await first)[0] == {"id": 1, "ok": True, "result": "done"}
        assert (await second)[0]["ok"]
        await server.close()

    run(body)
    assert happened == ["slow begins", "slow ends", "quick"]
