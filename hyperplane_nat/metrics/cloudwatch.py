# SPDX-License-Identifier: Apache-2.0
"""The metrics of a NAT gateway that AWS publishes in CloudWatch, and what they are called here.

Theory of operation
-------------------
AWS's names (Amazon VPC User Guide, "Monitor NAT gateways with Amazon CloudWatch", namespace
AWS/NATGateway) are mapped one to one. A metric's name is `natgateway_` and AWS's name in snake case
without its `Count`, which Prometheus keeps for itself; the label `interface` stands for the
dimension NatGatewayId. What AWS sums over a minute only grows here, and `increase(...[1m])` is
AWS's figure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hyperplane_nat.engine.state.constants import INTERFACE_COUNTER_NAMES


@dataclass(frozen=True, slots=True)
class CloudWatchMetric:
    """One metric of AWS/NATGateway."""

    aws: str
    """AWS's name."""
    help: str
    counter: str | None = None
    """The interface's counter in the state map; None for what the controller works out."""

    @property
    def kind(self) -> Literal["counter", "gauge"]:
        """What it is to Prometheus."""
        return "gauge" if self.counter is None else "counter"

    @property
    def name(self) -> str:
        """Our name, without the prefix and a counter's `_total`."""
        words = re.findall("[A-Z][a-z]+", self.aws.removesuffix("Count"))
        return "natgateway_" + "_".join(word.lower() for word in words)


_DIRECTIONS = {
    "InFromDestination": "received from the VPC",
    "InFromSource": "received from environments",
    "OutToDestination": "sent into the VPC",
    "OutToSource": "sent to environments",
}


def _traffic(unit: str) -> tuple[CloudWatchMetric, ...]:
    return tuple(
        CloudWatchMetric(
            unit + direction,
            f"{unit} {words} by an interface.",
            f"{unit.lower()}_{'_'.join(re.findall('[A-Z][a-z]+', direction)).lower()}",
        )
        for direction, words in _DIRECTIONS.items()
    )


CLOUDWATCH: tuple[CloudWatchMetric, ...] = (
    CloudWatchMetric(
        "ActiveConnectionCount", "TCP connections of an interface that have not ended."
    ),
    *_traffic("Bytes"),
    CloudWatchMetric(
        "ConnectionAttemptCount", "TCP segments with SYN from environments.", "tcp_syns_from_source"
    ),
    CloudWatchMetric(
        "ConnectionEstablishedCount",
        "TCP connections whose handshake was completed.",
        "flows_established_tcp",
    ),
    CloudWatchMetric(
        "ErrorPortAllocation",
        "New flows refused because no source port was left, or a limit was reached.",
        "port_allocation_errors",
    ),
    CloudWatchMetric(
        "IdleTimeoutCount", "Flows of any protocol that ended for being idle.", "flows_timed_out"
    ),
    CloudWatchMetric(
        "PacketsDropCount", "Packets of an interface that were not forwarded.", "drops"
    ),
    *_traffic("Packets"),
    CloudWatchMetric(
        "PeakBytesPerSecond",
        "Highest average of ten seconds within the last minute, of bytes received on both sides.",
    ),
    CloudWatchMetric(
        "PeakPacketsPerSecond",
        "Highest average of ten seconds within the last minute, of packets received on both sides.",
    ),
)

assert {each.counter for each in CLOUDWATCH} - {None} == {*INTERFACE_COUNTER_NAMES} - {"ports"}


@dataclass(frozen=True, slots=True)
class AddressPorts:
    """Source ports of one address of an interface in use or held, towards all remote endpoints."""

    interface: str
    address: str
    ports: int


@dataclass(frozen=True, slots=True)
class RemotePortsTaken:
    """Source ports of one address that are in use or held towards one remote endpoint."""

    interface: str
    address: str
    protocol: str
    remote: str
    """As in `RemoteCount`."""
    ports: int


@dataclass(frozen=True, slots=True)
class RemoteCount:
    """Flows refused towards one remote endpoint."""

    interface: str
    protocol: str
    remote: str
    """Address and port; `any` for limits and for ports of endpoint-independent mappings."""
    count: int


@dataclass(frozen=True, slots=True)
class NodeMetric:
    """One metric of AWS/NetworkELB, of a load balancer's node."""

    aws: str
    """AWS's name."""
    help: str
    counter: str
    """The node's counter in the state map."""
    kind: Literal["counter", "gauge"] = "counter"

    @property
    def name(self) -> str:
        """Our name, without the prefix and a counter's `_total`."""
        words = re.findall("TCP|ELB|UDP|[A-Z][a-z]+", self.aws)
        return "networkelb_" + "_".join(word.lower() for word in words if word != "Count")


NODES: tuple[NodeMetric, ...] = (
    NodeMetric("ActiveFlowCount", "Flows of a node, of any protocol.", "active_flows", "gauge"),
    NodeMetric("ActiveFlowCount_TCP", "TCP flows of a node.", "active_flows_tcp", "gauge"),
    NodeMetric("ActiveFlowCount_UDP", "UDP flows of a node.", "active_flows_udp", "gauge"),
    NodeMetric("NewFlowCount_TCP", "TCP flows that have begun.", "new_flows_tcp"),
    NodeMetric("NewFlowCount_UDP", "UDP flows that have begun.", "new_flows_udp"),
    NodeMetric("ProcessedBytes", "Bytes that a node has passed on.", "processed_bytes"),
    NodeMetric("ProcessedPackets", "Packets that a node has passed on.", "processed_packets"),
    NodeMetric("TCP_Client_Reset_Count", "Resets sent by clients.", "tcp_client_resets"),
    NodeMetric("TCP_ELB_Reset_Count", "Resets sent by the load balancer.", "tcp_elb_resets"),
    NodeMetric("TCP_Target_Reset_Count", "Resets sent by targets.", "tcp_target_resets"),
    NodeMetric(
        "PortAllocationErrorCount",
        "New flows refused because no source port was left towards a target.",
        "port_allocation_errors",
    ),
    NodeMetric(
        "SecurityGroupBlockedFlowCount",
        "New flows refused by the load balancer's security groups.",
        "security_group_blocked",
    ),
)
"""CloudWatch metrics for your Network Load Balancer; AWS's SecurityGroupBlockedFlowCount has
directions and protocols besides."""


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """What a node has counted."""

    load_balancer: str
    """VPC/name."""
    zone: str
    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TargetCount:
    """Targets that a node could use: HealthyHostCount and UnHealthyHostCount."""

    load_balancer: str
    target_group: str
    """Both VPC/name."""
    zone: str
    healthy: int
    unhealthy: int
