# SPDX-License-Identifier: Apache-2.0
"""Long work lets others come in between, and gives what it would at one go."""

from __future__ import annotations

import asyncio

import pytest

from hyperplane_nat.forwarder.slices import Work, run
from tests.forwarder.work import finish


def counted(steps: int) -> Work[int]:
    for _ in range(steps):
        yield
    if steps == 13:
        raise ValueError("unlucky")
    return steps


@pytest.mark.parametrize("steps", [0, 1, 100])
def test_the_outcome_is_that_of_the_work(steps: int) -> None:
    assert finish(counted(steps)) == steps
    assert asyncio.run(run(counted(steps))) == steps


def test_a_failure_is_the_works_own() -> None:
    with pytest.raises(ValueError, match="unlucky"):
        finish(counted(13))
    with pytest.raises(ValueError, match="unlucky"):
        asyncio.run(run(counted(13)))


def test_others_come_in_between() -> None:
    async def body() -> list[str]:
        happened: list[str] = []

        def work() -> Work[None]:
            for step in range(3):
                happened.append(f"step {step}")
                yield

        async def others() -> None:
            for turn in range(3):
                happened.append(f"turn {turn}")
                await asyncio.sleep(0)

        await asyncio.gather(run(work(), slice_seconds=0), others())
        return happened

    assert asyncio.run(body()) == ["step 0", "turn 0", "step 1", "turn 1", "step 2", "turn 2"]
