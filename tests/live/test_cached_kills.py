# SPDX-License-Identifier: Apache-2.0
"""A forwarder that is killed again and again under cached flows of all kinds: none is lost.

The moment of each kill depends on how far traffic has got, while further flows are cached and end.
What a successor finds is walked through at once: each record belongs to an established entry and
its keys lead to it, and each entry that says it is cached has them.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterable

import pytest

from tests.live.cached_world import WAYS, Talk, talking, world
from tests.live.conftest import Launch
from tests.live.lab import wait_until
from tests.live.test_cached_flows import cached
from tests.live.test_crash import forwarder_pid

pytestmark = [
    pytest.mark.live,
    pytest.mark.alone,
    pytest.mark.slow,
    pytest.mark.usefixtures("flow_cache"),
]


def failures(talks: dict[str, Talk]) -> dict[str, BaseException]:
    return {name: each.failure for name, each in talks.items() if each.failure is not None}


def answered(talks: dict[str, Talk], more: int) -> None:
    """Wait until each has had so many more answers."""
    wanted = {name: each.answers + more for name, each in talks.items()}

    def behind() -> list[str]:
        return [name for name, count in wanted.items() if talks[name].answers < count]

    wait_until(lambda: failures(talks) or not behind(), lambda: f"answers to {behind()}")
    assert failures(talks) == {}


def total(talks: Iterable[Talk]) -> int:
    return sum(each.answers for each in talks)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.long)])
def test_kills_with_cached_flows_of_all_kinds(launch: Launch, kills: int) -> None:
    it = world(launch)
    lab, chance = it.lab, random.Random(kills)
    kept = meanwhile = 0
    with talking(it) as talks:
        answered(talks, 1)
        begun = {name: each.answers for name, each in talks.items()}
        unknown = lab.counters()["drop_unknown_link"]
        for number in range(kills):
            wait_until(lambda: cached(lab) >= len(talks), lambda: f"{cached(lab)} are cached")
            answered(talks, chance.randrange(1, 60))
            pid, starts = forwarder_pid(lab), lab.counters()["forwarder_starts"]
            os.kill(pid, signal.SIGKILL)
            before = total(talks.values())
            wait_until(
                lambda starts=starts: lab.counters()["forwarder_starts"] > starts,  # type: ignore[misc]
                "a successor",
            )
            meanwhile += total(talks.values()) - before
            wait_until(lambda pid=pid: forwarder_pid(lab) not in (0, pid), "it serves")  # type: ignore[misc]
            kept += min(cached(lab), len(talks))
            assert lab.verify() == [], f"after kill {number}"
            assert failures(talks) == {}, f"after kill {number}"
        answered(talks, 10)
        assert all(each.answers > begun[name] + kills for name, each in talks.items())
    counters, most = lab.counters(), kills * len(WAYS)
    print(
        f"{kills} kills, {len(WAYS)} kinds of flow: {kept} of {most} flows were cached by the "
        f"successor at once, {meanwhile} answers while there was no forwarder, "
        f"{counters['flow_cache_promotions']} promotions, "
        f"{counters['flow_cache_packets']} packets by the kernel"
    )
    assert kept > most // 2
    assert meanwhile > 0
    assert counters["forwarder_starts"] == kills + 1
    assert counters["rebuild_discarded"] == 0
    assert counters["drop_unknown_link"] == unknown
    assert lab.verify() == []
