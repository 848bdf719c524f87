# SPDX-License-Identifier: Apache-2.0
"""A lab at one moment, as Prometheus's samples.

Theory of operation
-------------------
Nothing is counted here. The forwarder counts in the state map, the controller knows about processes
and functions, and `LabCollector` asks for a `LabSnapshot` of both when somebody scrapes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from hyperplane_nat import __version__
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordFigures
from hyperplane_nat.metrics.cloudwatch import (
    CLOUDWATCH,
    NODES,
    AddressPorts,
    NodeFigures,
    RemoteCount,
    RemotePortsTaken,
    TargetCount,
)
from hyperplane_nat.metrics.distribution import Distribution
from hyperplane_nat.metrics.families import METRICS, PREFIX, MetricSpec
from hyperplane_nat.metrics.private_link import EndpointFigures, samples


@dataclass(frozen=True, slots=True)
class LabSnapshot:
    """What is exported, at one moment."""

    lab: str
    counters: Mapping[str, int]
    """Every counter of the state map by name."""
    flows_max: int
    state_file_bytes: int
    forwarder_up: bool
    forwarder_restarts: int
    forwarder_hangs: int
    forwarder_resident_bytes: int
    forwarder_cpu_seconds: float = 0.0
    forwarder_failover_seconds: float = 0.0
    environments_by_interface: Mapping[str, int] = field(default_factory=dict)
    hosts: Mapping[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)
    """By VPC and name: counters, and flows."""
    targets: Sequence[TargetCount] = ()
    nodes: Sequence[NodeFigures] = ()
    endpoints: Sequence[EndpointFigures] = ()
    services: Mapping[str, tuple[bool, int]] = field(default_factory=dict)
    """By label: whether it runs, and its restarts."""
    interfaces: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By interface: the metrics of `CLOUDWATCH` by AWS's name."""
    remote_errors: Sequence[RemoteCount] = ()
    ports: Sequence[AddressPorts] = ()
    ports_limit: int = 0
    """0 is none."""
    remote_ports: Sequence[RemotePortsTaken] = ()
    remote_ports_limit: int = 0
    pool_ready: int = 0
    pool_size: int = 0
    function_states: Mapping[str, str] = field(default_factory=dict)
    invocations: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By function, and `cold` or `warm`."""
    cold_starts: Distribution = field(default_factory=Distribution)
    events: Mapping[str, int] = field(default_factory=dict)
    """By kind, every kind there is."""
    flow_logs: FlowRecordFigures | None = None
    """None without flow logs."""
    dns_queries: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By VPC and what became of them."""


Samples = dict[str, list[tuple[tuple[str, ...], float]]]
"""Label values and value of every sample, by the metric's name."""


def _own_samples(snapshot: LabSnapshot) -> Samples:
    """What does not come from the map's counters."""
    attached = snapshot.environments_by_interface
    logs = snapshot.flow_logs
    return {
        "flow_log_lines": [((), 0 if logs is None else logs.lines)],
        "flow_log_lines_lost": [((), 0 if logs is None else logs.lines_lost)],
        "flow_table_entries_limit": [((), snapshot.flows_max)],
        "forwarder_restarts": [((), snapshot.forwarder_restarts)],
        "forwarder_hangs": [((), snapshot.forwarder_hangs)],
        "forwarder_up": [((), float(snapshot.forwarder_up))],
        "forwarder_cpu_seconds": [((), snapshot.forwarder_cpu_seconds)],
        "forwarder_resident_memory_bytes": [((), snapshot.forwarder_resident_bytes)],
        "forwarder_failover_seconds": [((), snapshot.forwarder_failover_seconds)],
        "state_file_bytes": [((), snapshot.state_file_bytes)],
        "environments": [((), sum(attached.values()))],
        "network_interface_environments": [((name,), count) for name, count in attached.items()],
        "hosts": [((vpc,), n) for vpc, n in Counter(vpc for vpc, _ in snapshot.hosts).items()],
        **{
            f"host_{unit}": [
                ((*host, way), counters[f"{unit}_{way}"])
                for host, counters in snapshot.hosts.items()
                for way in ("out", "in")
            ]
            for unit in ("packets", "bytes")
        },
        **{
            f"host_{name}": [(host, counters[name]) for host, counters in snapshot.hosts.items()]
            for name in ("drops", "flows")
        },
        **{
            each.name: [
                ((node.load_balancer, node.zone), node.counters.get(each.counter, 0))
                for node in snapshot.nodes
            ]
            for each in NODES
        },
        **dict(samples(snapshot.endpoints)),
        **{
            f"networkelb_{name}_host": [
                ((each.load_balancer, each.target_group, each.zone), getattr(each, name))
                for each in snapshot.targets
            ]
            for name in ("healthy", "unhealthy")
        },
        "service_up": [((name,), float(state[0])) for name, state in snapshot.services.items()],
        "service_restarts": [((name,), state[1]) for name, state in snapshot.services.items()],
        "dns_queries": [
            ((vpc, outcome), count)
            for vpc, counts in snapshot.dns_queries.items()
            for outcome, count in counts.items()
        ],
        "build_info": [((__version__, snapshot.lab), 1)],
        "natgateway_remote_error_port_allocation": [
            ((each.interface, each.protocol, each.remote), each.count)
            for each in snapshot.remote_errors
        ],
        "natgateway_ports": [
            ((each.interface, each.address), each.ports) for each in snapshot.ports
        ],
        "natgateway_ports_limit": [((), snapshot.ports_limit)] if snapshot.ports_limit else [],
        "natgateway_remote_ports": [
            ((each.interface, each.address, each.protocol, each.remote), each.ports)
            for each in snapshot.remote_ports
        ],
        "natgateway_remote_ports_limit": [((), snapshot.remote_ports_limit)],
        "pool_environments": [((), snapshot.pool_ready)],
        "pool_environments_limit": [((), snapshot.pool_size)],
        "function_state": [((name, state), 1) for name, state in snapshot.function_states.items()],
        "invocations": list(snapshot.invocations.items()),
        "events": [((kind,), count) for kind, count in snapshot.events.items()],
        **{
            each.name: [
                ((name,), figures[each.aws]) for name, figures in snapshot.interfaces.items()
            ]
            for each in CLOUDWATCH
        },
    }


def _distributions(snapshot: LabSnapshot) -> dict[str, tuple[list[tuple[float, int]], float]]:
    """Of every histogram the values between two bounds, by the upper one, and their sum."""
    batches = [
        (float(name.removeprefix("batch_size_bucket_")), value)
        for name, value in snapshot.counters.items()
        if name.startswith("batch_size_bucket_")
    ]
    cold = snapshot.cold_starts
    return {
        "batch_frames": (sorted(batches), snapshot.counters.get("batch_frames", 0)),
        "cold_start_seconds": (
            list(zip((*cold.bounds, math.inf), list(cold.counts), strict=True)),
            cold.sum,
        ),
    }


def _histogram(
    spec: MetricSpec, ranges: Sequence[tuple[float, int]], total: float
) -> HistogramMetricFamily:
    """Prometheus accumulates: a bucket counts what is below it, too."""
    buckets: list[tuple[str, float]] = []
    count = 0
    for bound, value in ranges:
        count += value
        buckets.append(("+Inf" if bound == math.inf else str(bound), count))
    # `_count` is the last bucket, not the counter of batches: both are read while they grow.
    return HistogramMetricFamily(PREFIX + spec.name, spec.help, buckets=buckets, sum_value=total)


class LabCollector(Collector):
    """Turns a snapshot, taken at every scrape, into metrics."""

    def __init__(self, snapshot: Callable[[], LabSnapshot]) -> None:
        """`snapshot()` is called in whatever thread collects."""
        self._snapshot = snapshot

    def describe(self) -> list[Metric]:
        """The metrics without samples, so that registering does not take a snapshot."""
        return [self._family(spec) for spec in METRICS]

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now."""
        snapshot = self._snapshot()
        samples = _own_samples(snapshot)
        distributions = _distributions(snapshot)
        for spec in METRICS:
            if spec.kind == "histogram":
                yield _histogram(spec, *distributions[spec.name])
                continue
            family = self._family(spec)
            for labels, value in _from_counters(spec, snapshot.counters):
                family.add_metric(labels, value)
            for labels, number in samples.get(spec.name, ()):
                family.add_metric(labels, number)
            yield family

    @staticmethod
    def _family(spec: MetricSpec) -> CounterMetricFamily | GaugeMetricFamily:
        kind = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
        return kind(PREFIX + spec.name, spec.help, labels=spec.labels)


def _from_counters(
    spec: MetricSpec, counters: Mapping[str, int]
) -> Iterator[tuple[tuple[str, ...], int]]:
    if spec.pattern is None:
        return
    pattern = re.compile(spec.pattern)
    for name, value in counters.items():
        if match := pattern.fullmatch(name):
            yield match.groups(), value


def registry(snapshot: Callable[[], LabSnapshot]) -> CollectorRegistry:
    """A registry with the lab's metrics and those of the controller's own process."""
    result = CollectorRegistry(auto_describe=False)
    result.register(LabCollector(snapshot))
    ProcessCollector(registry=result)
    return result
