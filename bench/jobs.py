# SPDX-License-Identifier: Apache-2.0
"""What a worker process can be asked to do: one record for each kind of work.

A job travels to `python -m bench.worker` as one argument of JSON, so that any of them can also be
started by hand. Namespaces are given as files (`/run/netns/...` or `/proc/PID/ns/net`).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class Job:
    """Anything a worker does; `kind` names it on the command line."""

    kind: ClassVar[str]

    def to_json(self) -> str:
        """The one argument of the worker."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class UdpSend(Job):
    """Send datagrams; the result has `sent`, `refused`, `seconds`, and how many sockets had no
    answer before.
    """

    kind = "udp-send"
    namespaces: list[str]
    """A sender plays so many environments at once."""
    sockets_each: int
    """Source ports in each namespace."""
    address: str
    port: int
    payload_bytes: int
    seconds: float
    rate_per_second: int = 0
    packets: int = 0
    batch: int = 64
    greets: bool = False
    """Whether each socket asks for an answer before it says that it is ready."""


@dataclass(frozen=True, kw_only=True)
class FrameSend(Job):
    """Send datagrams of very many flows as frames; the result is as that of `UdpSend`."""

    kind = "frame-send"
    namespace: str
    first_source_port: int
    source_ports: int
    address: str
    port: int
    ports: int
    order: str = "pairs"
    """See `bench.native.frame_sender`."""
    payload_bytes: int
    seconds: float
    packets: int = 0


@dataclass(frozen=True, kw_only=True)
class UdpReceive(Job):
    """Count datagrams in an application; the result has `received` and `seconds`."""

    kind = "udp-receive"
    namespace: str
    address: str
    ports: list[int]
    warm_up_seconds: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Ping(Job):
    """Ping-pong; the result is that of `bench.native.ping_pong.ping`."""

    kind = "ping"
    namespaces: list[str]
    address: str
    port: int
    protocol: str
    """`tcp` or `udp`."""
    message_bytes: int = 64
    warm_up_seconds: float = 0.1
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Echo(Job):
    """Answer ping-pong over TCP and UDP on one port, until stopped."""

    kind = "echo"
    namespace: str
    address: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Connect(Job):
    """Connect, request, close; the result has `completed`, `failed` and `seconds`."""

    kind = "connect"
    namespace: str
    address: str
    port: int
    ports: int
    concurrency: int = 64
    warm_up_seconds: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Serve(Job):
    """The other side of `Connect`, until stopped."""

    kind = "serve"
    namespace: str
    address: str
    port: int
    ports: int


@dataclass(frozen=True, kw_only=True)
class Scrape(Job):
    """Get a URL at a fixed interval, until stopped; the result has `count` and `bytes`."""

    kind = "scrape"
    url: str
    interval_seconds: float


@dataclass(frozen=True, kw_only=True)
class Repeat(Job):
    """Run a command at a fixed interval, or at once when it took longer, until stopped.

    The result has `count`, `failed` and `longest_seconds`; its output goes nowhere.
    """

    kind = "repeat"
    command: list[str]
    interval_seconds: float


@dataclass(frozen=True, kw_only=True)
class Watch(Job):
    """Serve the page by a command and keep so many of its event streams open, until stopped.

    The result has `messages`, the fewest that a stream got.
    """

    kind = "watch"
    command: list[str]
    lab: str
    streams: int


@dataclass(frozen=True, kw_only=True)
class Execute(Job):
    """Become another program inside a namespace."""

    kind = "execute"
    namespace: str
    command: list[str]
    ordinary_user: bool = False
    """As nobody, with a /dev/net/tun of its own that anybody may open, as hosts commonly have."""
    environment: dict[str, str] = field(default_factory=dict)


KINDS: dict[str, type[Job]] = {
    job.kind: job
    for job in (
        UdpSend,
        FrameSend,
        UdpReceive,
        Ping,
        Echo,
        Connect,
        Serve,
        Scrape,
        Repeat,
        Watch,
        Execute,
    )
}


def from_json(kind: str, text: str) -> Job:
    """The job of a worker's command line; ValueError when it is none."""
    try:
        return KINDS[kind](**json.loads(text))
    except KeyError:
        raise ValueError(f"{kind!r} is no job (one of {', '.join(KINDS)})") from None
    except TypeError as error:
        raise ValueError(f"{kind}: {error}") from None
