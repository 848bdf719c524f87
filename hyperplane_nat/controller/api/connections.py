# SPDX-License-Identifier: Apache-2.0
"""The connections of the controller's servers: their limits, and the bodies of their requests.

See `hyperplane_nat.connections`; a body has `BODY_SECONDS`. The metrics, which every user of the
host reaches, take nothing from the control API: `file_shares` divides the limit of open files.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from hyperplane_nat import connections
from hyperplane_nat.controller.api.refusals import BODY_LIMITS, Handler, refusal
from hyperplane_nat.controller.api.requests import RequestError
from hyperplane_nat.open_files import file_limit

BODY_SECONDS = 10.0

CONTROL_CONNECTIONS_MAX = 4096
"""Each invocation has one for as long as its program runs."""

METRICS_CONNECTIONS_MAX = 64


def file_shares() -> tuple[int, int]:
    """The limits of connections to the control API and to the metrics."""
    files = file_limit()
    return min(CONTROL_CONNECTIONS_MAX, files // 4), min(METRICS_CONNECTIONS_MAX, files // 16)


def _body_limit(request: web.Request) -> int | None:
    route = request.match_info.route.resource
    if route is None:
        return None
    return request.app.get(BODY_LIMITS, {}).get((request.method, route.canonical))


class Connections(connections.Connections):
    """The connections of one server: its middleware too."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit, refusal)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Read the body, which the handler then has, and count the connection as being served."""
        limit = _body_limit(request)
        if limit is not None:
            request = request.clone(client_max_size=limit)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                await request.read()
        except web.HTTPRequestEntityTooLarge:
            if limit is None:
                raise
            raise RequestError(
                413,
                "RequestEntityTooLargeException",
                f"Request must be smaller than {limit} bytes (send a smaller archive)",
            ) from None
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
        with self.serving(request.protocol):
            return await handler(request)
