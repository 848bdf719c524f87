# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.health`: the health checks of one VPC's load balancers.

The controller starts it like a server of the lab and starts it again when it dies; it outlives the
controller. It runs in the namespace of a host that nobody has, which may send from the addresses of
the VPC's nodes. It has opened the files of checks and verdicts before it gives up its privileges.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from hyperplane_nat import whole_file
from hyperplane_nat.health import checks, probes
from hyperplane_nat.health.checker import Checker, watch
from netns import namespace, privileges, sockets
from netns.errors import NetnsError, from_errno

CONNECTIONS_MAX = 16_384
"""As many checks may be under way."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hyperplane_nat.health",
        description="The health checks of one VPC; started by the controller.",
    )
    parser.add_argument("--namespace", required=True, help="of the host that they come from")
    parser.add_argument("--checks", required=True, type=Path, help="file of what is checked")
    parser.add_argument("--verdicts", required=True, type=Path, help="file for what is found")
    parser.add_argument("--uid", type=int, help="give up privileges for this user's, 0 is root")
    parser.add_argument("--program", help="what tells this version from others; for its controller")
    return parser


async def _serve(told: whole_file.Reader, verdicts: int) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    tls = probes.any_certificate()
    checker = Checker(
        lambda check: probes.probe(check, tls),
        lambda found: whole_file.overwrite(verdicts, checks.encode_verdicts(found)),
    )

    decoder = checks.Decoder()

    def follow() -> None:
        # Half-written: it is looked at again.
        with contextlib.suppress(ValueError):
            checker.follow(decoder.decode(told.read()))
            told.accept()

    print("ready", flush=True)
    await watch(lambda: told.changed, follow, ended)
    await checker.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; 0 then, 2 with one line on stderr when it cannot start."""
    options = _parser().parse_args(arguments)
    try:
        try:
            told = whole_file.Reader(os.open(options.checks, os.O_RDONLY | os.O_CLOEXEC))
            verdicts = whole_file.create(options.verdicts)
            whole_file.overwrite(verdicts, checks.encode_verdicts({}))
        except OSError as error:
            raise from_errno(f"cannot use {options.checks}", error.errno or 0) from None
        namespace.enter(options.namespace)
        sockets.ensure_files(CONNECTIONS_MAX)
        # What aiohttp imports late must be there before nothing else can be read.
        asyncio.run(_warm_up())
        if options.uid is not None:
            privileges.drop(privileges.HEALTH_CHECKS, uid=options.uid)
        asyncio.run(_serve(told, verdicts))
    except NetnsError as error:
        print(f"hyperplane_nat.health: {error}", file=sys.stderr)
        return 2
    return 0


async def _warm_up() -> None:
    nobody = checks.Check(
        "", "127.0.0.1", "127.0.0.1", 1, "HTTP", "/", "200", "localhost", 1.0, 1.0, 2, 2
    )
    await probes.probe(nobody, probes.any_certificate())


if __name__ == "__main__":
    sys.exit(main())
