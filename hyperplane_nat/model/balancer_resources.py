# SPDX-License-Identifier: Apache-2.0
"""Wanted load balancers, listeners and target groups: see `resources`.

Defaults are AWS's (Elastic Load Balancing API, `CreateTargetGroup`, `TargetGroupAttribute`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address

TCP_IDLE_SECONDS = 350
"""`tcp.idle_timeout.seconds` of a listener, where nobody says."""


class BalancerProtocol(StrEnum):
    """What listeners and target groups speak; AWS has TLS, QUIC and TCP_QUIC besides."""

    TCP = "TCP"
    UDP = "UDP"
    TCP_UDP = "TCP_UDP"

    @property
    def transports(self) -> tuple[str, ...]:
        """The protocols under it."""
        return _TRANSPORTS[self]


_TRANSPORTS = {each: tuple(each.value.lower().split("_")) for each in BalancerProtocol}


class TargetType(StrEnum):
    """What the targets of a group are; AWS has `alb` besides."""

    INSTANCE = "instance"
    """Hosts."""
    IP = "ip"


class Scheme(StrEnum):
    """From where clients come to the nodes of a load balancer."""

    INTERNAL = "internal"
    INTERNET_FACING = "internet-facing"
    """From the internet, to a public address of each node."""


class CheckProtocol(StrEnum):
    """What a target is asked by."""

    TCP = "TCP"
    HTTP = "HTTP"
    HTTPS = "HTTPS"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How a group's targets are checked. Durations are AWS's, before they are scaled."""

    protocol: CheckProtocol = CheckProtocol.TCP
    port: int | None = None
    """None: the target's own (`traffic-port`)."""
    path: str = "/"
    codes: str = "200-399"
    """Of HTTP answers that are good: numbers and ranges, between commas."""
    interval_seconds: float = 30
    timeout_seconds: float | None = None
    """None: 6 for HTTP, 10 for the others."""
    healthy_count: int = 5
    """So many good checks in a row make an unhealthy target healthy."""
    unhealthy_count: int = 2

    @property
    def timeout(self) -> float:
        """`timeout_seconds`, said or not."""
        if self.timeout_seconds is not None:
            return self.timeout_seconds
        return 6 if self.protocol is CheckProtocol.HTTP else 10


@dataclass(frozen=True, slots=True)
class GroupAttributes:
    """Attributes of a target group; None is AWS's default, which depends on protocol and type."""

    preserve_client_ip: bool | None = None
    proxy_protocol_v2: bool = False
    """`proxy_protocol_v2.enabled`."""
    stickiness: bool = False
    """By source address (`source_ip`)."""
    deregistration_delay_seconds: float = 300
    deregistration_terminates: bool | None = None
    """`deregistration_delay.connection_termination.enabled`."""
    unhealthy_terminates: bool | None = None
    """`target_health_state.unhealthy.connection_termination.enabled`."""
    unhealthy_draining_seconds: float = 0
    minimum_healthy: int = 1
    """With fewer healthy targets all are used."""
    dns_minimum_healthy: int = 1
    """With fewer healthy targets in a zone, the zone's address is left out of answers."""
    cross_zone: bool | None = None
    """None: as the load balancer."""


@dataclass(frozen=True, slots=True)
class TargetResource:
    """A target: a host of the VPC by name, or an address; exactly one of them is given."""

    host: str | None = None
    address: IPv4Address | None = None
    port: int | None = None
    """None: that of the group."""


@dataclass(frozen=True, slots=True)
class TargetGroupResource:
    """A target group of a VPC."""

    name: str
    protocol: BalancerProtocol
    port: int
    type: TargetType = TargetType.INSTANCE
    health_check: HealthCheck = HealthCheck()
    attributes: GroupAttributes = GroupAttributes()
    targets: tuple[TargetResource, ...] = ()


@dataclass(frozen=True, slots=True)
class ListenerResource:
    """A listener of a load balancer, and the target group that it forwards to."""

    protocol: BalancerProtocol
    port: int
    target_group: str
    tcp_idle_seconds: float = TCP_IDLE_SECONDS


@dataclass(frozen=True, slots=True)
class NodeResource:
    """A node of a load balancer: a subnet by name, and its address there."""

    subnet: str
    address: IPv4Address | None = None
    """None: a free one."""
    elastic_address: IPv4Address | None = None
    """Of an internet-facing load balancer, its public address; None: a free one."""
    allocation: str | None = None
    """Or the public address that it is, by its allocation id."""


@dataclass(frozen=True, slots=True)
class LoadBalancerResource:
    """A Network Load Balancer of a VPC."""

    name: str
    nodes: tuple[NodeResource, ...]
    security_groups: tuple[str, ...] = ()
    """Without any at its creation it never has one, and lets everything in."""
    cross_zone: bool = False
    secondary_addresses: int = 0
    """Further addresses of each node (`secondary_ips.auto_assigned.per_subnet`)."""
    listeners: tuple[ListenerResource, ...] = ()
    scheme: Scheme = Scheme.INTERNAL
