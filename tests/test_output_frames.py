# SPDX-License-Identifier: Apache-2.0
"""Frames come out as they went in, however the stream is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.output_frames import END, STDERR, STDOUT, frame, frames
from netns import execution

FRAMES = st.lists(st.tuples(st.sampled_from([END, STDOUT, STDERR]), st.binary(max_size=20)))


@given(given=FRAMES, size=st.integers(1, 30))
def test_frames_in_pieces(given: list[tuple[int, bytes]], size: int) -> None:
    stream = b"".join(frame(kind, data) for kind, data in given)
    pieces = [stream[begin : begin + size] for begin in range(0, len(stream), size)]
    assert list(frames(pieces)) == given


def test_a_frame_is_there_as_soon_as_it_is_whole() -> None:
    def pieces() -> Iterator[bytes]:
        yield frame(STDOUT, b"x") + frame(STDERR, b"y")[:-1]
        raise AssertionError("more was asked for")

    assert next(frames(pieces())) == (STDOUT, b"x")


def test_a_frame_that_is_cut_short_does_not_count() -> None:
    assert list(frames([frame(STDOUT, b"x"), frame(END, b"{}")[:-1]])) == [(STDOUT, b"x")]


def test_kinds_are_the_descriptors() -> None:
    assert (STDOUT, STDERR) == (execution.STDOUT, execution.STDERR)
