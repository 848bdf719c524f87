# SPDX-License-Identifier: Apache-2.0
"""What the forwarder takes for a clock; tests/live has what becomes of it."""

from __future__ import annotations

import pytest

from hyperplane_nat.engine.readers.state_map import CLOCK_OFFSET_MS_MAX
from hyperplane_nat.forwarder.forwarder import offset_ms_of


@pytest.mark.parametrize("offset", [0, 350_000, CLOCK_OFFSET_MS_MAX])
def test_how_far_the_clock_is_to_be(offset: int) -> None:
    assert offset_ms_of({"clock_offset_ms": offset}) == offset


def test_who_does_not_say_leaves_it() -> None:
    assert offset_ms_of({"everything": True}) == 0


@pytest.mark.parametrize(
    "offset", [-1, CLOCK_OFFSET_MS_MAX + 1, 1.5, float("nan"), "350", True, None, [1]]
)
def test_what_is_no_offset(offset: object) -> None:
    with pytest.raises(ValueError, match="clock_offset_ms"):
        offset_ms_of({"clock_offset_ms": offset})
