# SPDX-License-Identifier: Apache-2.0
"""A runtime and its invocations, whatever becomes of them."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.runtime.environment import CONNECTIONS_MAX, Environment
from hyperplane_nat.runtime.invocation import ANSWER_BYTES_MAX, Invocation, Outcome
from hyperplane_nat.runtime.logs import FunctionLog
from hyperplane_nat.runtime.settings import Settings
from tests.runtime.box import PlainBox, PlainLog, settings


class Scene:
    def __init__(self, directory: Path, wanted: Settings, init_seconds: float = 20.0) -> None:
        self.log = directory / "f.log"
        self.box = PlainBox()
        self.gone: list[int] = []
        self.told = asyncio.Event()
        self.still = asyncio.Event()
        self.environment = Environment(
            7,
            "nowhere",
            wanted,
            self.box,
            FunctionLog(PlainLog(self.log), lambda: 0.0),
            on_gone=self._note,
            on_still=lambda _number: self.still.set(),
            init_seconds=init_seconds,
        )

    def _note(self, number: int) -> None:
        self.gone.append(number)
        self.told.set()

    async def invoke(self, **event: Any) -> Outcome:
        asked = Invocation("the-request", json.dumps(event).encode(), "the-arn", "the-trace")
        return await self.environment.invoke(asked)


def play(
    directory: Path,
    work: Callable[[Scene], Awaitable[None]],
    wanted: Settings | None = None,
    **more: float,
) -> Scene:
    async def body() -> Scene:
        scene = Scene(directory, wanted or settings(), **more)
        try:
            async with asyncio.timeout(240):
                await work(scene)
        finally:
            await scene.environment.close()
        return scene

    return asyncio.run(body())


def error(outcome: Outcome) -> tuple[str, str]:
    assert outcome.error == "Unhandled"
    told = json.loads(outcome.payload)
    return told["errorType"], told["errorMessage"]


def test_one_initialization_serves_several_invocations(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        before = time.time()
        first, second = await scene.invoke(a=1), await scene.invoke(a=2)
        head = json.loads(first.payload)
        assert head["event"] == {"a": 1}
        assert head["Lambda-Runtime-Aws-Request-Id"] == "the-request"
        assert head["Lambda-Runtime-Invoked-Function-Arn"] == "the-arn"
        assert head["Lambda-Runtime-Trace-Id"] == "the-trace"
        assert before + 20 <= int(head["Lambda-Runtime-Deadline-Ms"]) / 1000 + 0.001
        assert json.loads(second.payload)["event"] == {"a": 2}
        assert (first.error, second.error) == (None, None)
        assert first.init_seconds is not None
        assert second.init_seconds is None
        assert b"initializing" in first.tail
        assert b"initializing" not in second.tail
        words = [line.split()[0] for line in second.tail.splitlines()]
        assert words == [b"START", b"doing", b"END", b"REPORT"]
        assert b"Init Duration" in first.tail.splitlines()[-1]
        assert b"Init Duration" not in second.tail
        assert second.environment == "env-7"

    scene = play(tmp_path, work)
    assert len(scene.box.started) == 1
    lines = scene.log.read_text().splitlines()
    assert all(line.startswith("1970-01-01T00:00:00.000Z env-7 ") for line in lines)
    assert scene.gone == []


def test_initialized_ahead(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        assert await scene.environment.initialize() is None
        assert not scene.environment.busy
        outcome = await scene.invoke(a=1)
        assert json.loads(outcome.payload)["event"] == {"a": 1}
        assert outcome.init_seconds is None

    scene = play(tmp_path, work)
    assert len(scene.box.started) == 1


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        ("error", "Runtime.ImportModuleError: no"),
        ("exit", "Runtime.ExitError: RequestId: "),
    ],
)
def test_an_initialization_ahead_that_fails(tmp_path: Path, handler: str, reason: str) -> None:
    async def work(scene: Scene) -> None:
        told = await scene.environment.initialize()
        assert told is not None
        assert told.startswith(reason)

    assert play(tmp_path, work, settings(handler)).gone == []


def test_time_is_up(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        outcome = await scene.invoke(do="hang")
        assert error(outcome) == (
            "Sandbox.Timedout",
            "RequestId: the-request Error: Task timed out after 1.50 seconds",
        )
        assert outcome.gone
        assert b"Status: timeout" in outcome.tail
        assert scene.box.started[0].process.wait(30) == -9

    play(tmp_path, work, settings(timeout_seconds=1.5))


@pytest.mark.parametrize(
    ("event", "text"),
    [
        ({"do": "exit", "status": 3}, "Runtime exited with error: exit status 3"),
        ({"do": "exit", "status": 0}, "Runtime exited without providing a reason"),
        ({"do": "kill"}, "Runtime exited with error: signal: killed"),
    ],
)
def test_the_runtime_ends(tmp_path: Path, event: dict[str, Any], text: str) -> None:
    async def work(scene: Scene) -> None:
        outcome = await scene.invoke(**event)
        assert error(outcome) == ("Runtime.ExitError", f"RequestId: the-request Error: {text}")
        assert outcome.gone
        assert text.encode() in outcome.tail

    assert play(tmp_path, work).gone == []


def test_the_runtime_ends_between_invocations(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        # Long after its answer was taken: at that moment its end is the invocation's.
        outcome = await scene.invoke(do="leave", after=1)
        assert (outcome.payload, outcome.gone) == (b"1", False)
        await scene.told.wait()
        assert scene.gone == [7]

    play(tmp_path, work)


def test_the_runtime_ends_at_the_moment_of_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = itertools.count()
    original = asyncio.wait

    async def wait(futures: Any, **more: Any) -> Any:
        if next(waits) == 1:
            # Until the answer and the end are both there.
            more["return_when"] = asyncio.ALL_COMPLETED
        return await original(futures, **more)

    async def work(scene: Scene) -> None:
        monkeypatch.setattr(asyncio, "wait", wait)
        outcome = await scene.invoke(do="leave")
        assert (outcome.payload, outcome.error, outcome.gone) == (b"1", None, True)

    assert play(tmp_path, work).gone == []


def test_an_error_of_the_handler_leaves_the_environment(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        outcome = await scene.invoke(do="error")
        assert error(outcome) == ("Function.Odd", "what?")
        assert not outcome.gone
        assert (await scene.invoke()).error is None

    play(tmp_path, work)


def test_answers_of_other_invocations_are_refused(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        told = json.loads((await scene.invoke(do="other")).payload)
        assert told[0] == 400
        assert told[1]["errorType"] == "InvalidRequestID"
        assert (await scene.invoke(do="lost")).payload == b"2"

    play(tmp_path, work)


def test_the_largest_answer_and_one_that_is_larger(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        outcome = await scene.invoke(do="large", bytes=ANSWER_BYTES_MAX)
        assert len(outcome.payload) == ANSWER_BYTES_MAX
        outcome = await scene.invoke(do="large", bytes=ANSWER_BYTES_MAX + 1)
        kind, text = error(outcome)
        assert kind == "Function.ResponseSizeTooLarge"
        assert "6291556 bytes" in text
        assert outcome.gone

    play(tmp_path, work)


@pytest.mark.parametrize(
    ("handler", "kind"),
    [("error", "Runtime.ImportModuleError"), ("exit", "Runtime.ExitError")],
)
def test_an_initialization_that_fails(tmp_path: Path, handler: str, kind: str) -> None:
    async def work(scene: Scene) -> None:
        outcome = await scene.invoke()
        assert error(outcome)[0] == kind
        assert outcome.gone
        assert f"Status: error\tError Type: {kind}".encode() in outcome.tail

    play(tmp_path, work, settings(handler))


@pytest.mark.parametrize(
    ("handler", "told"),
    [
        ("odd", {"errorType": None, "errorMessage": 5}),
        ("deep", {"errorType": "Runtime.Unknown", "errorMessage": "[" * 200_000}),
    ],
)
def test_a_failure_that_is_told_oddly_and_a_runtime_that_stays(
    tmp_path: Path, handler: str, told: object
) -> None:
    async def work(scene: Scene) -> None:
        outcome = await scene.invoke()
        assert (outcome.error, outcome.gone) == ("Unhandled", True)
        assert json.loads(outcome.payload) == told
        assert scene.box.started[0].process.wait(30) == -9

    play(tmp_path, work, settings(handler))


def test_who_has_initialized_tells_of_no_failure(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        assert (await scene.invoke(do="late")).payload == b"403"
        assert (await scene.invoke()).error is None

    play(tmp_path, work)


def test_connections_to_the_runtime_api_are_bounded(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        outcome = await scene.invoke(do="connect", count=CONNECTIONS_MAX + 20)
        # The runtime's own is one of them.
        assert json.loads(outcome.payload) == CONNECTIONS_MAX - 1
        assert (await scene.invoke()).error is None

    play(tmp_path, work)


def test_an_initialization_that_hangs_is_begun_anew_once(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        outcome = await scene.invoke()
        assert error(outcome)[0] == "Sandbox.Timedout"
        assert outcome.gone
        assert [each.process.wait(30) for each in scene.box.started] == [-9, -9]
        assert outcome.tail.count(b"Status: timeout") == 3

    play(tmp_path, work, settings("hang", timeout_seconds=1.0), init_seconds=1.0)


def test_nothing_that_can_be_started(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        scene.box.refusal = "Couldn't find valid bootstrap(s): []"
        outcome = await scene.invoke()
        assert error(outcome) == (
            "Runtime.InvalidEntrypoint",
            "RequestId: the-request Error: Couldn't find valid bootstrap(s): []",
        )
        assert outcome.gone

    play(tmp_path, work)


class Group:
    """See `netns.cgroups.Group`."""

    freezes = True

    def __init__(self) -> None:
        self.done: list[str] = []
        self.killed = 0

    def freeze(self) -> None:
        self.done.append("freeze")

    def thaw(self) -> None:
        self.done.append("thaw")

    def out_of_memory(self) -> int:
        return self.killed


def test_it_stands_still_between_invocations(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        group = scene.box.group = Group()
        await scene.invoke()
        await scene.still.wait()
        assert scene.environment.still
        assert group.done == ["freeze"]
        scene.still.clear()
        assert (await scene.invoke()).error is None
        await scene.still.wait()
        assert group.done == ["freeze", "thaw", "freeze"]

    play(tmp_path, work)


def test_one_that_is_not_to_be_frozen(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        group = scene.box.group = Group()
        await scene.invoke()
        await scene.invoke()
        assert group.done == []

    play(tmp_path, work, dataclasses.replace(settings(), freeze=False))


@pytest.mark.parametrize(
    ("do", "killed", "kind"),
    [
        ({"do": "kill"}, 1, "Runtime.OutOfMemory"),
        ({"do": "kill"}, 0, "Runtime.ExitError"),
        # What was killed was another process of it.
        ({"do": "exit", "status": 3}, 1, "Runtime.ExitError"),
    ],
)
def test_out_of_memory(tmp_path: Path, do: dict[str, Any], killed: int, kind: str) -> None:
    async def work(scene: Scene) -> None:
        scene.box.group = Group()
        scene.box.group.killed = killed
        outcome = await scene.invoke(**do)
        assert error(outcome)[0] == kind
        assert outcome.gone

    play(tmp_path, work)
