# SPDX-License-Identifier: Apache-2.0
"""Figures by the minute: what is added to them, and what periods have."""

from __future__ import annotations

from hyperplane_nat.aws.figures import MINUTES_KEPT, Figures, Series

FLOWS = Series.of("AWS/NetworkELB", "NewFlowCount", LoadBalancer="net/front/1")
NOW = 1_800_000_000


def test_a_counter_is_what_it_has_grown_by() -> None:
    figures = Figures()
    for seconds, total in ((0, 5.0), (1, 5.0), (59, 9.0), (60, 12.0)):
        figures.counter(FLOWS, NOW + seconds, total)
    minutes = figures.periods(FLOWS, NOW, NOW + 120, 60)
    assert {start - NOW: each.statistic("Sum") for start, each in minutes.items()} == {0: 9, 60: 3}
    (whole,) = figures.periods(FLOWS, NOW, NOW + 120, 3600).values()
    assert (whole.statistic("Sum"), whole.statistic("SampleCount")) == (12, 4)


def test_a_counter_that_is_less_has_begun_again() -> None:
    figures = Figures()
    figures.counter(FLOWS, NOW, 100.0)
    figures.counter(FLOWS, NOW, 4.0)
    assert figures.periods(FLOWS, NOW, NOW + 60, 60)[NOW].statistic("Sum") == 104


def test_a_gauge_is_what_it_was() -> None:
    figures = Figures()
    for value in (4.0, 1.0, 7.0):
        figures.gauge(FLOWS, NOW, value)
    found = figures.periods(FLOWS, NOW, NOW + 1, 60)[NOW]
    assert {name: found.statistic(name) for name in ("Average", "Minimum", "Maximum")} == {
        "Average": 4,
        "Minimum": 1,
        "Maximum": 7,
    }


def test_what_is_not_asked_for_is_left_out() -> None:
    figures = Figures()
    figures.gauge(FLOWS, NOW, 1.0)
    assert figures.periods(FLOWS, NOW + 60, NOW + 120, 60) == {}
    assert figures.periods(FLOWS, NOW - 60, NOW, 60) == {}
    assert figures.periods(Series.of("AWS/NetworkELB", "x"), NOW, NOW + 60, 60) == {}
    assert tuple(figures.known()) == (FLOWS,)


def test_a_day_is_kept() -> None:
    figures = Figures()
    for minute in range(MINUTES_KEPT + 10):
        figures.gauge(FLOWS, NOW + 60 * minute, 1.0)
    kept = figures.periods(FLOWS, 0, NOW * 2, 60)
    assert (len(kept), min(kept)) == (MINUTES_KEPT, NOW + 600)
