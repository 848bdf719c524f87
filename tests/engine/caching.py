# SPDX-License-Identifier: Apache-2.0
"""An engine with the flow cache beside one without: what they do with the same frames is the same.

The cache's program is its description in Python (`tests.engine.kernel`). A frame goes to it first
and, when it misses, on to the engine, as in a lab.
"""

from __future__ import annotations

from collections.abc import Mapping

from hyperplane_nat.engine.nat.cached_flows import CachedFlows
from tests.engine import scenario
from tests.engine.compiled import EngineTarget, result_of
from tests.engine.kernel import COUNTED, FORWARDED, Kernel
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Result
from tests.reference.flow import FlowTuple

SLOTS = 64
INDEX = 100
"""Of links: this and the attachment's number."""


class CachingTarget:
    """An engine whose flows are cached by a program in Python."""

    def __init__(self, setup: scenario.Setup, *, kernel: Kernel | None = None) -> None:
        self.kernel = Kernel() if kernel is None else kernel
        self.target = EngineTarget(setup, slots_max=SLOTS)
        self.cached = self._opened()
        self.hits = 0

    def _opened(self, clock_offset_ms: int = 0) -> CachedFlows:
        kernel = self.kernel
        made = CachedFlows(
            self.target.engine,
            kernel.records,
            kernel.links,
            kernel.control,
            clock_offset_ms=clock_offset_ms,
        )
        for number in (*scenario.ALL_SLOTS, *(SLOTS + each for each in range(3))):
            made.link(number, INDEX + number)
        made.settle()
        return made

    def translate(self, frame: bytes, side: int, port: int, now: int) -> Result:
        """What becomes of a frame, wherever it is forwarded."""
        attachment = port if side == INSIDE else SLOTS + port
        outcome = self.kernel.arrives(attachment, frame, now)
        if outcome.kind == FORWARDED:
            self.hits += 1
            out = outcome.out
            place = (INSIDE, out) if out < SLOTS else (OUTSIDE, out - SLOTS)
            return Result("forward", None, *place, outcome.frame)
        counted = outcome.kind == COUNTED
        return result_of(self.target.engine.translate(frame, side, port, now, counted=counted))

    def catch_up(self, now: int) -> None:
        """Do with keys what is to be done, and take over what the program has counted."""
        self.kernel.follow(self.cached)
        self.cached.sweep(now)
        self.kernel.follow(self.cached)
        self.cached.rest()
        self.kernel.grant()

    def flows(self) -> set[FlowTuple]:
        return self.target.flows()

    def counters(self) -> Mapping[str, int]:
        """All but the cache's own."""
        return {
            name: value
            for name, value in self.target.counters().items()
            if not name.startswith("flow_cache")
        }

    def count(self, name: str) -> int:
        return self.target.count(name)

    def problems(self) -> list[str]:
        """What does not agree: tables, records and keys."""
        problems = self.target.problems() + self.cached.verify()
        kept = dict(self.cached.kept())
        wanted = {
            key: line for number, keys in kept.items() for line, key in enumerate(keys, 2 * number)
        }
        if wanted != self.kernel.keys:
            problems.append(f"keys {self.kernel.keys} for {wanted}")
        return problems

    def close(self) -> None:
        del self.cached
        self.target.close()
