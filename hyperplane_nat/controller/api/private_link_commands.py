# SPDX-License-Identifier: Apache-2.0
"""Commands on endpoint services and endpoints through the control API: see `commands`."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hyperplane_nat.controller.api import private_link_descriptions as descriptions
from hyperplane_nat.controller.api.balancer_commands import NodeRequest, nodes_of
from hyperplane_nat.controller.api.command import (
    Command,
    CommandRequest,
    Listing,
    Named,
    delete_command,
)
from hyperplane_nat.model import private_link_description as description
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.entities import Resource


class CreateEndpointService(CommandRequest):
    """
    POST /v1/endpoint-services (EC2 API, CreateVpcEndpointServiceConfiguration,
    ModifyVpcEndpointServicePermissions).
    """

    load_balancer: Named
    name: Named | None = Field(default=None, description="Its id if left out.")
    acceptance_required: bool = True
    principals: list[Named] = Field(
        default_factory=list, description="Accounts by id or name; `*` are all."
    )
    private_dns_name: str = Field(default="", max_length=253)


class ModifyEndpointService(CommandRequest):
    """
    PATCH /v1/endpoint-services/{name} (EC2 API, ModifyVpcEndpointServiceConfiguration,
    ModifyVpcEndpointServicePermissions, AcceptVpcEndpointConnections,
    RejectVpcEndpointConnections): in this order, all of it or nothing. What is left out stays.
    """

    acceptance_required: bool | None = None
    private_dns_name: str | None = Field(default=None, max_length=253)
    add_principals: list[Named] = Field(default_factory=list)
    remove_principals: list[Named] = Field(default_factory=list)
    accept: list[Named] = Field(default_factory=list, description="Endpoints of the service.")
    reject: list[Named] = Field(default_factory=list, description="The same.")


class CreateEndpoint(CommandRequest):
    """POST /v1/endpoints (EC2 API, CreateVpcEndpoint of type Interface)."""

    vpc: Named
    service: Named = Field(description="Its service name, id or VPC/name.")
    nodes: list[NodeRequest] = Field(description="One in each availability zone.")
    name: Named | None = Field(default=None, description="Its id if left out.")
    security_groups: list[Named] | None = Field(
        default=None, description="The VPC's group `default`, if there is one, if left out."
    )
    private_dns: bool = False


class ModifyEndpoint(CommandRequest):
    """PATCH /v1/endpoints/{name} (EC2 API, ModifyVpcEndpoint): what is left out stays."""

    nodes: list[NodeRequest] | None = None
    security_groups: list[Named] | None = None
    private_dns: bool | None = None


class CreateGatewayEndpoint(CommandRequest):
    """POST /v1/gateway-endpoints (EC2 API, CreateVpcEndpoint of type Gateway)."""

    vpc: Named
    service: Named = Field(description="`com.amazonaws.REGION.s3`, or `s3`; or `dynamodb`.")
    name: Named | None = Field(default=None, description="Its id if left out.")
    route_tables: list[Named] = Field(
        default_factory=list, description="Tables of the VPC that get a route to it."
    )
    policy: str = Field(default="", description="JSON, which is kept; nothing asks for it.")


class ModifyGatewayEndpoint(CommandRequest):
    """
    PATCH /v1/gateway-endpoints/{name} (EC2 API, ModifyVpcEndpoint): what is left out stays.
    """

    add_route_tables: list[Named] = Field(default_factory=list)
    remove_route_tables: list[Named] = Field(default_factory=list)
    policy: str | None = None


def _create_service(commands: Commands, _name: str, asked: CreateEndpointService) -> Resource:
    return commands.create_endpoint_service(
        asked.load_balancer,
        asked.name,
        acceptance_required=asked.acceptance_required,
        principals=asked.principals,
        private_dns_name=asked.private_dns_name,
    )


def _modify_service(commands: Commands, name: str, asked: ModifyEndpointService) -> Resource:
    service = commands.modify_endpoint_service(
        name,
        acceptance_required=asked.acceptance_required,
        private_dns_name=asked.private_dns_name,
        add_principals=asked.add_principals,
        remove_principals=asked.remove_principals,
    )
    commands.accept_endpoints(service.id, asked.accept)
    return commands.reject_endpoints(service.id, asked.reject)


def _create_endpoint(commands: Commands, _name: str, asked: CreateEndpoint) -> Resource:
    return commands.create_endpoint(
        asked.vpc,
        asked.service,
        nodes_of(asked.nodes),
        name=asked.name,
        security_groups=asked.security_groups,
        private_dns=asked.private_dns,
    )


def _modify_endpoint(commands: Commands, name: str, asked: ModifyEndpoint) -> Resource:
    return commands.modify_endpoint(
        name,
        nodes=None if asked.nodes is None else nodes_of(asked.nodes),
        security_groups=asked.security_groups,
        private_dns=asked.private_dns,
    )


def _create_gateway_endpoint(
    commands: Commands, _name: str, asked: CreateGatewayEndpoint
) -> Resource:
    return commands.create_gateway_endpoint(
        asked.vpc,
        asked.service,
        name=asked.name,
        route_tables=asked.route_tables,
        policy=asked.policy,
    )


def _modify_gateway_endpoint(
    commands: Commands, name: str, asked: ModifyGatewayEndpoint
) -> Resource:
    return commands.modify_gateway_endpoint(
        name,
        add_route_tables=asked.add_route_tables,
        remove_route_tables=asked.remove_route_tables,
        policy=asked.policy,
    )


COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "post",
        "/v1/endpoint-services",
        "Create an endpoint service",
        CreateEndpointService,
        descriptions.EndpointServiceDescription,
        _create_service,
    ),
    Command(
        "patch",
        "/v1/endpoint-services/{name}",
        "Change an endpoint service, accept and reject endpoints",
        ModifyEndpointService,
        descriptions.EndpointServiceDescription,
        _modify_service,
    ),
    delete_command(
        "/v1/endpoint-services", "an endpoint service", Commands.delete_endpoint_service
    ),
    Command(
        "post",
        "/v1/endpoints",
        "Create an interface endpoint",
        CreateEndpoint,
        descriptions.EndpointDescription,
        _create_endpoint,
    ),
    Command(
        "patch",
        "/v1/endpoints/{name}",
        "Change subnets, security groups and private DNS of an endpoint",
        ModifyEndpoint,
        descriptions.EndpointDescription,
        _modify_endpoint,
    ),
    delete_command("/v1/endpoints", "an endpoint", Commands.delete_endpoint),
    Command(
        "post",
        "/v1/gateway-endpoints",
        "Create a gateway endpoint",
        CreateGatewayEndpoint,
        descriptions.GatewayEndpointDescription,
        _create_gateway_endpoint,
    ),
    Command(
        "patch",
        "/v1/gateway-endpoints/{name}",
        "Change route tables and policy of a gateway endpoint",
        ModifyGatewayEndpoint,
        descriptions.GatewayEndpointDescription,
        _modify_gateway_endpoint,
    ),
    delete_command("/v1/gateway-endpoints", "a gateway endpoint", Commands.delete_gateway_endpoint),
)

LISTS = (
    Listing(
        "/v1/endpoint-services",
        "Endpoint services and their connections",
        description.describe_endpoint_services,
        descriptions.EndpointServiceDescription,
    ),
    Listing(
        "/v1/endpoints",
        "Interface endpoints",
        description.describe_endpoints,
        descriptions.EndpointDescription,
    ),
    Listing(
        "/v1/gateway-endpoints",
        "Gateway endpoints",
        description.describe_gateway_endpoints,
        descriptions.GatewayEndpointDescription,
    ),
    Listing(
        "/v1/prefix-lists",
        "Prefix lists of AWS's services",
        description.describe_prefix_lists,
        descriptions.PrefixListDescription,
    ),
)
