# SPDX-License-Identifier: Apache-2.0
"""When the forwarder looks again and when it sleeps, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.forwarder.patience import Watch

MICROSECOND = 1000
MILLISECOND = 1_000_000
SPIN = 100 * MICROSECOND
CREDIT = 10 * MILLISECOND


@dataclass
class Forwarder:
    """Looks and sleeps as told; knows for how long it has looked in vain."""

    spin_ns: int = SPIN
    now: int = 1_000 * MILLISECOND
    looked_ns: int = 0
    slept: bool = False
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(spin_ns=self.spin_ns)
        self.watch.arrived(self.now)

    def wait(self, gap: Callable[[bool], int]) -> None:
        """Wait for a frame that comes after `gap`, which may depend on whether we are awake."""
        until = self.watch.begin()
        due = self.now + gap(True)
        self.slept = due > until
        if self.slept:
            looked = max(until, self.now)
            self.looked_ns += looked - self.now
            self.watch.end(looked)
            self.now += max(gap(False), looked - self.now)
        else:
            self.looked_ns += due - self.now
            self.now = due
        self.watch.arrived(self.now)


def settled(forwarder: Forwarder, gap: Callable[[bool], int], frames: int) -> None:
    for _ in range(frames):
        forwarder.wait(gap)


def test_dense_traffic_is_waited_for_awake() -> None:
    forwarder = Forwarder()
    settled(forwarder, lambda _awake: 50 * MICROSECOND, 200)
    assert not forwarder.slept
    assert forwarder.watch.begin() == forwarder.now + SPIN


def test_sparse_traffic_is_slept_for() -> None:
    forwarder = Forwarder()
    settled(forwarder, lambda _awake: 10 * MILLISECOND, 200)
    assert forwarder.slept


@given(st.integers(600 * MICROSECOND, 1_000 * MILLISECOND))
def test_trials_in_vain_take_a_sixteenth_of_the_time_and_what_was_saved_up(gap: int) -> None:
    forwarder = Forwarder()
    start = forwarder.now
    settled(forwarder, lambda _awake: gap, 500)
    assert forwarder.looked_ns <= (forwarder.now - start) / 16 + CREDIT


def test_a_program_that_waits_for_each_answer_is_not_slept_for_in_the_end() -> None:
    """Frames take 40 us where we are awake; each waits 400 us for us to wake where we are not."""
    forwarder = Forwarder()
    settled(forwarder, lambda _awake: 400 * MICROSECOND, 100)
    assert forwarder.slept
    settled(forwarder, lambda awake: (40 if awake else 400) * MICROSECOND, 1000)
    assert not forwarder.slept


def test_a_trial_lasts_until_others_have_got_used_to_it() -> None:
    """A host wakes its processors fast only after ten short halts in a row."""
    forwarder = Forwarder()
    settled(forwarder, lambda _awake: 400 * MICROSECOND, 100)
    short = 0

    def gap(awake: bool) -> int:
        nonlocal short
        short = short + 1 if awake else 0
        return (40 if short > 10 else 400) * MICROSECOND

    settled(forwarder, gap, 2000)
    assert not forwarder.slept


def test_without_frames_nobody_looks() -> None:
    forwarder = Forwarder()
    settled(forwarder, lambda _awake: 10 * MILLISECOND, 100)
    looks = 0
    while until := forwarder.watch.begin():
        forwarder.watch.end(until)
        looks += 1
        assert looks < 100


@pytest.mark.parametrize("gap", [1 * MICROSECOND, 50 * MICROSECOND, 10 * MILLISECOND])
def test_zero_is_never_to_look(gap: int) -> None:
    forwarder = Forwarder(spin_ns=0)
    settled(forwarder, lambda _awake: gap, 100)
    assert forwarder.looked_ns == 0


def test_frames_that_come_together_are_close_to_each_other() -> None:
    watch = Watch(spin_ns=SPIN)
    now = 1_000 * MILLISECOND
    watch.arrived(now)
    for _ in range(100):
        now += MILLISECOND
        watch.arrived(now, 64)
    assert watch.begin() == now + SPIN
