# SPDX-License-Identifier: Apache-2.0
"""Turns, shares and order, against a queue of lists."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.io.fair_queue import FairQueue

POSITIONS, BUCKETS = 64, 5


def filled(arrivals: list[int], positions: int = POSITIONS) -> FairQueue:
    """A queue to which bucket after bucket has sent a frame."""
    queue = FairQueue(positions, BUCKETS)
    for position, bucket in enumerate(arrivals):
        queue.push(bucket, position)
    return queue


@given(
    arrivals=st.lists(st.integers(0, BUCKETS - 1), max_size=POSITIONS),
    costs=st.lists(st.integers(1, 40), min_size=POSITIONS, max_size=POSITIONS),
)
def test_all_come_out_once_and_each_sender_s_in_order(
    arrivals: list[int], costs: list[int]
) -> None:
    queue = filled(arrivals)
    taken = [queue.pop(costs[number]) for number in range(len(arrivals))]
    assert queue.pop() is None
    assert len(queue) == 0
    assert sorted(position for position in taken if position is not None) == list(
        range(len(arrivals))
    )
    for bucket in range(BUCKETS):
        own = [
            position for position in taken if position is not None and arrivals[position] == bucket
        ]
        assert own == sorted(own)


@given(st.lists(st.integers(0, BUCKETS - 1), min_size=2, max_size=POSITIONS), st.data())
def test_it_may_be_filled_while_it_is_emptied(arrivals: list[int], data: st.DataObject) -> None:
    queue = FairQueue(POSITIONS, BUCKETS)
    waiting = list(enumerate(arrivals))
    held: set[int] = set()
    while waiting or held:
        if waiting and (not held or data.draw(st.booleans())):
            position, bucket = waiting.pop(0)
            queue.push(bucket, position)
            held.add(position)
        else:
            popped = queue.pop(data.draw(st.integers(1, 40)))
            assert popped in held
            held.discard(popped)
        assert len(queue) == len(held)


def test_who_sends_one_frame_does_not_wait_for_who_sends_many() -> None:
    queue = filled([0] * 60 + [1])
    taken = [queue.pop() for _ in range(17)]
    assert 60 in taken


@pytest.mark.parametrize(("cost", "frames"), [(1, 16), (4, 4), (16, 1), (33, 1)])
def test_a_turn_is_as_long_as_its_frames_are_cheap(cost: int, frames: int) -> None:
    queue = filled([0, 1] * 32)
    senders = [position % 2 for position in iter(lambda: queue.pop(cost), None)]
    first = senders.index(1)
    assert first == frames


def test_frames_dearer_than_a_turn_are_paid_for_in_the_end() -> None:
    queue = filled([0, 0, 0, 0, 1] * 60, positions=300)
    taken = Counter(0 if (queue.pop(33) or 0) % 5 < 4 else 1 for _ in range(100))
    assert abs(taken[0] - taken[1]) <= 2


def test_nothing_is_shed_below_three_quarters() -> None:
    queue = filled([0] * 47 + [1])
    assert queue.shed() == []


def test_who_fills_the_ring_gives_up_the_oldest_above_the_share() -> None:
    queue = filled([0] * 60 + [1] * 2)
    shed = queue.shed()
    assert shed == [(0, position) for position in range(60 - 31)]
    assert len(queue) == 33


def test_a_sender_alone_leaves_room_for_whoever_comes_next() -> None:
    assert filled([0] * 48).shed() == []
    assert filled([0] * 49).shed() == [(0, position) for position in range(49 - 32)]
    # Frames for which there is no buffer may wait.
    assert filled([0] * 48).shed(full=True) == []


def test_equal_senders_lose_nothing_here() -> None:
    assert filled([0, 1] * 32).shed() == []
    assert filled([0] * 35 + [1] * 29).shed() == []


def test_no_room_behind_the_queue_counts_as_full() -> None:
    queue = filled([0] * 20 + [1])
    assert queue.shed() == []
    assert queue.shed(full=True) == [(0, position) for position in range(10)]


@given(st.lists(st.integers(0, BUCKETS - 1), min_size=POSITIONS, max_size=POSITIONS))
def test_shedding_spares_who_is_within_the_share(arrivals: list[int]) -> None:
    queue = filled(arrivals)
    counts = Counter(arrivals)
    share = POSITIONS // max(len(counts), 2)
    shed = Counter(bucket for bucket, _position in queue.shed())
    for bucket, count in counts.items():
        expected = count - share if 4 * count > 5 * share else 0
        assert shed[bucket] == expected


def test_impossible_numbers_are_refused() -> None:
    queue = FairQueue(POSITIONS, BUCKETS)
    for bucket, position in ((BUCKETS, 0), (0, POSITIONS)):
        with pytest.raises(ValueError, match="no such bucket"):
            queue.push(bucket, position)
