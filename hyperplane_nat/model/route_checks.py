# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with wanted route tables, NAT gateways and public addresses by themselves: see
`validation`.

Rules of routes: VPC user guide, "Configure route tables".
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.resources import (
    MAIN_ROUTE_TABLE,
    PUBLIC_NETWORKS,
    HostResource,
    NatGatewayResource,
    RouteResource,
    RouteTableResource,
    VpcResource,
)
from hyperplane_nat.model.settings import LifecycleSettings

ADDRESSES_MAX = 8
"""Of a NAT gateway (VPC user guide, "NAT gateway basics")."""

RESERVED = IPv4Network("169.254.168.0/22")
"""No route leads into it ("Configure route tables", "Custom route tables")."""


def check_routes(vpc: VpcResource, settings: LifecycleSettings) -> None:
    """The route tables of a VPC, and what its hosts need of its internet gateway."""
    _unique("NAT gateway", [gateway.name for gateway in vpc.nat_gateways], vpc)
    for gateway in vpc.nat_gateways:
        _check_nat_gateway(vpc, gateway, settings)
    _unique("route table", [table.name for table in vpc.route_tables], vpc)
    mains = [table.name for table in vpc.route_tables if table.main]
    if len(mains) > 1:
        raise _wrong(
            f"VPC {vpc.name} has {len(mains)} main route tables: {', '.join(mains)}",
            "keep one of them main",
            entry_of("route-table", f"{vpc.name}/{mains[1]}", "main"),
        )
    associated: dict[str, str] = {}
    for table in vpc.route_tables:
        _check_table(vpc, table, settings)
        for name in table.subnets:
            if (other := associated.setdefault(name, table.name)) != table.name:
                raise ModelError(
                    "Resource.AlreadyAssociated",
                    f"subnet {name} has route tables {other} and {table.name}",
                    "a subnet has one: name it once",
                    entry_of("route-table", f"{vpc.name}/{table.name}", "subnets"),
                )
    for host in vpc.hosts:
        _check_public(vpc, host)


def _check_table(vpc: VpcResource, table: RouteTableResource, settings: LifecycleSettings) -> None:
    entry = f"{vpc.name}/{table.name}"
    if table.name == MAIN_ROUTE_TABLE and not table.main:
        raise _wrong(
            f"route table {table.name} of VPC {vpc.name} is not its main one",
            "the main one is called so: set main = true, or choose another name",
            entry_of("route-table", entry, "name"),
        )
    subnets = {subnet.name for subnet in vpc.subnets}
    for name in table.subnets:
        if name not in subnets:
            raise ModelError(
                "InvalidSubnetID.NotFound",
                f"subnet {name!r} of route table {table.name} does not exist in VPC {vpc.name}",
                "name one of its own",
                entry_of("route-table", entry, "subnets"),
            )
    check_route_count(table.name, len(table.routes), settings)
    _unique("route to", [str(route.destination) for route in table.routes], vpc)
    for route in table.routes:
        check_destination(vpc.cidr, route.destination)
        _check_target(vpc, table, route)


def _check_target(vpc: VpcResource, table: RouteTableResource, route: RouteResource) -> None:
    who = f"the route to {route.destination} of route table {table.name}"
    field = entry_of("route-table", f"{vpc.name}/{table.name}", "routes")
    targets = (route.internet_gateway, route.host is not None, route.nat_gateway is not None)
    if sum(targets) != 1:
        raise ModelError(
            "InvalidParameterCombination",
            f"{who} has no target, or several",
            "name exactly one",
            field,
        )
    if route.internet_gateway and not vpc.internet_gateway:
        raise _wrong(
            f"{who} leads to an internet gateway, and VPC {vpc.name} has none",
            "give it one: internet_gateway = true",
            field,
        )
    if route.host is not None and route.host not in {host.name for host in vpc.hosts}:
        raise ModelError(
            "InvalidInstanceID.NotFound",
            f"{who} leads to host {route.host!r}, which VPC {vpc.name} does not have",
            "name one of its own",
            field,
        )

    if route.nat_gateway is not None and route.nat_gateway not in {
        gateway.name for gateway in vpc.nat_gateways
    }:
        raise ModelError(
            "NatGatewayNotFound",
            f"{who} leads to NAT gateway {route.nat_gateway!r}, which VPC {vpc.name} does not have",
            "name one of its own",
            field,
        )


def _check_nat_gateway(
    vpc: VpcResource, gateway: NatGatewayResource, settings: LifecycleSettings
) -> None:
    entry = f"{vpc.name}/{gateway.name}"
    if gateway.subnet not in {subnet.name for subnet in vpc.subnets}:
        raise ModelError(
            "InvalidSubnetID.NotFound",
            f"The specified subnet {gateway.subnet} does not exist or could not be found.",
            f"name one of VPC {vpc.name}",
            entry_of("nat-gateway", entry, "subnet"),
        )
    if gateway.public and not vpc.internet_gateway:
        raise ModelError(
            "Gateway.NotAttached",
            f"Network {vpc.name} has no Internet gateway attached",
            "give it one: internet_gateway = true, or make the NAT gateway private",
            entry_of("nat-gateway", entry, "connectivity"),
        )
    if gateway.elastic_addresses and not gateway.public:
        raise _wrong(
            f"NAT gateway {gateway.name} is private and has public addresses",
            "leave them out",
            entry_of("nat-gateway", entry, "elastic_addresses"),
        )
    for address in gateway.elastic_addresses:
        try:
            check_public_address(f"NAT gateway {gateway.name}", address)
        except ModelError as error:
            raise error.at(entry_of("nat-gateway", entry, "elastic_addresses")) from None
    count = len(gateway.elastic_addresses) or gateway.addresses
    check_address_count(gateway.name, count, gateway.public, settings)


def check_address_count(
    gateway: str, count: int, public: bool, settings: LifecycleSettings
) -> None:
    """Not more addresses than a NAT gateway may have, and one at least."""
    limit = ADDRESSES_MAX
    if public:
        limit = min(limit, settings.nat_gateway_elastic_addresses)
    if not 1 <= count <= limit:
        raise ModelError(
            "AddressLimitExceeded" if count else "InvalidParameterValue",
            f"NAT gateway {gateway} has {count} addresses",
            f"1 to {limit} are possible"
            + ("; raise lifecycle.nat_gateway_elastic_addresses" if public else ""),
        )


def check_destination(cidr: IPv4Network, destination: IPv4Network) -> None:
    """A destination that a route of a VPC with this network may have."""
    if destination.subnet_of(cidr):
        raise _wrong(
            f"The destination CIDR block {destination} is equal to or more specific than one of "
            f"this VPC's CIDR blocks, {cidr}",
            "what is in the VPC goes by its local route: choose another destination",
        )
    if destination.subnet_of(RESERVED):
        raise _wrong(
            f"The destination CIDR block {destination} is in {RESERVED}, which AWS reserves",
            "choose another destination",
        )


def check_route_count(table: str, count: int, settings: LifecycleSettings) -> None:
    """Not more routes than a table may have."""
    if count > settings.routes_per_table:
        raise ModelError(
            "RouteLimitExceeded",
            f"route table {table} has {count} routes",
            f"at most {settings.routes_per_table} are possible: merge some",
        )


def check_public_address(who: str, address: IPv4Address) -> None:
    """An address that the internet has to give."""
    network = next((each for each in PUBLIC_NETWORKS if address in each), None)
    if network is None or address in (network.network_address, network.broadcast_address):
        raise _wrong(
            f"public address {address} of {who} is not one of the lab's",
            "choose one from " + " or ".join(map(str, PUBLIC_NETWORKS)),
        )


def _check_public(vpc: VpcResource, host: HostResource) -> None:
    if not host.public:
        return
    field = entry_of("host", f"{vpc.name}/{host.name}", "public_address")
    if not vpc.internet_gateway:
        raise ModelError(
            "Gateway.NotAttached",
            f"host {host.name} has a public address, and VPC {vpc.name} no internet gateway",
            "give it one: internet_gateway = true",
            field,
        )
    if host.public_address is not None:
        try:
            check_public_address(f"host {host.name}", host.public_address)
        except ModelError as error:
            raise error.at(field) from None


def _unique(what: str, names: list[str], vpc: VpcResource) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise _wrong(f"two times {what} {name!r} in VPC {vpc.name}", "keep one of them")


def _wrong(message: str, remedy: str, field: str = "") -> ModelError:
    return ModelError("InvalidParameterValue", message, remedy, field)
