# SPDX-License-Identifier: Apache-2.0
"""Provisioned concurrency at work: environments are started and initialized before anybody asks.

The region says what is missing (`model.provisioned`). An environment gets its network as in a cold
start, then the process that runs handlers is told to initialize it, and says when it is done, as
after an invocation, or why not. Without that process nothing is started; what finds no place in the
pool is tried again in the next round.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from hyperplane_nat.controller.handlers import placed
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.region import Placement, Region


class Runtime(Protocol):
    """The process that runs handlers."""

    @property
    def connected(self) -> bool:
        """Whether it can be told something."""

    def initialize(self, placed: Mapping[str, Any]) -> None:
        """Have it initialize an environment."""


class Provisioning:
    """That of one lab."""

    def __init__(
        self,
        lab: str,
        region: Region,
        save: Callable[[], None],
        networked: Callable[[Placement], Awaitable[None]],
        handled: set[int],
    ) -> None:
        """`networked` gives a placement its network; `handled` has the environments that the
        process has and is to give back.
        """
        self.runtime: Runtime | None = None
        self._lab = lab
        self._region = region
        self._save = save
        self._networked = networked
        self._handled = handled

    def missing(self) -> Mapping[str, int]:
        """What can be started now."""
        if self.runtime is None or not self.runtime.connected:
            return {}
        return self._region.provisioning()

    async def start(self) -> None:
        """Start it."""
        for version, count in self.missing().items():
            for _ in range(count):
                try:
                    placement = self._region.provision(version)
                except ModelError:
                    # No place, or no interface: in another round.
                    break
                self._save()
                await self._networked(placement)
                self._begin(placement.environment)

    def _begin(self, environment: int) -> None:
        found = self._region.served_by(environment)
        if found is None or found.code is None or self.runtime is None:
            # Its function was deleted meanwhile.
            with contextlib.suppress(ModelError):
                self._region.discard(environment)
            return
        self._handled.add(environment)
        place = placed(self._lab, environment, found, found.code, cold=True, ahead=True)
        self.runtime.initialize(place)
