# SPDX-License-Identifier: Apache-2.0
"""Source ports taken by the thousand.

Theory of operation
-------------------
Each port of the environment makes one flow, with one datagram or one SYN, from a socket that is
closed at once. A gateway that has no processor for a while loses what does not fit into its queue,
so they are sent in portions, each when the one before has been counted or nothing is counted any
more. What is lost nevertheless, or meets a flow that there was, is made up for from further ports,
and from the same once more.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import time
from collections.abc import Iterable
from typing import Any, Self

from hyperplane_nat.client import Client
from hyperplane_nat.testing.keeper import LabError
from netns import namespace

KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}

_ATTEMPTS = 5
"""How often a port is tried."""
_PORTION = 1_000
_PAUSE_SECONDS = 0.01
_FIRST = 1024
_LAST = 65535


class TakenPorts:
    """Ports that are taken; as a context manager it frees them in the end."""

    def __init__(
        self, client: Client, interface: str, remote: tuple[str, int], protocol: str
    ) -> None:
        self._client = client
        self.interface = interface
        self.remote = remote
        self.protocol = protocol

    @property
    def count(self) -> int:
        """How many there are towards the remote endpoint, in use or held, now."""
        return self._row()[0]

    @property
    def limit(self) -> int:
        """How many there can be."""
        return self._row()[1]

    def seconds(self) -> float:
        """How long an unused one lasts."""
        config: Any = self._client.get("/v1/config")
        timeouts = config["timeouts"]
        # A SYN that is answered is reset by the environment, whose socket is closed by then.
        names = {"udp": ["udp_seconds"], "tcp": ["tcp_opening_seconds", "tcp_reset_seconds"]}
        idle = max(timeouts[name] for name in names[self.protocol])
        result: float = (idle + config["ports"]["hold_seconds"]) / timeouts["time_scale"]
        return result

    def free(self) -> None:
        """Have so much time pass in the lab that none is taken any more; LabError if one is."""
        self._client.advance(self.seconds())
        if count := self.count:
            raise LabError(f"{count} ports towards {self.remote} are in use")

    def _row(self) -> tuple[int, int]:
        remote = "{}:{}".format(*self.remote)
        answer: Any = self._client.get("/v1/ports", {"remote": remote, "interface": self.interface})
        rows = [row for row in answer["remotes"] if row["protocol"] == self.protocol]
        taken = sum(row["in_use"] + row["held"] for row in rows)
        return taken, sum(row["limit"] for row in rows)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.free()


def take(
    client: Client,
    environment: dict[str, Any],
    remote: tuple[str, int],
    protocol: str,
    leave: int,
) -> TakenPorts:
    """Take all ports of the environment's interface but `leave`; LabError."""
    if protocol not in KINDS:
        raise ValueError(f"protocol {protocol!r} has no ports to take (udp, tcp)")
    ports = TakenPorts(client, environment["interface"], remote, protocol)
    config: Any = client.get("/v1/config")
    limit = config["ports"]["limit_per_remote"]
    every = range(_LAST, _FIRST - 1, -1)
    own = itertools.chain.from_iterable(itertools.repeat(every, _ATTEMPTS))
    count = ports.count
    while (missing := limit - leave - count) > 0:
        some = list(itertools.islice(own, min(missing, _PORTION)))
        if not some:
            raise LabError(
                f"{count} of {limit - leave} ports were to be had from {environment['name']} "
                "(hyperplane-nat status tells the reasons of drops)"
            )
        namespace.call(environment["namespace"], _send, KINDS[protocol], remote, some)
        count = _counted(ports, count + len(some))
    return ports


def _counted(ports: TakenPorts, expected: int) -> int:
    """The ports that are taken, when it is so many or no more are counted."""
    count, before = ports.count, -1
    while count < expected and count != before:
        time.sleep(_PAUSE_SECONDS)
        count, before = ports.count, count
    return count


def _send(kind: socket.SocketKind, remote: tuple[str, int], own: Iterable[int]) -> None:
    for port in own:
        with socket.socket(socket.AF_INET, kind) as sender:
            sender.setblocking(False)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sender.bind(("", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                sender.connect(remote)
                if kind == socket.SOCK_DGRAM:
                    sender.send(b"x")
