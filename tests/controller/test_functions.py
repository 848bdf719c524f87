# SPDX-License-Identifier: Apache-2.0
"""What happens by itself: in which order, and what becomes of what fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.errors import ForwarderError
from hyperplane_nat.controller.functions import Functions
from hyperplane_nat.controller.network.pool import EnvironmentPool
from hyperplane_nat.model.store import Store
from netns.topology import Slot
from tests.model.support import Scene, function, lab


class Network:
    """Writes down what it is asked for, and fails at what a test says."""

    def __init__(self, scene: Scene, pool: EnvironmentPool) -> None:
        self.scene = scene
        self.pool = pool
        self.asked: list[str] = []
        self.fails = ""
        self.changed = False
        self.retired = False
        self.poked = asyncio.Event()
        self.attaching = asyncio.Event()
        self.attached = asyncio.Event()

    async def attach(self, number: int, interface: str) -> None:
        """Takes until a test says that it is done."""
        self.attaching.set()
        await self.attached.wait()

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if what == self.fails:
            raise ForwarderError("it is being restarted")

    async def take_down(self, numbers: Sequence[int]) -> None:
        self._ask("take down")

    async def remove_interfaces(self) -> None:
        self._ask("remove interfaces")
        for interface in self.scene.region.deleting():
            self.scene.region.interface_removed(interface)

    async def follow(self) -> None:
        self._ask("follow")
        self.changed = False

    async def set_silent(self, number: int, silent: bool) -> None:
        self._ask(f"{'silence' if silent else 'speak'} {number}")

    async def release_numbers(self) -> None:
        self._ask("release numbers")
        self.retired = False

    async def fill(self, numbers: list[int]) -> None:
        self._ask("fill")
        self.pool.add([Slot(number, number, f"env-{number}", "", "") for number in numbers])


class Setting:
    """Functions without a network below them, of a region with one that ran and is gone."""

    def __init__(self, path: Path) -> None:
        self.scene = Scene(function("orders"))
        self.scene.active()
        self.scene.region.end(self.scene.run("orders").environment)
        self.scene.apply(lab())
        self.pool = EnvironmentPool(size=0, batch=2)
        self.network = Network(self.scene, self.pool)
        self.store = Store(path)
        network: Any = self.network
        self.functions = Functions(
            Config(), self.scene.region, self.store, self.pool, network, lambda attached: {}
        )

    def settle(self) -> list[str]:
        """What one round asks for."""
        self.network.asked.clear()
        asyncio.run(self.functions.settle())
        return list(self.network.asked)


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    found = Setting(tmp_path / "region.sqlite")
    yield found
    found.store.close()


def test_an_environment_goes_before_its_interface(setting: Setting) -> None:
    assert setting.settle() == ["take down"]
    assert setting.settle() == []
    setting.scene.clock.pass_seconds(20 * 60)
    assert setting.settle() == ["remove interfaces"]
    assert setting.scene.interfaces() == []


def test_a_round_has_an_order(setting: Setting) -> None:
    setting.network.changed = setting.network.retired = True
    setting.pool.resize(3, 2)
    assert setting.settle() == ["take down", "follow", "release numbers", "fill", "fill"]
    assert setting.settle() == []


@pytest.mark.parametrize(
    ("fails", "done"),
    [
        ("take down", lambda found: found.scene.region.reaped() == []),
        ("follow", lambda found: not found.network.changed),
        ("fill", lambda found: found.pool.ready == 3),
    ],
)
def test_what_fails_ends_the_round_and_is_done_in_the_next(
    setting: Setting, fails: str, done: Callable[[Setting], bool]
) -> None:
    setting.network.changed = True
    setting.pool.resize(3, 2)
    setting.network.fails = fails
    with pytest.raises(ForwarderError):
        setting.settle()
    assert setting.network.asked[-1] == fails
    assert not done(setting)
    setting.network.fails = ""
    assert setting.settle()[0] == fails
    assert done(setting)


def test_what_a_round_has_done_is_saved_though_it_fails(setting: Setting) -> None:
    setting.network.changed = True
    setting.network.fails = "follow"
    with pytest.raises(ForwarderError):
        setting.settle()
    again = setting.store.load_region(settings=setting.scene.settings)
    assert again.tables.environments == {}


def test_the_pool_is_filled_when_nobody_starts_in_what_there_is(setting: Setting) -> None:
    async def play() -> None:
        setting.scene.apply(lab(function("orders")))
        setting.scene.active()
        setting.pool.resize(2, 2)
        starting = asyncio.create_task(setting.functions.provision("orders", 1))
        await asyncio.wait_for(setting.network.attaching.wait(), 60)
        await setting.functions.settle()
        assert "fill" not in setting.network.asked
        # Somebody waits for another one.
        waiting = asyncio.create_task(setting.pool.wait())
        await asyncio.sleep(0)
        await setting.functions.settle()
        assert "fill" in setting.network.asked
        await asyncio.wait_for(waiting, 60)
        setting.network.attached.set()
        assert (await starting)["started"] == 1
        setting.network.asked.clear()
        setting.pool.resize(4, 2)
        await setting.functions.settle()
        assert "fill" in setting.network.asked

    asyncio.run(play())
