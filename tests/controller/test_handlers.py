# SPDX-License-Identifier: Apache-2.0
"""What the controller answers to the process that runs handlers, and how it finds it again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.controller import handlers
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.handlers import HandlerPlaces
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.runtime import link
from hyperplane_nat.runtime.errors import LambdaError
from hyperplane_nat.runtime.link import Link
from hyperplane_nat.unix_socket import RUNTIME
from tests.controller.support import eventually, run


class Placing:
    """See `handlers.Placing`: notes what it is told."""

    has_handlers = True

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.refusal: Exception | None = None

    def checked(self, function: str, account: str | None) -> None:
        self._note("checked", function if account is None else (function, account))

    async def begun(self, function: str, account: str | None) -> Mapping[str, Any]:
        self._note("begun", function if account is None else (function, account))
        return {"environment": 5}

    def ended(self, environment: int) -> None:
        self._note("ended", environment)

    def abandoned(self, environment: int) -> None:
        self._note("abandoned", environment)

    def failed(self, environment: int, reason: str) -> None:
        self._note("failed", (environment, reason))

    def settled(self, standing: Mapping[int, bool]) -> None:
        self._note("settled", dict(standing))

    def stilled(self, environment: int) -> None:
        self._note("stilled", environment)

    def _note(self, what: str, about: object) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.told.append((what, about))


class Scene:
    def __init__(self, paths: LabPaths) -> None:
        self.paths = paths
        self.placing = Placing()
        self.ahead: list[Mapping[str, Any]] = []
        self.link = Link(
            lambda: {"standing": {"3": True, "4": False}, "still": [4], "missing": ["freezing"]},
            self.ahead.append,
        )

    def places(self) -> HandlerPlaces:
        return HandlerPlaces(self.paths, self.placing, self._lack)

    def _lack(self, missing: Sequence[str]) -> None:
        self.placing.told.append(("lacking", list(missing)))


def play(directory: Path, work: Callable[[Scene], Awaitable[None]]) -> None:
    paths = LabPaths.of("lab", directory, directory)
    paths.directory.mkdir(exist_ok=True)

    async def body() -> None:
        scene = Scene(paths)
        server = await asyncio.start_unix_server(scene.link.talk, paths.directory / RUNTIME)
        try:
            await work(scene)
        finally:
            server.close()

    run(body())


def test_it_is_told_what_to_initialize_ahead(directory: Path) -> None:
    async def work(scene: Scene) -> None:
        places = scene.places()
        places.initialize({"environment": 1})
        assert not places.connected
        places.start()
        await eventually(lambda: places.connected)
        places.initialize({"environment": 2})
        await eventually(lambda: scene.ahead == [{"environment": 2}])
        scene.link.tell("failed", {"environment": 2, "reason": "because"})
        await eventually(lambda: ("failed", (2, "because")) in scene.placing.told)
        await places.stop()
        assert not places.connected

    play(directory, work)


def test_it_says_what_it_has_and_is_answered(directory: Path) -> None:
    async def work(scene: Scene) -> None:
        places = scene.places()
        places.start()
        assert await scene.link.ask("begin", {"function": "f"}) == {"environment": 5}
        assert await scene.link.ask("check", {"function": "f", "account": "1"}) == {}
        scene.link.tell("end", {"environment": 5})
        scene.link.tell("still", {"environment": 5})
        scene.link.tell("discard", {"environment": 6})
        expected = [
            ("settled", {3: True, 4: False}),
            ("stilled", 4),
            ("lacking", ["freezing"]),
            ("begun", "f"),
            ("checked", ("f", "1")),
            ("ended", 5),
            ("stilled", 5),
            ("abandoned", 6),
        ]
        await eventually(lambda: scene.placing.told == expected)
        await places.stop()

    play(directory, work)


@pytest.mark.parametrize(
    ("refusal", "code", "text"),
    [
        (ModelError("ResourceNotFoundException", "no", "look"), None, "no (look)"),
        (ControllerError("the lab is being removed"), "ServiceException", "being removed"),
    ],
)
def test_refusals_keep_their_names(
    directory: Path, refusal: Exception, code: str | None, text: str
) -> None:
    async def work(scene: Scene) -> None:
        places = scene.places()
        places.start()
        await scene.link.ask("check", {"function": "f"})
        scene.placing.refusal = refusal
        for what in ("begin", "check"):
            with pytest.raises(LambdaError) as raised:
                await scene.link.ask(what, {"function": "f"})
            assert raised.value.code == (code or "ResourceNotFoundException")
            assert text in raised.value.message
        await places.stop()

    play(directory, work)


def test_a_controller_that_ends_is_told_of_and_the_next_one_hears_it_all(directory: Path) -> None:
    async def work(scene: Scene) -> None:
        first = scene.places()
        first.start()
        await scene.link.ask("check", {"function": "f"})
        await first.stop()
        scene.placing.told.clear()
        waiting = asyncio.create_task(scene.link.ask("begin", {"function": "f"}))
        second = scene.places()
        second.start()
        assert await waiting == {"environment": 5}
        assert scene.placing.told[0] == ("settled", {3: True, 4: False})
        await second.stop()

    play(directory, work)


def test_no_controller_is_waited_for_in_vain(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PATIENCE_SECONDS", 0.05)

    async def work(scene: Scene) -> None:
        with pytest.raises(LambdaError) as raised:
            await scene.link.ask("begin", {"function": "f"})
        assert raised.value.code == "ServiceException"

    play(directory, work)


def test_what_a_former_controller_has_left_is_asked_for(directory: Path) -> None:
    async def work(scene: Scene) -> None:
        found = await handlers.standing(scene.paths)
        assert found == handlers.Standing({3: True, 4: False}, [4], ["freezing"])
        (scene.paths.directory / RUNTIME).unlink()
        assert await handlers.standing(scene.paths) == handlers.Standing()

    play(directory, work)
