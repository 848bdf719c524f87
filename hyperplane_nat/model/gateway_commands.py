# SPDX-License-Identifier: Apache-2.0
"""Commands on route tables, internet and NAT gateways, and public addresses: see `commands`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from hyperplane_nat.model.entities import Host, Subnet, Vpc
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.gateway_entities import (
    ElasticAddress,
    InternetGateway,
    NatGateway,
    Route,
    RouteTable,
)
from hyperplane_nat.model.gateways import sorted_routes
from hyperplane_nat.model.lifecycle import RESERVED_FIRST
from hyperplane_nat.model.lookups import Lookups, duplicate
from hyperplane_nat.model.nat_gateways import DRAIN_SECONDS
from hyperplane_nat.model.route_checks import (
    check_address_count,
    check_destination,
    check_public_address,
    check_route_count,
)


class GatewayCommands(Lookups):
    """Those commands on one region."""

    # -- route tables

    def create_route_table(self, vpc: str, name: str | None = None) -> RouteTable:
        """CreateRouteTable: InvalidVpcID.NotFound, RouteTableLimitExceeded."""
        found = self._customer_vpc(vpc)
        tables = self._tables.route_tables
        self._unique(tables, found, "InvalidParameterValue", "route table", name)
        self._gateways.main_route_table(found)
        table = self._gateways.make_route_table(found, name or "")
        return self._named(table) if name is None else table

    def delete_route_table(self, table: str) -> None:
        """DeleteRouteTable: InvalidRouteTableID.NotFound, DependencyViolation."""
        found = self.route_table(table)
        if found.main:
            raise ModelError(
                "DependencyViolation",
                f"The routeTable '{found.id}' is the main one of its VPC and cannot be deleted.",
                "make another one the main one first",
            )
        self._delete(found, "route table")

    def create_route(
        self,
        table: str,
        destination: IPv4Network,
        *,
        internet_gateway: str | None = None,
        host: str | None = None,
        nat_gateway: str | None = None,
    ) -> RouteTable:
        """
        CreateRoute: the target is one of those, by id or name.

        Errors: InvalidRouteTableID.NotFound, RouteAlreadyExists, RouteLimitExceeded,
        InvalidParameterValue, InvalidParameterCombination, InvalidInternetGatewayID.NotFound,
        InvalidInstanceID.NotFound, NatGatewayNotFound.
        """
        found = self.route_table(table)
        vpc = self._tables.vpcs[found.vpc_id]
        check_destination(vpc.cidr, destination)
        if any(route.destination == destination for route in found.routes):
            raise ModelError(
                "RouteAlreadyExists",
                f"The route identified by {destination} already exists.",
                "replace it, or choose another destination",
            )
        check_route_count(found.name, len(found.routes) + 1, self._lifecycle.settings)
        route = self._route(found, destination, internet_gateway, host, nat_gateway)
        return self._put_routes(found, (*found.routes, route))

    def replace_route(
        self,
        table: str,
        destination: IPv4Network,
        *,
        internet_gateway: str | None = None,
        host: str | None = None,
        nat_gateway: str | None = None,
    ) -> RouteTable:
        """ReplaceRoute: InvalidRoute.NotFound, and the errors of `create_route`."""
        self.delete_route(table, destination)
        return self.create_route(
            table,
            destination,
            internet_gateway=internet_gateway,
            host=host,
            nat_gateway=nat_gateway,
        )

    def delete_route(self, table: str, destination: IPv4Network) -> RouteTable:
        """DeleteRoute: InvalidRouteTableID.NotFound, InvalidRoute.NotFound."""
        found = self.route_table(table)
        left = tuple(route for route in found.routes if route.destination != destination)
        if left == found.routes:
            raise ModelError(
                "InvalidRoute.NotFound",
                f"no route with destination-cidr-block {destination} in route table {found.id}",
                "hyperplane-nat route-tables lists those there are",
            )
        return self._put_routes(found, left)

    def associate_route_table(self, table: str, subnets: Sequence[str]) -> RouteTable:
        """AssociateRouteTable, with several subnets: Resource.AlreadyAssociated."""
        found = self.route_table(table)
        ids = set(found.subnet_ids)
        for subnet in self._subnets_near(found, subnets):
            if subnet.vpc_id != found.vpc_id:
                raise _different_networks(found, "subnet", subnet.id)
            owner = self._tables.route_table_of(subnet)
            if owner is not None and subnet.id in owner.subnet_ids:
                raise ModelError(
                    "Resource.AlreadyAssociated",
                    f"the specified association for route table {found.id} conflicts with an "
                    f"existing association of subnet {subnet.id}",
                    "disassociate that first",
                )
            ids.add(subnet.id)
        return self._gateways.associate(found, tuple(ids))

    def disassociate_route_table(self, table: str, subnets: Sequence[str]) -> RouteTable:
        """DisassociateRouteTable: the subnets have the main one. InvalidAssociationID.NotFound."""
        found = self.route_table(table)
        ids = set(found.subnet_ids)
        for subnet in self._subnets_near(found, subnets):
            if subnet.id not in ids:
                raise ModelError(
                    "InvalidAssociationID.NotFound",
                    f"subnet {subnet.id} is not associated with route table {found.id}",
                    "hyperplane-nat route-tables lists those that are",
                )
            ids.remove(subnet.id)
        return self._gateways.associate(found, tuple(ids))

    def set_main_route_table(self, table: str) -> RouteTable:
        """ReplaceRouteTableAssociation of a VPC's main route table."""
        found = self.route_table(table)
        former = self._tables.main_route_table(found.vpc_id)
        if former is not None and former.id != found.id:
            self._tables.put(replace(former, main=False))
        found = replace(found, main=True)
        self._tables.put(found)
        return found

    # -- internet gateways

    def create_internet_gateway(
        self, name: str | None = None, account: str | None = None
    ) -> InternetGateway:
        """CreateInternetGateway: InvalidParameterValue for a taken name."""
        owner = self._owner(account)
        if any(each.name == name for each in self._tables.internet_gateways.values()):
            raise ModelError(
                "InvalidParameterValue",
                f"The internet gateway '{name}' already exists",
                "choose another name",
            )
        return self._gateways.make_internet_gateway(name or "", owner.id)

    def attach_internet_gateway(self, gateway: str, vpc: str) -> InternetGateway:
        """AttachInternetGateway: InvalidInternetGatewayID.NotFound, Resource.AlreadyAssociated."""
        found, place = self.internet_gateway(gateway), self._customer_vpc(vpc)
        if found.vpc_id:
            raise ModelError(
                "Resource.AlreadyAssociated",
                f"resource {found.id} is already attached to network {found.vpc_id}",
                "detach it first",
            )
        if self._tables.internet_gateway_of(place.id) is not None:
            raise ModelError(
                "InvalidParameterValue",
                f"Network {place.id} already has an internet gateway attached",
                "detach that first",
            )
        return self._gateways.attach(found, place, self._changes.internet())

    def detach_internet_gateway(self, gateway: str) -> InternetGateway:
        """DetachInternetGateway: Gateway.NotAttached, DependencyViolation."""
        found = self.internet_gateway(gateway)
        if not found.vpc_id:
            raise ModelError(
                "Gateway.NotAttached", f"resource {found.id} is not attached", "attach it first"
            )
        if self._gateways.mapped(found.vpc_id):
            raise ModelError(
                "DependencyViolation",
                f"Network {found.vpc_id} has some mapped public address(es). Please unmap those "
                "public address(es) before detaching the gateway.",
                "disassociate them, or delete what has them",
            )
        return self._gateways.detach(found)

    def delete_internet_gateway(self, gateway: str) -> None:
        """DeleteInternetGateway: InvalidInternetGatewayID.NotFound, DependencyViolation."""
        self._delete(self.internet_gateway(gateway), "internet gateway")

    # -- public addresses

    def allocate_address(
        self, account: str | None = None, address: IPv4Address | None = None
    ) -> ElasticAddress:
        """AllocateAddress: AddressLimitExceeded, InvalidIPAddress.InUse, InvalidParameterValue."""
        if address is not None:
            check_public_address("the address", address)
        owner = self._owner(account)
        return self._gateways.allocate(
            owner.id, address, kept=True, internet=self._changes.internet()
        )

    def associate_address(self, address: str, host: str) -> ElasticAddress:
        """
        AssociateAddress with a host, which has one public address at a time.

        Errors: InvalidAllocationID.NotFound, InvalidInstanceID.NotFound, Gateway.NotAttached,
        Resource.AlreadyAssociated.
        """
        found, place = self.address(address), self.host(host)
        if found.association_id:
            raise ModelError(
                "Resource.AlreadyAssociated",
                f"resource {found.id} is already associated with associate-id "
                f"{found.association_id}",
                "disassociate it first",
            )
        if (former := self._tables.public_address_of(place.id)) is not None:
            # EC2: the address that was assigned to an instance is released, an elastic one stays.
            self._gateways.unmap(former)
        return self._gateways.map_host(found, place)

    def disassociate_address(self, address: str) -> ElasticAddress | None:
        """DisassociateAddress: InvalidAssociationID.NotFound. None when it is released with it."""
        found = self.address(address)
        if not found.association_id:
            raise ModelError(
                "InvalidAssociationID.NotFound",
                f"The address {found.address} is not associated",
                "leave it as it is",
            )
        if found.interface_id:
            raise ModelError(
                "AuthFailure",
                "You do not have permission to access the specified resource.",
                f"{found.address} is a load balancer's for as long as that is there",
            )
        self._gateways.unmap(found)
        return self._tables.elastic_addresses.get(found.id)

    def release_address(self, address: str) -> None:
        """ReleaseAddress: InvalidAllocationID.NotFound, InvalidIPAddress.InUse."""
        found = self.address(address)
        if found.association_id:
            raise ModelError(
                "InvalidIPAddress.InUse", f"Address {found.address} is in use.", "disassociate it"
            )
        self._tables.remove(found)

    # -- NAT gateways

    def create_nat_gateway(
        self,
        subnet: str,
        name: str | None = None,
        *,
        allocations: Sequence[str] | None = None,
        addresses: int = 1,
        address: IPv4Address | None = None,
    ) -> NatGateway:
        """
        CreateNatGateway: with allocations a public one, else a private one with so many addresses.

        What keeps it from being made is its `FailureCode`, once it is failed. Errors:
        InvalidSubnetID.NotFound, NatGatewayLimitExceeded, InvalidParameterValue,
        InvalidIPAddress.InUse.
        """
        place = self.subnet(subnet)
        vpc = self._customer_vpc(place.vpc_id)
        if any(each.name == name for each in self._tables.nat_gateways_in(vpc.id)):
            raise duplicate("InvalidParameterValue", "NAT gateway", f"{vpc.name}/{name}")
        ids = None if allocations is None else [self._allocation(each) for each in allocations]
        count = addresses if ids is None else len(ids)
        check_address_count(name or "", count, ids is not None, self._lifecycle.settings)
        if address is not None:
            self._check_free(place, address)
        return self._nat_gateways.make(
            place, name or "", allocation_ids=ids, count=count, address=address
        )

    def delete_nat_gateway(self, gateway: str) -> None:
        """DeleteNatGateway: NatGatewayNotFound. Its public addresses stay, where they are kept."""
        self._nat_gateways.delete(self.nat_gateway(gateway))

    def associate_nat_gateway_address(self, gateway: str, allocations: Sequence[str]) -> NatGateway:
        """
        AssociateNatGatewayAddress: NatGatewayNotFound, IncorrectState, AddressLimitExceeded,
        OperationNotPermitted for a private one, and the failure codes of `create_nat_gateway`.
        """
        found = self.nat_gateway(gateway)
        _check_connectivity(found, public=True)
        ids = [self._allocation(each) for each in allocations]
        self._nat_gateways.add(found, ids, len(ids))
        return self._tables.nat_gateways[found.id]

    def assign_nat_gateway_addresses(self, gateway: str, count: int) -> NatGateway:
        """AssignPrivateNatGatewayAddress: the errors of `associate_nat_gateway_address`."""
        found = self.nat_gateway(gateway)
        _check_connectivity(found, public=False)
        self._nat_gateways.add(found, None, count)
        return self._tables.nat_gateways[found.id]

    def give_up_nat_gateway_addresses(
        self, gateway: str, addresses: Sequence[str], drain_seconds: int = DRAIN_SECONDS
    ) -> NatGateway:
        """
        DisassociateNatGatewayAddress and UnassignPrivateNatGatewayAddress: addresses by association
        or allocation id, public or private address.

        Errors: NatGatewayNotFound, IncorrectState, InvalidParameterValue for the primary one,
        InvalidAddress.NotFound.
        """
        found = self.nat_gateway(gateway)
        going = []
        for named in addresses:
            for each in found.addresses:
                elastic = self._tables.elastic_addresses.get(each.allocation_id)
                names = {str(each.address)}
                if elastic is not None:
                    names |= {elastic.id, elastic.association_id, str(elastic.address)}
                if named in names:
                    going.append(each.address)
                    break
            else:
                raise ModelError(
                    "InvalidAddress.NotFound",
                    f"{named} is no address of {found.id}",
                    "hyperplane-nat nat-gateways lists those it has",
                )
        self._nat_gateways.give_up(found, going, drain_seconds)
        return self._tables.nat_gateways[found.id]

    # -- how

    def _allocation(self, named: str) -> str:
        """The allocation id that is meant; one that there is not is found out by the gateway."""
        try:
            return self.address(named).id
        except ModelError:
            return named

    def _check_free(self, subnet: Subnet, address: IPv4Address) -> None:
        offset = int(address) - int(subnet.cidr.network_address)
        if not RESERVED_FIRST <= offset < subnet.cidr.num_addresses - 1:
            raise ModelError(
                "InvalidParameterValue",
                f"Address {address} does not fall within the subnet's address range {subnet.cidr}",
                "choose another one: the first four and the last one are reserved",
            )
        if int(address) in self._tables.addresses(subnet.vpc_id):
            raise ModelError(
                "InvalidIPAddress.InUse", f"Address {address} is in use", "choose another one"
            )

    def _assign_public(self, host: Host, wanted: IPv4Address | None) -> None:
        if wanted is not None:
            check_public_address(f"host {host.name}", wanted)
        owner = self._tables.vpcs[host.vpc_id].account_id
        internet = self._changes.internet()
        address = self._gateways.allocate(owner, wanted, kept=False, internet=internet)
        self._gateways.map_host(address, host)

    def _route(
        self,
        table: RouteTable,
        destination: IPv4Network,
        internet_gateway: str | None,
        host: str | None,
        nat_gateway: str | None,
    ) -> Route:
        if [internet_gateway, host, nat_gateway].count(None) != 2:
            raise ModelError(
                "InvalidParameterCombination",
                f"the route to {destination} has no target, or several",
                "name exactly one",
            )
        if internet_gateway is not None:
            gateway = self.internet_gateway(internet_gateway)
            if gateway.vpc_id != table.vpc_id:
                raise _different_networks(table, "network gateway", gateway.id)
            return Route(destination, gateway_id=gateway.id)
        if nat_gateway is not None:
            found = self.nat_gateway(nat_gateway)
            if found.vpc_id != table.vpc_id:
                raise _different_networks(table, "NAT gateway", found.id)
            return Route(destination, nat_gateway_id=found.id)
        assert host is not None
        instance = self._host_of(self._tables.vpcs[table.vpc_id], host)
        return Route(destination, instance_id=instance.id)

    def _subnets_near(self, table: RouteTable, named: Iterable[str]) -> list[Subnet]:
        """Subnets that are named, those of the table's VPC first."""
        vpc = self._tables.vpcs[table.vpc_id]
        return [self.subnet(key) for _, key in self._in(vpc, self._tables.subnets, named)]

    def _host_of(self, vpc: Vpc, named: str) -> Host:
        ((_, key),) = self._in(vpc, self._tables.hosts, [named])
        return self.host(key)

    def _put_routes(self, table: RouteTable, routes: tuple[Route, ...]) -> RouteTable:
        table = replace(table, routes=sorted_routes(routes))
        self._tables.put(table)
        return table


def _check_connectivity(gateway: NatGateway, *, public: bool) -> None:
    if gateway.public is not public:
        kind = "public" if gateway.public else "private"
        raise ModelError(
            "OperationNotPermitted",
            f"NAT gateway {gateway.id} is {kind}",
            "associate allocations with public ones, assign addresses to private ones",
        )


def _different_networks(table: RouteTable, what: str, other: str) -> ModelError:
    return ModelError(
        "InvalidParameterValue",
        f"route table {table.id} and {what} {other} belong to different networks",
        "name one of its VPC",
    )
