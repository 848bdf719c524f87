# SPDX-License-Identifier: Apache-2.0
"""UDP throughput: small, medium and large frames, one and two senders, two kinds of sink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.gateways import Gateway
from bench.load import SOCKETS, WORKER_SECONDS, Rate, Sink, udp_rate
from bench.session import Profile, Session
from bench.workloads.base import Workload, saturation


@dataclass(frozen=True)
class Case:
    """One of the combinations."""

    frame_bytes: int
    senders: int
    sink: Sink = "drop"

    @property
    def name(self) -> str:
        """As in the JSON; the black hole goes without saying."""
        plural = "s" if self.senders > 1 else ""
        suffix = "" if self.sink == "drop" else "_application"
        return f"udp_{self.frame_bytes}b_{self.senders}_sender{plural}{suffix}"

    @property
    def title(self) -> str:
        """For people."""
        plural = "s" if self.senders > 1 else ""
        where = "counting drop" if self.sink == "drop" else "application"
        return f"UDP {self.frame_bytes} B, {self.senders} sender{plural}, {where}"


CASES = (
    Case(64, 1),
    Case(64, 2),
    Case(64, 1, "application"),
    Case(64, 2, "application"),
    Case(512, 1),
    Case(1400, 1),
)


def cases(profile: Profile) -> tuple[Case, ...]:
    """All, or those with a target."""
    return CASES[:2] if profile.brief else CASES


class Udp(Workload):
    """Packets per second that arrive."""

    name = "udp"
    summary = (
        f"datagrams per second, {SOCKETS} flows per sender; frame sizes count the Ethernet header, "
        "not the check sequence"
    )

    def seconds(self, profile: Profile, contenders: Sequence[str]) -> float:
        """By the number of measurements."""
        return sum(
            _step(profile, case) * profile.rounds * len(contenders) for case in cases(profile)
        )

    def run(self, session: Session) -> None:
        """Every case with every contender."""
        labs = session.shared()
        for case in cases(session.profile):
            measurement = session.measurements.declare(
                case.name, case.title, "packets/s", group=self.name
            )
            rates: dict[str, list[Rate]] = {}

            def measure(
                gateway: Gateway, case: Case = case, rates: dict[str, list[Rate]] = rates
            ) -> float:
                rate = udp_rate(
                    session,
                    gateway,
                    senders=case.senders,
                    frame_bytes=case.frame_bytes,
                    sink=case.sink,
                )
                rates.setdefault(gateway.name, []).append(rate)
                return rate.delivered

            session.rounds(measurement, labs, measure, step_seconds=_step(session.profile, case))
            for text in saturation(measurement, rates):
                session.warn(text)


def _step(profile: Profile, case: Case) -> float:
    workers = case.senders + (case.sink == "application")
    return profile.warm_up_seconds + profile.udp_seconds + workers * WORKER_SECONDS
