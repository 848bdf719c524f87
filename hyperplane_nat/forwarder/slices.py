# SPDX-License-Identifier: Apache-2.0
"""Long work in slices, so that packets wait for none of it.

Theory of operation
-------------------
Whatever may take long is a generator that yields wherever it may be interrupted, and returns its
outcome. The loop goes on after each slice of a millisecond; who may not come in between waits for
the end of the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import Final, TypeVar

__all__ = ["SLICE_SECONDS", "Work", "run"]

SLICE_SECONDS: Final = 0.001

T = TypeVar("T")
Work = Generator[None, None, T]


async def run(work: Work[T], slice_seconds: float = SLICE_SECONDS) -> T:
    """The outcome of the work, during which the loop is held for a slice and a step at most."""
    end = time.perf_counter() + slice_seconds
    while True:
        try:
            next(work)
        except StopIteration as done:
            outcome: T = done.value
            return outcome
        if time.perf_counter() >= end:
            await asyncio.sleep(0)
            end = time.perf_counter() + slice_seconds
