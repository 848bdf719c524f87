# SPDX-License-Identifier: Apache-2.0
"""The command socket: newline-delimited JSON over a unix stream socket.

A request is `{"id": 1, "command": "configure", "arguments": {...}}`, its answer
`{"id": 1, "ok": true, "result": {...}}` or `{"id": 1, "ok": false, "error": "..."}`. Lines
with `"event"` come unasked. Commands state what shall be (of everything, or of what they
name), so any of them may be repeated, by the same controller or by the next one.

Reading a request and carrying it out is work in slices (`slices`), between which packets pass.
One command is carried out at a time, whoever sent it: its answer tells that all of it is done, and
who asks meanwhile waits.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Generator, Mapping
from typing import Any

from hyperplane_nat.forwarder import sliced_json, slices

__all__ = ["CommandError", "CommandServer", "Handler"]

log = logging.getLogger(__name__)

_LINE_BYTES_MAX = 64 << 20
_UNREAD_BYTES_MAX = 1 << 20

Handler = Callable[[dict[str, Any]], Any]
"""Returns the result, or the work in slices that does."""


class CommandError(Exception):
    """A command cannot be carried out; the text goes back to whoever asked."""


class CommandServer:
    """Serves commands to any number of clients of a unix socket that listens."""

    def __init__(self, listener: socket.socket, handlers: Mapping[str, Handler]) -> None:
        self._listener = listener
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Serve who has connected and who will."""
        self._server = await asyncio.start_unix_server(
            self._serve, sock=self._listener, limit=_LINE_BYTES_MAX
        )

    async def close(self) -> None:
        """Stop listening and drop the clients."""
        for client in tuple(self._clients):
            client.close()
        if self._server is not None:
            self._server.close()

    def broadcast(self, event: Mapping[str, Any]) -> None:
        """Send an event to every client that reads; who does not will miss some."""
        line = json.dumps(event).encode() + b"\n"
        for client in self._clients:
            if client.transport.get_write_buffer_size() < _UNREAD_BYTES_MAX:
                client.write(line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            while line := await reader.readline():
                async with self._turn:
                    answer = await slices.run(self._answer(line))
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError) as error:
            log.info("a command client went away: %s", error)
        finally:
            self._clients.discard(writer)
            writer.close()

    def _answer(self, line: bytes) -> slices.Work[dict[str, Any]]:
        identity: object = None
        try:
            request = yield from sliced_json.read(line.decode())
            if not isinstance(request, dict):
                raise CommandError("a request is a JSON object")
            identity = request.get("id")
            handler = self._handlers.get(str(request.get("command")))
            if handler is None:
                known = ", ".join(sorted(self._handlers))
                raise CommandError(f"unknown command {request.get('command')!r}; known: {known}")
            arguments = request.get("arguments") or {}
            if not isinstance(arguments, dict):
                raise CommandError("arguments are a JSON object")
            result = handler(arguments)
            if isinstance(result, Generator):
                result = yield from result
                yield from sliced_json.discard(request)
            return {"id": identity, "ok": True, "result": result}
        except json.JSONDecodeError as error:
            return {"id": identity, "ok": False, "error": f"not JSON: {error}"}
        except KeyError as error:
            return {"id": identity, "ok": False, "error": f"missing field {error}"}
        except (CommandError, ValueError, TypeError, OSError) as error:
            return {"id": identity, "ok": False, "error": str(error)}
