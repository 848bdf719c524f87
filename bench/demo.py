# SPDX-License-Identifier: Apache-2.0
"""`make demo`: the default lab under a random name, real traffic from every environment at once.

Every environment has the same address and uses the same source port. Each fetches a 4 MiB file
(from nginx where it is installed, else from the lab's own server), echoes datagrams and pings, all
at the same time, and every answer is checked. The report comes from the controller's own counters.
Whatever happens, Ctrl-C included, the lab is taken down and nothing of it is left, which is checked
as well. Exit status: 0, 1 for a wrong answer or something left, 2 if the lab cannot start, 130 when
interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from bench import exchange, nginx
from hyperplane_nat.cli import common, lifecycle, removal
from hyperplane_nat.client import Client, ClientError
from hyperplane_nat.config import lab as configuration
from hyperplane_nat.config.lab import Config, ConfigError
from hyperplane_nat.config.resources import Service
from hyperplane_nat.controller.errors import ControllerError
from netns import NetnsError, content, sockets, topology

SOURCE_PORT = 40000
PING_IDENTIFIER = 4711
NGINX_PORT = 8080

ECHOES = 10
"""Datagrams and echo requests per environment."""

DEADLINE_SECONDS = 300.0

EXPECTED_ERRORS = (
    common.UserError,
    ClientError,
    ConfigError,
    ControllerError,
    NetnsError,
    nginx.NginxError,
)


@dataclass
class Totals:
    """What the environments have done."""

    fetched_bytes: int = 0
    files: int = 0
    echoes: int = 0
    pings: int = 0
    elapsed_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Targets:
    """Where the traffic goes, and what must come back."""

    web: tuple[str, int]
    server: str
    path: str
    size_bytes: int
    sha256: str
    echo: tuple[str, int]


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.demo", description=__doc__)
    parser.add_argument("--environments", type=int, default=100, metavar="N")
    options = parser.parse_args(arguments)
    console = common.console()
    # A service manager's or CI's stop takes the same way out as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        config = configuration.load(
            None,
            {
                "lab.name": f"demo-{secrets.token_hex(3)}",
                "lab.environments": options.environments,
                # Another lab may have the default one.
                "metrics.port": 0,
            },
        )
        if os.geteuid() != 0:
            raise common.UserError("the demo needs root (run: sudo make demo)")
    except EXPECTED_ERRORS as error:
        console.print(f"demo: {error}")
        return 2
    return run(config, console)


def run(config: Config, console: Console) -> int:
    """Bring the lab up, move traffic, report, take it down."""
    totals = Totals()
    status = 2
    interrupted = False
    pids: set[int] = set()
    try:
        started = time.monotonic()
        with bars(console) as progress:
            lifecycle.start(config, lifecycle.progress_bars(progress))
        pids = processes(common.mapping(client_of(config).get("/v1/status")))
        console.print(
            f"lab {config.lab.name}: {config.lab.environments} environments ready in "
            f"{time.monotonic() - started:.1f} s, all with address {config.environment.address}"
        )
        with file_server(config) as targets, bars(console) as progress:
            console.print(
                f"each fetches {targets.size_bytes >> 20} MiB from {targets.server}, all from "
                f"source port {SOURCE_PORT}; sends {ECHOES} datagrams and {ECHOES} pings"
            )
            asyncio.run(traffic(config, targets, totals, progress))
        status = report(config, totals, console)
    except KeyboardInterrupt:
        interrupted = True
        console.print("interrupted: taking the lab down")
    except EXPECTED_ERRORS as error:
        console.print(f"demo: {error}")
    finally:
        # A second Ctrl-C now would leave half a lab.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        left = take_down(config, pids, console)
    if left:
        return 1
    return 130 if interrupted else status


def client_of(config: Config) -> Client:
    """The control API of the lab."""
    return Client(config.lab.name, runtime_directory=Path(config.lab.runtime_directory))


def processes(status: dict[str, Any]) -> set[int]:
    """The gateway's processes: controller, forwarder and the one that waits to replace it."""
    forwarder = status["forwarder"]
    found = (status["pid"], forwarder["pid"], forwarder.get("standby_pid"))
    return {pid for pid in found if pid is not None}


def bars(console: Console) -> Progress:
    """Progress bars that are gone when done, and absent where there is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


@contextlib.contextmanager
def file_server(config: Config) -> Iterator[Targets]:
    """The servers to talk to: nginx for the file if it is installed, else the lab's own."""
    vpc = config.vpc[0]
    web = next(service for service in vpc.service if service.kind == "http" and service.address)
    echo = next(
        service for service in vpc.service if service.kind == "udp-echo" and service.address
    )
    program = nginx.find()
    if program is None:
        yield _targets(web, web.port, "the lab's own server", echo)
        return
    with nginx.serving(
        program,
        topology.vpc_namespace(config.lab.name, vpc.name),
        web.place,
        NGINX_PORT,
        {"file": content.read(web.size_bytes)},
    ):
        yield _targets(web, NGINX_PORT, "nginx", echo)


def _targets(web: Service, port: int, server: str, echo: Service) -> Targets:
    return Targets(
        web=(web.place, port),
        server=f"{server} at {web.address}:{port}",
        path="/file",
        size_bytes=web.size_bytes,
        sha256=content.sha256(web.size_bytes),
        echo=(echo.place, echo.port),
    )


async def traffic(config: Config, targets: Targets, totals: Totals, progress: Progress) -> None:
    """All environments at once; what goes wrong is collected in `totals.failures`."""
    numbers = range(1, config.lab.environments + 1)
    names = [topology.environment_namespace(config.lab.name, number) for number in numbers]
    fetching = progress.add_task("fetch", total=len(names) * targets.size_bytes)
    echoing = progress.add_task("echo", total=len(names) * ECHOES)
    pinging = progress.add_task("ping", total=len(names) * ECHOES)
    with contextlib.ExitStack() as stack:

        def open_each(kind: sockets.Kind, port: int) -> list[socket.socket]:
            return [stack.enter_context(each) for each in sockets.open_each(names, kind, port=port)]

        connections = open_each("tcp", SOURCE_PORT)
        endpoints = open_each("udp", SOURCE_PORT)
        raw = open_each("icmp", 0)

        async def fetch(number: int, connection: socket.socket) -> None:
            def count(size: int) -> None:
                totals.fetched_bytes += size
                progress.advance(fetching, size)

            await exchange.fetch(connection, targets.web, targets.path, targets.sha256, count)
            totals.files += 1

        async def echo(number: int, endpoint: socket.socket) -> None:
            for sequence in range(ECHOES):
                payload = f"env-{number} datagram {sequence}".encode()
                await exchange.echo(endpoint, targets.echo, payload)
                totals.echoes += 1
                progress.advance(echoing)

        async def ping(number: int, endpoint: socket.socket) -> None:
            for sequence in range(ECHOES):
                payload = f"env-{number} ping {sequence}".encode()
                await exchange.ping(endpoint, targets.echo[0], PING_IDENTIFIER, sequence, payload)
                totals.pings += 1
                progress.advance(pinging)

        started = time.monotonic()
        await asyncio.gather(
            *(
                guarded(work, number, endpoint, totals)
                for work, opened in ((fetch, connections), (echo, endpoints), (ping, raw))
                for number, endpoint in zip(numbers, opened, strict=True)
            )
        )
        totals.elapsed_seconds = time.monotonic() - started


async def guarded(
    work: Callable[[int, socket.socket], Coroutine[Any, Any, None]],
    number: int,
    endpoint: socket.socket,
    totals: Totals,
) -> None:
    """Do one environment's work; what goes wrong is noted, and the others go on."""
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            await work(number, endpoint)
    except TimeoutError:
        totals.failures.append(f"env-{number}: {work.__name__}: no answer in time")
    except (exchange.MismatchError, OSError) as error:
        totals.failures.append(f"env-{number}: {work.__name__}: {error}")


def report(config: Config, totals: Totals, console: Console) -> int:
    """Print what was done and what the gateway says about it; 0 if all of it is right."""
    client = client_of(config)
    status = common.mapping(client.get("/v1/status"))
    interfaces = common.rows(client.get("/v1/interfaces"))
    verified = common.mapping(client.verify())
    counters: dict[str, int] = status["counters"]
    failures = list(totals.failures)
    failures += [f"flow table: {problem}" for problem in verified["problems"]]
    expected = config.lab.environments
    if len(interfaces) != 1:
        failures.append(f"{len(interfaces)} network interfaces, not 1")
    for what, done, wanted in (
        ("files", totals.files, expected),
        ("echoes", totals.echoes, expected * ECHOES),
        ("pings", totals.pings, expected * ECHOES),
    ):
        if done != wanted:
            failures.append(f"{done} of {wanted} {what}")

    table = Table(show_header=False, title="demo", title_justify="left", title_style="bold")
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_row("environments", str(status["environments"]))
    table.add_row("interfaces", str(len(interfaces)))
    for protocol in ("tcp", "udp", "icmp"):
        table.add_row(f"flows created, {protocol}", str(counters[f"flows_created_{protocol}"]))
    table.add_row("files, SHA-256 right", f"{totals.files} of {expected}")
    table.add_row("datagrams echoed", f"{totals.echoes} of {expected * ECHOES}")
    table.add_row("pings answered", f"{totals.pings} of {expected * ECHOES}")
    table.add_row("bytes fetched", f"{totals.fetched_bytes:,}")
    table.add_row("elapsed", f"{totals.elapsed_seconds:.2f} s")
    rate = totals.fetched_bytes / max(totals.elapsed_seconds, 1e-9)
    table.add_row("throughput", f"{rate * 8 / 1e9:.2f} Gbit/s")
    table.add_row("flow table", f"{verified['entries']} entries, consistent")
    drops: dict[str, int] = status["drops"]
    for reason, count in sorted(drops.items()):
        table.add_row(f"drops, {reason}", str(count))
    if not drops:
        table.add_row("drops", "0")
    table.add_row("lost in the ring", str(counters["ring_dropped"]))
    table.add_row("lost on the way out", str(counters["transmit_full"]))
    if restarts := status["forwarder"]["restarts"]:
        table.add_row("forwarder restarts", str(restarts))
    console.print(table)
    for failure in failures:
        console.print(f"[red]wrong:[/red] {failure}")
    return 1 if failures else 0


def take_down(config: Config, pids: set[int], console: Console) -> list[str]:
    """Stop the lab, in whatever state it is; what is left of it afterwards."""
    root = Path(config.lab.runtime_directory)
    try:
        if not removal.stop(config.lab.name, root):
            removal.clean(config.lab.name, root)
    except EXPECTED_ERRORS as error:
        console.print(f"demo: {error}")
    left = remains(config, pids)
    for each in left:
        console.print(f"[red]left behind:[/red] {each}")
    if not left:
        console.print(f"lab {config.lab.name} is down; nothing is left of it")
    return left


def remains(config: Config, pids: set[int]) -> list[str]:
    """Namespaces, files and processes of a lab that are still there."""
    lab = config.lab.name
    found = [f"namespace {name}" for name in topology.strays(lab)]
    found += [
        f"file {path}" for path in (config.runtime_directory, config.state_file) if path.exists()
    ]
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            # A process without a command line has ended and waits for its parent's look.
            if command and (int(entry.name) in pids or f"hp-{lab}-" in command):
                found.append(f"process {entry.name}: {command}")
    return found


if __name__ == "__main__":
    sys.exit(main())
