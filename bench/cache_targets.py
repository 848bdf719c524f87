# SPDX-License-Identifier: Apache-2.0
"""The targets of the flow cache, as data: what `cache on` is to reach in the same run.

Beside its own targets a workload with the cache is not to be slower than without: 0.95 at least.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.gateways import CACHED, KERNEL, LIMIT, OURS
from bench.gateways.balancers import Haproxy, NginxStream
from bench.result import Measurement, Measurements, quotient
from bench.targets import Check

NO_WORSE = 0.95
"""Than without, by whatever is better in the workload."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """One comparison of `cache on`: with a contender, or with itself in another workload."""

    base: str
    threshold: float
    stretch: float | None = None
    at_least: bool = True
    own: bool = False
    """`base` is the other workload."""

    def check(self, measurement: Measurement, measurements: Measurements) -> Check | None:
        """What came of it; None when a part of it was not measured."""
        found: Measurement | None = measurements.get(self.base) if self.own else measurement
        other = None if found is None else found.median(CACHED if self.own else self.base)
        value = quotient(measurement.median(CACHED), other)
        if value is None:
            return None
        met = value >= self.threshold if self.at_least else value <= self.threshold
        sign = "≥" if self.at_least else "≤"
        base = f"own {self.base}" if self.own else _said(self.base)
        text = f"{CACHED}: {sign} {self.threshold:.2f} × {base}"
        return Check(text, value, self.threshold, self.stretch, met)


def _said(contender: str) -> str:
    return "cache off" if contender == OURS else contender


def _more(
    nft: float, stretch: float | None = None, direct: float | None = None
) -> tuple[Target, ...]:
    """So much of nft's and of the bare link's."""
    targets = (Target(base=KERNEL, threshold=nft, stretch=stretch),)
    return targets if direct is None else (*targets, Target(base=LIMIT, threshold=direct))


def _less(nft: float) -> tuple[Target, ...]:
    return (Target(base=KERNEL, threshold=nft, at_least=False),)


def _own(other: str, threshold: float, *, at_least: bool = True) -> tuple[Target, ...]:
    return (Target(base=other, threshold=threshold, at_least=at_least, own=True),)


_PROXIES = tuple(Target(base=each.name, threshold=2.0) for each in (Haproxy, NginxStream))

TARGETS: Mapping[str, tuple[Target, ...]] = {
    "udp_64b_1_sender": _more(1.45, 1.6, 0.80),
    "udp_64b_2_senders": _more(1.45, 1.6),
    "udp_64b_1_sender_application": _more(1.3, 1.5),
    "udp_64b_2_senders_application": _more(1.3, 1.5),
    "tcp_1_stream": _more(1.05, None, 0.95),
    "tcp_1_stream_inwards": _more(1.05, None, 0.95),
    "tcp_8_streams": _more(1.05, None, 0.95),
    "tcp_8_streams_inwards": _more(1.05, None, 0.95),
    "latency_p50": _less(0.6),
    "latency_p99": _less(0.8),
    "latency_loaded_p50": _less(1.0),
    "latency_loaded_p99": _less(1.0),
    "latency_scraped_p99": _own("latency_idle_p99", 1.5, at_least=False),
    "flood_tcp_full_rate_kept": _more(1.0),
    "new_udp_flows_64k": (*_more(1.8), Target(base=OURS, threshold=0.97)),
    "new_udp_flows_1m": (*_more(2.0), Target(base=OURS, threshold=0.97)),
    "tcp_connect_request_close": _more(1.1),
    "scale_1000_environments": _own("scale_1_environment", 0.97),
    "udp_1m_flows": _own("udp_1k_flows", 0.85),
    "services_udp_balancer": (*_own("services_udp_nat", 0.9), *_more(1.0)),
    "services_tcp_1_balancer": (*_own("services_tcp_1_nat", 0.9), *_PROXIES),
    "services_tcp_8_balancer": (*_own("services_tcp_8_nat", 0.9), *_PROXIES),
    "services_tcp_1_nat_gateway": _own("services_tcp_1_nat", 0.97),
    "services_tcp_1_endpoint": _own("services_tcp_1_nat", 0.8),
}


def checks(measurement: Measurement, measurements: Measurements) -> list[Check]:
    """Every comparison that could be made of `cache on` in a workload."""
    targets = list(TARGETS.get(measurement.name, ()))
    if not any(each.base == OURS for each in targets):
        better = measurement.higher_is_better
        threshold = NO_WORSE if better else 1 / NO_WORSE
        targets.append(Target(base=OURS, threshold=threshold, at_least=better))
    found = (each.check(measurement, measurements) for each in targets)
    return [each for each in found if each is not None]
