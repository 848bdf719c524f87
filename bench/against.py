# SPDX-License-Identifier: Apache-2.0
"""This build and another one, side by side in one run: is it faster, and how sure is that?

Theory of operation
-------------------
Two runs one after the other tell what the machine was doing. Here both labs stand at once, each
round measures every workload with both builds, one right after the other, and the next round begins
with the other one. What drifts slowly reaches both alike; what one build gains from being second it
gains every other round. A value whose counterpart failed is left out, so that values come in pairs.

The figure is the median of one build by that of the other, turned round where less is better, so
that more than 1 is faster everywhere. Its interval comes from resampling the rounds (percentile
bootstrap, Efron 1979): a round is drawn with both its values, because what disturbs one often
disturbs the other. It is no statement about other machines, and few rounds make it too narrow:
with fewer than `LEAST_ROUNDS` none is given.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError
from bench.gateways import OTHER, OURS
from bench.result import Measurement
from bench.session import Session
from bench.workloads.base import Workload

LEAST_ROUNDS = 5
ROUNDS = 10
"""Unless a number is asked for, or how sure it has to be."""

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 1
"""The same values give the same interval."""

TAILS = ("_p99", "_p999")
"""Ends of names of what is shown and not waited for: one outlier moves it more than any change."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Where a ratio lies with a confidence of `CONFIDENCE`."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of it."""
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measurement of both builds."""

    measurement: Measurement
    ours: Sequence[float]
    other: Sequence[float]
    """By round, as many as of ours."""
    ratio: float
    """More than 1: ours is faster."""
    interval: Interval | None
    """None with fewer than `LEAST_ROUNDS`."""

    def settled(self, half_width: float) -> bool:
        """Whether it is known well enough, or never waited for."""
        if self.measurement.name.endswith(TAILS):
            return True
        return self.interval is not None and self.interval.half_width <= half_width

    def document(self) -> dict[str, Any]:
        """As it stands in the JSON."""
        return {
            "name": self.measurement.name,
            "title": self.measurement.title,
            "unit": self.measurement.unit,
            "group": self.measurement.group,
            "higher_is_better": self.measurement.higher_is_better,
            "rounds": len(self.ours),
            "ours": {"median": statistics.median(self.ours), "runs": list(self.ours)},
            "other": {"median": statistics.median(self.other), "runs": list(self.other)},
            "ratio": self.ratio,
            "interval": None if self.interval is None else [self.interval.low, self.interval.high],
        }


def compare(measurement: Measurement) -> Comparison | None:
    """What a measurement says; None when no round of it was complete."""
    ours, other = (measurement.runs.get(name, []) for name in (OURS, OTHER))
    if not ours or not other:
        return None
    better = measurement.higher_is_better
    interval = None
    if len(ours) >= LEAST_ROUNDS:
        interval = bootstrap(ours, other, higher_is_better=better)
    return Comparison(
        measurement, ours, other, speed_ratio(ours, other, higher_is_better=better), interval
    )


def speed_ratio(ours: Sequence[float], other: Sequence[float], *, higher_is_better: bool) -> float:
    """Median by median; more than 1 is in favour of ours."""
    medians = statistics.median(ours), statistics.median(other)
    above, below = medians if higher_is_better else reversed(medians)
    if below <= 0:
        raise BenchError(f"a median of {below:g} is nothing to compare with")
    return above / below


def bootstrap(
    ours: Sequence[float],
    other: Sequence[float],
    *,
    higher_is_better: bool,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """The interval of `speed_ratio`; both values of a round are drawn together."""
    generator = random.Random(seed)
    rounds = range(len(ours))
    ratios = []
    for _ in range(resamples):
        drawn = generator.choices(rounds, k=len(ours))
        ratios.append(
            speed_ratio(
                [ours[each] for each in drawn],
                [other[each] for each in drawn],
                higher_is_better=higher_is_better,
            )
        )
    ratios.sort()
    tail = (1 - CONFIDENCE) / 2
    return Interval(ratios[int(tail * resamples)], ratios[int((1 - tail) * resamples) - 1])


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to go on."""

    rounds: int
    """So many; at least so many with `until`."""
    until: float | None
    """Half width of the interval of every figure, the tails' excepted."""
    seconds: float
    """No round begins that would end later than that after the start."""


class Contest:
    """The rounds, and what has come of them."""

    def __init__(
        self,
        session: Session,
        workloads: Sequence[Workload],
        plan: Plan,
        clock: Callable[[], float],
    ) -> None:
        """`clock` is in seconds. The session's profile has one round."""
        self._session = session
        self._workloads = workloads
        self._plan = plan
        self._clock = clock
        self.stopped_early = False

    def run(self) -> list[Comparison]:
        """Measure as planned."""
        start, longest, number = self._clock(), 0.0, 0
        while not self._enough(number):
            began = self._clock()
            if number and began + longest > start + self._plan.seconds:
                self.stopped_early = True
                break
            for workload in self._workloads:
                self._measure(workload)
            self._session.swap()
            number += 1
            longest = max(longest, self._clock() - began)
        return self.comparisons()

    def comparisons(self) -> list[Comparison]:
        """Those that can be made, in the order of the measurements."""
        found = (compare(each) for each in self._session.measurements.all())
        return [each for each in found if each is not None]

    def _enough(self, rounds: int) -> bool:
        if rounds < self._plan.rounds:
            return False
        until = self._plan.until
        return until is None or all(each.settled(until) for each in self.comparisons())

    def _measure(self, workload: Workload) -> None:
        before = self._counts()
        workload.run(self._session)
        after = self._counts()
        for each in self._session.measurements.all():
            grown = [
                name
                for name in (OURS, OTHER)
                if after.get((each.name, name), 0) > before.get((each.name, name), 0)
            ]
            if len(grown) == 1:
                each.runs[grown[0]].pop()

    def _counts(self) -> dict[tuple[str, str], int]:
        return {
            (each.name, contender): len(runs)
            for each in self._session.measurements.all()
            for contender, runs in each.runs.items()
        }
