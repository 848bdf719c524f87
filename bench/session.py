# SPDX-License-Identifier: Apache-2.0
"""A run: which contenders, how long and how often, and what has come of it so far.

Theory of operation
-------------------
Most workloads share labs of two environments, started when the first workload asks and kept to the
end; an idle lab costs nothing. Rounds are interleaved: every contender once, then every contender
again, so that a slow drift of the machine reaches all alike. A contender that cannot be started is
left out with its reason; a measurement that fails is left out of its round.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from bench import gateways
from bench.errors import BenchError
from bench.gateways.base import Gateway, Options
from bench.progress import Display
from bench.result import Measurement, Measurements
from netns import NetnsError


@dataclass(frozen=True, kw_only=True)
class Profile:
    """How thorough a run is; durations are those of one measurement."""

    name: str
    rounds: int
    new_flow_rounds: int
    table_rounds: int
    warm_up_seconds: float = 0.12
    udp_seconds: float = 0.4
    tcp_seconds: int = 1
    latency_seconds: float = 0.5
    scraped_seconds: float = 0.9
    connect_seconds: float = 0.6
    environments: tuple[int, ...] = (1, 10, 100, 1000)
    budget_seconds: float = 0.0
    """No longer than this, rather with fewer rounds; 0 is no limit."""
    least_rounds: int = 2
    brief: bool = False
    """Only what has a target."""


FULL = Profile(name="full", rounds=5, new_flow_rounds=5, table_rounds=5)
QUICK = Profile(
    name="quick",
    rounds=3,
    new_flow_rounds=1,
    table_rounds=2,
    latency_seconds=0.4,
    scraped_seconds=0.6,
    environments=(1, 1000),
    budget_seconds=88,
    brief=True,
)

LAB_SECONDS = {
    gateways.OURS: 4.0,
    gateways.CACHED: 4.0,
    gateways.OTHER: 4.0,
    "slirp4netns": 0.7,
    "pasta": 0.7,
}
"""Estimates for building and removing a lab of two environments; the others take 0.3."""


class Session:
    """State of a run; a context that removes every lab."""

    def __init__(
        self,
        profile: Profile,
        contenders: Sequence[str],
        display: Display,
        makers: Mapping[str, Callable[[Options], Gateway]] = gateways.ALL,
    ) -> None:
        """`makers` start the contenders, by name."""
        self.profile = profile
        self._makers = makers
        self.contenders = list(contenders)
        self.display = display
        self.measurements = Measurements()
        self.warnings: list[str] = []
        self.skipped: dict[str, str] = {}
        self._shared: dict[str, Gateway] | None = None
        self._kept: dict[str, Gateway | None] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the shared labs."""
        self._shared = None
        self._kept = {}
        self._stack.close()

    def warn(self, text: str) -> None:
        """Something the reader of the figures has to know; once."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.display.say(f"warning: {text}")

    def skip(self, contender: str, reason: str) -> None:
        """A contender stays out from here on."""
        if contender not in self.skipped:
            self.skipped[contender] = reason
            self.display.say(f"{contender} is left out: {reason}")

    @contextlib.contextmanager
    def started(
        self,
        contender: str,
        options: Options,
        maker: Callable[[Options], Gateway] | None = None,
    ) -> Iterator[Gateway | None]:
        """A contender in a lab of its own, which `maker` makes; None when it cannot be started."""
        make = maker or self._makers[contender]
        with contextlib.ExitStack() as stack:
            gateway: Gateway | None = None
            if contender not in self.skipped:
                try:
                    gateway = stack.enter_context(make(options))
                except (BenchError, NetnsError) as error:
                    # Without those that the run is about there is no run.
                    if contender in gateways.BUILDS:
                        raise
                    self.skip(contender, str(error))
            yield gateway

    def shared(self, only: Sequence[str] | None = None) -> dict[str, Gateway]:
        """The contenders in labs of two environments, those in `only`."""
        if self._shared is None:
            found: dict[str, Gateway] = {}
            for name in self.contenders:
                self.display.show("starting the contenders", name)
                gateway = self._stack.enter_context(self.started(name, Options()))
                if gateway is not None:
                    found[name] = gateway
                    if diagnosis := gateway.diagnosis():
                        self.warn(f"{name}: {diagnosis}")
            self._shared = found
        return {
            name: self._shared[name]
            for name in self.contenders
            if name in self._shared and (only is None or name in only)
        }

    def swap(self) -> None:
        """From here on the contenders come in the opposite order."""
        self.contenders.reverse()

    def kept(self, key: str, contender: str, options: Options) -> Gateway | None:
        """A contender in a lab that is started when `key` is first asked for, and then kept."""
        if key not in self._kept:
            self._kept[key] = self._stack.enter_context(self.started(contender, options))
        return self._kept[key]

    def each_round(self, round_seconds: float) -> Iterator[int]:
        """The numbers of the rounds, each of which should take so long.

        A quick run that would take longer than it may, because the machine is slow, is content
        with fewer.
        """
        profile, pace = self.profile, self.display.pace
        for number in range(profile.rounds):
            late = profile.budget_seconds and pace.elapsed + pace.left > profile.budget_seconds
            if late and number >= profile.least_rounds:
                self.warn(f"this machine is slow: some workloads have {number} rounds only")
                pace.skip(round_seconds * (profile.rounds - number))
                return
            yield number

    def rounds(
        self,
        measurement: Measurement,
        labs: dict[str, Gateway],
        measure: Callable[[Gateway], float],
        *,
        step_seconds: float,
    ) -> None:
        """Measure every contender in every round."""
        for number in self.each_round(step_seconds * len(labs)):
            for name, gateway in labs.items():
                detail = f"{name}, round {number + 1}"
                self.display.show(measurement.title, detail)
                with self.tolerating(f"{measurement.title}, {name}"):
                    measurement.add(name, measure(gateway))
                self.display.advance(step_seconds)

    @contextlib.contextmanager
    def tolerating(self, what: str) -> Iterator[None]:
        """A failed measurement becomes a warning: the others are still worth something."""
        try:
            yield
        except BenchError as error:
            self.warn(f"{what}: {error}")
