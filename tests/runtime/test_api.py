# SPDX-License-Identifier: Apache-2.0
"""The API that invokes functions, asked by boto3, with a controller that is made up."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from hyperplane_nat.runtime import api, handlers
from hyperplane_nat.runtime.handlers import Handlers
from hyperplane_nat.runtime.logs import log_path
from tests.runtime.box import PlainBox, PlainLog

KEY = "AKIATEST"


class Controller:
    """Places everything in one environment, as long as nobody says otherwise."""

    def __init__(self) -> None:
        self.standing: list[dict[str, bool]] = []
        self.asked: list[dict[str, Any]] = []
        self.refusal: dict[str, str] | None = None
        self.want = "TooManyRequestsException"
        self.full = 0
        """How many places are refused before there is one."""
        self.cold = True
        self.hold: asyncio.Event | None = None
        """Until when no place is answered for."""
        self.heard = asyncio.Condition()
        self._held: list[asyncio.Task[None]] = []
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, path: Path) -> None:
        reader, self._writer = await asyncio.open_unix_connection(path)
        self.standing.append(json.loads(await reader.readline())["standing"])
        while line := await reader.readline():
            asked = json.loads(line)
            async with self.heard:
                self.asked.append(asked)
                self.heard.notify_all()
            if self.hold is not None and asked["ask"] == "begin":
                self._held.append(asyncio.create_task(self._answer_later(self.hold, asked)))
            else:
                self._answer(asked)

    async def _answer_later(self, hold: asyncio.Event, asked: dict[str, Any]) -> None:
        await hold.wait()
        self._answer(asked)

    def _answer(self, asked: dict[str, Any]) -> None:
        told: dict[str, Any] = {"id": asked["id"], "result": {}}
        if asked["ask"] == "begin" and self.full:
            self.full -= 1
            told = {"id": asked["id"], "error": self.want, "message": "because"}
        elif asked["ask"] == "begin":
            told["result"] = self._place(asked["function"])
        if self.refusal is not None and asked["ask"] in ("begin", "check"):
            told = {"id": asked["id"], **self.refusal}
        assert self._writer is not None
        self._writer.write(json.dumps(told).encode() + b"\n")

    def _place(self, function: str) -> dict[str, Any]:
        cold, self.cold = self.cold, False
        return {
            "environment": 3,
            "namespace": "nowhere",
            "cold": cold,
            "ahead": False,
            "function": function.partition(":")[0],
            "version": "7" if function.endswith(":live") else "$LATEST",
            "account": "111122223333",
            "memory_mb": 128,
            "code": {
                "path": "/code",
                "handler": "app.handler",
                "runtime": "python3.11",
                "timeout_seconds": 20,
                "ephemeral_storage_mb": 512,
                "freeze": True,
                "layers": [],
            },
            "variables": {},
        }

    async def until(self, *asks: str) -> None:
        """Wait until exactly these were asked."""
        async with self.heard:
            await self.heard.wait_for(lambda: [each["ask"] for each in self.asked] == list(asks))


class Scene:
    def __init__(
        self, handlers: Handlers, box: PlainBox, controller: Controller, port: int
    ) -> None:
        self.handlers = handlers
        self.box = box
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


def play(
    directory: Path,
    work: Callable[[Scene], Awaitable[None]],
    seconds: float = 120,
    connections_max: int = api.CONNECTIONS_MAX,
    **more: Any,
) -> None:
    async def body() -> None:
        box = PlainBox()

        def open_log(_namespace: str, function: str) -> PlainLog:
            return PlainLog(log_path(directory, function))

        made = Handlers(box, open_log=open_log, region="us-east-1", **more)
        server = await asyncio.start_unix_server(made.link.talk, directory / "link")
        listener = socket.create_server(("127.0.0.1", 0))
        controller = Controller()
        connected = asyncio.create_task(controller.run(directory / "link"))
        port = listener.getsockname()[1]
        try:
            async with (
                api.served(made, KEY, listener, connections_max),
                asyncio.timeout(seconds),
            ):
                await work(Scene(made, box, controller, port))
        finally:
            await made.close()
            connected.cancel()
            server.close()

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
        assert told["Lambda-Runtime-Invoked-Function-Arn"] == f"{arn}:$LATEST"
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


@pytest.mark.parametrize("want", ["TooManyRequestsException", "ENILimitReachedException"])
def test_an_event_waits_for_a_place(tmp_path: Path, want: str) -> None:
    async def work(scene: Scene) -> None:
        scene.controller.want, scene.controller.full = want, 12
        await scene.invoke(InvocationType="Event")
        await scene.controller.until("check", *["begin"] * 13, "end")

    play(tmp_path, work, time_scale=1e6)


def test_an_event_whose_function_is_gone_is_given_up(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        scene.controller.want, scene.controller.full = "ResourceNotFoundException", 1
        await scene.invoke(InvocationType="Event")
        await scene.controller.until("check", "begin")
        await scene.invoke()
        await scene.controller.until("check", "begin", "begin", "end")

    play(tmp_path, work, time_scale=1e6)


def test_an_event_that_is_never_placed_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(scene: Scene) -> None:
        # After 1, 2 and 4 seconds.
        monkeypatch.setattr(handlers, "QUEUED_SECONDS", 7.0)
        scene.controller.full = 4
        await scene.invoke(InvocationType="Event")
        await scene.controller.until("check", *["begin"] * 4)
        await scene.invoke()
        await scene.controller.until("check", *["begin"] * 5, "end")

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
        ({"Payload": b"[" * 100_000 + b"]" * 100_000}, "InvalidRequestContentException", 400),
        ({"Payload": b'{"a": NaN}'}, "InvalidRequestContentException", 400),
        ({"ClientContext": "x"}, "InvalidRequestContentException", 400),
        (
            {"FunctionName": "f:live", "Qualifier": "other"},
            "InvalidParameterValueException",
            400,
        ),
        ({"LogType": "All"}, "ValidationException", 400),
        ({"InvocationType": "Later"}, "ValidationException", 400),
        ({"Qualifier": "a.b"}, "ValidationException", 400),
        ({"FunctionName": "arn:aws:lambda:us-east-1::function:f"}, "ValidationException", 400),
        ({"FunctionName": "arn:aws:s3:us-east-1:1:bucket"}, "ValidationException", 400),
        ({"FunctionName": "1111:function:f"}, "ValidationException", 400),
        ({"FunctionName": "what is this"}, "ValidationException", 400),
    ],
)
def test_what_is_refused_at_the_door(
    tmp_path: Path, arguments: dict[str, Any], code: str, status: int
) -> None:
    async def work(scene: Scene) -> None:
        assert (await scene.refused(**arguments))[:2] == (code, status)
        assert scene.controller.asked == []

    play(tmp_path, work)


@pytest.mark.parametrize(
    ("kind", "size", "text"),
    [
        (
            "RequestResponse",
            (6 << 20) + 1,
            "Request must be smaller than 6291456 bytes for the InvokeFunction operation",
        ),
        (
            "RequestResponse",
            64 << 20,
            "Request must be smaller than 6291456 bytes for the InvokeFunction operation",
        ),
        (
            "Event",
            (1 << 20) + 1,
            "1048577 byte payload is too large for the Event invocation type (limit 1048576 bytes)",
        ),
    ],
)
def test_a_payload_that_is_too_large(tmp_path: Path, kind: str, size: int, text: str) -> None:
    async def work(scene: Scene) -> None:
        payload = b'"' + b"x" * (size - 2) + b'"'
        told = await scene.refused(InvocationType=kind, Payload=payload)
        assert told == ("RequestEntityTooLargeException", 413, text)
        assert scene.controller.asked == []

    play(tmp_path, work)


PATH = "/2015-03-31/functions/f/invocations"
HEADERS = {"Authorization": f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/x"}


def request(body: bytes, size: int) -> bytes:
    """What a client sends of a request with a body of `size` bytes."""
    lines = [f"POST {PATH} HTTP/1.1", "Host: localhost", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the server and this program have logged as such."""
    return [
        record.message
        for record in caplog.records
        if record.levelname == "ERROR" and record.name.startswith(("aiohttp", "hyperplane_nat"))
    ]


def test_who_goes_away_with_half_a_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(scene: Scene) -> None:
        for _ in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", scene.port)
            writer.write(request(b'{"a": ', 100))
            await writer.drain()
            writer.transport.abort()
        assert json.loads((await scene.invoke())["Payload"])["event"] == {}
        await scene.controller.until("begin", "end")

    play(tmp_path, work)
    assert errors(caplog) == []


def test_half_a_request_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(scene: Scene) -> None:
        monkeypatch.setattr(api, "BODY_SECONDS", 0.05)
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
        writer.write(request(b'{"a": ', 100))
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")
        writer.close()
        assert scene.controller.asked == []

    play(tmp_path, work)


@pytest.mark.parametrize("event", [{"do": "wait"}, {"do": "large", "bytes": 6_000_000}])
def test_who_goes_away_before_the_answer_or_in_its_midst(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, event: dict[str, Any]
) -> None:
    """The invocation runs to its end, and its environment serves the next one."""

    async def work(scene: Scene) -> None:
        body = json.dumps(event).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
        writer.write(request(body, len(body)))
        if event["do"] == "large":
            await reader.readline()
        else:
            await scene.controller.until("begin")
        writer.transport.abort()
        await scene.controller.until("begin", "end")
        assert json.loads((await scene.invoke())["Payload"])["event"] == {}
        assert len(scene.box.started) == 1

    play(tmp_path, work)
    assert errors(caplog) == []


def test_a_thousand_wait_for_a_place(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        scene.controller.hold = asyncio.Event()
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(scene.url, connector=connector) as session:

            async def ask() -> tuple[int, str]:
                async with session.post(PATH, headers=HEADERS, data=b"{}") as answer:
                    return answer.status, answer.headers["x-amzn-ErrorType"]

            asked = [asyncio.create_task(ask()) for _ in range(1000)]
            await scene.controller.until(*["begin"] * 1000)
            scene.controller.full = 1000
            scene.controller.hold.set()
            assert set(await asyncio.gather(*asked)) == {(429, "TooManyRequestsException")}
        assert json.loads((await scene.invoke())["Payload"])["event"] == {}

    play(tmp_path, work, seconds=240)


def test_a_thousand_events_wait_and_no_more(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        scene.controller.hold = asyncio.Event()
        headers = {**HEADERS, "X-Amz-Invocation-Type": "Event"}
        connector = aiohttp.TCPConnector(limit=100)
        async with aiohttp.ClientSession(scene.url, connector=connector) as session:

            async def send() -> int:
                async with session.post(PATH, headers=headers, data=b"{}") as answer:
                    return answer.status

            assert await asyncio.gather(*(send() for _ in range(1000))) == [202] * 1000
            assert await send() == 429

    play(tmp_path, work, seconds=240)


def test_an_environment_that_fails_in_a_way_nobody_foresaw_is_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(scene: Scene) -> None:
        await scene.invoke()
        started: Any = scene.box.started[0]
        started.group = Broken()
        assert (await scene.refused())[:2] == ("ServiceException", 500)
        assert scene.box.started[0].process.wait(30) == -9
        await scene.controller.until("begin", "end", "begin", "discard")

    play(tmp_path, work)
    assert "TypeError" in caplog.text


class Broken:
    """No control group at all."""

    def out_of_memory(self) -> int:
        raise TypeError

    @property
    def freezes(self) -> bool:
        raise TypeError


@pytest.mark.parametrize("said", [b"", b"POST / HTTP/1.1\r\n", request(b"{", 100)])
def test_strangers_who_only_connect_make_room(tmp_path: Path, said: bytes) -> None:
    async def work(scene: Scene) -> None:
        scene.controller.hold = asyncio.Event()
        running = asyncio.create_task(scene.invoke())
        await scene.controller.until("begin")
        strangers = []
        for _ in range(12):
            strangers.append(await asyncio.open_connection("127.0.0.1", scene.port))
            strangers[-1][1].write(said)
        scene.controller.hold.set()
        # One is being served, of eight: the strangers that came first had to go.
        for reader, _ in strangers[:5]:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        assert json.loads((await running)["Payload"])["event"] == {}
        assert json.loads((await scene.invoke())["Payload"])["event"] == {}
        for _, writer in strangers:
            writer.close()

    play(tmp_path, work, connections_max=8)


def test_what_is_no_http(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.0 400 ")
        assert b"x-amzn-ErrorType: InvalidRequestContentException" in answer
        writer.close()

    play(tmp_path, work)


def test_who_names_no_key(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        async with aiohttp.ClientSession(scene.url) as session:
            for headers in ({}, {"Authorization": f"Bearer {KEY}"}):
                async with session.post(PATH, headers=headers) as answer:
                    assert answer.status == 403
            async with session.get("/2015-03-31/functions", headers=HEADERS) as answer:
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
