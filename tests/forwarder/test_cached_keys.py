# SPDX-License-Identifier: Apache-2.0
"""Keys of cached flows: put and removed as the engine says, and told back where that fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import cast

import pytest

from hyperplane_nat.engine import Engine
from hyperplane_nat.flow_cache.maps import CONTROL, FLOW_RECORDS, LINKS, RECORDS, Maps
from hyperplane_nat.forwarder.cached_keys import CachedKeys
from tests.engine.caching import SLOTS
from tests.engine.compiled import EngineTarget
from tests.engine.kernel import RECORD, Kernel
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.engine.test_cached_flows import SETUP, answer, datagram

pytestmark = pytest.mark.stand_in("the kernel's maps", "bytes and a dictionary")


class StandIn:
    """Maps without a kernel; room for so many keys, or none at all."""

    def __init__(self, room: int = 100) -> None:
        kernel = Kernel()
        self._memory = {
            RECORDS: memoryview(kernel.records),
            LINKS: memoryview(kernel.links),
            CONTROL: memoryview(kernel.control),
        }
        self.keys: dict[bytes, int] = {}
        self.uncounted: set[bytes] = set()
        self.room = room

    def memory(self, name: str) -> memoryview:
        return self._memory[name]

    def put_key(self, key: bytes, line: int) -> None:
        if len(self.keys) >= self.room:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        self.keys[key] = line

    def remove_key(self, key: bytes) -> bool:
        return self.keys.pop(key, None) is not None

    def counted(self, key: bytes) -> int:
        return 0 if key in self.uncounted else 1

    def line_of(self, key: bytes) -> int | None:
        return self.keys.get(key)

    def count_keys(self) -> int:
        return len(self.keys)


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    made = EngineTarget(SETUP, slots_max=SLOTS)
    yield made
    made.close()


def keeper(target: EngineTarget, maps: StandIn) -> CachedKeys:
    made = CachedKeys(target.engine, cast(Maps, maps), 0)
    for number in (1, 2, SLOTS):
        made.flows.link(number, 100 + number)
    made.flows.settle()
    return made


def earn(target: EngineTarget, port: int, now: int = 0) -> None:
    """Packets enough of a flow."""
    for _ in range(20):
        sent = target.translate(datagram(1, port), INSIDE, 1, now)
        back = int.from_bytes(sent.frame[34:36], "big")
        assert target.translate(answer(back), OUTSIDE, 0, now).action == "forward"


def test_keys_are_put_and_removed(target: EngineTarget) -> None:
    maps = StandIn()
    keys = keeper(target, maps)
    assert keys.sweep(0) is None
    earn(target, 5000)
    assert keys.flows.changing
    assert keys.change() is None
    assert sorted(maps.keys.values()) == [0, 1]
    assert keys.verify() == []
    assert keys.sweep(1000) == 1.0
    target.engine.expire(2 * SETUP.timeouts.udp)
    assert keys.change() is None
    assert maps.keys == {}
    assert keys.verify() == []


def test_a_successor_leaves_keys_that_are_another_number_s_by_now(target: EngineTarget) -> None:
    """A flow was cached anew while the number that it had before was still at rest."""
    maps = StandIn()
    keys = keeper(target, maps)
    earn(target, 5000)
    keys.change()
    former = dict(maps.keys)
    # That may be fragmented is not the program's to forward.
    target.translate(datagram(1, 5000, fragment=0), INSIDE, 1, 0)
    keys.change()
    assert maps.keys == {}
    earn(target, 5000, 3000)
    keys.change()
    assert maps.keys == {key: line + FLOW_RECORDS for key, line in former.items()}
    for line in maps.keys.values():
        # Not armed any more: what had been in the ring was sent.
        start = line * RECORD.size + 8
        maps.memory(RECORDS)[start : start + 8] = bytes(8)
    engine = Engine(target.map, seed=bytes(range(16)), now_ms=3000)
    successor = CachedKeys(engine, cast(Maps, maps), 0)
    assert successor.flows.used == 1
    assert successor.verify() == []
    assert maps.keys == {key: line + FLOW_RECORDS for key, line in former.items()}


def test_one_that_there_is_no_room_for_is_not_cached(target: EngineTarget) -> None:
    maps = StandIn(room=3)
    keys = keeper(target, maps)
    earn(target, 5000)
    earn(target, 6000)
    while keys.change() is not None:
        pass
    assert keys.flows.used == 1
    assert len(maps.keys) == 2
    assert keys.verify() == []


def test_verify_finds_a_key_that_leads_astray(target: EngineTarget) -> None:
    maps = StandIn()
    keys = keeper(target, maps)
    earn(target, 5000)
    keys.change()
    key = next(iter(maps.keys))
    maps.keys[key] = 7
    maps.keys[bytes(16)] = 1
    found = keys.verify()
    assert found == [
        "cached flow 0: its key leads to line 7",
        "3 keys of 1 cached flows",
    ]


def test_verify_finds_a_key_that_is_not_looked_for(target: EngineTarget) -> None:
    maps = StandIn()
    keys = keeper(target, maps)
    earn(target, 5000)
    keys.change()
    maps.uncounted.add(next(iter(maps.keys)))
    assert keys.verify() == ["cached flow 0: its key is not looked for"]
