# SPDX-License-Identifier: Apache-2.0
"""When a silent forwarder hangs, on a clock set by hand."""

from __future__ import annotations

import pytest

from hyperplane_nat.controller.forwarder.heartbeat import HUNG_SECONDS, LOOK_SECONDS, Heartbeat


class Watched:
    """A heartbeat with a clock and a map that are set by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.noted: int | None = 7
        self.beat = Heartbeat(lambda: self.noted, clock=lambda: self.now)

    def looks(self, seconds: float, pause: float = LOOK_SECONDS) -> bool:
        """Look for so long with such pauses; whether it is hung in the end."""
        hung = False
        for _ in range(round(seconds / pause)):
            self.now += pause
            hung = self.beat.look()
        return hung


@pytest.fixture
def watched() -> Watched:
    found = Watched()
    found.beat.begin()
    assert not found.beat.look()
    return found


def test_hung_after_two_seconds_of_silence(watched: Watched) -> None:
    assert not watched.looks(HUNG_SECONDS - LOOK_SECONDS)
    assert watched.beat.silent_seconds == pytest.approx(HUNG_SECONDS - LOOK_SECONDS)
    assert watched.looks(2 * LOOK_SECONDS)


def test_a_new_note_ends_the_silence(watched: Watched) -> None:
    watched.looks(1.5)
    watched.noted = 8
    assert not watched.looks(LOOK_SECONDS)
    assert watched.beat.silent_seconds == 0
    # A clock that went back is a note too.
    watched.looks(1.5)
    watched.noted = 3
    assert not watched.looks(1.5)


def test_time_in_which_the_controller_did_not_run_does_not_count(watched: Watched) -> None:
    """Stopped for an hour, it finds a note that is an hour old, and waits two seconds more."""
    watched.now += 3600
    assert not watched.beat.look()
    assert watched.beat.silent_seconds == pytest.approx(2 * LOOK_SECONDS)
    assert not watched.looks(HUNG_SECONDS / 2)
    watched.noted = 8
    assert not watched.looks(HUNG_SECONDS / 2)


def test_a_starved_controller_counts_what_it_got(watched: Watched) -> None:
    assert not watched.looks(9, pause=1.0)
    assert watched.looks(3, pause=1.0)


def test_rest_does_not_count(watched: Watched) -> None:
    watched.looks(1.5)
    with watched.beat.at_rest():
        assert not watched.looks(60)
    assert not watched.looks(1.5)
    assert watched.looks(1.0)


def test_without_a_map_nobody_is_hung(watched: Watched) -> None:
    watched.noted = None
    assert not watched.looks(60)


def test_a_successor_begins_anew(watched: Watched) -> None:
    watched.looks(1.5)
    watched.beat.begin()
    assert not watched.looks(1.5)
