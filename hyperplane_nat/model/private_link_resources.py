# SPDX-License-Identifier: Apache-2.0
"""Wanted endpoint services, endpoints and gateway endpoints: see `resources`."""

from __future__ import annotations

from dataclasses import dataclass

from hyperplane_nat.model.balancer_resources import NodeResource

ANYBODY = "*"
"""The principal that is every account."""


@dataclass(frozen=True, slots=True)
class EndpointServiceResource:
    """An endpoint service of a load balancer of its VPC."""

    name: str
    load_balancer: str
    acceptance_required: bool = True
    principals: tuple[str, ...] = ()
    """Accounts by name or id."""
    private_dns_name: str = ""


@dataclass(frozen=True, slots=True)
class EndpointResource:
    """An interface endpoint of a VPC."""

    name: str
    service: str
    """VPC/name, or the name that AWS gives it."""
    nodes: tuple[NodeResource, ...]
    security_groups: tuple[str, ...] = ()
    private_dns: bool = False


@dataclass(frozen=True, slots=True)
class GatewayEndpointResource:
    """A gateway endpoint of a VPC."""

    name: str
    service: str
    """The name that AWS gives it, like `com.amazonaws.us-east-1.s3`, or the last part of that."""
    route_tables: tuple[str, ...] = ()
    """Names of route tables of the VPC."""
    policy: str = ""
    """JSON."""
