# SPDX-License-Identifier: Apache-2.0
"""Whether the forwarder is at work: its heartbeat in the state map, watched.

Theory of operation
-------------------
A forwarder notes the time in its map several times a second, from the loop that also moves packets:
stopped, or caught in a call or in a packet, it notes nothing. It is *hung* when that has lasted for
`HUNG_SECONDS` in which the watching controller itself ran. Time is counted look by look, each look
for no more than twice the pause between two: a controller that was stopped, or a machine that was,
finds a forwarder that could not run either and must not be held against it.

While a command is carried out for which packets rest by design (`at_rest`), nothing is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

HUNG_SECONDS = 2.0
LOOK_SECONDS = 0.1


class Heartbeat:
    """The heartbeat of one lab's forwarders."""

    def __init__(
        self,
        read: Callable[[], int | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`read` gives what was last noted in the map, None while there is no map."""
        self._read = read
        self._clock = clock
        self._noted: int | None = None
        self._looked = clock()
        self._resting = 0
        self.silent_seconds = 0.0
        """Since the last note that was new, as far as it counts."""

    def begin(self) -> None:
        """A forwarder has just begun: whatever its predecessor did is no matter."""
        self.silent_seconds = 0.0
        self._looked = self._clock()

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[None]:
        """The forwarder does something meanwhile for which it need not answer."""
        self._resting += 1
        try:
            yield
        finally:
            self._resting -= 1
            self.begin()

    def look(self) -> bool:
        """Look, and tell whether the forwarder is hung."""
        now = self._clock()
        passed, self._looked = now - self._looked, now
        noted = self._read()
        if noted is None or noted != self._noted or self._resting:
            self._noted = noted
            self.silent_seconds = 0.0
        else:
            self.silent_seconds += min(passed, 2 * LOOK_SECONDS)
        return self.silent_seconds >= HUNG_SECONDS

    async def until_hung(self) -> None:
        """Return when the forwarder is hung."""
        self.begin()
        while True:
            if self.look():
                return
            await asyncio.sleep(LOOK_SECONDS)
