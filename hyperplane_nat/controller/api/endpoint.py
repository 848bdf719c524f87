# SPDX-License-Identifier: Apache-2.0
"""Where the controller listens: the unix socket of the control API and the port of the metrics,
and how what comes there is served.

Both sockets are opened before anything is built, so that a port in use costs nothing but a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from hyperplane_nat.config.sections import Metrics
from hyperplane_nat.config.values import FieldError, group_number
from hyperplane_nat.controller.api.connections import Connections
from hyperplane_nat.controller.api.refusals import WHAT_THERE_IS, Handler, refusing
from hyperplane_nat.controller.api.requests import RequestError
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.hosts import meant_for

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_BACKLOG = 512
"""Connections that wait to be accepted, and that are accepted before others have their turn."""

_METRICS_BODY_BYTES_MAX = 1024
_EXCERPT = 60

NEIGHBOURS = 64
"""Ports from the default one on that are tried before any free one is taken."""


class PortTakenError(ControllerError):
    """Another process listens there."""


def group_id(name: str | None) -> int | None:
    """The number of a group, given by name or number; ControllerError when there is none."""
    if name is None:
        return None
    try:
        return group_number(name)
    except FieldError as error:
        raise ControllerError(f"lab.socket_group: {error.what} ({error.remedy})") from None


def control_socket(path: Path, group: int | None = None) -> socket.socket:
    """
    A unix socket at `path`, for this user alone or for a group too; replaces a stale one.

    Its directory is the lab's, in which the group may look for the socket but not look around.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        # bind(2) gives the file the mode of the socket less the umask: never more than 0600.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(str(path))
        if group is None:
            path.parent.chmod(0o700)
        else:
            for each, mode in ((path, 0o660), (path.parent, 0o710)):
                os.chown(each, -1, group)
                each.chmod(mode)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ControllerError(
            f"cannot listen on {path}: {error.strerror or error} "
            "(choose another lab.runtime_directory)"
        ) from None
    return listener


def metrics_ports(configured: Metrics, former: int | None) -> list[int]:
    """
    The ports to try for the metrics, in their order.

    A port that the user named is the only one. Otherwise the one that a former controller of the
    lab had, because somebody may scrape it, and then the first that is free: labs that say nothing
    about it run beside each other.
    """
    port = configured.port
    said = "port" in configured.model_fields_set
    if said and port:
        return [port]
    following = [] if said else range(port, port + NEIGHBOURS)
    return [*([] if former is None else [former]), *following, 0]


def free_metrics_socket(address: str, ports: Sequence[int]) -> socket.socket:
    """A TCP socket on the first of the ports that is free; ControllerError as `metrics_socket`."""
    *others, last = ports
    for port in others:
        with contextlib.suppress(PortTakenError):
            return metrics_socket(address, port)
    return metrics_socket(address, last)


def metrics_socket(address: str, port: int) -> socket.socket:
    """A TCP socket for the metrics; ControllerError when the address is not ours, PortTakenError
    when the port is in use.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        text = f"cannot listen on {address}:{port}: {os.strerror(error.errno or 0)}"
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(
                f"metrics.port: {text} (choose another one, 0 for any; or leave it out, and the "
                "first free one is taken)"
            ) from None
        raise ControllerError(
            f"metrics.address: {text} (choose another metrics.address or metrics.port)"
        ) from None
    return listener


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
    server = await loop.create_server(connections, sock=listener, backlog=_BACKLOG)
    return Endpoint(runner, server)
