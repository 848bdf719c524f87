# SPDX-License-Identifier: Apache-2.0
"""Where the controller listens: the unix socket of the control API and the port of the metrics.

Both sockets are opened before anything is built, so that a port in use costs nothing but a line.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from hyperplane_nat.config import Metrics
from hyperplane_nat.controller.errors import ControllerError

_BACKLOG = 128

NEIGHBOURS = 64
"""Ports from the default one on that are tried before any free one is taken."""


class PortTakenError(ControllerError):
    """Another process listens there."""


def control_socket(path: Path) -> socket.socket:
    """A unix socket at `path` with mode 0660 from its first moment; replaces a stale one."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        # bind(2) gives the file the mode of the socket less the umask: never more than 0660.
        os.fchmod(listener.fileno(), 0o660)
        listener.bind(str(path))
        path.chmod(0o660)
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


def metrics_application(registry: CollectorRegistry) -> web.Application:
    """An application that serves `registry` at /metrics in the format the scraper asks for."""

    async def metrics(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        body = await asyncio.to_thread(encode, registry)
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def index(_request: web.Request) -> web.Response:
        return web.Response(text="hyperplane-nat: metrics are at /metrics\n")

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    application.router.add_get("/", index)
    return application


async def serve(application: web.Application, listener: socket.socket) -> web.AppRunner:
    """Serve `application` on a listening socket until the runner is cleaned up."""
    # Who goes away before the answer does not want it any more: a program that runs is ended.
    runner = web.AppRunner(
        application, access_log=None, shutdown_timeout=0.5, handler_cancellation=True
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    return runner
