# SPDX-License-Identifier: Apache-2.0
"""The targets, as data, and whether a run meets them.

A target compares medians of one run: ours with the kernel's NAT, ours with our own in another
workload, or ours with a fixed number. A workload meets its target when every comparison that could
be made holds; without any it has no verdict. A contender in user mode has to be slower in every
workload that it can run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bench.gateways import KERNEL, OURS, Pasta, Slirp4netns
from bench.gateways.balancers import Haproxy, NginxStream
from bench.result import Measurement, Measurements, quotient

USER_MODE = (Slirp4netns.name, Pasta.name)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One comparison."""

    base: Literal["nft", "own", "fixed", "other"]
    """With what: the kernel's NAT in the same workload, ours in `other`, nothing, or the contender
    `other` in the same workload."""
    threshold: float
    at_least: bool = True
    stretch: float | None = None
    other: str = ""

    def holds(self, value: float) -> bool:
        """Whether a value meets it."""
        return value >= self.threshold if self.at_least else value <= self.threshold

    def value(self, measurement: Measurement, measurements: Measurements) -> float | None:
        """The ratio or number that it is about; None when a part of it was not measured."""
        own = measurement.median(OURS)
        if self.base == "nft":
            return quotient(own, measurement.median(KERNEL))
        if self.base == "fixed":
            return own
        if self.base == "other":
            return quotient(own, measurement.median(self.other))
        other = measurements.get(self.other)
        return quotient(own, other.median(OURS) if other else None)

    def text(self, unit: str) -> str:
        """For people: >= 1.20 x nft."""
        sign = "≥" if self.at_least else "≤"
        if self.base == "fixed":
            return f"{sign} {self.threshold:g} {unit}"
        bases = {"nft": KERNEL, "own": f"own {self.other}", "other": self.other}
        base = bases[self.base]
        return f"{sign} {self.threshold:.2f} × {base}"


@dataclass(frozen=True)
class Check:
    """A target and what came of it."""

    text: str
    value: float
    threshold: float
    stretch: float | None
    met: bool

    def document(self) -> dict[str, Any]:
        """As it stands in the JSON."""
        return {
            "text": self.text,
            "value": self.value,
            "threshold": self.threshold,
            "stretch": self.stretch,
            "met": self.met,
        }


def _nft(threshold: float, stretch: float | None = None, *, at_least: bool = True) -> Target:
    return Target(base="nft", threshold=threshold, stretch=stretch, at_least=at_least)


def _own(
    other: str, threshold: float, stretch: float | None = None, *, at_least: bool = True
) -> Target:
    return Target(base="own", other=other, threshold=threshold, stretch=stretch, at_least=at_least)


def _proxies(threshold: float) -> tuple[Target, ...]:
    """Of haproxy and nginx."""
    return tuple(
        Target(base="other", other=each.name, threshold=threshold)
        for each in (Haproxy, NginxStream)
    )


def _services(kind: str) -> dict[str, tuple[Target, ...]]:
    """What ways beside the NAT of functions are to reach of it."""
    base = f"services_{kind}_nat"
    return {
        f"services_{kind}_nat_gateway": (_own(base, 0.97),),
        f"services_{kind}_balancer": (_own(base, 0.9),),
        f"services_{kind}_preserving": (_own(base, 0.9),),
        f"services_{kind}_endpoint": (_own(base, 0.8),),
    }


def _at_most(threshold: float, stretch: float | None = None) -> Target:
    return Target(base="fixed", threshold=threshold, stretch=stretch, at_least=False)


TARGETS: Mapping[str, tuple[Target, ...]] = {
    "udp_64b_1_sender": (_nft(1.20, 1.40),),
    "udp_64b_2_senders": (_nft(0.60, 0.80), _own("udp_64b_1_sender", 0.75)),
    "tcp_1_stream": (_nft(0.70, 0.90),),
    "latency_p50": (_nft(1.0, 0.6, at_least=False),),
    "latency_p99": (_nft(1.0, 0.6, at_least=False),),
    "latency_scraped_p99": (
        _own("latency_p99", 1.5, 1.1, at_least=False),
        _own("latency_idle_p99", 1.5, 1.1, at_least=False),
    ),
    "latency_watched_p99": (_own("latency_idle_p99", 1.5, at_least=False),),
    "new_udp_flows_64k": (_nft(1.0, 1.5),),
    "new_udp_flows_1m": (_nft(2.0, 3.0),),
    "new_udp_flows_1m_300_rules": (_own("new_udp_flows_1m", 0.95),),
    "tcp_connect_request_close": (_nft(0.9, 1.2),),
    "scale_1000_environments": (_own("scale_1_environment", 0.9, 1.0),),
    "udp_1m_flows": (_own("udp_1k_flows", 0.7, 0.85),),
    "flow_table_hit_1m": (
        _at_most(120, 60),
        _own("flow_table_hit_1k", 3.0, at_least=False),
    ),
    "flow_table_batch_hit_1m": (
        _at_most(120, 60),
        _own("flow_table_batch_hit_1k", 3.0, at_least=False),
    ),
    "flow_table_bytes_per_flow": (_at_most(144, 96),),
    "observed_flow_logs": (_own("observed_off", 0.8),),
    "observed_capture": (_own("observed_off", 0.8),),
    "listing_1m_seconds": (_at_most(10),),
    "listing_1m_memory": (_at_most(200),),
    "flood_tcp_kept": (Target(base="fixed", threshold=80),),
    "flood_tcp_full_rate_kept": (Target(base="fixed", threshold=80),),
    "flood_p99": (_at_most(2000),),
    **_services("tcp_8"),
    **_services("udp"),
    **_services("tcp_1"),
    **_services("connections"),
    "services_udp_balancer": (_own("services_udp_nat", 0.9), _nft(1.0)),
    "services_tcp_1_balancer": (_own("services_tcp_1_nat", 0.9), *_proxies(2.0)),
    "services_connections_balancer": (_own("services_connections_nat", 0.9), *_proxies(2.0)),
    "services_crowd_file": (_at_most(10),),
    "services_crowd_api": (_at_most(10),),
    "services_endpoints_file": (_at_most(10),),
    "services_bytes_per_flow": (_at_most(192),),
}


def checks(measurement: Measurement, measurements: Measurements) -> list[Check]:
    """Every comparison of a workload that could be made, its own target first."""
    result = []
    for target in TARGETS.get(measurement.name, ()):
        value = target.value(measurement, measurements)
        if value is not None:
            result.append(
                Check(
                    target.text(measurement.unit),
                    value,
                    target.threshold,
                    target.stretch,
                    target.holds(value),
                )
            )
    for other in USER_MODE:
        ratio = measurement.ratio(OURS, other)
        if ratio is not None:
            ahead = ratio > 1 if measurement.higher_is_better else ratio < 1
            result.append(Check(f"ahead of {other}", ratio, 1.0, None, ahead))
    return result


def met(found: list[Check]) -> bool | None:
    """Whether all hold; None when there is none."""
    return all(each.met for each in found) if found else None
