# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.runtime`: the process that runs a lab's handlers.

The controller starts it like a service. It outlives a controller that is killed, with all that runs
in it, and needs one again when the next invocation is to be placed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
from pathlib import Path

from hyperplane_nat import private_files, unix_socket
from hyperplane_nat.runtime.api import served
from hyperplane_nat.runtime.handlers import Handlers
from hyperplane_nat.runtime.places import Endpoint, endpoint_path
from hyperplane_nat.runtime.sandbox import Sandbox
from hyperplane_nat.runtime.uploads import uploads_path
from netns.cgroups import Family, Mounts
from netns.errors import NetnsError

_ADDRESS = "127.0.0.1"
_TIDY_SECONDS = 5.0
"""How long former code may stay in memory that nobody uses."""

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"

log = logging.getLogger(__name__)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hyperplane-nat-runtime",
        description="Runs the handlers of one lab; started by the controller.",
    )
    parser.add_argument("--directory", required=True, type=Path, help="the lab's")
    parser.add_argument("--port", required=True, type=int, help="0: a free one")
    parser.add_argument("--region", required=True)
    parser.add_argument("--uid", required=True, type=int, help="user and group of handlers")
    parser.add_argument("--time-scale", type=float, default=1.0)
    parser.add_argument("--program", help="what tells this version from others; for its controller")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM."""
    arguments = _arguments(argv)
    os.umask(private_files.UMASK)
    try:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(_run(arguments))
    except (NetnsError, OSError) as error:
        print(f"hyperplane-nat-runtime: {error}", file=sys.stderr)
        return 1
    return 0


async def _run(arguments: argparse.Namespace) -> None:
    directory: Path = arguments.directory
    groups = Family(Mounts.find(), directory.name)
    await asyncio.to_thread(groups.make)
    uploads = uploads_path(directory)
    uploads.mkdir(mode=0o700, exist_ok=True)
    box = await asyncio.to_thread(
        Sandbox,
        uid=arguments.uid,
        hidden=[directory.parent],
        groups=groups,
        uploads=uploads,
        etc=directory,
    )
    handlers = Handlers(
        box,
        directory=directory,
        region=arguments.region,
        time_scale=arguments.time_scale,
        missing=[*groups.missing, *box.missing],
    )
    former = Endpoint.read(directory)
    listener = _listener(arguments.port, None if former is None else former.port)
    key = former.access_key_id if former is not None else f"AKIA{_random(16)}"
    secret = former.secret_access_key if former is not None else secrets.token_urlsafe(30)
    made = Endpoint(listener.getsockname()[1], arguments.region, key, secret)
    temporary = endpoint_path(directory).with_suffix(".new")
    temporary.write_text(json.dumps(made.document()), encoding="ascii")
    temporary.replace(endpoint_path(directory))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(groups.remove)
        stack.push_async_callback(handlers.close)
        local = _local_listener(directory / unix_socket.LAMBDA)
        for socket_, access_key in ((listener, key), (local, None)):
            await stack.enter_async_context(served(handlers, access_key, socket_))
        server = await handlers.link.serve(directory / unix_socket.RUNTIME)
        stack.callback(server.close)
        tidying = asyncio.create_task(_tidy(box), name="tidy")
        stack.callback(tidying.cancel)
        print("ready", flush=True)
        await stop.wait()


async def _tidy(box: Sandbox) -> None:
    while True:
        await asyncio.sleep(_TIDY_SECONDS)
        try:
            await asyncio.to_thread(box.tidy)
        except NetnsError as error:
            log.error("%s", error)


def _listener(port: int, former: int | None) -> socket.socket:
    if not port and former is not None:
        # Somebody else may have it by now.
        with contextlib.suppress(OSError):
            return socket.create_server((_ADDRESS, former))
    try:
        return socket.create_server((_ADDRESS, port))
    except OSError as error:
        raise NetnsError(
            f"cannot listen on {_ADDRESS}:{port}: {error.strerror}",
            "choose another [lambda] port, or 0 for a free one",
        ) from None


def _local_listener(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    return listener


def _random(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))


if __name__ == "__main__":
    sys.exit(main())
