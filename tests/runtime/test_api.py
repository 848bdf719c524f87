# SPDX-License-Identifier: Apache-2.0
"""The API that invokes functions, asked by boto3, with a controller that is made up."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from aiohttp import web
from botocore.config import Config
from botocore.exceptions import ClientError

from hyperplane_nat.runtime import api, handlers
from hyperplane_nat.runtime.handlers import Handlers
from tests.runtime.box import PlainBox

KEY = "AKIATEST"


class Controller:
    """Places everything in one environment, as long as nobody says otherwise."""

    def __init__(self) -> None:
        self.standing: list[dict[str, bool]] = []
        self.asked: list[dict[str, Any]] = []
        self.refusal: dict[str, str] | None = None
        self.cold = True
        self.heard = asyncio.Condition()
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, path: Path) -> None:
        reader, self._writer = await asyncio.open_unix_connection(path)
        self.standing.append(json.loads(await reader.readline())["standing"])
        while line := await reader.readline():
            asked = json.loads(line)
            told: dict[str, Any] = {"id": asked["id"], "result": {}}
            if asked["ask"] == "begin":
                told["result"] = self._place(asked["function"])
            if self.refusal is not None and asked["ask"] in ("begin", "check"):
                told = {"id": asked["id"], **self.refusal}
            async with self.heard:
                self.asked.append(asked)
                self.heard.notify_all()
            self._writer.write(json.dumps(told).encode() + b"\n")

    def _place(self, function: str) -> dict[str, Any]:
        cold, self.cold = self.cold, False
        return {
            "environment": 3,
            "namespace": "nowhere",
            "cold": cold,
            "function": function,
            "account": "111122223333",
            "memory_mb": 128,
            "code": {
                "path": "/code",
                "handler": "app.handler",
                "runtime": "python3.11",
                "timeout_seconds": 20,
            },
            "variables": {},
        }

    async def until(self, *asks: str) -> None:
        """Wait until exactly these were asked."""
        async with self.heard:
            await self.heard.wait_for(lambda: [each["ask"] for each in self.asked] == list(asks))


class Scene:
    def __init__(self, handlers: Handlers, controller: Controller, port: int) -> None:
        self.handlers = handlers
        self.controller = controller
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def invoke(self, key: str = KEY, **arguments: Any) -> dict[str, Any]:
        """`Invoke` of boto3; its payload is read."""

        def call() -> dict[str, Any]:
            client = boto3.client(
                "lambda",
                endpoint_url=self.url,
                region_name="us-east-1",
                aws_access_key_id=key,
                aws_secret_access_key="any",
                config=Config(retries={"max_attempts": 0}),
            )
            answer: dict[str, Any] = client.invoke(**{"FunctionName": "f", **arguments})
            answer["Payload"] = answer["Payload"].read()
            return answer

        return await asyncio.to_thread(call)

    async def refused(self, **arguments: Any) -> tuple[str, int, str]:
        with pytest.raises(ClientError) as raised:
            await self.invoke(**arguments)
        answer = raised.value.response
        return (
            answer["Error"]["Code"],
            answer["ResponseMetadata"]["HTTPStatusCode"],
            answer["Error"]["Message"],
        )


def play(directory: Path, work: Callable[[Scene], Awaitable[None]], **more: Any) -> None:
    async def body() -> None:
        made = Handlers(PlainBox(), directory=directory, region="us-east-1", **more)
        server = await made.link.serve(directory / "link")
        runner = web.AppRunner(api.application(made, KEY))
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        controller = Controller()
        connected = asyncio.create_task(controller.run(directory / "link"))
        try:
            async with asyncio.timeout(15):
                await work(Scene(made, controller, runner.addresses[0][1]))
        finally:
            await made.close()
            connected.cancel()
            server.close()
            await runner.cleanup()

    asyncio.run(body())


def test_request_and_response(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        context = base64.b64encode(b'{"custom": {"a": 1}}').decode()
        answer = await scene.invoke(
            Payload=b'{"a": 1}', LogType="Tail", ClientContext=context, FunctionName="f:$LATEST"
        )
        assert answer["StatusCode"] == 200
        assert answer["ExecutedVersion"] == "$LATEST"
        assert "FunctionError" not in answer
        told = json.loads(answer["Payload"])
        assert told["event"] == {"a": 1}
        assert json.loads(told["Lambda-Runtime-Client-Context"]) == {"custom": {"a": 1}}
        arn = "arn:aws:lambda:us-east-1:111122223333:function:f"
        assert told["Lambda-Runtime-Invoked-Function-Arn"] == arn
        request_id = answer["ResponseMetadata"]["RequestId"]
        assert told["Lambda-Runtime-Aws-Request-Id"] == request_id
        log = base64.b64decode(answer["LogResult"]).decode()
        assert f"START RequestId: {request_id} Version: $LATEST" in log
        assert "LogResult" not in await scene.invoke(FunctionName=arn)
        await scene.controller.until("begin", "end", "begin", "end")

    play(tmp_path, work)


def test_without_a_payload_the_event_is_empty(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        assert json.loads((await scene.invoke())["Payload"])["event"] == {}

    play(tmp_path, work)


def test_an_error_of_the_function(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        answer = await scene.invoke(Payload=b'{"do": "exit", "status": 1}')
        assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
        assert json.loads(answer["Payload"])["errorType"] == "Runtime.ExitError"
        await scene.controller.until("begin", "discard")

    play(tmp_path, work)


def test_an_event_is_accepted_and_tried_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(scene: Scene) -> None:
        answer = await scene.invoke(InvocationType="Event", Payload=b'{"do": "error"}')
        assert (answer["StatusCode"], answer["Payload"]) == (202, b"")
        await scene.controller.until("check", *["begin", "end"] * 3)
        monkeypatch.setattr(handlers, "EVENTS_MAX", 0)
        assert (await scene.refused(InvocationType="Event"))[:2] == (
            "TooManyRequestsException",
            429,
        )

    play(tmp_path, work, time_scale=1e6)


def test_a_dry_run_runs_nothing(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        assert (await scene.invoke(InvocationType="DryRun"))["StatusCode"] == 204
        await scene.controller.until("check")

    play(tmp_path, work)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("ResourceNotFoundException", 404),
        ("ResourceConflictException", 409),
        ("ResourceNotReadyException", 502),
        ("SubnetIPAddressLimitReachedException", 502),
        ("ENILimitReachedException", 502),
        ("TooManyRequestsException", 429),
        ("ServiceException", 500),
        ("SomethingElse", 500),
    ],
)
def test_what_the_controller_refuses(tmp_path: Path, code: str, status: int) -> None:
    async def work(scene: Scene) -> None:
        scene.controller.refusal = {"error": code, "message": "because"}
        for kind in ("RequestResponse", "Event", "DryRun"):
            assert await scene.refused(InvocationType=kind) == (code, status, "because")

    play(tmp_path, work)


@pytest.mark.parametrize(
    ("arguments", "code", "status"),
    [
        ({"key": "AKIAOTHER"}, "UnrecognizedClientException", 403),
        ({"Payload": b"{"}, "InvalidRequestContentException", 400),
        ({"Payload": b" " * (6 << 20) + b"1"}, "RequestTooLargeException", 413),
        (
            {"InvocationType": "Event", "Payload": b" " * (1 << 20) + b"1"},
            "RequestTooLargeException",
            413,
        ),
        ({"ClientContext": "x"}, "InvalidRequestContentException", 400),
        ({"Qualifier": "live"}, "ResourceNotFoundException", 404),
        ({"LogType": "All"}, "InvalidParameterValueException", 400),
        ({"InvocationType": "Later"}, "InvalidParameterValueException", 400),
    ],
)
def test_what_is_refused_at_the_door(
    tmp_path: Path, arguments: dict[str, Any], code: str, status: int
) -> None:
    async def work(scene: Scene) -> None:
        assert (await scene.refused(**arguments))[:2] == (code, status)
        assert scene.controller.asked == []

    play(tmp_path, work)


def test_who_names_no_key(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        path = "/2015-03-31/functions/f/invocations"
        async with aiohttp.ClientSession(scene.url) as session:
            for headers in ({}, {"Authorization": f"Bearer {KEY}"}):
                async with session.post(path, headers=headers) as answer:
                    assert answer.status == 403
            headers = {"Authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/x"}
            async with session.get("/2015-03-31/functions", headers=headers) as answer:
                assert answer.status == 404
                assert answer.headers["x-amzn-ErrorType"] == "ResourceNotFoundException"

    play(tmp_path, work)


def test_a_controller_that_ends_and_its_successor(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        running = asyncio.create_task(scene.invoke(Payload=b'{"a": 1}'))
        await scene.controller.until("begin")
        successor = Controller()
        successor.cold = False
        connected = asyncio.create_task(successor.run(tmp_path / "link"))
        answer = await running
        assert json.loads(answer["Payload"])["event"]["a"] == 1
        await scene.invoke()
        # Of the former one nothing is left: the environment is known by its number alone.
        assert [each.keys() for each in successor.standing] == [{"3"}]
        assert "begin" in [each["ask"] for each in successor.asked]
        connected.cancel()

    play(tmp_path, work)
