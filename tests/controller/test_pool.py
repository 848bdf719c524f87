# SPDX-License-Identifier: Apache-2.0
"""Environments are made ahead, taken in turn and made anew."""

from __future__ import annotations

import asyncio

import pytest

from hyperplane_nat.controller.network import pool
from hyperplane_nat.controller.network.pool import EnvironmentPool
from hyperplane_nat.model.errors import ModelError
from netns.topology import Slot


def slots(numbers: list[int]) -> list[Slot]:
    return [Slot(number, 100 + number, f"env-{number}", "02::1", "02::2") for number in numbers]


def pool_behind(others: int = 9, size: int = 4, batch: int = 8) -> EnvironmentPool:
    """Nothing is ready yet, and the first numbers are the lab file's."""
    result = EnvironmentPool(size=size, batch=batch)
    result.add(slots(list(range(1, others + 1))), ready=False)
    return result


def filled(size: int = 4, batch: int = 8) -> EnvironmentPool:
    result = pool_behind(size=size, batch=batch)
    result.add(slots(result.missing()))
    return result


def test_it_is_filled_from_the_first_free_number_on() -> None:
    assert pool_behind(size=4, batch=8).missing() == [10, 11, 12, 13]
    assert pool_behind(size=4, batch=3).missing() == [10, 11, 12]
    assert filled().missing() == []


def test_environments_are_taken_in_turn_and_made_anew_under_other_numbers() -> None:
    found = filled()
    assert [found.take(), found.take()] == [10, 11]
    assert found.ready == 2
    assert found.missing() == [14, 15]
    found.remove([10, 11])
    assert sorted(found.slots) == [*range(1, 10), 12, 13]


def test_an_empty_pool_refuses() -> None:
    found = filled(size=1)
    found.take()
    with pytest.raises(ModelError) as refused:
        found.take()
    assert refused.value.code == "TooManyRequestsException"
    assert EnvironmentPool(size=0, batch=1).missing() == []


@pytest.mark.races
def test_who_finds_it_empty_can_wait() -> None:
    async def wait() -> int:
        found = filled(size=1)
        found.take()
        with pytest.raises(ModelError):
            found.take()
        waiting = asyncio.ensure_future(found.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        found.add(slots([11]))
        await asyncio.wait_for(waiting, 60)
        return found.take()

    assert asyncio.run(wait()) == 11


def test_numbers_come_round_but_not_those_in_use_or_retiring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "NUMBER_MAX", 15)
    found = filled()
    found.take()
    found.add(slots(found.missing()))
    for _ in range(2):
        found.take()
    found.remove([10, 11, 12])
    found.retiring = frozenset({11})
    assert found.missing() == [15, 10]


def test_environments_in_use_are_not_given_out() -> None:
    found = EnvironmentPool(size=1, batch=1)
    found.add(slots([1]), ready=False)
    with pytest.raises(ModelError):
        found.take()
    assert found.missing() == [2]


def test_another_size() -> None:
    pool = EnvironmentPool(size=0, batch=2)
    assert pool.missing() == []
    pool.resize(3, 5)
    assert (pool.size, pool.missing()) == (3, [1, 2, 3])
    pool.add([Slot(n, n, f"env-{n}", "", "") for n in (1, 2, 3)])
    pool.resize(1, 5)
    assert pool.missing() == []
