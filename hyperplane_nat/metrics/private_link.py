# SPDX-License-Identifier: Apache-2.0
"""The metrics of PrivateLink by their names ("CloudWatch metrics for AWS PrivateLink")."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class PrivateLinkMetric:
    """One metric of AWS/PrivateLinkEndpoints or AWS/PrivateLinkServices."""

    namespace: Literal["PrivateLinkEndpoints", "PrivateLinkServices"]
    aws: str
    """AWS's name."""
    help: str
    counters: tuple[str, ...]
    """Those of an endpoint's address in the state map that it is the sum of."""
    kind: Literal["counter", "gauge"] = "counter"

    @property
    def name(self) -> str:
        """Our name, without the prefix and a counter's `_total`."""
        words = re.findall("[A-Z][a-z]+", self.aws)
        return "_".join([self.namespace.lower(), *(word.lower() for word in words)])

    @property
    def labels(self) -> tuple[str, ...]:
        """What its figures are told by."""
        return ("endpoint", "zone") if self.namespace == "PrivateLinkEndpoints" else ("service",)


_NEW = ("new_flows_tcp", "new_flows_udp")

METRICS: tuple[PrivateLinkMetric, ...] = (
    PrivateLinkMetric(
        "PrivateLinkEndpoints",
        "ActiveConnections",
        "Flows by an endpoint.",
        ("active_flows",),
        "gauge",
    ),
    PrivateLinkMetric(
        "PrivateLinkEndpoints",
        "BytesProcessed",
        "Bytes that an endpoint has passed on, both ways.",
        ("processed_bytes",),
    ),
    PrivateLinkMetric(
        "PrivateLinkEndpoints", "NewConnections", "Flows that have begun by an endpoint.", _NEW
    ),
    PrivateLinkMetric(
        "PrivateLinkEndpoints",
        "PacketsDropped",
        "Packets that an endpoint has dropped.",
        ("drops",),
    ),
    PrivateLinkMetric(
        "PrivateLinkEndpoints",
        "RstPacketsReceived",
        "Resets that came from the service.",
        ("tcp_target_resets",),
    ),
    PrivateLinkMetric(
        "PrivateLinkServices",
        "ActiveConnections",
        "Flows by a service's endpoints.",
        ("active_flows",),
        "gauge",
    ),
    PrivateLinkMetric(
        "PrivateLinkServices",
        "BytesProcessed",
        "Bytes between a service and its endpoints, both ways.",
        ("processed_bytes",),
    ),
    PrivateLinkMetric(
        "PrivateLinkServices",
        "NewConnections",
        "Flows that have begun by a service's endpoints.",
        _NEW,
    ),
    PrivateLinkMetric(
        "PrivateLinkServices",
        "RstPacketsSent",
        "Resets that a service has sent to its endpoints.",
        ("tcp_target_resets",),
    ),
)


@dataclass(frozen=True, slots=True)
class EndpointFigures:
    """What an endpoint's address has counted."""

    endpoint: str
    """VPC/name."""
    service: str
    """The same; empty when it is gone."""
    zone: str
    counters: Mapping[str, int]


def samples(
    figures: Iterable[EndpointFigures],
) -> Iterator[tuple[str, list[tuple[tuple[str, ...], float]]]]:
    """The figures of each metric, by its labels."""
    every = list(figures)
    for metric in METRICS:
        sums: dict[tuple[str, ...], float] = {}
        for each in every:
            labels: tuple[str, ...] = each.endpoint, each.zone
            if metric.namespace == "PrivateLinkServices":
                labels = (each.service,)
            value = sum(each.counters.get(counter, 0) for counter in metric.counters)
            if all(labels):
                sums[labels] = sums.get(labels, 0.0) + value
        yield metric.name, list(sums.items())
