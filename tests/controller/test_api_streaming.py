# SPDX-License-Identifier: Apache-2.0
"""A program's output through the control API while it runs, and clients that do not take it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.output_frames import END, STDERR, STDOUT, frames
from netns.execution import Output
from tests.controller.region_lab import RegionLab, talk

ORDERS = "/v1/functions/orders/response-streaming-invocations"
SECONDS = 60


class Running(RegionLab):
    """Its programs write what the test writes to `stdout`, and end when it says so."""

    def __init__(self) -> None:
        super().__init__()
        self.stdout = -1
        self.begun = asyncio.Event()
        self.end = asyncio.Event()
        self.ended = asyncio.Event()
        self.failure: Exception | None = None

    async def invoke(
        self,
        name: str,
        command: Sequence[str],
        *,
        timeout_seconds: float | None,
        stdin: bytes | None,
        token: str | None = None,
        output: Output | None = None,
    ) -> Mapping[str, Any]:
        assert output is not None
        self.stdout, stderr = output.theirs()
        os.close(stderr)
        output.started.set_result(None)
        self.begun.set()
        try:
            await self.end.wait()
            if self.failure is not None:
                raise self.failure
        finally:
            os.close(self.stdout)
            self.ended.set()
        return await super().invoke(name, command, timeout_seconds=timeout_seconds, stdin=stdin)


async def next_frame(response: aiohttp.ClientResponse) -> tuple[int, bytes]:
    header = await response.content.readexactly(5)
    return header[0], await response.content.readexactly(int.from_bytes(header[1:], "big"))


def test_output_and_how_it_ended(directory: Path) -> None:
    data = os.urandom(1_000_000)

    async def work(client: aiohttp.ClientSession) -> None:
        asked = {"command": ["cat"], "stdin": base64.b64encode(data).decode()}
        async with client.post(ORDERS, json=asked) as response:
            assert (response.status, response.content_type) == (200, "application/octet-stream")
            *output, (kind, end) = frames([await response.read()])
        assert kind == END
        answer = json.loads(end)
        assert (answer["status"], answer["timed_out"], answer["cold"]) == (0, False, True)
        assert answer.keys().isdisjoint({"stdout", "stderr", "truncated"})
        for stream in (STDOUT, STDERR):
            assert b"".join(piece for kind, piece in output if kind == stream) == data

    talk(directory, RegionLab(), work)


def test_it_comes_while_the_program_runs(directory: Path) -> None:
    lab = Running()

    async def work(client: aiohttp.ClientSession) -> None:
        asking = asyncio.ensure_future(client.post(ORDERS, json={"command": ["true"]}))
        await lab.begun.wait()
        os.write(lab.stdout, b"first\n")
        async with await asking as response:
            assert await next_frame(response) == (STDOUT, b"first\n")
            os.write(lab.stdout, b"second\n")
            assert await next_frame(response) == (STDOUT, b"second\n")
            assert not lab.ended.is_set()
            lab.end.set()
            kind, _ = await next_frame(response)
            assert (kind, await response.content.read()) == (END, b"")

    talk(directory, lab, work)


@pytest.mark.parametrize(
    ("program", "code"),
    [("/missing", "ProgramNotFound"), ("/etc/passwd", "ProgramNotExecutable")],
)
def test_program_that_cannot_be_run(directory: Path, program: str, code: str) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        async with client.post(ORDERS, json={"command": [program]}) as response:
            assert response.status == 422
            assert (await response.json())["error"] == code

    talk(directory, RegionLab(), work)


def test_no_client_token(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        asked = {"command": ["true"], "client_token": "once"}
        async with client.post(ORDERS, json=asked) as response:
            assert response.status == 400

    talk(directory, RegionLab(), work)


def test_a_failure_after_the_start_is_a_broken_answer(directory: Path) -> None:
    lab = Running()
    lab.failure = ControllerError("no more")

    async def work(client: aiohttp.ClientSession) -> None:
        asking = asyncio.ensure_future(client.post(ORDERS, json={"command": ["true"]}))
        await lab.begun.wait()
        os.write(lab.stdout, b"x")
        async with await asking as response:
            assert await next_frame(response) == (STDOUT, b"x")
            lab.end.set()
            with pytest.raises(aiohttp.ClientError):
                await response.read()

    talk(directory, lab, work)


@pytest.mark.races
def test_a_client_that_does_not_read_and_leaves(directory: Path) -> None:
    lab = Running()

    async def work(client: aiohttp.ClientSession) -> None:
        body = b'{"command": ["true"]}'
        _, writer = await asyncio.open_unix_connection(directory / "control.sock", limit=1)
        writer.write(
            f"POST {ORDERS} HTTP/1.1\r\nHost: lab\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        writer.write(body)
        async with asyncio.timeout(SECONDS):
            await lab.begun.wait()
            os.set_blocking(lab.stdout, False)
            written = refused = 0
            # As much as goes: full a hundred times in a row while others are answered is full.
            while refused < 100:
                try:
                    written += os.write(lab.stdout, bytes(65536))
                    refused = 0
                except BlockingIOError:
                    refused += 1
                    async with client.get("/v1/functions") as response:
                        assert response.status == 200
            assert 65536 <= written < 4_000_000
            assert not lab.ended.is_set()
            writer.transport.abort()
            await lab.ended.wait()

    talk(directory, lab, work)
