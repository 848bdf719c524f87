# SPDX-License-Identifier: Apache-2.0
"""The sections for load balancers of a VPC: target groups with their checks, balancers, listeners.

Ranges and defaults are AWS's; what does not fit together is the model's to judge, under the name
that AWS has for it, and is told before anything is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from hyperplane_nat.config.values import Address, FieldError, GroupName, LinkName, Port, Section

Protocol = Literal["TCP", "UDP", "TCP_UDP"]
Seconds = Annotated[float, Field(ge=0, le=360_000, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class Target(Section):
    """A target of a target group: a host of an `instance` group, an address of an `ip` group."""

    host: LinkName | None = Field(default=None, description="Host of the VPC.")
    address: Address | None = Field(
        default=None, description="Address in the VPC, or a private one elsewhere."
    )
    port: Port | None = Field(default=None, description="Its port, if it is not the group's.")

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if (self.host is None) == (self.address is None):
            yield FieldError("host", "a target has a host, or an address", "give one of them")


class HealthCheck(Section):
    """How the targets of a group are checked, by each node that uses them."""

    protocol: Literal["TCP", "HTTP", "HTTPS"] = Field(
        default="TCP",
        description="`TCP` connects, `HTTP` and `HTTPS` ask for `path`, whatever the certificate.",
    )
    port: Port | None = Field(default=None, description="The port of each target if left out.")
    path: str = Field(default="/", description="What is asked for.")
    codes: str = Field(default="200-399", description="Answers that are good (AWS: `Matcher`).")
    interval_seconds: float = Field(
        default=30.0, ge=5, le=300, description="Between two checks (AWS: 30)."
    )
    timeout_seconds: Annotated[float, Field(ge=2, le=120)] | None = Field(
        default=None,
        description="An answer that takes longer is none; 6 for `HTTP`, else 10, if left out "
        "(AWS). Not more than the interval.",
    )
    healthy_count: int = Field(
        default=5, ge=2, le=10, description="Good checks in a row that make it healthy again."
    )
    unhealthy_count: int = Field(
        default=2, ge=2, le=10, description="Bad checks in a row that make it unhealthy."
    )


class TargetGroup(Section):
    """A target group of a VPC. Durations are divided by `lifecycle.time_scale`."""

    name: LinkName = Field(description="Name of the group, unique in its VPC.")
    protocol: Protocol = Field(default="TCP", description="What its targets speak.")
    port: Port = Field(description="Port of the targets that have none of their own.")
    type: Literal["instance", "ip"] = Field(
        default="instance", description="What its targets are: hosts, or addresses."
    )
    preserve_client_ip: bool | None = Field(
        default=None,
        description="Whether targets see the client's address. If left out: not with `TCP` and "
        "`ip` (AWS). `UDP` and `TCP_UDP` always do.",
    )
    proxy_protocol_v2: bool = Field(
        default=False,
        description="Whether a connection begins with a header of the PROXY protocol, version 2. "
        "With `TCP` alone.",
    )
    stickiness: bool = Field(
        default=False, description="Whether a source address has the same target every time."
    )
    cross_zone: bool | None = Field(
        default=None,
        description="Whether nodes use targets of other zones; as the load balancer if left out.",
    )
    deregistration_delay_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        default=300.0, description="How long a deregistered target drains."
    )
    deregistration_terminates: bool | None = Field(
        default=None,
        description="Whether its connections are ended then. If left out: not with `TCP`.",
    )
    unhealthy_terminates: bool | None = Field(
        default=None,
        description="Whether connections of unhealthy targets are ended. If left out: with `TCP`, "
        "where alone it is possible.",
    )
    unhealthy_draining_seconds: Seconds = Field(
        default=0.0, description="How long one is `unhealthy.draining` where they are not."
    )
    minimum_healthy: Count = Field(
        default=1, description="With fewer healthy targets all are used (fail open)."
    )
    dns_minimum_healthy: Count = Field(
        default=1, description="With fewer in a zone, names leave the zone's address out."
    )
    health_check: HealthCheck = Field(default_factory=HealthCheck.left_out)
    target: list[Target] = Field(default=[])


class Node(Section):
    """An address in a subnet; one in each availability zone."""

    subnet: LinkName = Field(description="Subnet of the VPC.")
    address: Address | None = Field(
        default=None, description="Its address in the subnet; a free one if it is left out."
    )


class BalancerNode(Node):
    """The node of a load balancer in a subnet; one in each availability zone. Of an internal one
    `address` can be chosen, of an internet-facing one `elastic_address`.
    """

    elastic_address: Address | None = Field(
        default=None,
        description="Its public address, of an internet-facing load balancer: of 198.51.100.0/24 "
        "or 203.0.113.0/24 (RFC 5737); a free one if it is left out.",
    )


class Listener(Section):
    """A listener of a load balancer."""

    protocol: Protocol = Field(default="TCP", description="`TCP_UDP` listens to both.")
    port: Port = Field(description="Its port; one listener has it.")
    target_group: LinkName = Field(
        description="Target group of the VPC that it forwards to, which no other load balancer "
        "does."
    )
    tcp_idle_seconds: float = Field(
        default=350.0,
        ge=60,
        le=6000,
        description="A TCP connection idle for so long is reset when somebody sends (AWS: 350). "
        "Divided by `timeouts.time_scale`.",
    )


class LoadBalancer(Section):
    """A Network Load Balancer of a VPC."""

    name: LinkName = Field(description="Name of the load balancer, unique in its VPC.")
    scheme: Literal["internal", "internet-facing"] = Field(
        default="internal",
        description="`internet-facing`: each node has a public address for clients in the "
        "internet. Its VPC needs an internet gateway, the subnets of its nodes a route to that.",
    )
    security_groups: list[GroupName] = Field(
        default=[],
        description="Security groups of the VPC: who may come. Without any everything is let in, "
        "and it can never have one.",
    )
    cross_zone: bool = Field(
        default=False, description="Whether nodes use targets of other zones (AWS: false)."
    )
    secondary_addresses: int = Field(
        default=0,
        ge=0,
        le=7,
        description="Further addresses of each node, each with ports of its own towards targets.",
    )
    node: list[BalancerNode] = Field(default=[])
    listener: list[Listener] = Field(default=[])

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if not self.node:
            yield FieldError("node", "the load balancer is in no subnet", "add a node")


class BalancerQuotas(Section):
    """What there may be of load balancers, and how long they take."""

    load_balancers_per_region: Count = Field(
        default=50, description="Load balancers of an account (AWS: 50)."
    )
    listeners_per_load_balancer: Count = Field(
        default=50, description="Listeners of a load balancer (AWS: 50)."
    )
    target_groups_per_region: Count = Field(default=3000, description="Target groups (AWS: 3000).")
    targets_per_group: Count = Field(
        default=1000, description="Targets of a target group (AWS: 1000)."
    )
    load_balancer_creation_seconds: Annotated[
        float, Field(ge=0, le=366 * 86400, allow_inf_nan=False)
    ] = Field(default=120.0, description="Until a load balancer is active (AWS does not say).")
