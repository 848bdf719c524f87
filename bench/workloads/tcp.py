# SPDX-License-Identifier: Apache-2.0
"""TCP throughput with iperf3: one and eight streams, both directions."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench import addresses, jobs, processes
from bench.errors import BenchError, MissingToolError
from bench.gateways import Gateway
from bench.gateways.base import Ends
from bench.listening import listening
from bench.session import Profile, Session
from bench.workloads.base import Workload
from netns import namespace

START_SECONDS = 0.35
"""Estimate for what iperf3 takes besides sending."""

LISTEN_SECONDS = 5.0


@dataclass(frozen=True)
class Case:
    """One of the combinations."""

    streams: int
    reverse: bool = False

    @property
    def name(self) -> str:
        """As in the JSON; outwards goes without saying."""
        plural = "s" if self.streams > 1 else ""
        return f"tcp_{self.streams}_stream{plural}{'_inwards' if self.reverse else ''}"

    @property
    def title(self) -> str:
        """For people."""
        plural = "s" if self.streams > 1 else ""
        where = "VPC to environment" if self.reverse else "environment to VPC"
        return f"TCP {self.streams} stream{plural}, {where}"


CASES = (Case(1), Case(8), Case(1, reverse=True), Case(8, reverse=True))


def cases(profile: Profile) -> tuple[Case, ...]:
    """All, or those with a target."""
    return CASES[:1] if profile.brief else CASES


def server_command(address: str = addresses.SERVER) -> list[str]:
    """One server for all runs; its own report goes nowhere."""
    return [
        *("iperf3", "--server", "--bind", address, "--port", str(addresses.IPERF_PORT)),
        *("--logfile", "/dev/null"),
    ]


def client_command(
    *,
    address: str = addresses.SERVER,
    streams: int = 1,
    reverse: bool = False,
    seconds: float,
    interval_seconds: float = 0,
    bits_per_second: int = 0,
) -> list[str]:
    """One run; `interval_seconds` 0 reports the whole only."""
    command = [
        *("iperf3", "--client", address, "--port", str(addresses.IPERF_PORT)),
        *("--time", f"{seconds:g}", "--parallel", str(streams), "--json"),
        *("--interval", f"{interval_seconds:g}"),
    ]
    if reverse:
        command.append("--reverse")
    if bits_per_second:
        command += ["--bitrate", str(bits_per_second)]
    return command


def parse(text: str) -> dict[str, Any]:
    """What iperf3 reports; BenchError with its own words when it failed."""
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError:
        raise BenchError(f"iperf3: said {text.strip()[:80]!r} instead of a report") from None
    if "error" in report:
        raise BenchError(f"iperf3: {report['error']}")
    return report


def received_gigabits(report: dict[str, Any]) -> float:
    """Goodput at the receiver."""
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e9


@contextlib.contextmanager
def server(gateway: Ends, address: str = addresses.SERVER) -> Any:
    """An iperf3 server in the VPC that listens."""
    job = jobs.Execute(namespace=gateway.vpc_file, command=server_command(address))
    with processes.Process(processes.worker_command(job), "iperf3 server") as process:

        def ready() -> bool:
            if process.popen.poll() is not None:
                raise BenchError(f"iperf3 server ended: {process.errors()}")
            file = "/proc/thread-self/net/tcp"
            return namespace.call(gateway.vpc, listening, file, addresses.IPERF_PORT)

        processes.wait_for(ready, LISTEN_SECONDS, "iperf3 server does not listen")
        yield


def client(gateway: Ends, number: int, command: list[str]) -> processes.Process:
    """An iperf3 client in an environment."""
    job = jobs.Execute(namespace=gateway.environment_file(number), command=command)
    return processes.Process(processes.worker_command(job), "iperf3")


class Tcp(Workload):
    """Gigabits per second of payload, at the receiver."""

    name = "tcp"
    summary = "iperf3 goodput at the receiver"

    def seconds(self, profile: Profile, contenders: Sequence[str]) -> float:
        """By the number of measurements."""
        step = profile.tcp_seconds + START_SECONDS
        return step * len(cases(profile)) * profile.rounds * len(contenders)

    def run(self, session: Session) -> None:
        """Every case with every contender."""
        try:
            processes.require("iperf3")
        except MissingToolError as error:
            session.warn(f"tcp is left out: {error}")
            return
        labs = session.shared()
        seconds = session.profile.tcp_seconds
        with contextlib.ExitStack() as stack:
            for gateway in labs.values():
                stack.enter_context(server(gateway))
            for case in cases(session.profile):
                measurement = session.measurements.declare(
                    case.name, case.title, "Gbit/s", group=self.name
                )
                command = client_command(
                    streams=case.streams, reverse=case.reverse, seconds=seconds
                )

                def measure(gateway: Gateway, command: list[str] = command) -> float:
                    with client(gateway, 1, command) as process:
                        return received_gigabits(parse(process.output(seconds + 20)))

                session.rounds(measurement, labs, measure, step_seconds=seconds + START_SECONDS)
