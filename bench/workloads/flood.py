# SPDX-License-Identifier: Apache-2.0
"""One environment floods new flows at full rate; another has an established connection.

The throughput that is kept is taken within one connection: before the flood starts, and while it
runs. Once at a rate of 1 Gbit/s, where only the gateway's fairness decides, and once at full rate,
where sender, receiver, gateway and flood also compete for the processors. The round-trip time is
that of a ping-pong whose connection is older than the flood.

UDP flows live for two seconds here and ports are not held, so that each round starts with few; what
is left in the kernel's table is removed between rounds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from bench import addresses, gateways, jobs, processes
from bench.errors import BenchError, MissingToolError
from bench.gateways import Gateway
from bench.gateways.base import Options
from bench.load import SLACK_SECONDS, WORKER_SECONDS, checked, echo_server, pairs, ping
from bench.processes import Worker
from bench.session import LAB_SECONDS, Profile, Session
from bench.workloads import tcp
from bench.workloads.base import Workload

SOCKETS, PORTS = 1000, 4000
PACED_BITS_PER_SECOND = 1_000_000_000
UDP_SECONDS = 2

BEFORE_SECONDS = (0.2, 0.8)
FLOOD_SECONDS = 0.9
DURING_SECONDS = (1.2, 2.0)
"""Moments of the connection: the flood starts in between and has then had time to take effect."""
TOTAL_SECONDS = 2
INTERVAL_SECONDS = 0.1
PING_SECONDS = 0.6
SETTLE_SECONDS = 0.3


def flood(gateway: Gateway) -> jobs.FrameSend:
    """New flows from the second environment as fast as it can."""
    return pairs(gateway, number=2, sockets=SOCKETS, ports=PORTS)


def bits_per_second(report: dict[str, Any], window: tuple[float, float]) -> float:
    """Mean rate of the intervals that lie within a window of the connection's life."""
    size = seconds = 0.0
    for interval in report["intervals"]:
        part = interval["sum"]
        if part["start"] >= window[0] - 0.01 and part["end"] <= window[1] + 0.01:
            size += 8 * part["bytes"]
            seconds += part["seconds"]
    if not seconds:
        raise BenchError("iperf3: no interval where one was expected")
    return size / seconds


def percentage_kept(report: dict[str, Any]) -> float:
    """Rate during the flood by the rate before."""
    return 100 * bits_per_second(report, DURING_SECONDS) / bits_per_second(report, BEFORE_SECONDS)


class Flood(Workload):
    """What an established connection keeps."""

    name = "flood"
    summary = "an established connection while another environment floods new flows"

    def seconds(self, profile: Profile, contenders: Sequence[str]) -> float:
        """By the number of measurements."""
        names = [name for name in contenders if gateways.KINDS[name].holds_flows]
        labs = sum(LAB_SECONDS.get(name, 0.3) for name in names)
        return labs + _step() * profile.rounds * len(names)

    def run(self, session: Session) -> None:
        """Both contenders with a table, in turn."""
        try:
            processes.require("iperf3")
        except MissingToolError as error:
            session.warn(f"flood is left out: {error}")
            return
        names = [name for name in session.contenders if gateways.KINDS[name].holds_flows]
        options = Options(udp_seconds=UDP_SECONDS, hold_seconds=0)
        for number in session.each_round(_step() * len(names)):
            for name in names:
                session.display.show("flood of new flows", f"{name}, round {number + 1}")
                gateway = session.kept(f"flood-{name}", name, options)
                if gateway is not None:
                    with session.tolerating(f"flood, {name}"):
                        self._measure(session, gateway)
                session.display.advance(_step())

    def _measure(self, session: Session, gateway: Gateway) -> None:
        kinds = (
            ("flood_tcp_kept", "throughput kept, connection of 1 Gbit/s", PACED_BITS_PER_SECOND),
            ("flood_tcp_full_rate_kept", "throughput kept, connection at full rate", 0),
        )
        with tcp.server(gateway):
            for name, title, rate in kinds:
                measurement = session.measurements.declare(
                    name, f"flood: {title}", "%", group=self.name
                )
                measurement.add(gateway.name, self._kept(gateway, rate))
                self._settle(gateway)
        with echo_server(gateway):
            quiet = ping(session, gateway, protocol="tcp", seconds=PING_SECONDS)
            flooded = self._ping(gateway)
        for name, title, result in (
            ("flood_quiet_p99", "flood: p99 before", quiet),
            ("flood_p99", "flood: p99 during", flooded),
        ):
            session.measurements.declare(
                name, title, "µs", group="flood_latency", higher_is_better=False
            ).add(gateway.name, result["p99"])
        self._settle(gateway)

    @staticmethod
    def _kept(gateway: Gateway, rate: int) -> float:
        command = tcp.client_command(
            seconds=TOTAL_SECONDS, interval_seconds=INTERVAL_SECONDS, bits_per_second=rate
        )
        with Worker(flood(gateway)) as worker, tcp.client(gateway, 1, command) as process:
            time.sleep(WORKER_SECONDS + FLOOD_SECONDS)
            worker.start()
            report = tcp.parse(process.output(SLACK_SECONDS))
            worker.stop()
        return percentage_kept(report)

    @staticmethod
    def _ping(gateway: Gateway) -> dict[str, float]:
        job = jobs.Ping(
            namespaces=[gateway.environment_file(1)],
            address=addresses.SERVER,
            port=addresses.ECHO_PORT,
            protocol="tcp",
            warm_up_seconds=0.3,
            seconds=PING_SECONDS,
        )
        with Worker(flood(gateway)) as worker, Worker(job) as pinging:
            pinging.start()
            worker.start()
            result = pinging.result(SLACK_SECONDS)
            worker.stop()
        return checked(result)

    @staticmethod
    def _settle(gateway: Gateway) -> None:
        gateway.flush()
        time.sleep(SETTLE_SECONDS)


def _step() -> float:
    connection = TOTAL_SECONDS + 3 * WORKER_SECONDS + SETTLE_SECONDS
    pinging = 2 * PING_SECONDS + 5 * WORKER_SECONDS + SETTLE_SECONDS
    return 2 * connection + pinging
