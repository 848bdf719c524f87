# SPDX-License-Identifier: Apache-2.0
"""All handlers of a lab: placed by the controller, run here, asynchronous ones kept until done.

Theory of operation
-------------------
The region, and with it what an environment is and for how long, is the controller's; processes,
logs and answers are this process's. `begin` asks for a place, which also has the function as it is
configured at that moment; then nothing more is needed of the controller until the environment is
given back (`end`) or given up (`discard`). An invocation whose client has gone runs to its end.

Asynchronous invocations wait in memory, at most `EVENTS_MAX` of them, and are tried three times in
all when they fail (Lambda: two retries, after one and two minutes). One that is not placed, for
want of concurrency or because of the service, has not failed: it is tried again for six hours, at
intervals that grow ("Error handling for asynchronous invocation").
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hyperplane_nat.runtime.environment import Box, Environment
from hyperplane_nat.runtime.errors import LambdaError
from hyperplane_nat.runtime.invocation import Invocation, Outcome, Target
from hyperplane_nat.runtime.link import Link
from hyperplane_nat.runtime.logs import FunctionLog, LogFile
from hyperplane_nat.runtime.settings import settings_of

EVENTS_MAX = 1000
"""Asynchronous invocations that wait or run; more are refused."""

RETRY_SECONDS = (60.0, 120.0)
"""Before the second and the third attempt, in Lambda's time ("Asynchronous invocation")."""

QUEUED_SECONDS = 6 * 3600.0
"""How long an asynchronous invocation is tried that cannot be placed, in Lambda's time."""

_THROTTLED, _OF_THE_SERVICE = 429, 500
"""Statuses of errors that pass, the second and above."""

_PAUSE_SECONDS = (1.0, 300.0)
"""Between two attempts to place it: at first, and in the end."""

log = logging.getLogger(__name__)


class Handlers:
    """The environments with handlers of one lab."""

    def __init__(
        self,
        box: Box,
        *,
        open_log: Callable[[str, str], LogFile],
        region: str,
        time_scale: float = 1.0,
        now: Callable[[], float] = time.time,
        missing: Sequence[str] = (),
    ) -> None:
        """`open_log` opens the log of a function that has a place in a network namespace, and may
        block; what lasts long on AWS lasts `time_scale` times less.

        `missing` is what environments of this host do without, a line each.
        """
        self._missing = list(missing)
        self.link = Link(self._standing, self._begin_ahead)
        self._box = box
        self._open_log = open_log
        self.region = region
        self._time_scale = time_scale
        self._now = now
        self._environments: dict[int, Environment] = {}
        self._logs: dict[str, FunctionLog] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: set[asyncio.Task[Outcome]] = set()

    def _standing(self) -> dict[str, object]:
        return {
            "standing": {str(number): each.busy for number, each in self._environments.items()},
            "still": [number for number, each in self._environments.items() if each.still],
            "missing": self._missing,
        }

    async def check(self, target: Target) -> None:
        """LambdaError unless there is such a function, which has a handler and can be invoked."""
        await self.link.ask("check", target._asdict())

    async def invoke(self, target: Target, request: Mapping[str, Any]) -> Outcome:
        """
        The outcome of a synchronous invocation; LambdaError when it is refused.

        `request` are fields of an `Invocation`, but for its ARN. It goes on when the caller goes.
        """
        task = asyncio.create_task(self._invoke(target, request), name=f"invoke {target.function}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def send(self, target: Target, request: Mapping[str, Any]) -> None:
        """Accept an asynchronous invocation; LambdaError."""
        if len(self._tasks) >= EVENTS_MAX:
            raise LambdaError("TooManyRequestsException", "Rate Exceeded.")
        await self.check(target)
        task = asyncio.create_task(self._attempt(target, request), name=f"event {target.function}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End everything."""
        for task in [*self._tasks, *self._running]:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._running, return_exceptions=True)
        await asyncio.gather(*(each.close() for each in self._environments.values()))
        self._environments.clear()

    async def _attempt(self, target: Target, request: Mapping[str, Any]) -> None:
        for pause in (*RETRY_SECONDS, None):
            outcome = await self._patiently(target, request)
            if outcome is None or outcome.error is None:
                return
            if pause is not None:
                await asyncio.sleep(pause / self._time_scale)

    async def _patiently(self, target: Target, request: Mapping[str, Any]) -> Outcome | None:
        """The outcome of an asynchronous invocation; None when it is given up without one."""
        pause, pause_max = _PAUSE_SECONDS
        waited = 0.0
        while True:
            try:
                return await self._invoke(target, request)
            except LambdaError as error:
                placeable = error.status == _THROTTLED or error.status >= _OF_THE_SERVICE
                if not placeable or waited >= QUEUED_SECONDS:
                    log.warning("an event of %s: %s: %s", target.function, error.code, error)
                    return None
            await asyncio.sleep(pause / self._time_scale)
            waited += pause
            pause = min(2 * pause, pause_max)

    async def _invoke(self, target: Target, request: Mapping[str, Any]) -> Outcome:
        placed = await self.link.ask("begin", target._asdict())
        number: int = placed["environment"]
        try:
            environment = await self._environment(number, placed)
            arn = f"arn:aws:lambda:{self.region}:{placed['account']}:function:{target.function}"
            outcome = await environment.invoke(Invocation(arn=arn, **request))
        except BaseException:
            left = self._environments.pop(number, None)
            self.link.tell("discard", {"environment": number})
            if left is not None:
                await left.close()
            raise
        if outcome.gone:
            self._forget(number)
            self.link.tell("discard", {"environment": number})
        else:
            self.link.tell("end", {"environment": number})
        outcome.cold = placed["cold"]
        return outcome

    def _begin_ahead(self, placed: Mapping[str, Any]) -> None:
        task = asyncio.create_task(self._initialize(placed), name=f"ahead {placed['function']}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _initialize(self, placed: Mapping[str, Any]) -> None:
        """For provisioned concurrency: the environment is there before it is invoked."""
        number: int = placed["environment"]
        environment = await self._environment(number, placed)
        reason = await environment.initialize()
        if reason is None:
            self.link.tell("end", {"environment": number})
        else:
            self._forget(number)
            self.link.tell("failed", {"environment": number, "reason": reason})

    async def _environment(self, number: int, placed: Mapping[str, Any]) -> Environment:
        found = self._environments.get(number)
        if found is not None and not placed["cold"]:
            return found
        if found is not None:
            # Of the same number, before.
            await found.close()
        name = placed["function"]
        if name not in self._logs:
            log_file = await asyncio.to_thread(self._open_log, placed["namespace"], name)
            self._logs.setdefault(name, FunctionLog(log_file, self._now))
        made = Environment(
            number,
            placed["namespace"],
            settings_of(placed, self.region),
            self._box,
            self._logs[name],
            on_gone=self._gone,
            on_still=lambda number: self.link.tell("still", {"environment": number}),
        )
        self._environments[number] = made
        return made

    def _gone(self, number: int) -> None:
        environment = self._environments.get(number)
        if environment is not None:
            self._forget(number)
            task = asyncio.create_task(environment.close(), name=f"close env-{number}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self.link.tell("discard", {"environment": number})

    def _forget(self, number: int) -> None:
        self._environments.pop(number, None)


def request_id() -> str:
    """A new one, as Lambda has them."""
    return str(uuid.uuid4())
