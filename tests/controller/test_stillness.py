# SPDX-License-Identifier: Apache-2.0
"""Who stands still, whose link is silent, and in which order."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hyperplane_nat.controller.errors import ForwarderError
from hyperplane_nat.controller.stillness import Stillness
from tests.controller.support import eventually, run


class Group:
    """See `netns.cgroups.Group`."""

    def __init__(self, done: list[str]) -> None:
        self._done = done

    def freeze(self) -> None:
        self._done.append("freeze")

    def thaw(self) -> None:
        self._done.append("thaw")


class Scene:
    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails = False
        group: Any = lambda lab, name: Group(self.done)  # noqa: E731
        self.stillness = Stillness("lab", self.set_silent, group)

    async def set_silent(self, number: int, silent: bool) -> None:
        assert number == 3
        await asyncio.sleep(0)
        if self.fails:
            raise ForwarderError("it is being restarted")
        self.done.append("silent" if silent else "speaks")

    async def until(self, *done: str) -> None:
        await eventually(lambda: self.done == list(done))
        self.done.clear()


def play(work: Callable[[Scene], Awaitable[None]]) -> None:
    run(work(Scene()))


def waiting() -> subprocess.Popen[bytes]:
    """A process that lives as long as the context."""
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE)


def test_one_that_stands_still_is_silent_until_it_is_invoked() -> None:
    async def work(scene: Scene) -> None:
        scene.stillness.stilled(3)
        await scene.until("silent")
        await scene.stillness.stirred(3)
        assert scene.done == ["speaks"]

    play(work)


def test_one_that_is_invoked_at_once_never_falls_silent() -> None:
    async def work(scene: Scene) -> None:
        scene.stillness.stilled(3)
        await scene.stillness.stirred(3)
        scene.stillness.stilled(3)
        await scene.stillness.hold(3)
        for _ in range(10):
            await asyncio.sleep(0)
        assert "silent" not in scene.done

    play(work)


def test_a_program_finds_the_link_open_and_leaves_it_silent() -> None:
    async def work(scene: Scene) -> None:
        scene.stillness.stilled(3)
        await scene.until("silent")
        await scene.stillness.hold(3)
        await scene.stillness.hold(3)
        assert scene.done == ["speaks", "thaw", "speaks", "thaw"]
        scene.done.clear()
        scene.stillness.release(3)
        assert scene.done == []
        scene.stillness.release(3)
        await scene.until("freeze", "silent")

    play(work)


def test_one_that_is_held_goes_on_until_that_is_over() -> None:
    async def work(scene: Scene) -> None:
        await scene.stillness.hold(3)
        scene.stillness.stilled(3)
        assert scene.done == ["thaw"]
        scene.done.clear()
        scene.stillness.release(3)
        await scene.until("freeze", "silent")

    play(work)


def test_it_is_held_for_as_long_as_a_process_lives() -> None:
    async def work(scene: Scene) -> None:
        scene.stillness.stilled(3)
        await scene.until("silent")
        with waiting() as process:
            await scene.stillness.hold_while(3, process.pid)
            assert scene.done == ["speaks", "thaw"]
            scene.done.clear()
        await scene.until("freeze", "silent")
        with pytest.raises(ProcessLookupError):
            await scene.stillness.hold_while(3, process.pid)
        await scene.stillness.hold_while(3, os.getpid())
        scene.stillness.gone(3)
        assert scene.done == ["speaks", "thaw"]

    play(work)


def test_who_never_stood_still_is_left_alone() -> None:
    async def work(scene: Scene) -> None:
        await scene.stillness.hold(3)
        scene.stillness.release(3)
        scene.stillness.stilled(3)
        scene.stillness.gone(3)
        await scene.stillness.hold(3)
        scene.stillness.release(3)
        assert scene.done == []

    play(work)


def test_a_forwarder_that_is_not_there() -> None:
    """Nobody is run behind a silent link; that one falls silent can wait."""

    async def work(scene: Scene) -> None:
        scene.fails = True
        scene.stillness.stilled(3)
        with pytest.raises(ForwarderError):
            await scene.stillness.stirred(3)
        scene.stillness.stilled(3)
        with pytest.raises(ForwarderError):
            await scene.stillness.hold(3)
        scene.stillness.release(3)
        assert "thaw" not in scene.done

    play(work)
