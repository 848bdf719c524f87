# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with endpoint services and endpoints, and what the tables say of them.

Error names and texts: EC2 API, CreateVpcEndpoint, CreateVpcEndpointServiceConfiguration,
DeleteVpcEndpointServiceConfigurations, AcceptVpcEndpointConnections.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hyperplane_nat.model.balancer_checks import check_node_address
from hyperplane_nat.model.balancer_entities import LoadBalancer, LoadBalancerNode
from hyperplane_nat.model.entities import Subnet, Vpc
from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.private_link_entities import EndpointService, VpcEndpoint
from hyperplane_nat.model.private_link_resources import ANYBODY
from hyperplane_nat.model.resources import VpcResource
from hyperplane_nat.model.states import EndpointState, LoadBalancerState
from hyperplane_nat.model.tables import Tables

LISTENERS_MAX = 50
"""A load balancer with more listeners is no service ("Access Elastic Load Balancing")."""

_DNS_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+"
)
_HELD = (EndpointState.PENDING_ACCEPTANCE, EndpointState.PENDING, EndpointState.AVAILABLE)


def service_name(service: EndpointService, region: str) -> str:
    """What AWS calls a service."""
    return f"com.amazonaws.vpce.{region}.{service.id}"


def base_name(service_id: str, region: str) -> str:
    """The name in DNS that those of a service's endpoints end in."""
    return f"{service_id}.{region}.vpce.amazonaws.com"


def endpoint_name(endpoint: VpcEndpoint, region: str) -> str:
    """The name in DNS of an endpoint."""
    return f"{endpoint.id}.{base_name(endpoint.service_id, region)}"


def zone_name(endpoint: VpcEndpoint, zone: str, region: str) -> str:
    """That of its address in a zone."""
    return f"{endpoint.id}-{region}{zone}.{base_name(endpoint.service_id, region)}"


# -- what the tables say


def endpoints_of(tables: Tables, service: EndpointService) -> list[VpcEndpoint]:
    """The endpoints of a service, rejected ones too."""
    return [each for each in tables.endpoints.values() if each.service_id == service.id]


def services_of(tables: Tables, balancer: LoadBalancer) -> list[EndpointService]:
    """The services of a load balancer."""
    every = tables.endpoint_services.values()
    return [each for each in every if each.load_balancer_id == balancer.id]


def zones_of(tables: Tables, service: EndpointService) -> dict[str, LoadBalancerNode]:
    """The node that a service has in each of its zones."""
    balancer = tables.load_balancers.get(service.load_balancer_id)
    nodes = () if balancer is None else balancer.nodes
    return {tables.subnets[node.subnet_id].availability_zone: node for node in nodes}


def node_behind(tables: Tables, endpoint: VpcEndpoint, subnet_id: str) -> LoadBalancerNode | None:
    """Where an endpoint's address in a subnet leads; None: nowhere."""
    service = tables.endpoint_services.get(endpoint.service_id)
    if service is None or endpoint.state is not EndpointState.AVAILABLE:
        return None
    balancer = tables.load_balancers.get(service.load_balancer_id)
    if balancer is None or balancer.state is not LoadBalancerState.ACTIVE:
        return None
    return zones_of(tables, service).get(tables.subnets[subnet_id].availability_zone)


# -- checks


def check_private_dns_name(name: str) -> None:
    """InvalidParameter."""
    if name and not _DNS_NAME.fullmatch(name):
        raise ModelError(
            "InvalidParameter",
            f"The private DNS name {name!r} is not valid",
            'write it in small letters, like "orders.example.com"; wildcards are not emulated',
        )


def check_listeners(tables: Tables, balancer: LoadBalancer) -> None:
    """InvalidParameter for a load balancer that has too many."""
    if len(tables.listeners_of(balancer.id)) > LISTENERS_MAX:
        raise ModelError(
            "InvalidParameter",
            f"Load balancer {balancer.name} has more than {LISTENERS_MAX} listeners",
            "make several load balancers",
        )


def check_principal(tables: Tables, service: EndpointService, account_id: str, name: str) -> None:
    """Who is not allowed is told of no service. InvalidServiceName."""
    owner = tables.vpcs[service.vpc_id].account_id
    if account_id != owner and not {account_id, ANYBODY} & set(service.principals):
        raise no_service(name)


def check_zones(tables: Tables, service: EndpointService, subnets: Sequence[Subnet]) -> None:
    """InvalidParameter for subnets in one zone, or where the service is not."""
    known = zones_of(tables, service)
    seen: set[str] = set()
    for subnet in subnets:
        zone = subnet.availability_zone
        if zone not in known:
            raise _invalid(
                f"The VPC endpoint service {service.name} ({service.id}) does not support the "
                f"availability zone of the subnet: {subnet.id}.",
                "name subnets in zones in which its load balancer has a node",
            )
        if zone in seen:
            raise _invalid(
                f"Found another VPC endpoint subnet in the availability zone of {subnet.id}",
                "name one subnet in each zone",
            )
        seen.add(zone)
    if not subnets:
        raise ModelError("MissingParameter", "An endpoint is in no subnet", "name one")


def check_private_dns(
    tables: Tables, vpc: Vpc, service: EndpointService, own_id: str | None = None
) -> None:
    """InvalidParameter where a VPC cannot have the service's private DNS name."""
    if not service.private_dns_name:
        raise _invalid(
            "Private DNS can't be enabled because the service "
            f"{service.name} ({service.id}) does not provide a private DNS name.",
            "give the service one, or leave private DNS off",
        )
    if not (vpc.enable_dns_support and vpc.enable_dns_hostnames):
        raise _invalid(
            "Enabling private DNS requires both enableDnsSupport and enableDnsHostnames VPC "
            f"attributes set to true for {vpc.id}",
            "set them, or leave private DNS off",
        )
    for each in tables.endpoints.values():
        other = tables.endpoint_services.get(each.service_id)
        if (
            each.vpc_id == vpc.id
            and each.private_dns
            and each.id != own_id
            and other is not None
            and other.private_dns_name == service.private_dns_name
        ):
            raise _invalid(
                "private-dns-enabled cannot be set because there is already a conflicting DNS "
                f"domain for {service.private_dns_name} in the VPC {vpc.id}",
                "turn it off for the other endpoint",
            )


def check_unused(tables: Tables, service: EndpointService) -> None:
    """ExistingVpcEndpointConnections where a service has endpoints that it has not rejected."""
    if any(each.state in _HELD for each in endpoints_of(tables, service)):
        raise ModelError(
            "ExistingVpcEndpointConnections",
            f"Service {service.name} ({service.id}) has existing active VPC Endpoint connections!",
            "reject them first",
        )


def check_no_service(tables: Tables, balancer: LoadBalancer) -> None:
    """ResourceInUse for a load balancer that a service needs."""
    for service in services_of(tables, balancer):
        raise ModelError(
            "ResourceInUse",
            f"Load balancer '{balancer.name}' cannot be deleted because it is currently "
            f"associated with another service: {service.id}",
            "delete that first",
        )


def check_private_link(vpc: VpcResource) -> None:
    """The endpoint services and endpoints of a declared VPC, by themselves."""
    subnets = {each.name: each for each in vpc.subnets}
    balancers = {each.name for each in vpc.load_balancers}
    groups = {each.name for each in vpc.security_groups}
    for kind, names in (
        ("endpoint-service", [each.name for each in vpc.endpoint_services]),
        ("endpoint", [each.name for each in vpc.endpoints]),
    ):
        for name in names:
            if names.count(name) > 1:
                raise _invalid(f"{names.count(name)} are called {name}", "rename all but one").at(
                    entry_of(kind, f"{vpc.name}/{name}")
                )
    for service in vpc.endpoint_services:
        try:
            check_private_dns_name(service.private_dns_name)
            if service.load_balancer not in balancers:
                raise no_balancer(service.load_balancer)
        except ModelError as error:
            raise error.at(entry_of("endpoint-service", f"{vpc.name}/{service.name}")) from None
    for endpoint in vpc.endpoints:
        try:
            for node in endpoint.nodes:
                if node.subnet not in subnets:
                    raise no_subnet(node.subnet)
                check_node_address(subnets[node.subnet].cidr, node.address)
            for group in endpoint.security_groups:
                if group not in groups:
                    raise no_group(group)
        except ModelError as error:
            raise error.at(entry_of("endpoint", f"{vpc.name}/{endpoint.name}")) from None


# -- refusals


def no_service(named: str) -> ModelError:
    """A service that is not there, or not for who asks."""
    return ModelError(
        "InvalidServiceName",
        f"The Vpc Endpoint Service '{named}' does not exist",
        "name another, or have its owner allow the account",
    )


def no_balancer(named: str) -> ModelError:
    """A load balancer that is not there."""
    return ModelError(
        "LoadBalancerNotFound",
        f"One or more load balancers not found: '{named}'",
        "name one of the VPC",
    )


def no_subnet(named: str) -> ModelError:
    """A subnet that is not there."""
    return ModelError(
        "InvalidSubnetId.NotFound", f"The subnet ID '{named}' does not exist", "name another"
    )


def no_group(named: str) -> ModelError:
    """A security group that is not there."""
    return ModelError(
        "InvalidSecurityGroupId.NotFound",
        f"The security group '{named}' does not exist",
        "name another",
    )


def no_endpoint(named: str, service: EndpointService) -> ModelError:
    """An endpoint that is not of a service."""
    return ModelError(
        "InvalidVpcEndpoint.NotFound",
        f"The Vpc Endpoint '{named}' does not exist for {service.name} ({service.id})",
        "hyperplane-nat endpoints lists those there are",
    )


def wrong_state(endpoint: VpcEndpoint) -> ModelError:
    """An endpoint that cannot be accepted, or rejected, as it is."""
    return ModelError(
        "InvalidState",
        f"The Vpc Endpoint {endpoint.id} is {endpoint.state}",
        "hyperplane-nat endpoints tells the states",
    )


def _invalid(message: str, remedy: str) -> ModelError:
    return ModelError("InvalidParameter", message, remedy)
