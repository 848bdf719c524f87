# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from hyperplane_nat.health.checker import Checker, watch
from hyperplane_nat.health.checks import FAILED, Check
from tests.controller.support import eventually
from tests.health.support import check


class Scene:
    """A checker of targets that are as a test says."""

    def __init__(self) -> None:
        self.bad: set[str] = set()
        self.asked: Counter[str] = Counter()
        self.told: list[dict[str, str]] = []
        self.checker = Checker(self._probe, lambda found: self.told.append(dict(found)), 0)

    async def _probe(self, asked: Check) -> str:
        self.asked[asked.name] += 1
        return FAILED if asked.name in self.bad else ""


def played(work: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        scene = Scene()
        try:
            await work(scene)
        finally:
            await scene.checker.stop()

    asyncio.run(run())


def test_verdicts_are_told_when_they_change() -> None:
    async def work(scene: Scene) -> None:
        scene.checker.follow([check(), check(name="two")])
        await eventually(lambda: {"one": "", "two": ""} in scene.told)
        count = len(scene.told)
        await eventually(lambda: scene.asked["one"] > 5)
        assert len(scene.told) == count
        scene.bad.add("two")
        await eventually(lambda: scene.told[-1] == {"one": "", "two": FAILED})

    played(work)


def test_verdicts_that_change_together_are_told_once() -> None:
    async def work() -> None:
        told: list[dict[str, str]] = []

        async def probe(_asked: Check) -> str:
            return ""

        checker = Checker(probe, lambda found: told.append(dict(found)), 0.2)
        checker.follow([check(name=str(number)) for number in range(20)])
        try:
            await eventually(lambda: told and len(told[-1]) == 20)
        finally:
            await checker.stop()
        assert len(told) < 20

    asyncio.run(work())


def test_verdicts_that_could_not_be_told_are_told_later(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        told: list[dict[str, str]] = []
        failing = [OSError(28, "No space left on device")] * 2

        async def probe(_asked: Check) -> str:
            return ""

        def tell(found: dict[str, str]) -> None:
            if failing:
                raise failing.pop()
            told.append(dict(found))

        checker = Checker(probe, tell, 0)
        checker.follow([check()])
        try:
            await eventually(lambda: told == [{"one": ""}])
        finally:
            await checker.stop()

    asyncio.run(work())
    assert [each.getMessage() for each in caplog.records] == [
        "cannot tell what is healthy: No space left on device"
    ]


def test_who_is_no_longer_checked_has_no_verdict() -> None:
    async def work(scene: Scene) -> None:
        scene.checker.follow([check(), check(name="two")])
        await eventually(lambda: {"one": "", "two": ""} in scene.told)
        scene.checker.follow([check()])
        assert scene.told[-1] == {"one": ""}
        asked = scene.asked["two"]
        await eventually(lambda: scene.asked["one"] > 10)
        assert scene.asked["two"] == asked

    played(work)


def test_a_check_that_is_told_otherwise_begins_anew() -> None:
    async def work(scene: Scene) -> None:
        scene.bad.add("one")
        scene.checker.follow([check()])
        await eventually(lambda: scene.told and scene.told[-1] == {"one": FAILED})
        scene.bad.clear()
        # The second check of it is far away.
        scene.checker.follow([check(port=2, interval_seconds=3600.0)])
        assert scene.told[-1] == {}
        before = scene.asked["one"]
        await eventually(lambda: scene.told[-1] == {"one": ""})
        # One good check, not three.
        assert scene.asked["one"] == before + 1

    played(work)


def test_a_slow_target_holds_up_no_other() -> None:
    async def work(_scene: Scene) -> None:
        slow, asked = asyncio.Event(), Counter[str]()

        async def probe(each: Check) -> str:
            asked[each.name] += 1
            if each.name == "slow":
                await slow.wait()
            return ""

        checker = Checker(probe, lambda _found: None)
        checker.follow([check(name="slow"), check(name="quick")])
        await eventually(lambda: asked["quick"] >= 10)
        assert asked["slow"] == 1
        slow.set()
        await checker.stop()

    played(work)


def test_a_thousand_targets_are_all_checked() -> None:
    async def work(scene: Scene) -> None:
        names = [f"n{number}" for number in range(1000)]
        scene.checker.follow(check(name=name, interval_seconds=60.0) for name in names)
        await eventually(lambda: len(scene.told) and len(scene.told[-1]) == 1000)
        assert set(scene.asked.values()) == {1}

    played(work)


@pytest.mark.races
def test_what_changes_is_followed_until_the_end() -> None:
    async def run() -> None:
        ended, followed, news = asyncio.Event(), [], [True]

        def changed() -> bool:
            return bool(news)

        def follow() -> None:
            followed.append(news.pop())
            if len(followed) == 2:
                ended.set()
            else:
                asyncio.get_running_loop().call_soon(news.append, False)

        async with asyncio.timeout(60):
            await watch(changed, follow, ended)
        assert followed == [True, False]

    asyncio.run(run())
