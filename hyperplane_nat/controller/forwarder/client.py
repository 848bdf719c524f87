# SPDX-License-Identifier: Apache-2.0
"""The controller's end of the forwarder's command socket.

Newline-separated JSON both ways. Requests carry a number and may be answered in any order; an
object with an `event` comes unasked. Every command is idempotent, so the answer to a lost
connection is to connect again and send the whole state once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyperplane_nat.controller.errors import ForwarderError

_LINE_MAX_BYTES = 16 << 20
"""The longest answer is the neighbour list: some hundred bytes each, 16,384 at most."""

log = logging.getLogger(__name__)


class ForwarderClient:
    """A connection to a forwarder."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self._writer = writer
        self._on_event = on_event
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._receiver = asyncio.create_task(self._receive(reader), name="forwarder answers")

    @classmethod
    async def connect(
        cls, path: Path, on_event: Callable[[Mapping[str, Any]], None] | None = None
    ) -> ForwarderClient:
        """Connect to the socket at `path`; ForwarderError when nobody listens."""
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=_LINE_MAX_BYTES)
        except OSError as error:
            raise ForwarderError(f"cannot connect to {path}: {error.strerror}") from None
        return cls(reader, writer, on_event)

    @property
    def connected(self) -> bool:
        """Whether the connection still stands."""
        # A write that failed closes it before there is nothing more to be read.
        return not (self._receiver.done() or self._writer.is_closing())

    async def lost(self) -> None:
        """Return when the connection is gone."""
        await asyncio.wait({self._receiver})

    async def call(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_seconds: float = 10.0,
    ) -> Any:
        """The result of a command; ForwarderError when it is refused, late or cut off."""
        if not self.connected:
            raise ForwarderError(f"forwarder: {command}: the connection is lost (see its log)")
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        request = {"id": number, "command": command, "arguments": dict(arguments or {})}
        try:
            async with asyncio.timeout(timeout_seconds):
                self._writer.write(json.dumps(request).encode() + b"\n")
                await self._writer.drain()
                reply = await answer
        except TimeoutError:
            raise ForwarderError(
                f"forwarder: {command}: no answer within {timeout_seconds:g} seconds (see its log)"
            ) from None
        except OSError as error:
            raise ForwarderError(
                f"forwarder: {command}: {error.strerror or error} (see its log)"
            ) from None
        finally:
            self._waiting.pop(number, None)
            # `_receive` may have failed it while nobody was left to look.
            if answer.done() and not answer.cancelled():
                answer.exception()
        if not reply.get("ok"):
            raise ForwarderError(f"forwarder: {command}: {reply.get('error', 'refused')}")
        return reply.get("result")

    async def close(self) -> None:
        """Close the connection; the forwarder goes on."""
        self._receiver.cancel()
        await asyncio.wait({self._receiver})
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._take(json.loads(line))
        except (OSError, ValueError) as error:
            # ValueError: not JSON, or longer than any answer. Nothing after it can be trusted.
            log.warning("forwarder: connection given up: %s", error)
        finally:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(
                        ForwarderError("forwarder: the connection was lost (see its log)")
                    )
            self._writer.close()

    def _take(self, message: dict[str, Any]) -> None:
        if "event" in message:
            if self._on_event is not None:
                self._on_event(message)
            return
        answer = self._waiting.get(message.get("id", 0))
        if answer is not None and not answer.done():
            answer.set_result(message)
