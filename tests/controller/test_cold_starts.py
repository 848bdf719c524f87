# SPDX-License-Identifier: Apache-2.0
"""Cold starts: the latest are kept, all are counted."""

from __future__ import annotations

from hyperplane_nat.controller.cold_starts import ColdStarts


def test_the_latest_are_kept_and_all_are_counted() -> None:
    starts = ColdStarts(history=3, clock=lambda: 5000.25)
    for number in range(5):
        starts.note(f"f{number}", "hyperplane", 0.0015, 0.2)
    rows = starts.rows()
    assert [row["function"] for row in rows] == ["f2", "f3", "f4"]
    assert [row["number"] for row in rows] == [5002, 5003, 5004]
    assert rows[0] | {"number": 0} == {
        "number": 0,
        "time": 5000.25,
        "function": "f2",
        "networking": "hyperplane",
        "network_ready_seconds": 0.0015,
        "modelled_seconds": 0.2,
    }
    assert starts.rows(after=5003) == rows[2:]
    assert starts.rows(limit=2) == rows[1:]
    assert sum(starts.distribution.counts) == 5


def test_a_successors_numbers_go_on() -> None:
    before, after = ColdStarts(clock=lambda: 100.0), ColdStarts(clock=lambda: 101.0)
    for each in (before, after):
        each.note("f", "none", 0.001, 0.0)
    assert before.rows()[-1]["number"] < after.rows()[0]["number"]
