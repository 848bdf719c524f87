# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.forwarder.recent_peak import RecentPeak


def test_a_peak_lasts_a_minute() -> None:
    peak = RecentPeak(60)
    assert [peak.add(value, now) for now, value in ((0, 3), (1, 9), (2, 4), (61, 1))] == [
        3,
        9,
        9,
        9,
    ]
    assert peak.add(2, 61.5) == 4
    assert peak.add(0, 121.5) == 2
    assert peak.add(0, 122) == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_it_is_the_highest_within_the_window(steps: list[tuple[int, int]]) -> None:
    peak, now, seen = RecentPeak(5), 0, list[tuple[int, int]]()
    for seconds, value in steps:
        now += seconds
        seen.append((now, value))
        assert peak.add(value, now) == max(each for when, each in seen if when >= now - 5)
