# SPDX-License-Identifier: Apache-2.0
"""Endpoint services, interface endpoints and gateway endpoints, as the region keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from hyperplane_nat.model.states import EndpointState


@dataclass(frozen=True, slots=True)
class EndpointService:
    """A load balancer that other VPCs reach by endpoints (EC2 API, `ServiceConfiguration`)."""

    id: str
    name: str
    vpc_id: str
    """That of its load balancer."""
    load_balancer_id: str
    acceptance_required: bool
    principals: tuple[str, ...] = ()
    """Sorted: accounts by id that may make endpoints besides its own; "*" are all."""
    private_dns_name: str = ""
    declared: bool = True
    """As of `Account`."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id


@dataclass(frozen=True, slots=True)
class EndpointNode:
    """The network interface of an endpoint in a subnet."""

    subnet_id: str
    interface_id: str
    address: IPv4Address


@dataclass(frozen=True, slots=True)
class VpcEndpoint:
    """An interface endpoint of an endpoint service (EC2 API, `VpcEndpoint`)."""

    id: str
    name: str
    vpc_id: str
    service_id: str
    """One that is gone is only that of an endpoint that it has rejected."""
    state: EndpointState
    created: float
    nodes: tuple[EndpointNode, ...]
    """One in a zone."""
    group_ids: tuple[str, ...] = ()
    """Sorted: a set. Without any everything is let in."""
    private_dns: bool = False
    """Whether its VPC has the service's private DNS name for it."""
    due: float | None = None
    """When it becomes available."""
    declared: bool = True
    """As of `Account`."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id


@dataclass(frozen=True, slots=True)
class GatewayEndpoint:
    """A gateway endpoint of one of AWS's services (EC2 API, `VpcEndpoint`); it is available."""

    id: str
    name: str
    vpc_id: str
    service: str
    """One of `resources.AWS_SERVICES`."""
    interface_id: str
    """That of all gateway endpoints of the VPC."""
    created: float
    route_table_ids: tuple[str, ...] = ()
    """Sorted: those that have a route to it."""
    policy: str = ""
    """JSON, as it was given; nothing asks for it."""
    declared: bool = True
    """As of `Account`."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id
