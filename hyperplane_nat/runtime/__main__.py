# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.runtime`: the process that runs a lab's handlers.

The controller starts it like a service. It outlives a controller that is killed, with all that runs
in it, and needs one again when the next invocation is to be placed. It is two: what speaks HTTP has
no privileges (`front`), what starts runtimes speaks to that alone (`keeper`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import NoReturn

from hyperplane_nat import private_files, unix_socket
from hyperplane_nat.runtime import channel
from hyperplane_nat.runtime.keeper import Keeper
from hyperplane_nat.runtime.opened import Opened
from hyperplane_nat.runtime.places import Endpoint, endpoint_path, uploads_path
from hyperplane_nat.runtime.sandbox import Sandbox
from netns.cgroups import Family, Mounts
from netns.errors import NetnsError

_ADDRESS = "127.0.0.1"
_ENDING_SECONDS = 5.0
_PAUSE_SECONDS = 0.01

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hyperplane-nat-runtime",
        description="Runs the handlers of one lab; started by the controller.",
    )
    parser.add_argument("--directory", required=True, type=Path, help="the lab's")
    parser.add_argument("--port", required=True, type=int, help="0: a free one")
    parser.add_argument("--region", required=True)
    parser.add_argument("--uid", required=True, type=int, help="user and group of handlers")
    parser.add_argument("--front-uid", required=True, type=int, help="user of who speaks HTTP")
    parser.add_argument("--time-scale", type=float, default=1.0)
    parser.add_argument("--program", help="what tells this version from others; for its controller")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run until SIGTERM."""
    arguments = _arguments(argv)
    os.umask(private_files.UMASK)
    try:
        return _run(arguments)
    except (NetnsError, OSError) as error:
        print(f"hyperplane-nat-runtime: {error}", file=sys.stderr)
        return 1


def _run(arguments: argparse.Namespace) -> int:
    stop, stopped = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: os.write(stopped, b"."))
    ours, theirs = channel.pair()
    opened = _open(arguments, theirs)
    # While there is one thread, and nothing is loaded but what both have.
    front = os.fork()
    if front == 0:
        ours.close()
        _be_front(opened, arguments)
    opened.close()
    try:
        return _keep(arguments, ours, stop)
    finally:
        ours.close()
        _await(front)


def _be_front(opened: Opened, arguments: argparse.Namespace) -> NoReturn:
    status = 1
    try:
        # Who waits for the first line there waits for the keeper's.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        # The keeper has no use for what it takes to speak HTTP.
        from hyperplane_nat.runtime import front

        front.run(
            opened,
            uid=arguments.front_uid,
            region=arguments.region,
            time_scale=arguments.time_scale,
        )
        status = 0
    except (NetnsError, OSError) as error:
        print(f"hyperplane-nat-runtime: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _keep(arguments: argparse.Namespace, front: socket.socket, stop: int) -> int:
    directory: Path = arguments.directory
    groups = Family(Mounts.find(), directory.name)
    groups.make()
    try:
        uploads = uploads_path(directory)
        uploads.mkdir(mode=0o700, exist_ok=True)
        box = Sandbox(
            uid=arguments.uid,
            hidden=[directory.parent],
            groups=groups,
            uploads=uploads,
            etc=directory,
        )
        keeper = Keeper(box, directory=directory, region=arguments.region, channel=front)
        with local_listener(directory / unix_socket.RUNTIME) as controllers:
            controllers.listen()
            channel.send(front, {"begin": [*groups.missing, *box.missing]})
            is_asked = keeper.run(controllers, stop, lambda: print("ready", flush=True))
    finally:
        groups.remove()
    return 0 if is_asked else 1


def _await(front: int) -> None:
    """It ends by itself when it finds its channel ended."""
    deadline = time.monotonic() + _ENDING_SECONDS
    while time.monotonic() < deadline:
        if os.waitpid(front, os.WNOHANG)[0]:
            return
        time.sleep(_PAUSE_SECONDS)
    os.kill(front, signal.SIGKILL)
    os.waitpid(front, 0)


def _open(arguments: argparse.Namespace, end: socket.socket) -> Opened:
    """What the front serves; told in the lab's directory."""
    directory: Path = arguments.directory
    former = Endpoint.read(directory)
    listener = _listener(arguments.port, None if former is None else former.port)
    key = former.access_key_id if former is not None else f"AKIA{_random(16)}"
    secret = former.secret_access_key if former is not None else secrets.token_urlsafe(30)
    made = Endpoint(listener.getsockname()[1], arguments.region, key, secret)
    temporary = endpoint_path(directory).with_suffix(".new")
    temporary.write_text(json.dumps(made.document()), encoding="ascii")
    temporary.replace(endpoint_path(directory))
    return Opened(end, listener, local_listener(directory / unix_socket.LAMBDA), key)


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


def local_listener(path: Path) -> socket.socket:
    """A unix socket at `path`, bound."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    return listener


def _random(count: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(count))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Threads may wait for what was killed.
    os._exit(status)
