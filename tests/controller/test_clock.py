# SPDX-License-Identifier: Apache-2.0
"""The lab's clock is advanced: what is saved, in which order things end, and what may fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperplane_nat.controller import clock as advancing
from hyperplane_nat.controller.clock import ClockAdvance
from hyperplane_nat.controller.errors import ForwarderError
from hyperplane_nat.model.clock import AHEAD_SECONDS_MAX, LabClock
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.states import FunctionState
from hyperplane_nat.model.store import Store
from tests.controller.support import run
from tests.model.support import OWN, Clock, Slots, function, lab

DAY = 86_400.0


class World:
    """A region on a clock that only moves when it is advanced, and a forwarder that is told."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.clock = LabClock(self.store.clock_offset_ms, Clock())
        self.region = Region(clock=self.clock, take_slot=Slots())
        self.told: list[int] = []
        self.settled: list[float] = []
        self.fail = False
        self.reached_ms = 0
        self.advance = ClockAdvance(
            self.clock, self.region, self.store, self._tell, self._settle, lambda: self.reached_ms
        )

    async def _tell(self, offset_ms: int) -> None:
        assert self.store.clock_offset_ms == offset_ms
        self.told.append(offset_ms)
        if self.fail:
            raise ForwarderError("the forwarder is being restarted (try again)")

    async def _settle(self) -> None:
        self.settled.append(self.clock())
        self.region.advance()
        for number in self.region.reaped():
            self.region.removed(number)
        for interface in self.region.deleting():
            self.region.interface_removed(interface)

    def passes(self, seconds: float, token: str | None = None) -> None:
        run(self._passes(seconds, token))

    async def _passes(self, seconds: float, token: str | None) -> None:
        await self.advance.advance(seconds, token=token, request=seconds)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "model.db")


def test_forwarder_and_region_are_as_far(world: World) -> None:
    begin = world.clock()
    world.passes(350)
    world.passes(0.25)
    assert world.told == [350_000, 350_250]
    assert world.clock() == begin + 350.25
    assert world.advance.offset_ms == 350_250


def test_another_controller_begins_there(world: World, tmp_path: Path) -> None:
    world.passes(DAY)
    world.store.close()
    assert World(tmp_path / "model.db").advance.offset_ms == DAY * 1000


def test_a_request_that_comes_again_is_done_once(world: World) -> None:
    for _ in range(2):
        world.passes(10, "token")
    assert world.told == [10_000]


def test_what_ends_begins_what_follows_at_its_own_time(world: World) -> None:
    """The interface of one environment: 10 minutes until that ends, 20 until it is gone."""
    world.region.apply(world.region.plan(lab(function("own", OWN))))
    world.passes(0)
    placement = world.region.begin("own")
    world.region.ready(placement.environment)
    world.region.end(placement.environment)
    world.passes(10 * 60)
    assert world.region.tables.environments == {}
    world.passes(20 * 60 - 5)
    assert len(world.region.tables.interfaces) == 1
    world.passes(10)
    assert len(world.region.tables.interfaces) == 0


def test_a_function_is_idle_after_two_weeks(world: World) -> None:
    world.region.apply(world.region.plan(lab(function("f"))))
    world.passes(100)
    assert world.region.function("f").state is FunctionState.ACTIVE
    world.passes(14 * DAY + 20 * 60 + 5)
    assert world.region.function("f").state is FunctionState.INACTIVE
    assert world.region.tables.interfaces == {}


def test_more_than_ten_years_are_refused(world: World) -> None:
    world.passes(1)
    with pytest.raises(ModelError, match="ahead"):
        world.passes(AHEAD_SECONDS_MAX)
    assert world.advance.offset_ms == world.store.clock_offset_ms == 1000
    assert world.told == [1000]


def test_a_successor_that_follows_is_waited_for(world: World) -> None:
    world.fail = True
    world.reached_ms = 5000
    world.passes(5)
    assert world.advance.offset_ms == 5000


def test_one_that_does_not_follow_is_told_and_the_clock_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advancing, "ADVANCE_SECONDS", 0.01)
    world.fail = True
    begin = world.clock()
    with pytest.raises(ForwarderError, match=r"do not follow yet: .*restarted"):
        world.passes(5)
    assert world.advance.offset_ms == 5000
    assert world.clock() == begin + 5
