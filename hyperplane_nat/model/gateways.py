# SPDX-License-Identifier: Apache-2.0
"""Route tables, internet gateways and public addresses: how they come, change and go.

Theory of operation
-------------------
What is attached to a VPC is a network interface in the internet, of the id of the internet gateway,
whose secondary addresses are the VPC's public ones. An address is one of these from its association
to its end, and has a number in the state map for as long; the number is retired afterwards, as that
of any interface.

A route says what it leads to by id and stays when that is gone: whether it is a `blackhole` is
found out whenever it is asked (`route_state`), never stored.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

from hyperplane_nat.model.entities import (
    LAMBDA_ACCOUNT_ID,
    Host,
    InterfaceKind,
    NetworkInterface,
    RetiredNumber,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.gateway_entities import (
    ElasticAddress,
    InternetGateway,
    NatGateway,
    Route,
    RouteTable,
)
from hyperplane_nat.model.identifiers import link_name, resource_id
from hyperplane_nat.model.lifecycle import Lifecycle
from hyperplane_nat.model.resources import MAIN_ROUTE_TABLE, PUBLIC_NETWORKS
from hyperplane_nat.model.states import InterfaceStatus
from hyperplane_nat.model.tables import Tables

ACTIVE = "active"
BLACKHOLE = "blackhole"

PUBLIC_ADDRESSES_MAX = 255
"""Public addresses of a VPC: so many secondary addresses an interface in the internet takes."""


class Gateways:
    """Changes of what leads out of VPCs, inside a transaction of the caller's."""

    def __init__(self, lifecycle: Lifecycle, *, declared: bool) -> None:
        """`declared`: whether what is made comes with a declaration."""
        self._lifecycle = lifecycle
        self._tables = lifecycle.tables
        self._declared = declared

    # -- route tables

    def main_route_table(self, vpc: Vpc) -> RouteTable:
        """That of a VPC, which gets one if it has none yet: a former version made none."""
        found = self._tables.main_route_table(vpc.id)
        return found or self.make_route_table(vpc, MAIN_ROUTE_TABLE, main=True)

    def make_route_table(self, vpc: Vpc, name: str, *, main: bool = False) -> RouteTable:
        """A route table with nothing but the local route. RouteTableLimitExceeded."""
        quota = self._lifecycle.settings.route_tables_per_vpc
        if sum(each.vpc_id == vpc.id for each in self._tables.route_tables.values()) >= quota:
            raise ModelError(
                "RouteTableLimitExceeded",
                f"VPC {vpc.name} has {quota} route tables, as many as it may",
                "share them, or raise lifecycle.route_tables_per_vpc",
            )
        numbers = {each.number for each in self._tables.route_tables.values()}
        table = RouteTable(
            id=self._new_id("rtb"),
            name=name,
            vpc_id=vpc.id,
            number=next(each for each in range(1, len(numbers) + 2) if each not in numbers),
            main=main,
            declared=self._declared and not main,
        )
        self._tables.put(table)
        return table

    def associate(self, table: RouteTable, subnet_ids: tuple[str, ...]) -> RouteTable:
        """The subnets of a table, which are then no other's."""
        for other in list(self._tables.route_tables.values()):
            kept = tuple(each for each in other.subnet_ids if each not in subnet_ids)
            if other.id != table.id and kept != other.subnet_ids:
                self._tables.put(replace(other, subnet_ids=kept))
        changed = replace(table, subnet_ids=tuple(sorted(subnet_ids)))
        if changed != table:
            self._tables.put(changed)
        return changed

    def forget_subnet(self, subnet: Subnet) -> None:
        """A subnet goes, its association, and NAT gateways that were in it."""
        for gateway in list(self._tables.nat_gateways.values()):
            if gateway.subnet_id == subnet.id:
                self._tables.remove(gateway)
        for table in list(self._tables.route_tables.values()):
            if subnet.id in table.subnet_ids:
                kept = tuple(each for each in table.subnet_ids if each != subnet.id)
                self._tables.put(replace(table, subnet_ids=kept))
        self._tables.remove(subnet)

    def forget_vpc(self, vpc: Vpc) -> None:
        """A VPC goes, and its main route table."""
        if (table := self._tables.main_route_table(vpc.id)) is not None:
            self._tables.remove(table)
        self._tables.remove(vpc)

    # -- internet gateways

    def make_internet_gateway(self, name: str, account_id: str) -> InternetGateway:
        """An internet gateway that is attached to nothing."""
        gateway_id = self._lifecycle.new_interface_id("igw")
        gateway = InternetGateway(
            gateway_id, name or link_name(gateway_id), account_id, declared=self._declared
        )
        self._tables.put(gateway)
        return gateway

    def attach(self, gateway: InternetGateway, vpc: Vpc, internet: Vpc) -> InternetGateway:
        """Give a VPC its internet gateway; the caller has seen that it has none."""
        subnet = next(each for each in self._tables.subnets.values() if each.vpc_id == internet.id)
        self._tables.put(
            NetworkInterface(
                id=gateway.id,
                kind=InterfaceKind.INTERNET_GATEWAY,
                status=InterfaceStatus.AVAILABLE,
                description=f"Internet gateway of VPC {vpc.name}",
                number=self._lifecycle.free_number(),
                link=link_name(gateway.id),
                owner_id=LAMBDA_ACCOUNT_ID,
                vpc_id=internet.id,
                subnet_id=subnet.id,
                group_ids=(),
                address=self._lifecycle.free_address(subnet),
            )
        )
        attached = replace(gateway, vpc_id=vpc.id)
        self._tables.put(attached)
        return attached

    def detach(self, gateway: InternetGateway) -> InternetGateway:
        """Take it from its VPC, which has no public address any more."""
        self._lifecycle.retire(self._tables.interfaces[gateway.id])
        detached = replace(gateway, vpc_id="")
        self._tables.put(detached)
        return detached

    def mapped(self, vpc_id: str) -> list[ElasticAddress]:
        """The public addresses that a VPC has."""
        return [
            address
            for address in self._tables.elastic_addresses.values()
            if address.association_id and vpc_of_address(self._tables, address) == vpc_id
        ]

    # -- public addresses

    def allocate(
        self, account_id: str, address: IPv4Address | None, *, kept: bool, internet: Vpc
    ) -> ElasticAddress:
        """
        A public address: that one, or the first that nobody has.

        Errors: AddressLimitExceeded for one that is kept, InvalidIPAddress.InUse,
        InsufficientAddressCapacity.
        """
        quota = self._lifecycle.settings.elastic_addresses
        own = sum(
            each.kept and each.account_id == account_id
            for each in self._tables.elastic_addresses.values()
        )
        if kept and own >= quota:
            raise ModelError(
                "AddressLimitExceeded",
                "The maximum number of addresses has been reached.",
                f"release some of the {own}, or raise lifecycle.elastic_addresses",
            )
        allocated = ElasticAddress(
            id=self._new_id("eipalloc"),
            account_id=account_id,
            address=self._free_public(internet) if address is None else address,
            internet_id=internet.id,
            kept=kept,
        )
        if address is not None and int(address) in self._tables.addresses(internet.id):
            raise ModelError(
                "InvalidIPAddress.InUse", f"Address {address} is in use.", "choose another one"
            )
        self._tables.put(allocated)
        return allocated

    def _free_public(self, internet: Vpc) -> IPv4Address:
        taken = self._tables.addresses(internet.id)
        for network in PUBLIC_NETWORKS:
            for address in network.hosts():
                if int(address) not in taken:
                    return address
        raise ModelError(
            "InsufficientAddressCapacity",
            "Not enough available addresses to satisfy your request.",
            "release some",
        )

    def map_host(self, address: ElasticAddress, host: Host) -> ElasticAddress:
        """Associate an address with a host. Gateway.NotAttached, AddressLimitExceeded."""
        self._expose(host.vpc_id, address.address)
        mapped = replace(address, association_id=self._new_id("eipassoc"), host_id=host.id)
        self._tables.put(mapped)
        return mapped

    def map_nat_gateway(self, address: ElasticAddress, gateway: NatGateway) -> ElasticAddress:
        """Associate an address with a NAT gateway. Gateway.NotAttached, AddressLimitExceeded."""
        self._expose(gateway.vpc_id, address.address)
        association_id = self._new_id("eipassoc")
        mapped = replace(address, association_id=association_id, nat_gateway_id=gateway.id)
        self._tables.put(mapped)
        return mapped

    def map_node(self, address: ElasticAddress, interface: NetworkInterface) -> ElasticAddress:
        """Associate an address with a load balancer's node. Gateway.NotAttached,
        AddressLimitExceeded.
        """
        self._expose(interface.vpc_id, address.address)
        association_id = self._new_id("eipassoc")
        mapped = replace(address, association_id=association_id, interface_id=interface.id)
        self._tables.put(mapped)
        return mapped

    def unmap(self, address: ElasticAddress) -> None:
        """Disassociate an address; one that is not kept is released."""
        vpc_id = vpc_of_address(self._tables, address)
        gateway = self._tables.internet_gateway_of(vpc_id)
        assert gateway is not None
        interface = self._tables.interfaces[gateway.id]
        (number,) = (each for each, taken in interface.secondary if taken == address.address)
        left = tuple(each for each in interface.secondary if each[0] != number)
        self._tables.put(replace(interface, secondary=left))
        self._tables.put(RetiredNumber(number))
        if address.kept:
            free = replace(address, association_id="", host_id="", nat_gateway_id="")
            self._tables.put(replace(free, interface_id=""))
        else:
            self._tables.remove(address)

    def forget_host(self, host: Host) -> None:
        """A host goes, and its public address."""
        if (address := self._tables.public_address_of(host.id)) is not None:
            self.unmap(address)
        self._lifecycle.forget_host(host)

    def _expose(self, vpc_id: str, address: IPv4Address) -> None:
        gateway = self._tables.internet_gateway_of(vpc_id)
        if gateway is None:
            raise not_attached(vpc_id)
        interface = self._tables.interfaces[gateway.id]
        if len(interface.secondary) >= PUBLIC_ADDRESSES_MAX:
            raise ModelError(
                "AddressLimitExceeded",
                f"Network {vpc_id} has {PUBLIC_ADDRESSES_MAX} public addresses",
                "disassociate some: a lab has room for no more in a VPC",
            )
        further = (self._lifecycle.free_number(), address)
        self._tables.put(replace(interface, secondary=(*interface.secondary, further)))

    def _new_id(self, prefix: str) -> str:
        return resource_id(prefix, self._lifecycle.random_hex)


def not_attached(vpc_id: str) -> ModelError:
    """A public address in a VPC without internet gateway (EC2 API, AssociateAddress)."""
    return ModelError(
        "Gateway.NotAttached",
        f"Network {vpc_id} is not attached to any internet gateway",
        "attach one: internet_gateway = true in its [[vpc]]",
    )


def vpc_of_address(tables: Tables, address: ElasticAddress) -> str:
    """Id of the VPC that a public address is associated in."""
    if address.nat_gateway_id:
        return tables.nat_gateways[address.nat_gateway_id].vpc_id
    if address.interface_id:
        return tables.interfaces[address.interface_id].vpc_id
    return tables.hosts[address.host_id].vpc_id


def route_state(tables: Tables, table: RouteTable, route: Route) -> str:
    """`ACTIVE`, or `BLACKHOLE` when what it leads to is gone (EC2 API, `RouteState`)."""
    if route.gateway_id:
        gateway = tables.internet_gateways.get(route.gateway_id)
        there = gateway is not None and gateway.vpc_id == table.vpc_id
    elif route.nat_gateway_id:
        nat_gateway = tables.nat_gateways.get(route.nat_gateway_id)
        there = nat_gateway is not None and nat_gateway.serves
    elif route.endpoint_id:
        there = route.endpoint_id in tables.gateway_endpoints
    else:
        there = route.instance_id in tables.hosts
    return ACTIVE if there else BLACKHOLE


def route_to(routes: tuple[Route, ...], address: IPv4Address) -> Route | None:
    """Of a table's routes that to an address outside its VPC: that of the longest prefix."""
    return next((each for each in sorted_routes(routes) if address in each.destination), None)


def sorted_routes(routes: tuple[Route, ...]) -> tuple[Route, ...]:
    """The longest prefix first."""
    return tuple(
        sorted(routes, key=lambda route: (-route.destination.prefixlen, route.destination))
    )
