# SPDX-License-Identifier: Apache-2.0
"""The pool of environments made ahead, and the slot numbers of all environments.

Theory of operation
-------------------
Making an environment takes milliseconds of the kernel's time, attaching one a message to the
forwarder, so environments are made before anybody needs them. The forwarder knows them as slots
without an interface, which drop everything.

A slot's number is its environment's for life. Numbers are given out in turn, so that one comes back
as late as possible; one that the forwarder still finds in flows is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection, Iterable, Iterator

from hyperplane_nat.config.resources import Pool
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.planner import CHANGE, PlanLine
from netns.topology import Slot

NUMBER_MAX = 16383
"""The last slot number of the state map."""


class EnvironmentPool:
    """Which environments are ready, which numbers are free, and who waits."""

    def __init__(self, *, size: int, batch: int) -> None:
        """`size` environments are kept ready, made `batch` at a time."""
        self.size = size
        self._batch = batch
        self._next = 1
        self._ready: deque[int] = deque()
        self._filled = asyncio.Event()
        self._waiting = self._starting = 0
        self.slots: dict[int, Slot] = {}
        """Every environment that stands, ready or in use."""
        self.retiring: Collection[int] = ()
        """Numbers of former environments that flows may still refer to."""

    @property
    def ready(self) -> int:
        """How many environments wait to be taken."""
        return len(self._ready)

    def take(self) -> int:
        """The slot of a ready environment; the caller's from now on."""
        if not self._ready:
            self._filled.clear()
            raise ModelError(
                "TooManyRequestsException",
                "no execution environment is ready",
                "raise pool.size, or lower the concurrency",
            )
        return self._ready.popleft()

    def resize(self, size: int, batch: int) -> None:
        """Keep another number ready from now on; what is more is used and not made again."""
        self.size = size
        self._batch = batch

    async def wait(self) -> None:
        """Until an environment may be ready."""
        self._waiting += 1
        try:
            await self._filled.wait()
        finally:
            self._waiting -= 1

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Somebody attaches an environment that was taken; no other is made meanwhile.

        Making them would take this process's time from those who start; who waits for another one
        does not wait for that.
        """
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def add(self, slots: Iterable[Slot], *, ready: bool = True) -> None:
        """Environments that stand; `ready` ones can be taken."""
        for slot in slots:
            self.slots[slot.number] = slot
            if ready:
                self._ready.append(slot.number)
        if self._ready:
            self._filled.set()

    def remove(self, numbers: Iterable[int]) -> None:
        """Environments that are gone."""
        for number in numbers:
            self.slots.pop(number, None)

    def missing(self) -> list[int]:
        """Numbers of the environments to make next, at most a batch; none when the pool is full, or
        by `starting`.
        """
        if self._starting and not self._waiting:
            return []
        wanted = min(self.size - len(self._ready), self._batch)
        numbers: list[int] = []
        for _ in range(NUMBER_MAX):
            if len(numbers) >= wanted:
                break
            number, self._next = self._next, self._next + 1
            if self._next > NUMBER_MAX:
                self._next = 1
            if number not in self.slots and number not in self.retiring:
                numbers.append(number)
        return numbers


def plan_lines(now: Pool, wanted: Pool) -> list[PlanLine]:
    """The pool is no part of the region, and of a plan all the same."""
    changed = [
        f"{name} {getattr(now, name)} to {getattr(wanted, name)}"
        for name in Pool.model_fields
        if getattr(now, name) != getattr(wanted, name)
    ]
    return [PlanLine(CHANGE, "pool", "pool", ", ".join(changed))] if changed else []
