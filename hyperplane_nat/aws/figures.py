# SPDX-License-Identifier: Apache-2.0
"""Figures by the minute, as CloudWatch keeps them of metrics with standard resolution.

Each series has an aggregate of what it was given in each minute: how often, and sum, minimum and
maximum of it. A counter, which only grows, is given what it has grown by.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

MINUTE = 60

MINUTES_KEPT = 1440
"""Of each series: a day."""

STATISTICS = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")


@dataclass(frozen=True, slots=True)
class Series:
    """One metric with its dimensions."""

    namespace: str
    name: str
    dimensions: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, namespace: str, name: str, **dimensions: str) -> Series:
        """By names and values of its dimensions."""
        return cls(namespace, name, frozenset(dimensions.items()))


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a series was given in a time."""

    count: int
    sum: float
    minimum: float
    maximum: float

    def __add__(self, other: Aggregate) -> Aggregate:
        return replace(
            self,
            count=self.count + other.count,
            sum=self.sum + other.sum,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
        )

    def statistic(self, name: str) -> float:
        """One of STATISTICS."""
        found: Mapping[str, float] = {
            "SampleCount": self.count,
            "Average": self.sum / self.count,
            "Sum": self.sum,
            "Minimum": self.minimum,
            "Maximum": self.maximum,
        }
        return found[name]


class Figures:
    """The series of one account."""

    def __init__(self) -> None:
        self._minutes: dict[Series, dict[int, Aggregate]] = {}
        self._totals: dict[Series, float] = {}

    def gauge(self, series: Series, now: float, value: float) -> None:
        """A value as it is; `now` in seconds since the epoch."""
        minute = int(now) // MINUTE * MINUTE
        kept = self._minutes.setdefault(series, {})
        added = Aggregate(1, value, value, value)
        kept[minute] = kept[minute] + added if minute in kept else added
        while len(kept) > MINUTES_KEPT:
            del kept[next(iter(kept))]

    def counter(self, series: Series, now: float, total: float) -> None:
        """What a counter has come to, 0 being what it began with."""
        former = self._totals.get(series, 0.0)
        self._totals[series] = total
        # One that is less has begun again.
        self.gauge(series, now, total - former if total >= former else total)

    def known(self) -> Iterable[Series]:
        """All there are."""
        return tuple(self._minutes)

    def periods(
        self, series: Series, first: float, last: float, seconds: int
    ) -> dict[int, Aggregate]:
        """What a series was given from `first` to before `last`, by the beginning of periods."""
        found: dict[int, Aggregate] = {}
        for minute, each in self._minutes.get(series, {}).items():
            if first <= minute < last:
                period = minute // seconds * seconds
                found[period] = found[period] + each if period in found else each
        return found


@dataclass(slots=True)
class Kept:
    """Figures of all accounts, as far as somebody has asked for them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    figures: defaultdict[str, Figures] = field(default_factory=lambda: defaultdict(Figures))
    read: dict[str, float] = field(default_factory=dict)
    """When, by account."""
