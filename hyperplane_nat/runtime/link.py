# SPDX-License-Identifier: Apache-2.0
"""The connection to the controller, which says where an invocation runs.

Theory of operation
-------------------
The controller connects, for it comes and goes while this process stays. It is told at once which
environments there are, which of them are busy and which stand still (`standing`); from then on it
is asked, one JSON object a line, and answers by number in any order. Nothing waits for a controller
but what is asked of it: invocations that are placed go on without. What is to be told to a
controller that is not there needs no memory: the next one finds it in `standing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from hyperplane_nat.runtime.errors import LambdaError

LINE_BYTES_MAX = 16 << 20

PATIENCE_SECONDS = 30.0
"""How long an invocation waits for a controller to come, which may need twenty to take over on a
loaded machine."""

log = logging.getLogger(__name__)


class Link:
    """The end of the connection that asks."""

    def __init__(
        self,
        standing: Callable[[], Mapping[str, object]],
        initialize: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`standing` is what a controller hears first; `initialize` is told places for provisioned
        concurrency.
        """
        self._standing = standing
        self._initialize = initialize
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Mapping[str, Any] | None]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._connected = asyncio.Event()

    async def ask(self, what: str, arguments: Mapping[str, object]) -> Mapping[str, Any]:
        """The controller's answer; LambdaError when it refuses, or when there is none."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS) as patience:
                while True:
                    await self._connected.wait()
                    # From here on it is the controller's to say how long it takes.
                    patience.reschedule(None)
                    told = await self._asked(what, arguments)
                    if told is not None:
                        break
                    # What a place was made for that nobody has heard of, the next one gives up.
                    patience.reschedule(asyncio.get_running_loop().time() + PATIENCE_SECONDS)
        except TimeoutError:
            raise LambdaError(
                "ServiceException", "the lab's controller does not run: no function is placed"
            ) from None
        if "error" in told:
            raise LambdaError(told["error"], told["message"], told.get("reason"))
        result: Mapping[str, Any] = told["result"]
        return result

    async def _asked(self, what: str, arguments: Mapping[str, object]) -> Mapping[str, Any] | None:
        """None when the controller has ended without an answer."""
        number = next(self._numbers)
        answer: asyncio.Future[Mapping[str, Any] | None]
        answer = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._send({"id": number, "ask": what, **arguments})
            return await answer
        finally:
            self._waiting.pop(number, None)

    def tell(self, what: str, arguments: Mapping[str, object]) -> None:
        """Say something that needs no answer, to a controller that is there."""
        self._send({"id": next(self._numbers), "ask": what, **arguments})

    def _send(self, message: Mapping[str, object]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(message).encode() + b"\n")

    def _lose(self) -> None:
        """What was asked of a controller that is gone is asked of the next."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(None)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Be told and ask by a connection of a controller, until that ends; lines may have
        `LINE_BYTES_MAX`.
        """
        if self._writer is not None:
            self._writer.close()
            self._lose()
        self._writer = writer
        self._send(self._standing())
        self._connected.set()
        try:
            while line := await reader.readline():
                told = json.loads(line)
                if (place := told.get("initialize")) is not None:
                    self._initialize(place)
                    continue
                answer = self._waiting.get(told["id"])
                if answer is not None and not answer.done():
                    answer.set_result(told)
        except (OSError, ValueError, KeyError) as error:
            log.warning("the controller's connection is given up: %s", error)
        finally:
            if self._writer is writer:
                self._writer = None
                self._connected.clear()
                self._lose()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
