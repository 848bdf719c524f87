# SPDX-License-Identifier: Apache-2.0
"""The keys of cached flows in the kernel's map, as the engine wants them.

Theory of operation
-------------------
The engine writes records where the program reads them (`engine/nat/cached_flows.pyx`); what leads
to them is a hash map of the kernel, which is changed by system calls. These are made here, a few at
a time between batches and in the engine's order. A key that the map has no room for is told back:
its flow is not cached.

The sweep goes round all cached flows once a second, in slices. Lines whose keys are away are used
again after a grace period, which the controller waits for (`flow_cache.maps.Maps.grant`): without a
controller no flow is cached any more once all lines were used.
"""

from __future__ import annotations

import logging

from hyperplane_nat.engine import Engine
from hyperplane_nat.engine.nat.cached_flows import CachedFlows, KeyChange
from hyperplane_nat.flow_cache.maps import CONTROL, FLOW_RECORDS, LINKS, RECORDS, Maps

__all__ = ["CachedKeys"]

log = logging.getLogger(__name__)

CHANGES = 64
"""Flows whose keys are changed in one go: a fraction of a millisecond."""

SWEEP_BUDGET = 2048
"""Cached flows looked at in one go: a fraction of a millisecond."""

SWEEP_SECONDS = 1.0


class CachedKeys:
    """What one forwarder has in the flow cache."""

    def __init__(self, engine: Engine, maps: Maps, offset_ms: int) -> None:
        """Take over what a predecessor has in these maps. OSError: they cannot be used."""
        # Where a user may not use maps at all, that is to be known at once.
        maps.line_of(bytes(16))
        self._maps = maps
        self.flows = CachedFlows(
            engine,
            maps.memory(RECORDS),
            maps.memory(LINKS),
            maps.memory(CONTROL),
            clock_offset_ms=offset_ms,
        )

    def change(self) -> float | None:
        """Change some keys; in how many seconds the next ones are to be, if there are any."""
        for change in self.flows.take_changes(CHANGES):
            if change.put:
                self._put(change)
            else:
                self._remove(change)
        return 0 if self.flows.changing else None

    def _remove(self, change: KeyChange) -> None:
        for line, key in enumerate(change.keys, change.number * FLOW_RECORDS):
            # What a predecessor has left at rest may be cached anew, by another number.
            if self._maps.line_of(key) == line:
                self._maps.remove_key(key)
        self.flows.removed(change.number)

    def _put(self, change: KeyChange) -> None:
        first = change.number * FLOW_RECORDS
        try:
            for line, key in enumerate(change.keys, first):
                self._maps.put_key(key, line)
        except OSError as error:
            log.warning("cannot cache a flow: %s", error.strerror)
            self.flows.refused(change.number)

    def sweep(self, now_ms: int) -> float | None:
        """Look at some cached flows; in how many seconds to go on, if there is anything to do."""
        if not self.flows.settled:
            return SWEEP_SECONDS
        if self.flows.sweep(now_ms, SWEEP_BUDGET) == SWEEP_BUDGET:
            return 0
        self.flows.rest()
        return None if self.flows.idle else SWEEP_SECONDS

    def verify(self) -> list[str]:
        """A line for each disagreement of entries, records and keys."""
        while self.change() is not None:
            pass
        problems = self.flows.verify()
        kept = self.flows.kept()
        for number, keys in kept:
            for line, key in enumerate(keys, number * FLOW_RECORDS):
                found = self._maps.line_of(key)
                if found != line:
                    problems.append(f"cached flow {number}: its key leads to line {found}")
                elif not self._maps.counted(key):
                    problems.append(f"cached flow {number}: its key is not looked for")
        count = self._maps.count_keys()
        if count != len(kept) * FLOW_RECORDS:
            problems.append(f"{count} keys of {len(kept)} cached flows")
        return problems
