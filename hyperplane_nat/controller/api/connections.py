# SPDX-License-Identifier: Apache-2.0
"""How many connections a server of the controller has, and how long it waits for their clients.

Theory of operation
-------------------
A connection is either *being served*, from the end of a request's body until its handler has an
answer, or it *waits for its client*: for a request, or for the answer to be taken. aiohttp closes
one that has not sent the whole head of a request `IDLE_SECONDS` after it began or was last
answered; a body has `BODY_SECONDS`. A server has at most `limit` connections. One more ends that
which has waited for its client the longest, so whoever sends what it wants is served, however many
only connect. When all are being served, the one more is told so and closed.

Each server counts for itself: the metrics, which every user of the host reaches, take nothing from
the control API. `file_shares` divides the limit of open files, so accept(2) has descriptors left,
and so has everything else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource

from aiohttp import web

from hyperplane_nat.controller.api.refusals import Handler, refusal
from hyperplane_nat.controller.api.requests import RequestError

IDLE_SECONDS = 20.0
BODY_SECONDS = 10.0

CONTROL_CONNECTIONS_MAX = 4096
"""Each invocation has one for as long as its program runs."""

METRICS_CONNECTIONS_MAX = 64

FILES = 65536
"""Open files that the controller allows itself when the hard limit does."""

log = logging.getLogger(__name__)


def raise_file_limit() -> None:
    """Open as many files as are allowed, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def file_shares() -> tuple[int, int]:
    """The limits of connections to the control API and to the metrics."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        files = FILES
    return min(CONTROL_CONNECTIONS_MAX, files // 4), min(METRICS_CONNECTIONS_MAX, files // 16)


class Connections:
    """The connections of one server: its middleware, and its factory of protocols."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._server: web.Server | None = None
        self._waiting: dict[web.RequestHandler, None] = {}
        """Those that wait for their clients, the longest first."""
        self._served: set[web.RequestHandler] = set()
        self._full = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._served)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Read the body, which the handler then has, and count the connection as being served."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                await request.read()
        except TimeoutError:
            raise RequestError(
                408,
                "request_timeout",
                f"the body did not come within {BODY_SECONDS:g} seconds (send it at once)",
            ) from None
        except (web.RequestPayloadError, ConnectionError) as error:
            raise RequestError(
                400,
                "InvalidRequestContentException",
                f"the body is cut short: {error} (send it again)",
            ) from None
        connection = request.protocol
        self._waiting.pop(connection, None)
        self._served.add(connection)
        try:
            return await handler(request)
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
                return _Refusal()
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
    """aiohttp's, which also tells that it has gone and refuses in JSON."""

    __slots__ = ("_all",)

    def __init__(self, connections: Connections, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=IDLE_SECONDS,
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
            answer = refusal(status, "internal", f"{type(exc).__name__} (see controller.log)")
        else:
            log.debug("a request that cannot be read: %s", exc)
            answer = refusal(status, "bad_request", "the request cannot be read (send HTTP/1.1)")
        answer.force_close()
        return answer


class _Refusal(asyncio.Protocol):
    """Says that there are too many, and ends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        document = {"error": "busy", "message": "too many requests are being served (try again)"}
        body = json.dumps(document).encode()
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        transport.close()
