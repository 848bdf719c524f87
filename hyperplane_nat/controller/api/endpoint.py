# SPDX-License-Identifier: Apache-2.0
"""How the control API and the metrics are served, on the sockets of `listeners`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from aiohttp import web

from hyperplane_nat.controller.api.connections import Connections
from hyperplane_nat.controller.api.listeners import BACKLOG
from hyperplane_nat.controller.api.refusals import WHAT_THERE_IS, Handler, refusing
from hyperplane_nat.controller.api.requests import RequestError
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.hosts import meant_for

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_METRICS_BODY_BYTES_MAX = 1024
_EXCERPT = 60


def metrics_application(
    registry: Callable[[], CollectorRegistry],
    health: Callable[[], Mapping[str, str]],
    names: Collection[str] = (),
) -> web.Application:
    """
    An application that serves `registry()` at /metrics in the format the scraper asks for, and what
    `health` tells at /healthz: a word for each process, "ok" if all is well.

    `registry` is called for each scrape, in a thread, as is everything that takes Prometheus's
    library: the first one imports it. The application answers to `names`, loopback names, and the
    address that it is reached at.
    """
    scraping = asyncio.Lock()

    def scrape(accepted: str) -> tuple[bytes, str]:
        from prometheus_client.exposition import choose_encoder

        encode, content_type = choose_encoder(accepted)
        return encode(registry()), content_type

    async def metrics(request: web.Request) -> web.Response:
        # One after the other: scrapes that nobody waits for must not keep the threads from others.
        async with scraping:
            body, content_type = await in_thread(scrape, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(_request: web.Request) -> web.Response:
        words = health()
        well = all(word == "ok" for word in words.values())
        return web.json_response(
            {"status": "ok" if well else "failing", **words},
            status=200 if well else 503,
            headers={"Cache-Control": "no-store"},
        )

    async def index(_request: web.Request) -> web.Response:
        return web.Response(text="hyperplane-nat: metrics are at /metrics, health at /healthz\n")

    @web.middleware
    async def known_host(request: web.Request, handler: Handler) -> web.StreamResponse:
        _check_host(request, names)
        return await handler(request)

    application = web.Application(
        middlewares=[refusing, known_host], client_max_size=_METRICS_BODY_BYTES_MAX
    )
    application[WHAT_THERE_IS] = "there are /metrics and /healthz"
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/healthz", healthz)
    application.router.add_get("/", index)
    return application


def _check_host(request: web.Request, names: Collection[str]) -> None:
    """RequestError when the request was meant for somebody else; who names no host is served."""
    said = request.headers.get("Host")
    here = request.transport.get_extra_info("sockname")[0] if request.transport else ""
    if said is None or meant_for(said, names, here):
        return
    raise RequestError(
        421,
        "misdirected_request",
        f"this is not {said[:_EXCERPT]!r} (ask by address, or name it in metrics.hosts)",
    )


class Endpoint:
    """A listening socket that is served."""

    def __init__(self, runner: web.AppRunner, server: asyncio.Server) -> None:
        self._runner = runner
        self._server = server

    def stop_listening(self) -> None:
        """Take no more connections."""
        self._server.close()

    async def close(self) -> None:
        """End the connections too; what is being answered has a moment."""
        self._server.close()
        await self._runner.cleanup()


async def serve(
    application: web.Application, listener: socket.socket, connections_max: int
) -> Endpoint:
    """Serve `application` on a listening socket until the endpoint is closed."""
    connections = Connections(connections_max)
    application.middlewares.append(connections.middleware)
    # Who goes away before the answer does not want it any more: a program that runs is ended.
    runner = web.AppRunner(application, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    assert runner.server is not None
    connections.serve_with(runner.server)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(connections, sock=listener, backlog=BACKLOG)
    return Endpoint(runner, server)
