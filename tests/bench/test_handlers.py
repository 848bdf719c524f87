# SPDX-License-Identifier: Apache-2.0
"""Starts of handlers: a tiny round with real ones, and nothing left after it."""

from __future__ import annotations

import pytest

from bench import handlers
from bench.handlers import Memory, Report, Times
from netns import namespace


def test_shares_of_times() -> None:
    times = Times((3.0, 1.0, 2.0, 10.0))
    assert [times.at(share) for share in (0.0, 0.5, 0.99)] == [1.0, 3.0, 10.0]


def test_memory_is_that_of_one_more() -> None:
    times = dict.fromkeys(handlers.KINDS, Times((1.0,)))
    memory = Memory(10, 1000, 500), Memory(30, 1400, 2500)
    paused = {"native": Times((2.0,)), handlers.STILL: Times((2.5,))}
    report = Report(times, times, times["native"], times, paused, None, (), memory)
    assert report.thaw() == 0.5
    assert report.per_environment() == Memory(1, 20 * 1024, 100 * 1024)
    report = Report(times, times, times["native"], times, paused, None, (), ())
    assert report.per_environment() is None


@pytest.mark.live
def test_a_round() -> None:
    others = set(namespace.names("hp-bench-"))
    report = handlers.measure(2, 0, 3)
    assert [len(times.values) for times in report.cold.values()] == [2, 2]
    assert len(report.network.values) == 4
    for kind in handlers.KINDS:
        # The init is a part of the whole.
        assert 0 < report.init[kind].at(0) < report.cold[kind].at(1)
        assert 0 < report.warm[kind].at(0.5) < report.cold[kind].at(1)
    assert report.crowd is not None
    assert len(report.crowd.values) == 3
    assert len(report.paused[handlers.STILL].values) == handlers.WARM_LEAST
    assert report.memory == ()
    assert handlers.memory_of(2, handlers.kernel_kib()).processes > 10_000
    assert set(namespace.names("hp-bench-")) <= others
