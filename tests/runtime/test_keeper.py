# SPDX-License-Identifier: Apache-2.0
"""What the process that starts runtimes does for the one that speaks HTTP, and what it does not."""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.runtime import channel, distance, keeper
from hyperplane_nat.runtime.distance import Distance
from hyperplane_nat.runtime.keeper import Keeper
from hyperplane_nat.runtime.logs import log_path
from hyperplane_nat.runtime.sandbox import EntrypointError, Started
from hyperplane_nat.runtime.settings import Settings
from netns.errors import NetnsError
from tests.controller.support import DEADLINE_SECONDS, eventually

PLACE = {
    "environment": 3,
    "namespace": "hp-x-env-3",
    "cold": True,
    "ahead": False,
    "function": "f",
    "version": "$LATEST",
    "account": "111122223333",
    "memory_mb": 128,
    "code": {
        "path": "/code",
        "handler": "app.handler",
        "runtime": "provided",
        "timeout_seconds": 3.0,
        "ephemeral_storage_mb": 512,
        "freeze": True,
        "layers": [{"path": "/layer"}],
    },
    "variables": {"TABLE": "t"},
}


class Box:
    """See `keeper.Box`: notes what it is asked for."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int, Settings]] = []
        self.killed = 0
        self.tidied = threading.Event()
        self.refusal: Exception | None = None

    def begin(self, name: str, number: int, settings: Settings, *, listen: bool) -> Started:
        if self.refusal is not None:
            raise self.refusal
        self.begun.append((name, number, settings))
        output, theirs = os.pipe2(os.O_CLOEXEC)
        process = subprocess.Popen(["/bin/sh", "-c", "echo begun; read x"], stdout=theirs, stdin=-1)
        os.close(theirs)
        listener = socket.create_server(("127.0.0.1", 0)) if listen else None
        return Started(process, output, process.pid, listener=listener)

    def kill(self, started: Started) -> None:
        self.killed += 1
        started.process.kill()
        started.process.wait()

    def tidy(self) -> None:
        self.tidied.set()


def begin(distance: Distance, name: str) -> Started:
    """The first runtime of an environment; what it is to be, the keeper knows."""
    return distance.start(name, 7, None, listen=True)  # type: ignore[arg-type]


class Scene:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.box = Box()
        self.events: list[tuple[Mapping[str, Any], list[int]]] = []
        self.ours, self.theirs = channel.pair()
        self.distance = Distance(self.theirs, lambda told, files: self.events.append((told, files)))
        self.controllers = socket.socket(socket.AF_UNIX)
        self.controllers.bind(str(directory / "runtime.sock"))
        self.controllers.listen()
        self.stop, self.stopped = os.pipe()
        self.ready = threading.Event()
        self.results: list[bool] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        made = Keeper(self.box, directory=self.directory, region="us-east-1", channel=self.ours)
        self.results.append(made.run(self.controllers, self.stop, self.ready.set))
        self.ours.close()

    async def event(self, name: str) -> list[int]:
        """The descriptors of the next event of that name, which is taken."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                for each in self.events:
                    if each[0].get(name):
                        self.events.remove(each)
                        return each[1]
                await asyncio.sleep(0.005)

    async def placed(self) -> None:
        """A controller comes and tells of a place."""
        with socket.socket(socket.AF_UNIX) as controller:
            controller.connect(str(self.directory / "runtime.sock"))
            (file,) = await self.event("controller")
            with socket.socket(fileno=file) as front:
                front.sendall(b'{"standing": {}}\n')
                controller.settimeout(DEADLINE_SECONDS)
                assert controller.recv(100) == b'{"standing": {}}\n'
                line = json.dumps({"id": 1, "result": PLACE}).encode() + b"\n"
                controller.sendall(line)
                front.settimeout(DEADLINE_SECONDS)
                told = b""
                while len(told) < len(line):
                    told += front.recv(65536)
                assert told == line

    def end(self) -> bool:
        """The front ends; what the keeper makes of it."""
        self.theirs.close()
        self._thread.join(DEADLINE_SECONDS)
        (result,) = self.results
        return result


def play(directory: Path, work: Callable[[Scene], Awaitable[None]]) -> Scene:
    scene = Scene(directory)

    async def body() -> None:
        scene.distance.attach()
        try:
            async with asyncio.timeout(2 * DEADLINE_SECONDS):
                await work(scene)
        finally:
            asyncio.get_running_loop().remove_reader(scene.theirs)

    try:
        asyncio.run(body())
    finally:
        if not scene.results:
            scene.end()
        scene.controllers.close()
        for file in (scene.stop, scene.stopped):
            os.close(file)
    return scene


def test_what_the_controller_has_not_placed_is_not_started(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        asked = scene.distance
        for name in ("hp-x-env-4", "../../etc", ""):
            for what in (
                lambda name=name: begin(asked, name),
                lambda name=name: asked.open_log(name, "f"),
            ):
                with pytest.raises(NetnsError, match="nothing is placed in"):
                    await asyncio.to_thread(what)
        await scene.placed()
        with pytest.raises(NetnsError, match="nothing is placed in"):
            await asyncio.to_thread(begin, asked, "hp-x-env-4")

    scene = play(tmp_path, work)
    assert scene.box.begun == []
    assert list(tmp_path.glob("*.log")) == []


def test_a_runtime_is_what_the_controller_has_said(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        await scene.placed()
        name = str(PLACE["namespace"])
        started = await asyncio.to_thread(begin, scene.distance, name)
        assert started.listener is not None
        with started.listener as listener:
            assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        ((where, number, settings),) = scene.box.begun
        assert (where, number) == (name, 3)
        assert settings.layers == (Path("/layer"),)
        variables = settings.variables(number)
        assert (variables["TABLE"], variables["_HANDLER"]) == ("t", "app.handler")
        assert select.select([started.output], [], [], DEADLINE_SECONDS)[0]
        assert os.read(started.output, 100) == b"begun\n"
        end = started.watched()
        assert not select.select([end], [], [], 0)[0]
        waiting = asyncio.create_task(asyncio.to_thread(started.process.wait))
        for _ in range(2):
            await asyncio.to_thread(scene.distance.kill, started)
        assert select.select([end], [], [], DEADLINE_SECONDS)[0]
        assert await waiting == -9
        assert scene.box.killed == 1
        with pytest.raises(NetnsError, match="no such runtime"):
            await asyncio.to_thread(started.process.wait)
        for file in (started.output, end):
            os.close(file)

    play(tmp_path, work)


@pytest.mark.parametrize("refusal", [EntrypointError("no bootstrap"), NetnsError("no", "try")])
def test_why_it_cannot_be_started_is_told(tmp_path: Path, refusal: Exception) -> None:
    async def work(scene: Scene) -> None:
        await scene.placed()
        scene.box.refusal = refusal
        with pytest.raises(type(refusal)) as raised:
            await asyncio.to_thread(begin, scene.distance, "hp-x-env-3")
        assert str(raised.value) == str(refusal)

    play(tmp_path, work)


def test_a_log_is_turned_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance, "FILE_BYTES_MAX", 10)

    async def work(scene: Scene) -> None:
        await scene.placed()
        log = await asyncio.to_thread(scene.distance.open_log, "hp-x-env-3", "other")
        path = log_path(tmp_path, "f")
        log.append(b"first line\n")
        former = path.with_name(f"{path.name}.1")
        await eventually(lambda: former.exists() and path.exists())
        # The answer is there by the next turn of the loop, or the one after it.
        written = []

        def arrived() -> bool:
            log.append(b".")
            written.append(b".")
            return path.read_bytes() != b""

        await eventually(arrived)
        assert former.read_bytes() == b"first line\n" + b"".join(written[1:])

    play(tmp_path, work)


@pytest.mark.parametrize(
    "packet",
    [b"no JSON", b"[]", b"[" * 60_000, b"\xff", b"1"],
)
def test_a_front_that_sends_what_none_would_is_given_up(tmp_path: Path, packet: bytes) -> None:
    async def work(scene: Scene) -> None:
        scene.theirs.send(packet)
        await eventually(lambda: scene.results != [] and ({}, []) in scene.events)
        with pytest.raises(NetnsError, match="has ended"):
            await asyncio.to_thread(scene.distance.open_log, "hp-x-env-3", "f")

    assert play(tmp_path, work).results == [False]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"do": "anything"},
        {"do": []},
        {"do": "start"},
        {"do": "start", "namespace": ["hp-x-env-3"]},
        {"do": "kill", "handle": "one"},
        {"do": "kill", "handle": 1},
        {"do": "wait", "handle": None},
        {"do": "log", "namespace": "/etc/passwd", "over": True},
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    tmp_path: Path, asked: Mapping[str, object]
) -> None:
    async def work(scene: Scene) -> None:
        await scene.placed()
        future = scene.distance._start_asking("", asked)
        with pytest.raises(NetnsError):
            await asyncio.wrap_future(future)
        (await asyncio.to_thread(scene.distance.open_log, "hp-x-env-3", "f")).append(b"")

    assert play(tmp_path, work).box.begun == []


def test_stop_is_told_and_the_end_awaited(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        scene.distance.say({"ready": True})
        assert await asyncio.to_thread(scene.ready.wait, DEADLINE_SECONDS)
        os.write(scene.stopped, b".")
        await scene.event("stop")
        assert scene.results == []
        assert await asyncio.to_thread(scene.end)

    play(tmp_path, work)


def test_code_is_given_back_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "TIDY_SECONDS", 0.01)

    async def work(scene: Scene) -> None:
        assert await asyncio.to_thread(scene.box.tidied.wait, DEADLINE_SECONDS)

    play(tmp_path, work)


def test_descriptors_of_a_front_are_not_taken(tmp_path: Path) -> None:
    async def work(scene: Scene) -> None:
        await scene.placed()
        ours, theirs = os.pipe()
        channel.send(scene.theirs, {"do": "log", "namespace": "hp-x-env-3"}, [theirs])
        os.close(theirs)
        # The last one who could write to it is gone.
        assert select.select([ours], [], [], DEADLINE_SECONDS)[0]
        assert os.read(ours, 1) == b""
        os.close(ours)

    play(tmp_path, work)
