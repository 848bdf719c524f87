# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.resolver`: the resolver of one VPC, in the namespace of its router.

The controller starts it like a server of the lab and starts it again when it dies; it outlives the
controller. It has opened all that it uses before it gives up its privileges: the sockets of its
VPC, those to an upstream resolver in the host's own namespace, the names and the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import dns.rdata
import dns.rdataclass
import dns.rdatatype

from hyperplane_nat.resolver import server, upstream
from hyperplane_nat.resolver.answers import Answers
from hyperplane_nat.resolver.figures import Figures
from hyperplane_nat.resolver.limits import PacketLimit
from hyperplane_nat.resolver.zone import ZoneFile
from netns import namespace, privileges, sockets
from netns.ending import leave
from netns.errors import NetnsError, from_errno

Pair = tuple[socket.socket, socket.socket]

# dnspython imports a type when it meets it first, from where the user may not read. All others may
# be taken as they are: only in these are names that may be compressed (RFC 3597 section 4).
_TYPES = "A AAAA NS CNAME SOA PTR MX TXT SRV OPT RP AFSDB RT PX KX NAPTR DNAME"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m hyperplane_nat.resolver",
        description="The resolver of one VPC; started by the controller.",
    )
    parser.add_argument("--namespace", required=True, help="of the VPC's router")
    parser.add_argument("--address", required=True, action="append", help="one that it answers at")
    parser.add_argument("--names", required=True, type=Path, help="file of what it knows")
    parser.add_argument("--figures", required=True, type=Path, help="file for what it counts")
    parser.add_argument("--upstream", help="ADDRESS:PORT of who knows the rest")
    parser.add_argument("--uid", type=int, help="give up privileges for this user's, 0 is root")
    parser.add_argument("--program", help="what tells this version from others; for its controller")
    return parser


async def _serve(
    pairs: list[Pair], outside: list[socket.socket], answers: Answers, figures: Figures
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    asked = upstream.Upstream(outside) if outside else None
    serving = server.Server(pairs, answers, figures.count, time.monotonic, asked)
    await serving.start()
    print("ready", flush=True)
    await ended.wait()
    await serving.stop()
    if asked is not None:
        asked.close()


def _outside(where: str | None) -> list[socket.socket]:
    if where is None:
        return []
    address, _, port = where.partition(":")
    try:
        return upstream.open_sockets(address, int(port))
    except OSError as error:
        raise from_errno(f"cannot ask {where}", error.errno or 0) from None


def _inside(addresses: Sequence[str]) -> list[Pair]:
    try:
        return [server.open_sockets(address) for address in addresses]
    except OSError as error:
        what = f"cannot answer on port {server.PORT} of {', '.join(addresses)}"
        raise from_errno(what, error.errno or 0) from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; 0 then, 2 with one line on stderr when it cannot start."""
    options = _parser().parse_args(arguments)
    try:
        try:
            descriptor = os.open(options.names, os.O_RDONLY | os.O_CLOEXEC)
            names = ZoneFile(descriptor)
            figures = Figures(options.figures)
        except (OSError, ValueError) as error:
            raise NetnsError(
                f"cannot use {options.names}: {error}", "start the lab again"
            ) from None
        outside = _outside(options.upstream)
        namespace.enter(options.namespace)
        sockets.ensure_files(server.CONNECTIONS_MAX)
        pairs = _inside(options.address)
        for kind in _TYPES.split():
            known = dns.rdatatype.from_text(kind)
            dns.rdata.get_rdata_class(dns.rdataclass.IN, known)  # type: ignore[no-untyped-call]
        if options.uid is not None:
            privileges.drop(privileges.SERVICE, uid=options.uid)
        answers = Answers(lambda: names.zone, PacketLimit(), upstream=bool(outside))
        with contextlib.closing(figures):
            asyncio.run(_serve(pairs, outside, answers, figures))
    except NetnsError as error:
        print(f"hyperplane_nat.resolver: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    leave(main())
