# SPDX-License-Identifier: Apache-2.0
"""How many connections a server has, and how long it waits for their clients.

Theory of operation
-------------------
A connection is either *being served*, from the end of a request's body until its handler has an
answer, or it *waits for its client*: for a request, or for the answer to be taken. aiohttp closes
one that has not sent the whole head of a request `IDLE_SECONDS` after it began or was last
answered. A server has at most `limit` connections. One more ends that which has waited for its
client the longest, so whoever sends what it wants is served, however many only connect. When all
are being served, the one more is told so and closed.

Each server counts for itself, so accept(2) has descriptors left, and so has everything else, when
the limits together are below that of open files.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from aiohttp import web

IDLE_SECONDS = 20.0

Refuse = Callable[[int, str, str], web.Response]
"""The answer with a status, a code and a text."""

log = logging.getLogger(__name__)


class Connections:
    """The connections of one server, and its factory of protocols."""

    def __init__(self, limit: int, refuse: Refuse, idle_seconds: float | None = None) -> None:
        """`refuse` makes the answers to what is no HTTP, to failures and to one too many.

        `idle_seconds` instead of `IDLE_SECONDS`, for clients that keep connections.
        """
        self._limit = limit
        self.refuse = refuse
        self.idle_seconds = IDLE_SECONDS if idle_seconds is None else idle_seconds
        self._server: web.Server | None = None
        self._waiting: dict[web.RequestHandler, None] = {}
        """Those that wait for their clients, the longest first."""
        self._served: set[web.RequestHandler] = set()
        self._full = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._served)

    @contextlib.contextmanager
    def serving(self, connection: web.RequestHandler) -> Iterator[None]:
        """It is being served as long as the context lasts."""
        self._waiting.pop(connection, None)
        self._served.add(connection)
        try:
            yield
        finally:
            # It is neither when it has been lost meanwhile.
            if connection in self._served:
                self._served.remove(connection)
                self._waiting[connection] = None

    def serve_with(self, server: web.Server) -> None:
        """Have `server` handle what comes."""
        self._server = server

    def __call__(self) -> asyncio.Protocol:
        """A protocol for a connection that was accepted."""
        assert self._server is not None
        full = len(self) >= self._limit
        if full != self._full:
            self._full = full
            log.log(
                logging.WARNING if full else logging.INFO,
                "%d connections, of %d that may be",
                len(self),
                self._limit,
            )
        if full:
            if not self._waiting:
                return _Refusal(self.refuse)
            longest = next(iter(self._waiting))
            self.forget(longest)
            longest.force_close()
        connection = _Connection(self, self._server)
        self._waiting[connection] = None
        return connection

    def __contains__(self, connection: web.RequestHandler) -> bool:
        return connection in self._waiting or connection in self._served

    def forget(self, connection: web.RequestHandler) -> None:
        """It has ended, or is about to."""
        self._waiting.pop(connection, None)
        self._served.discard(connection)


class _Connection(web.RequestHandler):
    """aiohttp's, which also tells that it has gone and refuses in its server's way."""

    __slots__ = ("_all",)

    def __init__(self, connections: Connections, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=connections.idle_seconds,
        )
        self._all = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self not in self._all:
            # One that came later has taken its place.
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._all.forget(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP, which anybody may send: not worth a line in the log."""
        if status >= 500:
            log.error("a request failed outside of its handler", exc_info=exc)
            text = f"{type(exc).__name__} (see the log)"
            answer = self._all.refuse(status, "internal", text)
        else:
            log.debug("a request that cannot be read: %s", exc)
            text = "the request cannot be read (send HTTP/1.1)"
            answer = self._all.refuse(status, "bad_request", text)
        answer.force_close()
        return answer


class _Refusal(asyncio.Protocol):
    """Says that there are too many, and ends."""

    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        answer = self._refuse(503, "busy", "too many requests are being served (try again)")
        assert isinstance(answer.body, bytes)
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(answer.body), answer.body)
        )
        transport.close()
