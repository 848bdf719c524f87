# SPDX-License-Identifier: Apache-2.0
"""Every metric of a lab: its name, kind, labels and meaning, and the counters it is made of.

`METRICS` is the one list; docs/metrics.md is written from it, and a test compares it with the
counters of the engine, so a counter cannot be added without deciding what becomes of it.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for what only grows,
and no label by which a sum makes no sense. Counters live as long as the state map: they survive a
forwarder and a controller, and start again at zero with a new lab; those of invocations and events
are the controller's own and start again with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hyperplane_nat.metrics.cloudwatch import CLOUDWATCH, NODES
from hyperplane_nat.metrics.private_link import METRICS as PRIVATE_LINK

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
    *(MetricSpec(each.name, each.kind, each.help, ("load_balancer", "zone")) for each in NODES),
    *(MetricSpec(each.name, each.kind, each.help, each.labels) for each in PRIVATE_LINK),
    *(
        MetricSpec(
            f"networkelb_{state}_host",
            "gauge",
            f"Targets that are {state} and in the reach of a node.",
            ("load_balancer", "target_group", "zone"),
        )
        for state in ("healthy", "unhealthy")
    ),
    MetricSpec(
        "natgateway_remote_error_port_allocation",
        "counter",
        "New flows refused for want of a source port, for the ten remote endpoints with the most.",
        ("interface", "protocol", "remote"),
    ),
    MetricSpec(
        "natgateway_ports",
        "gauge",
        "Source ports of an address of an interface in use or held, towards all remote endpoints; "
        "counted by connection, as `ports.limit_per_interface` does.",
        ("interface", "address"),
    ),
    MetricSpec(
        "natgateway_ports_limit",
        "gauge",
        "`ports.limit_per_interface`; absent where there is none.",
    ),
    MetricSpec(
        "natgateway_remote_ports",
        "gauge",
        "Source ports taken towards a remote endpoint, held ones included, for the ten with the "
        "most among those with a twentieth of the limit or more; looked up every ten seconds.",
        ("interface", "address", "protocol", "remote"),
    ),
    MetricSpec(
        "natgateway_remote_ports_limit",
        "gauge",
        "Source ports that an address of an interface may have towards one remote endpoint.",
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
        "Flows created, those that take over the entry of another included.",
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
        "Entries of the flow table in use, those whose port is held after the end of the flow "
        "included.",
        (),
        "flows_entries_used",
    ),
    MetricSpec("flow_table_entries_limit", "gauge", "Entries that the flow table has room for."),
    MetricSpec(
        "drops",
        "counter",
        "Packets that were not forwarded, by reason.",
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
        "ring_used_slots",
        "gauge",
        "Slots of the receive ring with a frame in them, twice a second.",
        (),
        "ring_slots_used",
    ),
    MetricSpec(
        "ring_used_slots_peak",
        "gauge",
        "The most of them at a time within the last minute, of every batch.",
        (),
        "ring_slots_peak",
    ),
    MetricSpec(
        "ring_slots_limit",
        "gauge",
        "Slots of the receive ring.",
        (),
        "ring_slots",
    ),
    MetricSpec(
        "ring_oversize_frames",
        "counter",
        "Frames larger than a slot of the receive ring, fetched from the socket's queue.",
        (),
        "ring_oversize",
    ),
    MetricSpec(
        "flow_cache_flows",
        "gauge",
        "Flows that are in the flow cache.",
        (),
        "flow_cache_flows",
    ),
    MetricSpec(
        "flow_cache_promotions",
        "counter",
        "Flows that were put into the flow cache.",
        (),
        "flow_cache_promotions",
    ),
    MetricSpec(
        "flow_cache_demotions",
        "counter",
        "Flows that were taken out of it, because they ended or for another reason.",
        (),
        "flow_cache_demotions",
    ),
    MetricSpec(
        "flow_cache_refusals",
        "counter",
        "Times that it had no room for a flow.",
        (),
        "flow_cache_full",
    ),
    MetricSpec(
        "flow_cache_packets",
        "counter",
        "Packets that it has forwarded (hits); they are counted with all others, too.",
        (),
        "flow_cache_packets",
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
        "forwarder_timer_failures",
        "counter",
        "Failures of the forwarder's timers (expiry, sweep, neighbours, statistics); see its log.",
        (),
        "forwarder_timer_failures",
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
        "forwarder_cpu_seconds",
        "counter",
        "Processor time of the forwarder, user and system; starts again with each forwarder.",
    ),
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
    MetricSpec("environments", "gauge", "Execution environments that are attached."),
    MetricSpec("pool_environments", "gauge", "Execution environments that are ready to be taken."),
    MetricSpec("pool_environments_limit", "gauge", "How many of them are kept ready."),
    MetricSpec(
        "function_state",
        "gauge",
        "1 for the state that a function is in, by Lambda's name.",
        ("function", "state"),
    ),
    MetricSpec(
        "invocations",
        "counter",
        "Invocations that had an environment, by how it was found: cold or warm.",
        ("function", "start"),
    ),
    MetricSpec(
        "cold_start_seconds",
        "histogram",
        "From a cold invocation until the network of its environment was ready.",
    ),
    MetricSpec(
        "events",
        "counter",
        "Events by kind, those that were only counted included.",
        ("kind",),
    ),
    MetricSpec(
        "network_interface_environments",
        "gauge",
        "Environments attached, per network interface.",
        ("interface",),
    ),
    MetricSpec("hosts", "gauge", "Hosts of a VPC, attached namespaces among them.", ("vpc",)),
    MetricSpec(
        "host_packets",
        "counter",
        "Packets of a host by direction, out being from it; those that were let pass.",
        ("vpc", "host", "direction"),
    ),
    MetricSpec(
        "host_bytes",
        "counter",
        "Bytes of a host by direction, counted as IPv4 total length.",
        ("vpc", "host", "direction"),
    ),
    MetricSpec("host_drops", "counter", "Frames of a host that were dropped.", ("vpc", "host")),
    MetricSpec(
        "host_flows", "gauge", "Flows that a host has begun and that live.", ("vpc", "host")
    ),
    MetricSpec("service_up", "gauge", "Whether a service in a VPC runs.", ("service",)),
    MetricSpec(
        "service_restarts",
        "counter",
        "Restarts of a service in a VPC by this controller.",
        ("service",),
    ),
    MetricSpec(
        "dns_queries",
        "counter",
        "Queries to the resolver of a VPC; rate_limited is more than 1,024 packets in a second of "
        "one network interface (AWS).",
        ("vpc", "outcome"),
    ),
    MetricSpec("build_info", "gauge", "Always 1; the version is a label.", ("version", "lab")),
)
