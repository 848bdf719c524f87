# SPDX-License-Identifier: Apache-2.0
"""Work in slices, where nobody waits for what comes in between."""

from __future__ import annotations

from typing import TypeVar

from hyperplane_nat.forwarder.slices import Work

T = TypeVar("T")


def finish(work: Work[T]) -> T:
    """The outcome of the work, done at one go."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            outcome: T = done.value
            return outcome
