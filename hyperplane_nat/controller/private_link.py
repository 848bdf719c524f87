# SPDX-License-Identifier: Apache-2.0
"""From the configuration of PrivateLink to what the model is asked for: see `resources`."""

from __future__ import annotations

from ipaddress import IPv4Address

from hyperplane_nat.config.private_link import Endpoint, EndpointService, GatewayEndpoint
from hyperplane_nat.model.balancer_resources import NodeResource
from hyperplane_nat.model.private_link_resources import (
    EndpointResource,
    EndpointServiceResource,
    GatewayEndpointResource,
)


def endpoint_service_of(service: EndpointService) -> EndpointServiceResource:
    """An endpoint service."""
    return EndpointServiceResource(
        name=service.name,
        load_balancer=service.load_balancer,
        acceptance_required=service.acceptance_required,
        principals=tuple(service.principals),
        private_dns_name=service.private_dns_name,
    )


def endpoint_of(endpoint: Endpoint) -> EndpointResource:
    """An endpoint with its subnets."""
    return EndpointResource(
        name=endpoint.name,
        service=endpoint.service,
        nodes=tuple(
            NodeResource(each.subnet, None if each.address is None else IPv4Address(each.address))
            for each in endpoint.node
        ),
        security_groups=tuple(endpoint.security_groups),
        private_dns=endpoint.private_dns,
    )


def gateway_endpoint_of(endpoint: GatewayEndpoint) -> GatewayEndpointResource:
    """A gateway endpoint."""
    return GatewayEndpointResource(
        name=endpoint.name,
        service=endpoint.service,
        route_tables=tuple(endpoint.route_tables),
        policy=endpoint.policy,
    )
