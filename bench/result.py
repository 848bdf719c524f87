# SPDX-License-Identifier: Apache-2.0
"""Measurements: what was measured, by whom, how often, and what it sums up to."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Summary:
    """Runs of one contender."""

    runs: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("a summary needs at least one run")

    @property
    def median(self) -> float:
        """The middle run; of two middle ones their mean."""
        return statistics.median(self.runs)

    @property
    def minimum(self) -> float:
        """The lowest run."""
        return min(self.runs)

    @property
    def maximum(self) -> float:
        """The highest run."""
        return max(self.runs)

    def document(self) -> dict[str, Any]:
        """As it stands in the JSON."""
        return {
            "median": self.median,
            "min": self.minimum,
            "max": self.maximum,
            "runs": list(self.runs),
        }


@dataclass
class Measurement:
    """One figure of one workload, for all contenders that could run it."""

    name: str
    title: str
    unit: str
    higher_is_better: bool
    group: str
    """The workload it belongs to: one plot each."""
    runs: dict[str, list[float]] = field(default_factory=dict)

    def add(self, contender: str, value: float) -> None:
        """Another run."""
        self.runs.setdefault(contender, []).append(value)

    def summary(self, contender: str) -> Summary | None:
        """What a contender's runs sum up to; None when it has none."""
        runs = self.runs.get(contender)
        return Summary(tuple(runs)) if runs else None

    def median(self, contender: str) -> float | None:
        """Median of a contender's runs."""
        summary = self.summary(contender)
        return None if summary is None else summary.median

    def ratio(self, contender: str, other: str) -> float | None:
        """Median of one contender by the median of another."""
        return quotient(self.median(contender), self.median(other))


def quotient(value: float | None, base: float | None) -> float | None:
    """value / base; None when either is missing or there is nothing to divide by."""
    if value is None or not base:
        return None
    return value / base


class Measurements:
    """All measurements of a run, by name, in the order in which they were first mentioned."""

    def __init__(self, measurements: Iterable[Measurement] = ()) -> None:
        self._by_name = {each.name: each for each in measurements}

    def declare(
        self, name: str, title: str, unit: str, *, group: str, higher_is_better: bool = True
    ) -> Measurement:
        """The measurement of this name, made if it is new."""
        if name not in self._by_name:
            self._by_name[name] = Measurement(name, title, unit, higher_is_better, group)
        return self._by_name[name]

    def get(self, name: str) -> Measurement | None:
        """A measurement, if there is one of this name."""
        return self._by_name.get(name)

    def all(self) -> list[Measurement]:
        """Those with at least one run."""
        return [each for each in self._by_name.values() if each.runs]

    def groups(self) -> dict[str, list[Measurement]]:
        """Those with at least one run, by workload."""
        result: dict[str, list[Measurement]] = {}
        for each in self.all():
            result.setdefault(each.group, []).append(each)
        return result
