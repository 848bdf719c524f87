# SPDX-License-Identifier: Apache-2.0
"""Gateway endpoints: routes to AWS's own services, which keep private addresses.

Theory of operation
-------------------
Hosts of the internet that say of which of AWS's services they are (`AWS_SERVICES`) are its prefix
list: one entry for each of their addresses, which comes and goes with them. A gateway endpoint is
of one service; each route table that it names has a route to the prefix list. Such a route is never
stored: what a table leads to is found out whenever it is asked (`routes_of`), and is over with the
endpoint.

All endpoints of a VPC share one network interface in the internet, which comes with the first and
goes with the last. What leaves by it has its private address; the internet has a route back to the
VPC's network by this link. So of VPCs whose networks overlap one has gateway endpoints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from hyperplane_nat.model.entities import (
    LAMBDA_ACCOUNT_ID,
    InterfaceKind,
    NetworkInterface,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.gateway_entities import Route, RouteTable
from hyperplane_nat.model.gateways import sorted_routes
from hyperplane_nat.model.identifiers import link_name
from hyperplane_nat.model.lifecycle import Lifecycle
from hyperplane_nat.model.private_link_entities import GatewayEndpoint
from hyperplane_nat.model.resources import AWS_SERVICES
from hyperplane_nat.model.states import InterfaceStatus
from hyperplane_nat.model.tables import Tables


@dataclass(frozen=True, slots=True)
class PrefixList:
    """A prefix list that AWS manages (EC2 API, `PrefixList`)."""

    id: str
    name: str
    """That of the service's endpoints, too: `com.amazonaws.us-east-1.s3`."""
    service: str
    """One of `AWS_SERVICES`."""
    entries: tuple[IPv4Network, ...]
    """Sorted."""


def service_name(service: str, region: str) -> str:
    """What AWS calls one of its services, and its prefix list."""
    return f"com.amazonaws.{region}.{service}"


def prefix_list_id(service: str, region: str) -> str:
    """The id of a service's prefix list, which is always the same."""
    digest = hashlib.sha256(service_name(service, region).encode()).hexdigest()
    return f"pl-{digest[:8]}"


def entries_of(tables: Tables, service: str) -> tuple[IPv4Network, ...]:
    """The networks of a service: the addresses of the internet's hosts that are of it."""
    own = {each.address for each in tables.services.values() if each.aws_service == service}
    return tuple(IPv4Network(address) for address in sorted(own))


def prefix_lists(tables: Tables, region: str) -> list[PrefixList]:
    """Those of the services that the internet has."""
    return [
        PrefixList(prefix_list_id(service, region), service_name(service, region), service, entries)
        for service in AWS_SERVICES
        if (entries := entries_of(tables, service))
    ]


def endpoints_at(tables: Tables, table: RouteTable) -> list[GatewayEndpoint]:
    """The gateway endpoints that a route table leads to."""
    found = (each for each in tables.gateway_endpoints.values() if table.id in each.route_table_ids)
    return sorted(found, key=lambda each: each.id)


def endpoints_in(tables: Tables, vpc_id: str) -> list[GatewayEndpoint]:
    """The gateway endpoints of a VPC."""
    return [each for each in tables.gateway_endpoints.values() if each.vpc_id == vpc_id]


def has_routes(tables: Tables, table: RouteTable) -> bool:
    """Whether a table has routes besides the local one."""
    return bool(table.routes or endpoints_at(tables, table))


def route_table_number(tables: Tables, subnet: Subnet) -> int | None:
    """The number of a subnet's route table, if that has routes besides the local one."""
    table = tables.route_table_of(subnet)
    return table.number if table is not None and has_routes(tables, table) else None


def routes_of(tables: Tables, table: RouteTable) -> tuple[Route, ...]:
    """
    All routes of a table but the local one, one for each entry of a prefix list.

    Of the same destination a route that is in the table itself counts ("Route priority").
    """
    found = {route.destination: route for route in table.routes}
    for endpoint in endpoints_at(tables, table):
        for network in entries_of(tables, endpoint.service):
            found.setdefault(network, Route(network, endpoint_id=endpoint.id))
    return sorted_routes(tuple(found.values()))


def check_route_tables(
    tables: Tables, service: str, wanted: Iterable[RouteTable], region: str, own_id: str = ""
) -> None:
    """RouteAlreadyExists where a table leads to another endpoint of the service."""
    for table in wanted:
        for other in endpoints_at(tables, table):
            if other.service == service and other.id != own_id:
                raise ModelError(
                    "RouteAlreadyExists",
                    f"route table {table.id} already has a route with destination-prefix-list-id "
                    f"{prefix_list_id(service, region)}",
                    "name another table, or take it from the other endpoint first",
                )


class GatewayEndpoints:
    """Changes of gateway endpoints, inside a transaction of the caller's."""

    def __init__(self, lifecycle: Lifecycle, *, declared: bool) -> None:
        """`declared`: whether what is made comes with a declaration."""
        self._lifecycle = lifecycle
        self._tables = lifecycle.tables
        self._declared = declared

    def make(
        self,
        vpc: Vpc,
        name: str,
        service: str,
        route_tables: Iterable[RouteTable],
        *,
        policy: str,
        internet: Vpc,
    ) -> GatewayEndpoint:
        """
        An endpoint, which is available at once; without a name it has its id for one.

        Errors: VpcEndpointLimitExceeded, RouteAlreadyExists, InvalidParameter for a VPC whose
        network overlaps that of another one with gateway endpoints.
        """
        settings, wanted = self._lifecycle.settings, list(route_tables)
        if len(self._tables.gateway_endpoints) >= settings.gateway_endpoints:
            raise ModelError(
                "VpcEndpointLimitExceeded",
                "The maximum number of VPC endpoints has been reached: "
                f"{settings.gateway_endpoints} of type Gateway",
                "delete some, or raise lifecycle.gateway_endpoints",
            )
        check_route_tables(self._tables, service, wanted, settings.region)
        self._check_way_back(vpc)
        endpoint_id = f"vpce-{self._lifecycle.random_hex(17)}"
        endpoint = GatewayEndpoint(
            id=endpoint_id,
            name=name or endpoint_id,
            vpc_id=vpc.id,
            service=service,
            interface_id=self._interface(vpc, internet),
            created=self._lifecycle.now,
            route_table_ids=tuple(sorted(each.id for each in wanted)),
            policy=policy,
            declared=self._declared,
        )
        self._tables.put(endpoint)
        return endpoint

    def change(
        self, endpoint: GatewayEndpoint, route_tables: Iterable[RouteTable], *, policy: str
    ) -> GatewayEndpoint:
        """Other route tables, or another policy. RouteAlreadyExists."""
        wanted = list(route_tables)
        check_route_tables(
            self._tables, endpoint.service, wanted, self._lifecycle.settings.region, endpoint.id
        )
        ids = tuple(sorted(each.id for each in wanted))
        changed = replace(endpoint, route_table_ids=ids, policy=policy)
        if changed != self._tables.gateway_endpoints[endpoint.id]:
            self._tables.put(changed)
        return changed

    def delete(self, endpoint: GatewayEndpoint) -> None:
        """It goes at once, with its routes; with the last of its VPC what all of them share."""
        self._tables.remove(endpoint)
        if not endpoints_in(self._tables, endpoint.vpc_id):
            self._lifecycle.retire(self._tables.interfaces[endpoint.interface_id])

    def forget_route_table(self, table: RouteTable) -> None:
        """A route table goes, and no endpoint names it any more."""
        for endpoint in endpoints_at(self._tables, table):
            left = tuple(each for each in endpoint.route_table_ids if each != table.id)
            self._tables.put(replace(endpoint, route_table_ids=left))
        self._tables.remove(table)

    def _check_way_back(self, vpc: Vpc) -> None:
        for endpoint in self._tables.gateway_endpoints.values():
            other = self._tables.vpcs[endpoint.vpc_id]
            if other.id != vpc.id and other.cidr.overlaps(vpc.cidr):
                raise ModelError(
                    "InvalidParameter",
                    f"VPC {vpc.name}, {vpc.cidr}, overlaps VPC {other.name}, {other.cidr}, which "
                    "has a gateway endpoint",
                    "AWS lets both have one, a lab does not: give one another network",
                )

    def _interface(self, vpc: Vpc, internet: Vpc) -> str:
        for endpoint in endpoints_in(self._tables, vpc.id):
            return endpoint.interface_id
        subnet = next(each for each in self._tables.subnets.values() if each.vpc_id == internet.id)
        interface_id = self._lifecycle.new_interface_id()
        self._tables.put(
            NetworkInterface(
                id=interface_id,
                kind=InterfaceKind.GATEWAY_ENDPOINT,
                status=InterfaceStatus.AVAILABLE,
                description=f"Gateway endpoints of VPC {vpc.name}",
                number=self._lifecycle.free_number(),
                link=link_name(interface_id),
                owner_id=LAMBDA_ACCOUNT_ID,
                vpc_id=internet.id,
                subnet_id=subnet.id,
                group_ids=(),
                address=self._lifecycle.free_address(subnet),
            )
        )
        return interface_id
