# SPDX-License-Identifier: Apache-2.0
"""Many environments, many flows.

One sender process with sockets in so many environments, in turn; the number of flows stays the
same (1,000), only the number of links they come over changes. The lab has all environments all the
time. Ping-pong goes round them as well.

A million flows: they are established first, and stay. Then one environment sends over all of them
in random order, or over 1,000 of them: the same sockets, the same system calls. Nobody answers, so
none of them is ever in the flow cache.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from bench import addresses, gateways, jobs
from bench.gateways import CACHED, OURS, Gateway
from bench.gateways.base import FLOWS_MAX, Options
from bench.load import (
    WORKER_SECONDS,
    black_hole_rate,
    echo_server,
    fill,
    pairs,
    ping,
    sender,
)
from bench.session import Profile, Session
from bench.workloads.base import Workload

FLOWS = 1000
MANY_SOCKETS, MANY_PORTS = 1000, 1000
ENOUGH = 0.97
"""The few that were lost are established while it is measured."""

LAB_SECONDS = {OURS: 7.0, CACHED: 7.0, gateways.OTHER: 7.0, gateways.KERNEL: 3.0}
"""Estimates for a lab of a thousand environments, made and removed."""
FILL_SECONDS = {OURS: 6.0, CACHED: 6.0, gateways.OTHER: 6.0, gateways.KERNEL: 10.0}
PING_SECONDS = 0.3


def taking_part(profile: Profile, contenders: Sequence[str]) -> list[str]:
    """Those that can hold so many; the targets are about ours alone."""
    capable = [name for name in contenders if gateways.KINDS[name].holds_flows]
    return (
        [name for name in capable if name in (*gateways.BUILDS, CACHED)]
        if profile.brief
        else capable
    )


def spread(gateway: Gateway, environments: int) -> jobs.UdpSend:
    """Full load from so many environments in turn."""
    job = sender(gateway, 1, address=addresses.BLACK_HOLE, frame_bytes=64)
    files = [gateway.environment_file(each) for each in range(1, environments + 1)]
    return replace(job, namespaces=files, sockets_each=FLOWS // environments)


def title(environments: int) -> str:
    """For people."""
    return f"{environments:,} environment{'s' if environments > 1 else ''}"


def word(environments: int) -> str:
    """As in the JSON."""
    return f"{environments}_environment{'s' if environments > 1 else ''}"


class Scale(Workload):
    """Packets per second, and round-trip times, as the lab grows."""

    name = "scale"
    summary = "UDP 64 B and ping-pong from many environments; UDP over 1,000 and 1 M flows"

    def seconds(self, profile: Profile, contenders: Sequence[str]) -> float:
        """By the number of measurements, and the labs."""
        names = taking_part(profile, contenders)
        step = _udp_step(profile) + (0 if profile.brief else _ping_step())
        sending = step * len(profile.environments) * profile.rounds * len(names)
        many = 2 * _udp_step(profile) * profile.rounds * len(names)
        return sending + many + sum(LAB_SECONDS[name] + FILL_SECONDS[name] for name in names)

    def run(self, session: Session) -> None:
        """The labs are built once; filling them comes last."""
        profile = session.profile
        options = Options(environments=max(profile.environments), flow_cache_flows=FLOWS_MAX)
        with contextlib.ExitStack() as stack:
            labs: dict[str, Gateway] = {}
            for name in taking_part(profile, session.contenders):
                session.display.show(f"building {title(options.environments)}", name)
                gateway = stack.enter_context(session.started(name, options))
                if gateway is not None:
                    labs[name] = gateway
                session.display.advance(LAB_SECONDS[name] / 2)
            self._environments(session, labs)
            self._flows(session, labs)
            session.display.show(f"removing {title(options.environments)}")
        for name in labs:
            session.display.advance(LAB_SECONDS[name] / 2)

    def _environments(self, session: Session, labs: dict[str, Gateway]) -> None:
        with contextlib.ExitStack() as stack:
            for gateway in labs.values():
                stack.enter_context(echo_server(gateway))
            for count in session.profile.environments:
                measurement = session.measurements.declare(
                    f"scale_{word(count)}",
                    f"UDP 64 B, {title(count)}",
                    "packets/s",
                    group=self.name,
                )

                def measure(gateway: Gateway, count: int = count) -> float:
                    return black_hole_rate(session, gateway, [spread(gateway, count)]).delivered

                session.rounds(measurement, labs, measure, step_seconds=_udp_step(session.profile))
                if not session.profile.brief:
                    self._ping(session, labs, count)

    def _ping(self, session: Session, labs: dict[str, Gateway], count: int) -> None:
        what = f"UDP ping-pong, {title(count)}"
        for number in session.each_round(_ping_step() * len(labs)):
            for name, gateway in labs.items():
                session.display.show(what, f"{name}, round {number + 1}")
                with session.tolerating(f"{what}, {name}"):
                    result = ping(
                        session, gateway, protocol="udp", environments=count, seconds=PING_SECONDS
                    )
                    for part in ("p50", "p99"):
                        session.measurements.declare(
                            f"scale_latency_{part}_{word(count)}",
                            f"{what}, {part}",
                            "µs",
                            group="scale_latency",
                            higher_is_better=False,
                        ).add(name, result[part])
                session.display.advance(_ping_step())

    def _flows(self, session: Session, labs: dict[str, Gateway]) -> None:
        wanted = MANY_SOCKETS * MANY_PORTS
        for name, gateway in labs.items():
            session.display.show("establishing 1 M flows", name)
            held = fill(
                gateway, sockets=MANY_SOCKETS, ports=MANY_PORTS, wanted=int(ENOUGH * wanted)
            )
            if held < ENOUGH * wanted:
                session.warn(f"UDP over 1 M flows, {name}: it holds {held} flows only")
            session.display.advance(FILL_SECONDS[name])
        few = session.measurements.declare(
            "udp_1k_flows", "UDP 64 B over 1,000 of 1 M flows", "packets/s", group=self.name
        )
        many = session.measurements.declare(
            "udp_1m_flows", "UDP 64 B over 1 M flows, random", "packets/s", group=self.name
        )
        for number in session.each_round(2 * _udp_step(session.profile) * len(labs)):
            for name, gateway in labs.items():
                for measurement, ports in ((few, 1), (many, MANY_PORTS)):
                    session.display.show(measurement.title, f"{name}, round {number + 1}")
                    job = pairs(gateway, sockets=MANY_SOCKETS, ports=ports)
                    job = replace(job, order="random")
                    with session.tolerating(f"{measurement.title}, {name}"):
                        rate = black_hole_rate(session, gateway, [job])
                        measurement.add(name, rate.delivered)
                    session.display.advance(_udp_step(session.profile))


def _udp_step(profile: Profile) -> float:
    return profile.warm_up_seconds + profile.udp_seconds + 2 * WORKER_SECONDS


def _ping_step() -> float:
    return 0.1 + PING_SECONDS + 2 * WORKER_SECONDS
