# SPDX-License-Identifier: Apache-2.0
"""The region's clock, and what is kept of it."""

from __future__ import annotations

from pathlib import Path

from hyperplane_nat.model.clock import LabClock
from hyperplane_nat.model.store import Store
from tests.model.support import Clock, Scene


def test_it_is_ahead_by_what_it_was_advanced_by() -> None:
    wall = Clock()
    clock = LabClock(1500, wall)
    assert clock() == wall.now + 1.5
    wall.pass_seconds(1)
    clock.offset_ms += 250
    assert clock() == wall.now + 1.75


def test_it_is_kept_with_the_region(tmp_path: Path) -> None:
    scene = Scene()
    with Store(tmp_path / "model.db") as store:
        assert store.clock_offset_ms == 0
        for offset_ms in (350_000, 1 << 38):
            store.save(scene.region, clock_offset_ms=offset_ms)
            assert store.clock_offset_ms == offset_ms
        store.save(scene.region, token="t", request=1, answer=2)
    with Store(tmp_path / "model.db") as store:
        assert store.clock_offset_ms == 1 << 38
