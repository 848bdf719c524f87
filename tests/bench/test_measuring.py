# SPDX-License-Identifier: Apache-2.0
"""Counters, crossings, warnings, limits of the host, and the time that is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import host_settings, strays
from bench.counters import Reading, Window, parse
from bench.errors import BenchError
from bench.load import Rate, crossings
from bench.progress import Pace, clock_text
from bench.workloads import flood
from bench.workloads.base import saturation
from tests.bench.figures import measured

DEVICES = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs
    lo:    5000      50    0    0    0     0          0         0     5000      50    0
 eni-a:    6400     100    0    0    0     0          0         0        0       0    0
 eni-b:     640      10    0    0    0     0          0         0        0       0    0
"""


def test_all_links_but_the_loopback_are_counted() -> None:
    assert parse(DEVICES) == (110, 7040)


def test_a_window_tells_how_many_datagrams_arrived() -> None:
    window = Reading(300, 64_000, 12.0).since(Reading(100, 51_200, 10.0))
    assert window == Window(200, 12_800, 2.0)
    assert window.datagrams(64 - 42) == 200


def test_datagrams_that_came_as_one_frame_are_counted_one_by_one() -> None:
    # Ten frames of one datagram each, and one that stands for five.
    assert Window(11, 10 * 64 + 42 + 5 * 22, 1.0).datagrams(22) == 15


def test_nothing_arrived() -> None:
    assert Window(0, 0, 1.0).datagrams(22) == 0


def test_crossings_lie_between_readings() -> None:
    readings = [Reading(7, 0, 0.0), Reading(7, 0, 1.0), Reading(107, 0, 2.0), Reading(307, 0, 3.0)]
    # The load began between the second reading and the third.
    assert crossings(readings, [50, 200, 300, 301]) == [0.5, 1.5, 2.0, None]


def test_a_gateway_as_fast_as_the_link_was_not_the_limit() -> None:
    found = measured(hyperplane_nat=[50.0], nft=[97.0], direct=[100.0]).all()[0]
    (text,) = saturation(found, {})
    assert "nft is as fast as the bare link" in text


def test_a_gateway_that_loses_nothing_was_not_the_limit() -> None:
    found = measured(hyperplane_nat=[50.0], direct=[100.0]).all()[0]
    assert saturation(found, {"hyperplane-nat": [Rate(50.0, 80.0)]}) == []
    (text,) = saturation(found, {"hyperplane-nat": [Rate(50.0, 50.0)]})
    assert "hyperplane-nat lost nothing" in text


def test_what_a_connection_keeps_is_taken_before_and_during_the_flood() -> None:
    def interval(start: float, size: int) -> dict[str, object]:
        return {"sum": {"start": start, "end": start + 0.1, "seconds": 0.1, "bytes": size}}

    moments = [number / 10 for number in range(30)]
    intervals = [interval(each, 1000 if each < 1.0 else 750) for each in moments]
    assert flood.percentage_kept({"intervals": intervals}) == pytest.approx(75)


def test_limits_are_raised_and_put_back(tmp_path: Path) -> None:
    low, high, missing = tmp_path / "low", tmp_path / "high", tmp_path / "missing"
    low.write_text("5\n")
    high.write_text("500\n")
    with host_settings.raised({low: 100, high: 100, missing: 100}) as problems:
        assert low.read_text() == "100"
        assert high.read_text() == "500\n"
    assert low.read_text().strip() == "5"
    (problem,) = problems
    assert str(missing) in problem


def test_the_time_left_follows_the_pace() -> None:
    now = [100.0]
    pace = Pace(60, clock=lambda: now[0])
    assert pace.left == 60
    now[0] += 20
    pace.advance(10)
    # Twice as slow as thought: fifty estimated seconds take a hundred.
    assert pace.left == pytest.approx(100)
    pace.advance(1000)
    assert pace.left == 0


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65.4, "1:05"), (-3, "0:00")])
def test_clock_text(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text


def test_one_bench_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with (
        strays.only_one(lock),
        pytest.raises(BenchError, match="another bench is running"),
        strays.only_one(lock),
    ):
        pass
    assert not lock.exists()


def test_only_labs_of_the_bench_are_strays() -> None:
    names = [
        "hp-bench-0123abcd-gw",
        "hp-bench-0123abcd-env-17",
        "hp-bench-0123abcd-vpc-customer",
        "hp-bench-gw",
        "hp-bench-0123-gw",
        "hp-default-gw",
    ]
    assert strays.labs(names) == ["bench-0123abcd"]
