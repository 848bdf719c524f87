# SPDX-License-Identifier: Apache-2.0
"""The lab's clock, advanced: 350 seconds or 14 days pass at once.

Theory of operation
-------------------
The clock is the host's and an offset, for the flow table (`forwarder.forwarder`) as for the region.
How far it is to be is saved first, with the region; from then on it is so whoever is killed: each
forwarder is told with all else, and each controller begins there. Then the forwarder goes through
the time and what ends in it, and after that the region, from one deadline to the next, each
followed by the network as if it had been waited for: the 20 minutes of an interface begin when its
last environment has gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hyperplane_nat.controller.errors import ForwarderError
from hyperplane_nat.model.clock import AHEAD_SECONDS_MAX, LabClock
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.store import Store
from hyperplane_nat.unix_socket import ADVANCE_SECONDS

_STEP_MS = 1_000
"""What is due within this of the region's time is done together."""

_POLL_SECONDS = 0.01


class ClockAdvance:
    """Who advances the clock of one lab."""

    def __init__(
        self,
        clock: LabClock,
        region: Region,
        store: Store,
        tell: Callable[[int], Awaitable[object]],
        settle: Callable[[], Awaitable[None]],
        reached_ms: Callable[[], int],
    ) -> None:
        """
        `tell` has the forwarder go so far ahead in ms, ForwarderError; `settle` has the network
        follow the region; `reached_ms` is how far the forwarder is by the state map.
        """
        self._clock = clock
        self._region = region
        self._store = store
        self._tell = tell
        self._settle = settle
        self._reached_ms = reached_ms
        self.offset_ms = clock.offset_ms
        """What the clock is to be ahead, which it is but for a moment."""

    async def advance(
        self, seconds: float, *, token: str | None, request: object
    ) -> Mapping[str, Any]:
        """
        Have so much time pass; returns when all that ends in it has ended. What it answers to a
        token is the clock when the request came first.

        Errors: ModelError and StateError, nothing was changed; ForwarderError, the clock is saved
        and a forwarder that begins follows.
        """
        if token is not None and (answer := self._store.answer(token, request)) is not None:
            told: Mapping[str, Any] = answer
            return told
        offset_ms = self.offset_ms + round(seconds * 1000)
        if offset_ms > AHEAD_SECONDS_MAX * 1000:
            raise ModelError(
                "InvalidParameterValueException",
                f"the clock would be {offset_ms / 1000:.0f} s ahead",
                f"{AHEAD_SECONDS_MAX} s in all is the most",
            )
        result = {"clock_offset_seconds": offset_ms / 1000}
        self._store.save(
            self._region, token=token, request=request, answer=result, clock_offset_ms=offset_ms
        )
        self.offset_ms = offset_ms
        try:
            await self._advance_flows()
        finally:
            await self._advance_region()
        return result

    async def _advance_flows(self) -> None:
        deadline = time.monotonic() + ADVANCE_SECONDS
        try:
            await self._tell(self.offset_ms)
        except ForwarderError as error:
            # Its successor is told when it begins.
            while self._reached_ms() < self.offset_ms:
                if time.monotonic() > deadline:
                    raise ForwarderError(
                        f"the clock is advanced and the flows do not follow yet: {error}"
                    ) from error
                await asyncio.sleep(_POLL_SECONDS)

    async def _advance_region(self) -> None:
        while (behind := self.offset_ms - self._clock.offset_ms) > 0:
            due = self._region.next_deadline()
            if due is not None:
                behind = min(behind, max(round((due - self._clock()) * 1000), _STEP_MS))
            self._clock.offset_ms += behind
            await self._settle()
