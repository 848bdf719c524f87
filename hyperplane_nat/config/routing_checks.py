# SPDX-License-Identifier: Apache-2.0
"""References between subnets, route tables, hosts and gateways of a VPC."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from hyperplane_nat.config.checks import places, repeated, unknown
from hyperplane_nat.config.resource_checks import public_problem
from hyperplane_nat.config.resources import Host, Vpc
from hyperplane_nat.config.routing import Route, RouteTable
from hyperplane_nat.config.values import FieldError

if TYPE_CHECKING:
    from hyperplane_nat.config.whole import Whole

_NO_GATEWAY = "give the VPC one: internet_gateway = true"


def problems(config: Whole) -> Iterator[FieldError]:
    """What does not fit."""
    taken = {host.address: f"internet host {host.name!r}" for host in config.internet}
    for number, vpc in enumerate(config.vpc):
        location = f"vpc[{number}]"
        yield from _tables(vpc, f"{location}.route_table")
        limit = config.lifecycle.nat_gateway_elastic_addresses
        yield from _nat_gateways(vpc, f"{location}.nat_gateway", limit, taken)
        for place, host in enumerate(vpc.host):
            where = f"{location}.host[{place}].public_address"
            yield from _public(vpc, host, where, taken)


def _public(vpc: Vpc, host: Host, where: str, taken: dict[str, str]) -> Iterator[FieldError]:
    if not host.public_address:
        return
    if not vpc.internet_gateway:
        yield FieldError(
            where, f"VPC {vpc.name!r} has no internet gateway to have public addresses", _NO_GATEWAY
        )
    if isinstance(host.public_address, str):
        yield from _public_address(host.public_address, f"host {host.name!r}", where, taken)


def _public_address(
    address: str, owner: str, where: str, taken: dict[str, str]
) -> Iterator[FieldError]:
    if (problem := public_problem(IPv4Address(address))) is not None:
        yield FieldError(where, *problem)
    if other := taken.get(address):
        yield FieldError(where, f"{address} is the address of {other} too", "choose another one")
    taken[address] = owner


def _nat_gateways(
    vpc: Vpc, location: str, limit: int, taken: dict[str, str]
) -> Iterator[FieldError]:
    yield from repeated(places(vpc.nat_gateway, location), "NAT gateways")
    subnets = [subnet.name for subnet in vpc.subnet]
    for number, gateway in enumerate(vpc.nat_gateway):
        where = f"{location}[{number}]"
        yield from unknown(gateway.subnet, subnets, f"{where}.subnet", "subnet", vpc)
        for place, address in enumerate(gateway.elastic_addresses):
            at = f"{where}.elastic_addresses[{place}]"
            yield from _public_address(address, f"NAT gateway {gateway.name!r}", at, taken)
        if gateway.connectivity == "private":
            continue
        if not vpc.internet_gateway:
            yield FieldError(
                f"{where}.connectivity",
                f"VPC {vpc.name!r} has no internet gateway",
                f"{_NO_GATEWAY}, or make it private",
            )
        if gateway.count > limit:
            field = "elastic_addresses" if gateway.elastic_addresses else "addresses"
            yield FieldError(
                f"{where}.{field}",
                f"{gateway.count} public addresses are more than a NAT gateway has",
                f"{limit} are possible, or raise lifecycle.nat_gateway_elastic_addresses",
            )


def _tables(vpc: Vpc, location: str) -> Iterator[FieldError]:
    yield from repeated(places(vpc.route_table, location), "route tables")
    subnets = [subnet.name for subnet in vpc.subnet]
    main: str | None = None
    owners: dict[str, str] = {}
    for number, table in enumerate(vpc.route_table):
        where = f"{location}[{number}]"
        if table.main and main is not None:
            yield FieldError(
                f"{where}.main", f"route table {main!r} is the main one", "keep one of them main"
            )
        main = table.name if table.main else main
        if table.name == "main" and not table.main:
            yield FieldError(
                f"{where}.name",
                "'main' is what the main table of a VPC is called",
                "set main = true, or choose another name",
            )
        for place, name in enumerate(table.subnets):
            at = f"{where}.subnets[{place}]"
            yield from unknown(name, subnets, at, "subnet", vpc)
            if name in subnets and name in owners:
                yield FieldError(
                    at,
                    f"subnet {name!r} has route table {owners[name]!r}",
                    "name it once",
                )
            owners.setdefault(name, table.name)
        yield from _routes(vpc, table, f"{where}.routes")


def _routes(vpc: Vpc, table: RouteTable, location: str) -> Iterator[FieldError]:
    for number, route in enumerate(table.routes):
        where = f"{location}[{number}]"
        if any(other.network == route.network for other in table.routes[:number]):
            yield FieldError(
                f"{where}.destination",
                f"{route.destination} has a route before it in the table",
                "keep one of them",
            )
        if route.network.subnet_of(vpc.network):
            yield FieldError(
                f"{where}.destination",
                f"{route.destination} is in VPC {vpc.name!r}, {vpc.cidr}",
                "leave it out: the local route reaches what is in the VPC",
            )
        yield from _target(vpc, route, where)


def _target(vpc: Vpc, route: Route, where: str) -> Iterator[FieldError]:
    if route.internet_gateway and not vpc.internet_gateway:
        yield FieldError(
            f"{where}.internet_gateway", f"VPC {vpc.name!r} has no internet gateway", _NO_GATEWAY
        )
    if route.nat_gateway is not None:
        gateways = [gateway.name for gateway in vpc.nat_gateway]
        yield from unknown(route.nat_gateway, gateways, f"{where}.nat_gateway", "NAT gateway", vpc)
    if route.host is not None:
        hosts = [host.name for host in vpc.host]
        yield from unknown(route.host, hosts, f"{where}.host", "host", vpc)
