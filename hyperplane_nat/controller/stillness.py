# SPDX-License-Identifier: Apache-2.0
"""Environments that stand still between invocations, as Lambda freezes them.

Theory of operation
-------------------
Who runs handlers freezes their processes, and says so. Here the link of such an environment becomes
silent, in that order, and before the next invocation it is no longer, before the processes go on:
no process that runs ever meets a silent link. Nothing waits for a link to become silent.

A program that is run in an environment beside its handler *holds* it: as long as it runs, processes
and link go on. Frozen and thawed is then from here, by the control group.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable

from hyperplane_nat.controller.errors import ForwarderError
from netns import topology
from netns.cgroups import Group, group_of
from netns.errors import NetnsError

log = logging.getLogger(__name__)


class Stillness:
    """Which environments stand still, and who holds them."""

    def __init__(
        self,
        lab: str,
        set_silent: Callable[[int, bool], Awaitable[None]],
        group_of: Callable[[str, str], Group] = group_of,
    ) -> None:
        """`set_silent` is that of `Network`."""
        self._lab = lab
        self._set_silent = set_silent
        self._group_of = group_of
        self._still: set[int] = set()
        self._held: Counter[int] = Counter()
        self._holders: dict[int, int] = {}
        """What is held as long as a process lives: environments by the process's descriptor."""
        self._telling: set[asyncio.Task[None]] = set()

    def stilled(self, number: int) -> None:
        """The processes of an environment were frozen."""
        self._still.add(number)
        if self._held[number]:
            self._set_frozen(number, frozen=False)
        else:
            self._silence(number)

    async def stirred(self, number: int) -> None:
        """An environment is invoked: its link goes on, its processes are thawed. ForwarderError."""
        self._still.discard(number)
        await self._set_silent(number, False)

    def gone(self, number: int) -> None:
        """There is no such environment any more."""
        self._still.discard(number)
        del self._held[number]
        for descriptor in [each for each, held in self._holders.items() if held == number]:
            self._forget(descriptor)

    async def hold_while(self, number: int, pid: int) -> None:
        """Hold an environment until a process has ended; ProcessLookupError, ForwarderError."""
        descriptor = os.pidfd_open(pid)
        self._holders[descriptor] = number
        asyncio.get_running_loop().add_reader(descriptor, self._ended, descriptor)
        await self.hold(number)

    def _ended(self, descriptor: int) -> None:
        self.release(self._forget(descriptor))

    def _forget(self, descriptor: int) -> int:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        return self._holders.pop(descriptor)

    async def hold(self, number: int) -> None:
        """Somebody runs something in an environment, from now until `release`, which is due also
        after an error: ForwarderError.
        """
        self._held[number] += 1
        if number in self._still:
            await self._set_silent(number, False)
            self._set_frozen(number, frozen=False)

    def release(self, number: int) -> None:
        """That is over; the environment may be gone meanwhile."""
        self._held[number] -= 1
        if self._held[number] > 0:
            return
        del self._held[number]
        if number in self._still:
            self._set_frozen(number, frozen=True)
            self._silence(number)

    def _silence(self, number: int) -> None:
        task = asyncio.create_task(self._fall_silent(number), name=f"silence env-{number}")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _fall_silent(self, number: int) -> None:
        if number not in self._still or self._held[number]:
            # It goes on again by now.
            return
        try:
            await self._set_silent(number, True)
        except ForwarderError as error:
            # The next one is told everything.
            log.warning("the link of env-%d is not silent yet: %s", number, error)

    def _set_frozen(self, number: int, *, frozen: bool) -> None:
        name = topology.environment_namespace(self._lab, number)
        group = self._group_of(self._lab, name)
        try:
            if frozen:
                group.freeze()
            else:
                group.thaw()
        except NetnsError as error:
            log.error("env-%d: %s", number, error)
