# SPDX-License-Identifier: Apache-2.0
"""
What Prometheus sees of a lab.

Theory of operation: nothing is counted here. The forwarder counts in the state map, the controller
knows about processes, and `LabCollector` reads both when somebody scrapes. `METRICS` is the one
list of what is exported, and from which counters of the map; docs/metrics.md is written from it
(`python -m hyperplane_nat.metrics`), and a test compares it with the counters of the engine, so a
counter cannot be added without deciding what becomes of it.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for what only grows.
Counters live as long as the state map: they survive a forwarder and a controller, and start again
at zero with a new lab.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

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
from hyperplane_nat.cloudwatch import CLOUDWATCH, RemoteErrors
from hyperplane_nat.engine.constants import counter_names
from hyperplane_nat.engine.flow_record_ring import FlowRecordFigures

PREFIX = "hyperplane_nat_"

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One exported metric and where its values come from."""

    name: str
    """Without the prefix; a counter's without `_total`."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    pattern: str | None = None
    """Full match for the names of the map's counters it is made of, the groups being the labels'
    values; None for what the controller knows by itself."""

    @property
    def exported(self) -> str:
        """The name that Prometheus shows."""
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


_PROTOCOL = "(tcp|udp|icmp)"
_DIRECTION = "(in_from_source|out_to_destination|in_from_destination|out_to_source)"

METRICS: tuple[MetricSpec, ...] = (
    *(MetricSpec(each.name, each.kind, each.help, ("interface",)) for each in CLOUDWATCH),
    MetricSpec(
        "natgateway_remote_error_port_allocation",
        "counter",
        "New flows refused for want of a source port, for the ten remote endpoints with the most.",
        ("interface", "protocol", "remote"),
    ),
    MetricSpec(
        "packets",
        "counter",
        "Packets by direction: in_from_source and out_to_source face the environments, "
        "out_to_destination and in_from_destination the VPCs.",
        ("direction",),
        f"packets_{_DIRECTION}",
    ),
    MetricSpec(
        "bytes",
        "counter",
        "Bytes by direction, counted as IPv4 total length.",
        ("direction",),
        f"bytes_{_DIRECTION}",
    ),
    MetricSpec(
        "flows_active",
        "gauge",
        "Flows that have not ended.",
        ("protocol",),
        f"flows_active_{_PROTOCOL}",
    ),
    MetricSpec(
        "flows_created",
        "counter",
        "Flows created, a reopened one included.",
        ("protocol",),
        f"flows_created_{_PROTOCOL}",
    ),
    MetricSpec(
        "flows_ended",
        "counter",
        "Flows ended, by cause.",
        ("protocol", "cause"),
        f"flows_ended_{_PROTOCOL}_(.+)",
    ),
    MetricSpec(
        "flow_table_entries",
        "gauge",
        "Entries of the flow table: used, those whose port is held after the end of the flow "
        "included, and max.",
        ("state",),
        "flows_entries_(used)",
    ),
    MetricSpec(
        "drops",
        "counter",
        "Frames that were not forwarded, by reason.",
        ("reason",),
        "drop_(.+)",
    ),
    MetricSpec(
        "port_allocation_errors",
        "counter",
        "New flows refused because no source port was left towards their remote endpoint.",
        (),
        "port_allocation_errors",
    ),
    MetricSpec(
        "icmp_errors_translated",
        "counter",
        "ICMP error messages translated together with the packet they quote.",
        (),
        "icmp_errors_translated",
    ),
    MetricSpec(
        "replies",
        "counter",
        "Frames the gateway answered itself: ARP replies, ICMP errors, and resets for TCP segments "
        "of connections that were idle too long.",
        ("protocol",),
        "replies_(arp|icmp|tcp)",
    ),
    MetricSpec(
        "connection_attempts",
        "counter",
        "TCP segments with SYN from environments.",
        (),
        "tcp_syns_from_source",
    ),
    MetricSpec(
        "connections_established",
        "counter",
        "TCP connections whose handshake was completed.",
        (),
        "flows_established_tcp",
    ),
    MetricSpec(
        "mappings_active",
        "gauge",
        "Endpoint-independent mappings in use.",
        (),
        "mappings_active",
    ),
    MetricSpec(
        "packets_hairpinned",
        "counter",
        "Packets from one environment to another's mapping.",
        (),
        "packets_hairpinned",
    ),
    MetricSpec(
        "fragments_forwarded",
        "counter",
        "Fragments that arrived and were forwarded.",
        (),
        "fragments_forwarded",
    ),
    MetricSpec(
        "fragments_waiting",
        "gauge",
        "Fragments kept until the first of their datagram arrives.",
        (),
        "fragments_waiting",
    ),
    MetricSpec(
        "packets_fragmented",
        "counter",
        "Packets that were too big for the next link and left as fragments.",
        (),
        "packets_fragmented",
    ),
    MetricSpec(
        "mss_clamped",
        "counter",
        "SYN segments whose MSS option was lowered.",
        (),
        "mss_clamped",
    ),
    MetricSpec(
        "flow_records_lost",
        "counter",
        "Records for flow logs that found no room.",
        (),
        "flow_records_lost",
    ),
    MetricSpec("flow_log_lines", "counter", "Lines of flow logs written."),
    MetricSpec(
        "flow_log_lines_lost",
        "counter",
        "Lines of flow logs that could not be written, on a full disk for example.",
    ),
    MetricSpec(
        "neighbour_requests",
        "counter",
        "ARP requests sent into the VPCs for next hops.",
        (),
        "neighbour_requests",
    ),
    MetricSpec(
        "neighbour_failures",
        "counter",
        "Next hops in the VPCs that did not answer ARP.",
        (),
        "neighbour_failures",
    ),
    MetricSpec(
        "ring_frames",
        "counter",
        "Frames taken from the receive ring.",
        (),
        "ring_received",
    ),
    MetricSpec(
        "ring_bytes",
        "counter",
        "Bytes of the frames taken from the receive ring.",
        (),
        "ring_bytes",
    ),
    MetricSpec(
        "ring_dropped_frames",
        "counter",
        "Frames the kernel dropped because the receive ring was full.",
        (),
        "ring_dropped",
    ),
    MetricSpec(
        "ring_oversize_frames",
        "counter",
        "Frames larger than a slot of the receive ring, fetched from the socket's queue.",
        (),
        "ring_oversize",
    ),
    MetricSpec(
        "transmit_frames",
        "counter",
        "Frames handed to the kernel.",
        (),
        "transmitted",
    ),
    MetricSpec(
        "transmit_coalesced_frames",
        "counter",
        "UDP frames that left as a part of the frame before; they count as transmitted, too.",
        (),
        "transmit_coalesced",
    ),
    MetricSpec(
        "transmit_full_frames",
        "counter",
        "Frames lost because a send queue was full (EAGAIN, ENOBUFS).",
        (),
        "transmit_full",
    ),
    MetricSpec(
        "transmit_errors",
        "counter",
        "Frames the kernel refused to send for another reason.",
        (),
        "transmit_errors",
    ),
    MetricSpec(
        "batch_frames",
        "histogram",
        "Frames handled together, per batch.",
        (),
        "batches|batch_frames|batch_size_bucket_(.+)",
    ),
    MetricSpec(
        "events_lost",
        "counter",
        "Events of the engine that were overwritten before anybody read them.",
        (),
        "events_lost",
    ),
    MetricSpec(
        "flow_table_discarded_entries",
        "counter",
        "Entries discarded when the flow table's index was rebuilt, because they disagreed.",
        (),
        "rebuild_discarded",
    ),
    MetricSpec(
        "forwarder_starts",
        "counter",
        "Forwarders that opened the state map since it was made.",
        (),
        "forwarder_starts",
    ),
    MetricSpec(
        "forwarder_restarts",
        "counter",
        "Forwarders started by this controller to replace one that died.",
    ),
    MetricSpec(
        "forwarder_hangs",
        "counter",
        "Forwarders killed by this controller because they gave no sign of life.",
    ),
    MetricSpec("forwarder_up", "gauge", "Whether a forwarder is configured and moves packets."),
    MetricSpec(
        "forwarder_resident_memory_bytes",
        "gauge",
        "Resident memory of the forwarder, the part of the state map it touched included.",
    ),
    MetricSpec(
        "forwarder_failover_seconds",
        "gauge",
        "From the death of the last forwarder until its successor was configured; 0 before the "
        "first restart.",
    ),
    MetricSpec("state_file_bytes", "gauge", "Size of the state map."),
    MetricSpec("environments", "gauge", "Execution environments."),
    MetricSpec(
        "network_interface_environments",
        "gauge",
        "Environments attached, per network interface.",
        ("interface",),
    ),
    MetricSpec("service_up", "gauge", "Whether a service in a VPC runs.", ("service",)),
    MetricSpec(
        "service_restarts",
        "counter",
        "Restarts of a service in a VPC by this controller.",
        ("service",),
    ),
    MetricSpec("build_info", "gauge", "Always 1; the version is a label.", ("version", "lab")),
)


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
    forwarder_failover_seconds: float = 0.0
    environments_by_interface: Mapping[str, int] = field(default_factory=dict)
    services: Mapping[str, tuple[bool, int]] = field(default_factory=dict)
    """By label: whether it runs, and its restarts."""
    interfaces: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """By interface: the metrics of `CLOUDWATCH` by AWS's name."""
    remote_errors: Sequence[RemoteErrors] = ()
    flow_logs: FlowRecordFigures | None = None
    """None without flow logs."""


Samples = dict[str, list[tuple[tuple[str, ...], float]]]
"""Label values and value of every sample, by the metric's name."""


def _own_samples(snapshot: LabSnapshot) -> Samples:
    """What does not come from the map's counters."""
    attached = snapshot.environments_by_interface
    logs = snapshot.flow_logs
    return {
        "flow_log_lines": [((), 0 if logs is None else logs.lines)],
        "flow_log_lines_lost": [((), 0 if logs is None else logs.lines_lost)],
        "flow_table_entries": [(("max",), snapshot.flows_max)],
        "forwarder_restarts": [((), snapshot.forwarder_restarts)],
        "forwarder_hangs": [((), snapshot.forwarder_hangs)],
        "forwarder_up": [((), float(snapshot.forwarder_up))],
        "forwarder_resident_memory_bytes": [((), snapshot.forwarder_resident_bytes)],
        "forwarder_failover_seconds": [((), snapshot.forwarder_failover_seconds)],
        "state_file_bytes": [((), snapshot.state_file_bytes)],
        "environments": [((), sum(attached.values()))],
        "network_interface_environments": [((name,), count) for name, count in attached.items()],
        "service_up": [((name,), float(state[0])) for name, state in snapshot.services.items()],
        "service_restarts": [((name,), state[1]) for name, state in snapshot.services.items()],
        "build_info": [((__version__, snapshot.lab), 1)],
        "natgateway_remote_error_port_allocation": [
            ((each.interface, each.protocol, each.remote), each.errors)
            for each in snapshot.remote_errors
        ],
        **{
            each.name: [
                ((name,), figures[each.aws]) for name, figures in snapshot.interfaces.items()
            ]
            for each in CLOUDWATCH
        },
    }


def _histogram(spec: MetricSpec, counters: Mapping[str, int]) -> HistogramMetricFamily:
    """The batch sizes. A bucket of the map counts only its own range; Prometheus accumulates."""
    bounds = [
        (name.removeprefix("batch_size_bucket_"), value)
        for name, value in counters.items()
        if name.startswith("batch_size_bucket_")
    ]
    bounds.sort(key=lambda item: float(item[0]))
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, value in bounds:
        total += value
        buckets.append(("+Inf" if bound == "inf" else str(float(bound)), total))
    # `_count` is the last bucket, not the counter of batches: both are read while they grow.
    return HistogramMetricFamily(
        PREFIX + spec.name, spec.help, buckets=buckets, sum_value=counters.get("batch_frames", 0)
    )


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
        for spec in METRICS:
            if spec.kind == "histogram":
                yield _histogram(spec, snapshot.counters)
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


def markdown() -> str:
    """docs/metrics.md."""
    lines = [
        "<!-- Written by `python -m hyperplane_nat.metrics`; do not edit. -->",
        "# Metrics",
        "",
        "Served at `http://127.0.0.1:9109/metrics` unless `metrics.address` and `metrics.port` say "
        "otherwise. Counters are kept in the state map: they survive a restart of the forwarder or "
        "of the controller and start at zero with a new lab. `process_*` are those of the "
        "controller's process.",
        "",
        "| name | type | labels | meaning |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{spec.exported}` | {spec.kind} | "
        f"{', '.join(f'`{label}`' for label in spec.labels)} | {spec.help} |"
        for spec in METRICS
    ]
    lines += [
        "",
        "## CloudWatch",
        "",
        "What AWS publishes of a NAT gateway (namespace `AWS/NATGateway`) is here for each network "
        "interface, under AWS's name in snake case without its `Count`. AWS's sum over a minute is "
        "`increase(...[1m])`. AWS tells nothing by remote endpoint: "
        "`hyperplane_nat_natgateway_remote_error_port_allocation_total` does, for the ten with the "
        "most errors; `hyperplane-nat ports` for all.",
        "",
        "| CloudWatch | here |",
        "|---|---|",
    ]
    by_name = {spec.name: spec.exported for spec in METRICS}
    lines += [f"| `{each.aws}` | `{by_name[each.name]}` |" for each in CLOUDWATCH]
    reasons = [name.removeprefix("drop_") for name in counter_names() if name.startswith("drop_")]
    lines += [
        "",
        "## Reasons of drops",
        "",
        "Every reason is exported from the start, with 0 if it never occurred:",
        "",
        ", ".join(f"`{reason}`" for reason in reasons) + ".",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(markdown())
