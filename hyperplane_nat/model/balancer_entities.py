# SPDX-License-Identifier: Apache-2.0
"""Load balancers, listeners and target groups, as the region keeps them.

Their ids are the digits that AWS's ARNs end in.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from hyperplane_nat.model.balancer_resources import (
    BalancerProtocol,
    GroupAttributes,
    HealthCheck,
    Scheme,
    TargetType,
)
from hyperplane_nat.model.states import LoadBalancerState, TargetState


@dataclass(frozen=True, slots=True)
class LoadBalancerNode:
    """The node of a load balancer in an availability zone."""

    subnet_id: str
    interface_id: str
    """Its network interface, which has its addresses."""
    address: IPv4Address
    allocation_id: str = ""
    """The public address that it is one to one with, of an internet-facing load balancer."""


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """A Network Load Balancer (Elastic Load Balancing API, `LoadBalancer`)."""

    id: str
    name: str
    vpc_id: str
    state: LoadBalancerState
    created: float
    nodes: tuple[LoadBalancerNode, ...]
    """One in a zone."""
    group_ids: tuple[str, ...] = ()
    """Sorted: a set."""
    guarded: bool = False
    """Whether it was created with security groups: only then it can have any."""
    cross_zone: bool = False
    secondary_addresses: int = 0
    scheme: Scheme = Scheme.INTERNAL
    due: float | None = None
    """When it becomes active."""
    declared: bool = True
    """As of `Account`."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id


@dataclass(frozen=True, slots=True)
class HealthChecker:
    """Where the health checks of a VPC's load balancers come from: a host of nobody's."""

    vpc_id: str
    number: int
    """As of `Host`."""

    @property
    def key(self) -> str:
        """The VPC's id: it has one."""
        return self.vpc_id


@dataclass(frozen=True, slots=True)
class Listener:
    """A listener (Elastic Load Balancing API, `Listener`), with its one action, `forward`."""

    id: str
    load_balancer_id: str
    protocol: BalancerProtocol
    port: int
    target_group_id: str
    tcp_idle_seconds: float
    declared: bool = True
    """As of `Account`."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id


@dataclass(frozen=True, slots=True)
class Target:
    """A registered target (Elastic Load Balancing API, `TargetDescription`), and its health."""

    id: str
    """Of a host, or an address."""
    port: int
    state: TargetState
    reason: str = ""
    """Of one that is unhealthy: a `TargetHealthReasonEnum`."""
    due: float | None = None
    """When its connections have been kept for long enough, of one that is draining."""
    ending: bool = False
    """Whether it has drained, and goes when its flows have been ended."""

    @property
    def place(self) -> tuple[str, int]:
        """What tells it from others of its group."""
        return self.id, self.port


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """A target group (Elastic Load Balancing API, `TargetGroup`) with its targets."""

    id: str
    name: str
    vpc_id: str
    protocol: BalancerProtocol
    port: int
    type: TargetType
    health_check: HealthCheck
    attributes: GroupAttributes
    """Of which nothing is None but `cross_zone`."""
    targets: tuple[Target, ...] = ()
    due: float | None = None
    """The first of its targets' times."""
    declared: bool = True
    """As of `Account`."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id

    def target(self, place: tuple[str, int]) -> Target | None:
        """That target."""
        return next((each for each in self.targets if each.place == place), None)
