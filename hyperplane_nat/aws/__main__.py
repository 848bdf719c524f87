# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.aws`: the endpoint of a lab that names a port for it (`[aws]`).

The controller starts it like a service, before it answers anybody itself: who asks meanwhile waits.
It outlives a controller that is killed, and refuses what it is asked until there is another one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from hyperplane_nat import private_files
from hyperplane_nat.aws import endpoint, server
from hyperplane_nat.aws.call import Lab
from hyperplane_nat.client import Client, ClientError

_PAUSE_SECONDS = 0.1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="hyperplane-nat-aws",
        description="Serves AWS's APIs for one lab; started by the controller.",
    )
    parser.add_argument("--lab", required=True)
    parser.add_argument("--runtime-directory", required=True, type=Path)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--program", help="what tells this version from others; for its controller")
    return parser.parse_args(argv)


def _lab(client: Client) -> Lab:
    """The lab, as soon as its controller answers."""
    while True:
        try:
            return endpoint.lab_of(client)
        except ClientError:
            time.sleep(_PAUSE_SECONDS)


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM."""
    arguments = _arguments(argv)
    os.umask(private_files.UMASK)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            listener = endpoint.listener(arguments.port)
        except OSError as error:
            print(f"aws.port: port {arguments.port}: {error.strerror}", file=sys.stderr)
            return 1
        with listener:
            listener.listen(server.BACKLOG)
            print("ready", flush=True)
            client = Client(
                arguments.lab, runtime_directory=arguments.runtime_directory, keeping=True
            )
            endpoint.serving(_lab(client), listener).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
