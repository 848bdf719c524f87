# SPDX-License-Identifier: Apache-2.0
"""How fast flows are established: UDP flows that stay, and whole TCP connections.

UDP: every datagram is a new pair of ports, so each that arrives in the VPC is an established flow.
The rate up to N is N by the time from the first arrival to the N-th; one filling of an empty table
gives all three. Each round has a fresh lab, because a table that has held a million flows is not
an empty one. Ours is filled once more with as many security group rules as AWS allows.

TCP: connect, 64 bytes out, 64 bytes back, close; 64 connections at a time to 64 ports.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench import addresses, gateways, jobs
from bench.counters import Reading, ReceiveCounters
from bench.errors import BenchError
from bench.gateways import OURS, Gateway
from bench.gateways.base import Ends, Options
from bench.load import WORKER_SECONDS, crossings, pairs, prime
from bench.processes import Worker
from bench.session import LAB_SECONDS, Profile, Session
from bench.workloads.base import NOTHING_LOST, Workload

COUNTS = {"64k": 64_000, "256k": 256_000, "1m": 1_000_000}
SOCKETS, PORTS = 4000, 1000
"""Four times as many pairs as are wanted: some are lost before they become a flow."""

RULES = 5 * 60
"""Five security groups of sixty rules each, the most that AWS allows."""

SAMPLE_SECONDS = 0.004
FILL_SECONDS_MAX = 60.0
FILL_SECONDS = {OURS: 3.5, gateways.CACHED: 3.5, gateways.OTHER: 3.5, gateways.KERNEL: 8.0}
"""Estimates for filling and emptying a table of a million."""


class NewFlows(Workload):
    """Flows and connections per second."""

    name = "new_flows"
    summary = "UDP flows per second until so many are held; TCP connect-request-close per second"

    def seconds(self, profile: Profile, contenders: Sequence[str]) -> float:
        """By the number of measurements."""
        fillings = [name for name in contenders if gateways.KINDS[name].holds_flows]
        filling = sum(_fill_step(name) * len(_rules(profile, name)) for name in fillings)
        connecting = _connect_step(profile) * profile.rounds * len(contenders)
        return filling * profile.new_flow_rounds + connecting

    def run(self, session: Session) -> None:
        """TCP in the shared labs, UDP in fresh ones."""
        self._connections(session)
        for number in range(session.profile.new_flow_rounds):
            for name in session.contenders:
                if not gateways.KINDS[name].holds_flows or name in session.skipped:
                    continue
                session.display.show("new UDP flows", f"{name}, round {number + 1}")
                for rules in _rules(session.profile, name):
                    with session.started(name, Options(rules=rules)) as gateway:
                        if gateway is not None:
                            with session.tolerating(f"new UDP flows, {name}"):
                                self._fill(session, gateway)
                    session.display.advance(_fill_step(name))

    def _fill(self, session: Session, gateway: Gateway) -> None:
        rules = gateway.options.rules
        suffix, remark = (f"_{rules}_rules", f", {rules} egress rules") if rules else ("", "")
        prime(gateway)
        with (
            ReceiveCounters(gateway.vpc) as counters,
            Worker(pairs(gateway, sockets=SOCKETS, ports=PORTS)) as worker,
        ):
            base = counters.read()
            readings: list[Reading] = [base]
            worker.start()
            deadline = time.monotonic() + FILL_SECONDS_MAX
            wanted = max(COUNTS.values())
            while readings[-1].packets - base.packets < wanted:
                time.sleep(SAMPLE_SECONDS)
                readings.append(counters.read())
                if time.monotonic() > deadline:
                    break
            sent = worker.stop()["sent"]
        held, arrived = gateway.held(), counters_total(readings)
        times = crossings(readings, list(COUNTS.values()))
        for (word, count), seconds in zip(COUNTS.items(), times, strict=True):
            measurement = session.measurements.declare(
                f"new_udp_flows_{word}{suffix}",
                f"new UDP flows, {count // 1000:,} k held".replace("1,000 k", "1 M") + remark,
                "flows/s",
                group=self.name,
            )
            if seconds:
                measurement.add(gateway.name, count / seconds)
        if times[-1] is None:
            raise BenchError(
                f"{arrived} flows in {FILL_SECONDS_MAX:.0f} seconds, then given up; "
                f"{gateway.diagnosis()}"
            )
        if gateway.name == OURS and arrived > NOTHING_LOST * sent:
            session.warn(
                f"new UDP flows: {OURS} lost nothing, so the generator is the limit and not the "
                "gateway"
            )
        if held < 0.99 * wanted:
            session.warn(
                f"new UDP flows, {gateway.name}: {arrived} arrived but it holds {held}: "
                "not every datagram was a flow of its own that stayed"
            )

    def _connections(self, session: Session) -> None:
        measurement = session.measurements.declare(
            "tcp_connect_request_close",
            "TCP connect, request, close",
            "connections/s",
            group=self.name,
        )

        def measure(gateway: Gateway) -> float:
            return connections(session, gateway)

        session.rounds(
            measurement, session.shared(), measure, step_seconds=_connect_step(session.profile)
        )


def connections(
    session: Session,
    gateway: Ends,
    *,
    address: str = addresses.SERVER,
    server_address: str = addresses.SERVER,
    ports: int = addresses.CONNECTION_PORTS,
) -> float:
    """Connections per second from one environment to `address`, which is or leads to the server."""
    server = jobs.Serve(
        namespace=gateway.vpc_file,
        address=server_address,
        port=addresses.CONNECTION_PORT,
        ports=ports,
    )
    client = jobs.Connect(
        namespace=gateway.environment_file(1),
        address=address,
        port=addresses.CONNECTION_PORT,
        ports=ports,
        warm_up_seconds=session.profile.warm_up_seconds,
        seconds=session.profile.connect_seconds,
    )
    with Worker(server) as serving, Worker(client) as connecting:
        serving.start()
        result = connecting.start().result(20)
    if result["failed"] > 0.01 * result["completed"]:
        session.warn(
            f"TCP connect, request, close, {gateway.name}: {result['failed']} connections failed, "
            f"{result['completed']} did not"
        )
    return float(result["completed"]) / float(result["seconds"])


def counters_total(readings: Sequence[Reading]) -> int:
    """Packets from the first reading to the last."""
    return readings[-1].packets - readings[0].packets


def _rules(profile: Profile, contender: str) -> tuple[int, ...]:
    """With how many rules a contender is filled; a quick run has no time for more than none."""
    return (0, RULES) if contender == OURS and profile.name == "full" else (0,)


def _fill_step(contender: str) -> float:
    return FILL_SECONDS.get(contender, 4.0) + LAB_SECONDS.get(contender, 0.3)


def _connect_step(profile: Profile) -> float:
    return profile.warm_up_seconds + profile.connect_seconds + 2 * WORKER_SECONDS
