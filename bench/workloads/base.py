# SPDX-License-Identifier: Apache-2.0
"""What every workload has: a name, an estimate of its duration, and a run."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from bench.gateways import LIMIT, OURS
from bench.load import Rate
from bench.result import Measurement
from bench.session import Profile, Session

NEAR_THE_LIMIT = 0.95
NOTHING_LOST = 0.99


class Workload(abc.ABC):
    """One of the workloads."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abc.abstractmethod
    def seconds(self, profile: Profile, contenders: Sequence[str]) -> float:
        """How long it should take, its own labs included, the shared ones not."""

    @abc.abstractmethod
    def run(self, session: Session) -> None:
        """Measure into the session's measurements."""


def among(contenders: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Those of the wanted contenders that take part, in their order."""
    chosen = set(contenders)
    return [name for name in wanted if name in chosen]


def saturation(measurement: Measurement, rates: Mapping[str, Sequence[Rate]]) -> list[str]:
    """Where generator or sink, not the gateway, was the limit.

    A gateway as fast as the bare link has been measured no further than generator and sink go.
    Ours runs apart from the sender: when it loses nothing, the sender was the limit. (The kernel's
    NAT runs within the sender's own system call, so it never loses anything there.)
    """
    result = []
    limit = measurement.median(LIMIT)
    for name in measurement.runs:
        rate = measurement.median(name)
        if name != LIMIT and limit and rate and rate > NEAR_THE_LIMIT * limit:
            result.append(
                f"{measurement.title}: {name} is as fast as the bare link, so generator or sink "
                "is the limit and not the gateway"
            )
    own = rates.get(OURS, ())
    delivered, sent = sum(each.delivered for each in own), sum(each.sent for each in own)
    if sent and delivered > NOTHING_LOST * sent:
        result.append(
            f"{measurement.title}: {OURS} lost nothing, so the generator is the limit and "
            "not the gateway"
        )
    return result
