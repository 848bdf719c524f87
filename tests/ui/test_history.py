# SPDX-License-Identifier: Apache-2.0
"""The last minutes, and when ports will be used up."""

from __future__ import annotations

from typing import Any

from hyperplane_nat.ui.history import SERIES, History, Trends


def sample(number: int) -> dict[str, Any]:
    return {"time": float(number), "values": [0.0] * len(SERIES), "drops": {}}


def test_only_the_last_samples_are_kept() -> None:
    history = History(3)
    for number in range(5):
        history.add(sample(number))
    document = history.document()
    assert [each["time"] for each in document["samples"]] == [2.0, 3.0, 4.0]
    assert document["series"] == SERIES


def test_what_grows_reaches_its_limit() -> None:
    trends = Trends(10.0)
    assert trends.seconds_left("a", 0.0, 100, 1000) is None
    assert trends.seconds_left("a", 5.0, 150, 1000) == 85.0
    assert trends.seconds_left("a", 10.0, 1000, 1000) == 0.0


def test_only_the_last_seconds_count() -> None:
    trends = Trends(10.0)
    for moment in range(100):
        trends.seconds_left("a", float(moment), 500, 1000)
    assert trends.seconds_left("a", 110.0, 600, 1000) == 44.0


def test_what_shrinks_or_has_no_limit_is_never_used_up() -> None:
    trends = Trends()
    for key, values, limit in (("a", (200, 100), 1000), ("b", (100, 200), None)):
        trends.seconds_left(key, 0.0, values[0], limit)
        assert trends.seconds_left(key, 5.0, values[1], limit) is None


def test_an_answer_that_is_shown_again_is_no_standstill() -> None:
    trends = Trends()
    trends.seconds_left("a", 0.0, 100, 1000)
    trends.seconds_left("a", 5.0, 200, 1000)
    assert trends.seconds_left("a", 5.0, 200, 1000) == 40.0


def test_who_is_gone_is_forgotten() -> None:
    trends = Trends(10.0)
    trends.seconds_left("a", 0.0, 100, 1000)
    trends.forget(61.0)
    assert trends.seconds_left("a", 62.0, 200, 1000) is None
