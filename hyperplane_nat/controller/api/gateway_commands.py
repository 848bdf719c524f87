# SPDX-License-Identifier: Apache-2.0
"""Route tables, gateways and public addresses through the control API: see `commands`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Any, Literal

from pydantic import Field

from hyperplane_nat.config.values import Address, LinkName, Network
from hyperplane_nat.controller.api import descriptions
from hyperplane_nat.controller.api.command import (
    Command,
    CommandRequest,
    Listing,
    Named,
    delete_command,
)
from hyperplane_nat.controller.api.flow_log_commands import FLOW_LOG_COMMANDS, FLOW_LOG_LISTS
from hyperplane_nat.controller.api.network_acl_commands import (
    NETWORK_ACL_COMMANDS,
    NETWORK_ACL_LISTS,
)
from hyperplane_nat.controller.api.requests import Request
from hyperplane_nat.model import description
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.entities import Resource
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.nat_gateways import DRAIN_SECONDS

Count = Annotated[int, Field(ge=1, le=8)]


class RouteRequest(Request):
    """A route with its one target."""

    destination: Network
    internet_gateway: Named | None = None
    nat_gateway: Named | None = None
    host: Named | None = None


class CreateRouteTable(CommandRequest):
    """POST /v1/route-tables (EC2 API, CreateRouteTable)."""

    vpc: Named
    name: LinkName | None = Field(default=None, description="The beginning of its id if left out.")


class ModifyRouteTable(CommandRequest):
    """
    PATCH /v1/route-tables/{name} (EC2 API, DeleteRoute, ReplaceRoute, CreateRoute and the
    associations): in this order, all of it or nothing.
    """

    delete_routes: list[Network] = Field(
        default_factory=list, description="Destinations of routes."
    )
    replace_routes: list[RouteRequest] = Field(default_factory=list)
    create_routes: list[RouteRequest] = Field(default_factory=list)
    disassociate: list[Named] = Field(
        default_factory=list, description="Subnets, which then have the main route table."
    )
    associate: list[Named] = Field(default_factory=list, description="Subnets.")
    main: bool = Field(default=False, description="Make it the main one of its VPC.")


class CreateInternetGateway(CommandRequest):
    """POST /v1/internet-gateways (EC2 API, CreateInternetGateway, AttachInternetGateway)."""

    name: LinkName | None = Field(default=None, description="The beginning of its id if left out.")
    vpc: Named | None = Field(default=None, description="VPC to attach it to.")
    account: Named | None = Field(
        default=None, description="That of the VPC, or the first one, if left out."
    )


class ModifyInternetGateway(CommandRequest):
    """
    PATCH /v1/internet-gateways/{name} (EC2 API, AttachInternetGateway, DetachInternetGateway).
    """

    vpc: Named | None = Field(description="VPC to attach it to; null detaches it.")


class AllocateAddress(CommandRequest):
    """POST /v1/addresses (EC2 API, AllocateAddress)."""

    address: Address | None = Field(default=None, description="A free one if left out.")
    account: Named | None = Field(default=None, description="The first one if left out.")


class ModifyAddress(CommandRequest):
    """PATCH /v1/addresses/{name} (EC2 API, AssociateAddress, DisassociateAddress)."""

    host: Named | None = Field(description="Host to associate it with; null disassociates it.")


class CreateNatGateway(CommandRequest):
    """
    POST /v1/nat-gateways (EC2 API, CreateNatGateway). What keeps it from being made is its
    FailureCode, once it is failed.
    """

    subnet: Named
    name: LinkName | None = Field(default=None, description="The beginning of its id if left out.")
    connectivity: Literal["public", "private"] = "public"
    allocations: list[Named] = Field(
        default_factory=list,
        max_length=8,
        description="Public addresses of a public one, by allocation id, the primary first.",
    )
    address: Address | None = Field(
        default=None, description="Its primary private address; a free one if left out."
    )
    addresses: Count = Field(default=1, description="How many a private one has.")


class ModifyNatGateway(CommandRequest):
    """
    PATCH /v1/nat-gateways/{name}, one of three (EC2 API, AssociateNatGatewayAddress,
    AssignPrivateNatGatewayAddress, or Disassociate- and UnassignPrivateNatGatewayAddress).
    """

    associate: list[Named] = Field(
        default_factory=list, max_length=8, description="Allocations, of a public one."
    )
    assign: int = Field(default=0, ge=0, le=8, description="Further addresses of a private one.")
    give_up: list[Named] = Field(
        default_factory=list,
        max_length=8,
        description="Addresses that take no new flows, by any of their names.",
    )
    max_drain_seconds: int = Field(
        default=DRAIN_SECONDS,
        ge=1,
        le=4000,
        description="After so long they are gone (`MaxDrainDurationSeconds`).",
    )


def _create_nat_gateway(commands: Commands, _name: str, asked: CreateNatGateway) -> Resource:
    public = asked.connectivity == "public"
    if public == (not asked.allocations):
        raise ModelError(
            "InvalidParameterCombination" if asked.allocations else "MissingParameter",
            "a public NAT gateway needs allocations, a private one has none",
            "allocate an address first, or choose the other connectivity",
        )
    return commands.create_nat_gateway(
        asked.subnet,
        asked.name,
        allocations=asked.allocations if public else None,
        addresses=asked.addresses,
        address=None if asked.address is None else IPv4Address(asked.address),
    )


def _modify_nat_gateway(commands: Commands, name: str, asked: ModifyNatGateway) -> Resource:
    if [bool(asked.associate), bool(asked.assign), bool(asked.give_up)].count(True) != 1:
        raise ModelError(
            "InvalidParameterCombination",
            "associate, assign and give_up exclude each other",
            "give exactly one",
        )
    if asked.associate:
        return commands.associate_nat_gateway_address(name, asked.associate)
    if asked.assign:
        return commands.assign_nat_gateway_addresses(name, asked.assign)
    return commands.give_up_nat_gateway_addresses(name, asked.give_up, asked.max_drain_seconds)


def _modify_route_table(commands: Commands, name: str, asked: ModifyRouteTable) -> Resource:
    table = commands.route_table(name)
    for destination in asked.delete_routes:
        table = commands.delete_route(table.id, IPv4Network(destination))
    for routes, work in (
        (asked.replace_routes, commands.replace_route),
        (asked.create_routes, commands.create_route),
    ):
        for route in routes:
            table = work(
                table.id,
                IPv4Network(route.destination),
                internet_gateway=route.internet_gateway,
                host=route.host,
                nat_gateway=route.nat_gateway,
            )
    table = commands.disassociate_route_table(table.id, asked.disassociate)
    table = commands.associate_route_table(table.id, asked.associate)
    return commands.set_main_route_table(table.id) if asked.main else table


def _create_internet_gateway(
    commands: Commands, _name: str, asked: CreateInternetGateway
) -> Resource:
    account = asked.account
    if account is None and asked.vpc is not None:
        account = commands.vpc(asked.vpc).account_id
    made = commands.create_internet_gateway(asked.name, account)
    return made if asked.vpc is None else commands.attach_internet_gateway(made.id, asked.vpc)


def _modify_internet_gateway(
    commands: Commands, name: str, asked: ModifyInternetGateway
) -> Resource:
    if asked.vpc is None:
        return commands.detach_internet_gateway(name)
    return commands.attach_internet_gateway(name, asked.vpc)


def _allocate_address(commands: Commands, _name: str, asked: AllocateAddress) -> Resource:
    address = None if asked.address is None else IPv4Address(asked.address)
    return commands.allocate_address(asked.account, address)


def _modify_address(commands: Commands, name: str, asked: ModifyAddress) -> Resource:
    if asked.host is not None:
        return commands.associate_address(name, asked.host)
    found = commands.disassociate_address(name)
    if found is None:
        raise ModelError(
            "InvalidAddress.NotFound",
            f"The address {name} was assigned to its host, and is none that can be kept",
            "delete the host, or associate another address with it",
        )
    return found


GATEWAY_COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "post",
        "/v1/route-tables",
        "Create a route table",
        CreateRouteTable,
        descriptions.RouteTableDescription,
        lambda commands, _name, asked: commands.create_route_table(asked.vpc, asked.name),
    ),
    Command(
        "patch",
        "/v1/route-tables/{name}",
        "Change routes and subnets of a route table",
        ModifyRouteTable,
        descriptions.RouteTableDescription,
        _modify_route_table,
    ),
    delete_command("/v1/route-tables", "a route table", Commands.delete_route_table),
    *NETWORK_ACL_COMMANDS,
    *FLOW_LOG_COMMANDS,
    Command(
        "post",
        "/v1/internet-gateways",
        "Create an internet gateway",
        CreateInternetGateway,
        descriptions.InternetGatewayDescription,
        _create_internet_gateway,
    ),
    Command(
        "patch",
        "/v1/internet-gateways/{name}",
        "Attach or detach an internet gateway",
        ModifyInternetGateway,
        descriptions.InternetGatewayDescription,
        _modify_internet_gateway,
    ),
    delete_command(
        "/v1/internet-gateways", "an internet gateway", Commands.delete_internet_gateway
    ),
    Command(
        "post",
        "/v1/addresses",
        "Allocate a public address",
        AllocateAddress,
        descriptions.AddressDescription,
        _allocate_address,
    ),
    Command(
        "patch",
        "/v1/addresses/{name}",
        "Associate or disassociate a public address",
        ModifyAddress,
        descriptions.AddressDescription,
        _modify_address,
    ),
    delete_command("/v1/addresses", "a public address: it is released", Commands.release_address),
    Command(
        "post",
        "/v1/nat-gateways",
        "Create a NAT gateway",
        CreateNatGateway,
        descriptions.NatGatewayDescription,
        _create_nat_gateway,
    ),
    Command(
        "patch",
        "/v1/nat-gateways/{name}",
        "Add addresses to a NAT gateway, or give some up",
        ModifyNatGateway,
        descriptions.NatGatewayDescription,
        _modify_nat_gateway,
    ),
    delete_command("/v1/nat-gateways", "a NAT gateway", Commands.delete_nat_gateway),
)

GATEWAY_LISTS = (
    Listing(
        "/v1/route-tables",
        "Route tables",
        description.describe_route_tables,
        descriptions.RouteTableDescription,
    ),
    *NETWORK_ACL_LISTS,
    *FLOW_LOG_LISTS,
    Listing(
        "/v1/internet-gateways",
        "Internet gateways",
        description.describe_internet_gateways,
        descriptions.InternetGatewayDescription,
    ),
    Listing(
        "/v1/nat-gateways",
        "NAT gateways",
        description.describe_nat_gateways,
        descriptions.NatGatewayDescription,
    ),
    Listing(
        "/v1/addresses",
        "Public addresses",
        description.describe_addresses,
        descriptions.AddressDescription,
    ),
)
