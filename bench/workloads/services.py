# SPDX-License-Identifier: Apache-2.0
"""NAT gateways, load balancers, endpoints: beside the NAT of functions, and other load balancers.

All ways of ours are in one lab (`bench.gateways.services`), and again in one with the flow cache,
and measured in turn with each other and with the others, in the same round; each round has another
order, so that none has always the place behind the same other one. Every way but
`function_nat_gateway` is one translation, as the NAT of functions is: a host's packets through a
NAT gateway, through a load balancer with source NAT or with the client's address preserved, and
through an endpoint of the one with source NAT, where source and destination change at once. TCP is
iperf3, and connect, request, close.

Then a lab with a thousand targets and a thousand listeners is made, once from its file, and once
by the control API one by one, and a lab with two hundred endpoints from its file; each stands when
somebody comes through the last of all.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from bench import addresses, processes
from bench.gateways import KERNEL, OURS, OWN
from bench.gateways.balancers import OTHERS
from bench.gateways.base import Gateway, Options
from bench.gateways.crowd import BALANCERS, LISTENERS, OPTIONS, TARGETS, Crowd, EmptyCrowd
from bench.gateways.endpoint_crowd import ENDPOINTS, EndpointCrowd
from bench.gateways.services import CachedServices, Way
from bench.gateways.services import Services as Lab
from bench.load import SLACK_SECONDS, WORKER_SECONDS, black_hole_rate, sender
from bench.result import Measurement
from bench.session import Profile, Session
from bench.workloads.base import Workload
from bench.workloads.flow_table import engine
from bench.workloads.new_flows import connections
from bench.workloads.tcp import START_SECONDS, client, client_command, parse, received_gigabits
from bench.workloads.tcp import server as iperf_server
from netns import topology

T = TypeVar("T")

TITLES = {
    "nat": "functions' NAT",
    "nat_gateway": "host by NAT gateway",
    "function_nat_gateway": "function by NAT gateway",
    "balancer": "load balancer, source NAT",
    "preserving": "load balancer, client preserved",
    "endpoint": "endpoint of another VPC",
}
"""By the names of `Services.ways`."""

STREAMS = (1, 8)
LAB_SECONDS = 14.0
CROWD_SECONDS = 25.0


class Services(Workload):
    """Datagrams, bits and connections per second, and how long a crowd takes to stand."""

    name = "services"
    summary = "NAT gateway, load balancers, endpoint beside functions' NAT, nft, haproxy, nginx"

    def seconds(self, profile: Profile, contenders: Sequence[str]) -> float:
        """By the number of measurements, and the labs."""
        return profile.rounds * _round(profile) + LAB_SECONDS + 3 * CROWD_SECONDS

    def run(self, session: Session) -> None:
        """The ways, then the crowd."""
        with contextlib.ExitStack() as stack:
            session.display.show("starting the labs")
            ways: list[tuple[str, Way]] = []
            for own in (Lab, CachedServices):
                ours = stack.enter_context(session.started(own.name, Options(), own))
                if isinstance(ours, Lab):
                    ways += ours.ways().items()
            for name, maker in OTHERS.items():
                gateway = stack.enter_context(session.started(name, Options(), maker))
                if gateway is not None:
                    ways.append(("balancer", proxied(gateway)))
            session.display.advance(LAB_SECONDS)
            processes.require("iperf3")
            for way in {(each.vpc, each.server): each for _, each in ways}.values():
                stack.enter_context(iperf_server(way, way.server))
            datagrams = [(part, way) for part, way in ways if way.hole]
            for number in session.each_round(_round(session.profile)):
                self._udp(session, datagrams, number)
                for streams in STREAMS:
                    self._tcp(session, ways, streams, number)
                self._connections(session, ways, number)
        self._crowd(session)
        self._endpoints(session)
        with engine() as (_, state):
            self._declare(session, "bytes_per_flow", "state map, by flows", "bytes", False).add(
                OURS, len(state.memory) / state.flows_max
            )

    def _declare(
        self, session: Session, name: str, title: str, unit: str, better: bool = True
    ) -> Measurement:
        return session.measurements.declare(
            f"services_{name}", title, unit, group=self.name, higher_is_better=better
        )

    def _each(
        self,
        session: Session,
        ways: Sequence[tuple[str, Way]],
        what: tuple[str, str, str],
        number: int,
        measure: Callable[[Way], float],
        step_seconds: float,
    ) -> None:
        kind, title, unit = what
        for part, way in in_turn(ways, number):
            measurement = self._declare(session, f"{kind}_{part}", f"{title}, {TITLES[part]}", unit)
            session.display.show(measurement.title, f"{way.name}, round {number + 1}")
            with session.tolerating(f"{measurement.title}, {way.name}"):
                measurement.add(way.name, measure(way))
            session.display.advance(step_seconds)

    def _udp(self, session: Session, ways: Sequence[tuple[str, Way]], number: int) -> None:
        def measure(way: Way) -> float:
            load = sender(way, 1, address=way.hole, frame_bytes=64)
            return black_hole_rate(session, way.counted, [load]).delivered

        what = ("udp", "UDP 64 B, 1 sender", "packets/s")
        self._each(session, ways, what, number, measure, _udp_step(session.profile))

    def _tcp(
        self, session: Session, ways: Sequence[tuple[str, Way]], streams: int, number: int
    ) -> None:
        seconds = session.profile.tcp_seconds

        def measure(way: Way) -> float:
            command = client_command(address=way.address, streams=streams, seconds=seconds)
            with client(way, 1, command) as process:
                return received_gigabits(parse(process.output(seconds + SLACK_SECONDS)))

        plural = "s" if streams > 1 else ""
        what = (f"tcp_{streams}", f"TCP {streams} stream{plural}", "Gbit/s")
        self._each(session, ways, what, number, measure, _tcp_step(session.profile))

    def _connections(self, session: Session, ways: Sequence[tuple[str, Way]], number: int) -> None:
        def measure(way: Way) -> float:
            return connections(
                session,
                way,
                address=way.address,
                server_address=way.server,
                ports=addresses.BALANCED_PORTS,
            )

        what = ("connections", "TCP connect, request, close", "connections/s")
        self._each(session, ways, what, number, measure, _connect_step(session.profile))

    def _crowd(self, session: Session) -> None:
        of = f"{BALANCERS * LISTENERS:,} listeners and {BALANCERS * TARGETS:,} targets"
        for word, how, maker in (("file", "by a file", Crowd), ("api", "one by one", EmptyCrowd)):
            measurement = self._declare(session, f"crowd_{word}", f"{of}, {how}", "s", False)
            session.display.show(measurement.title)
            start = time.monotonic()
            with session.started(OURS, OPTIONS, maker) as lab, session.tolerating(how):
                assert isinstance(lab, Crowd)
                if not lab.filled:
                    start = time.monotonic()
                    lab.fill()
                lab.wait()
                measurement.add(OURS, time.monotonic() - start)
            session.display.advance(CROWD_SECONDS)

    def _endpoints(self, session: Session) -> None:
        title = f"{ENDPOINTS:,} endpoints, by a file"
        measurement = self._declare(session, "endpoints_file", title, "s", False)
        session.display.show(measurement.title)
        start = time.monotonic()
        with session.started(OURS, OPTIONS, EndpointCrowd) as lab, session.tolerating(title):
            assert isinstance(lab, EndpointCrowd)
            lab.wait()
            measurement.add(OURS, time.monotonic() - start)
        session.display.advance(CROWD_SECONDS)


def in_turn(ways: Sequence[T], number: int) -> list[T]:
    """The order of a round, the same in every run."""
    return random.Random(number).sample(ways, len(ways))


def proxied(gateway: Gateway) -> Way:
    """The way through another load balancer; datagrams are the kernel's alone."""
    hole = addresses.BALANCER if gateway.name == KERNEL else ""
    sender_name = topology.environment_namespace(gateway.lab, 1)
    return Way(
        *(gateway.name, sender_name, gateway.vpc, hole, addresses.BALANCER, addresses.SERVER)
    )


def _udp_step(profile: Profile) -> float:
    return profile.warm_up_seconds + profile.udp_seconds + WORKER_SECONDS


def _tcp_step(profile: Profile) -> float:
    return profile.tcp_seconds + START_SECONDS


def _connect_step(profile: Profile) -> float:
    return profile.warm_up_seconds + profile.connect_seconds + 2 * WORKER_SECONDS


def _round(profile: Profile) -> float:
    own = len(OWN) * len(TITLES)
    connected = _connect_step(profile) + len(STREAMS) * _tcp_step(profile)
    return (own + 1) * _udp_step(profile) + (own + len(OTHERS)) * connected
