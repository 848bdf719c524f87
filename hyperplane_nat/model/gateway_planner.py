# SPDX-License-Identifier: Apache-2.0
"""The part of a plan that is about ways out of VPCs: see `planner`.

An internet gateway is there before what needs one, public addresses and NAT gateways come after the
hosts and internet hosts whose addresses they must not have, route tables after all that they lead
to. What goes, goes the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from hyperplane_nat.model.changes import Changes, by_name
from hyperplane_nat.model.entities import Host, Subnet, Vpc
from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.gateway_entities import (
    ElasticAddress,
    InternetGateway,
    NatGateway,
    Route,
    RouteTable,
)
from hyperplane_nat.model.gateways import sorted_routes
from hyperplane_nat.model.nat_gateways import DRAIN_SECONDS
from hyperplane_nat.model.network_acl_planner import NetworkAclPlanner
from hyperplane_nat.model.resources import (
    MAIN_ROUTE_TABLE,
    HostResource,
    NatGatewayResource,
    RouteResource,
    RouteTableResource,
    VpcResource,
)
from hyperplane_nat.model.states import NatGatewayState

Hosts = Mapping[tuple[str, str], Host]
"""By the name of their VPC and their own."""

Line = Callable[[str, str, str, str], None]
"""Action, kind, name and detail of a line of the plan."""

Used = Callable[[str, str, str, str, str], None]
"""Kind, name, text and id of something that is to go and has a user, and that user."""


class GatewayPlanner:
    """Those steps of one run."""

    def __init__(self, changes: Changes, line: Line, used: Used) -> None:
        self._changes = changes
        self._gateways = changes.gateways
        self._tables = changes.tables
        self._acls = NetworkAclPlanner(changes, line)
        self._line = line
        self._used = used

    def attach(self, vpc: Vpc, wanted: VpcResource) -> None:
        """The internet gateway of a VPC, if it is to have one."""
        if not wanted.internet_gateway:
            return
        gateway = self._tables.internet_gateway_of(vpc.id)
        if gateway is None:
            made = self._gateways.make_internet_gateway(vpc.name, vpc.account_id)
            self._gateways.attach(made, vpc, self._changes.internet())
            self._line("create", "internet-gateway", vpc.name, "")
        elif not gateway.declared:
            self._tables.put(replace(gateway, declared=True))

    def expose(self, hosts: Hosts, wanted: Sequence[VpcResource]) -> None:
        """Public addresses of hosts: those that go first, since another host may get one."""
        pairs = [
            (f"{vpc.name}/{each.name}", hosts[vpc.name, each.name], each)
            for vpc in wanted
            for each in vpc.hosts
        ]
        for name, host, each in pairs:
            self._withdraw(name, host, each)
        for name, host, each in pairs:
            self._assign(name, host, each)

    def _withdraw(self, name: str, host: Host, wanted: HostResource) -> None:
        found = self._tables.public_address_of(host.id)
        if found is None:
            return
        another = wanted.public_address not in (None, found.address)
        if (wanted.public and another) or not (wanted.public or found.kept):
            self._gateways.unmap(found)
            self._line("delete", "public-address", name, str(found.address))

    def _assign(self, name: str, host: Host, wanted: HostResource) -> None:
        if not wanted.public or self._tables.public_address_of(host.id) is not None:
            return
        owner, internet = self._tables.vpcs[host.vpc_id].account_id, self._changes.internet()
        try:
            address = self._gateways.allocate(
                owner, wanted.public_address, kept=False, internet=internet
            )
            self._gateways.map_host(address, host)
        except ModelError as error:
            raise error.at(entry_of("host", name, "public_address")) from None
        self._line("create", "public-address", name, str(address.address))

    def make_nat_gateways(
        self, vpc: Vpc, wanted: VpcResource, subnets: Mapping[tuple[str, str], Subnet]
    ) -> None:
        """The NAT gateways of a VPC. What on AWS would make one `failed` is an error here."""
        for item in wanted.nat_gateways:
            subnet, name = subnets[vpc.name, item.subnet], f"{vpc.name}/{item.name}"
            try:
                self._make_nat_gateway(vpc, subnet, item, name)
            except ModelError as error:
                raise error.at(entry_of("nat-gateway", name)) from None

    def _make_nat_gateway(
        self, vpc: Vpc, subnet: Subnet, wanted: NatGatewayResource, name: str
    ) -> None:
        found = self._nat_gateway(vpc, wanted.name)
        if found is not None and not self._continues(found, subnet, wanted):
            self._delete_nat_gateway(found)
            found = None
        count = len(wanted.elastic_addresses) or wanted.addresses
        if found is not None:
            if not found.declared:
                found = replace(found, declared=True)
                self._tables.put(found)
            self._resize(found, wanted, count, name)
            return
        public = (wanted.elastic_addresses or [None] * count) if wanted.public else []
        addresses = self._allocate(vpc, public)
        ids = [each.id for each in addresses] if wanted.public else None
        failure = self._changes.nat_gateways.failure(subnet, ids, count)
        if failure is not None:
            raise ModelError(failure.code, failure.message, "change the file")
        self._changes.nat_gateways.make(subnet, wanted.name, allocation_ids=ids, count=count)
        shown = ", ".join(str(each.address) for each in addresses)
        self._line("create", "nat-gateway", name, shown if wanted.public else "private")

    def _nat_gateway(self, vpc: Vpc, name: str) -> NatGateway | None:
        for gateway in self._tables.nat_gateways_in(vpc.id):
            if gateway.name == name and gateway.state is not NatGatewayState.DELETING:
                return gateway
        return None

    def _continues(self, found: NatGateway, subnet: Subnet, wanted: NatGatewayResource) -> bool:
        """Whether it is the same gateway, whatever further addresses it is to have."""
        if (found.subnet_id, found.public) != (subnet.id, wanted.public) or found.failure_code:
            return False
        return not wanted.elastic_addresses or wanted.elastic_addresses[0] == self._public(found)[0]

    def _public(self, gateway: NatGateway) -> list[IPv4Address]:
        elastic = self._tables.elastic_addresses
        return [elastic[each.allocation_id].address for each in gateway.addresses if gateway.public]

    def _allocate(self, vpc: Vpc, addresses: Sequence[IPv4Address | None]) -> list[ElasticAddress]:
        internet = self._changes.internet()
        return [
            self._gateways.allocate(vpc.account_id, each, kept=False, internet=internet)
            for each in addresses
        ]

    def _resize(self, found: NatGateway, wanted: NatGatewayResource, count: int, name: str) -> None:
        """More addresses, or fewer: what is given up drains."""
        staying = [each for each in found.addresses if each.due is None]
        public = dict(zip(self._public(found), found.addresses, strict=False))
        going = staying[count:]
        new: list[IPv4Address | None] = [None] * (count - len(staying))
        if wanted.elastic_addresses:
            there = {address: each for address, each in public.items() if each.due is None}
            going = [each for at, each in there.items() if at not in wanted.elastic_addresses]
            new = [each for each in wanted.elastic_addresses if each not in there]
        if new:
            vpc = self._tables.vpcs[found.vpc_id]
            ids = [each.id for each in self._allocate(vpc, new)] if found.public else None
            self._changes.nat_gateways.add(found, ids, len(new))
        if going:
            # While an address drains none can be added.
            private = [each.address for each in going]
            found = self._tables.nat_gateways[found.id]
            self._changes.nat_gateways.give_up(found, private, DRAIN_SECONDS)
        if going or new:
            self._line("change", "nat-gateway", name, f"{count} addresses")

    def make_tables(
        self,
        vpc: Vpc,
        wanted: VpcResource,
        subnets: Mapping[tuple[str, str], Subnet],
        hosts: Hosts,
    ) -> None:
        """The network ACLs of a VPC, and its route tables: all stands that they lead to."""
        self._acls.make(vpc, wanted, subnets)
        self._gateways.main_route_table(vpc)
        for item in wanted.route_tables:
            former = self._named(vpc, item.name)
            table = self._place(vpc, item, former)
            made = replace(
                table,
                name=item.name,
                main=item.main,
                routes=sorted_routes(
                    tuple(self._route(vpc, route, hosts) for route in item.routes)
                ),
                declared=True,
            )
            self._tables.put(made)
            made = self._gateways.associate(
                made, tuple(subnets[vpc.name, each].id for each in item.subnets)
            )
            detail = f"{len(made.routes)} routes, {len(made.subnet_ids)} subnets"
            name = f"{vpc.name}/{item.name}"
            if former is None:
                self._line("create", "route-table", name, detail)
            elif replace(former, declared=True) != made:
                self._line("change", "route-table", name, detail)

    def _named(self, vpc: Vpc, name: str) -> RouteTable | None:
        for table in self._tables.route_tables.values():
            if (table.vpc_id, table.name) == (vpc.id, name):
                return table
        return None

    def _place(self, vpc: Vpc, item: RouteTableResource, former: RouteTable | None) -> RouteTable:
        """The table that is to be as `item` says, main or not; a VPC always has a main one."""
        main = self._gateways.main_route_table(vpc)
        if former is None:
            return main if item.main else self._gateways.make_route_table(vpc, item.name)
        if item.main and not former.main:
            if main.declared:
                self._tables.put(replace(main, main=False))
            else:
                self._changes.remove(main)
        elif former.main and not item.main:
            self._tables.put(replace(former, main=False))
            self._gateways.main_route_table(vpc)
        return former

    def _route(self, vpc: Vpc, wanted: RouteResource, hosts: Hosts) -> Route:
        if wanted.host is not None:
            return Route(wanted.destination, instance_id=hosts[vpc.name, wanted.host].id)
        if wanted.nat_gateway is not None:
            nat_gateway = self._nat_gateway(vpc, wanted.nat_gateway)
            assert nat_gateway is not None
            return Route(wanted.destination, nat_gateway_id=nat_gateway.id)
        gateway = self._tables.internet_gateway_of(vpc.id)
        assert gateway is not None
        return Route(wanted.destination, gateway_id=gateway.id)

    def delete_unused(self, wanted: Mapping[str, VpcResource]) -> None:
        """What no declaration names any more; `wanted` are VPCs that stay, by id."""
        self._acls.delete_unused(wanted)
        for table in by_name(self._tables.route_tables.values()):
            vpc = wanted.get(table.vpc_id)
            names = {each.name for each in vpc.route_tables} if vpc is not None else set()
            if table.declared and table.name not in names:
                self._delete_table(table)
        for nat_gateway in by_name(self._tables.nat_gateways.values()):
            vpc = wanted.get(nat_gateway.vpc_id)
            names = {each.name for each in vpc.nat_gateways} if vpc is not None else set()
            gone = nat_gateway.ended or nat_gateway.state is NatGatewayState.DELETING
            if nat_gateway.declared and not gone and nat_gateway.name not in names:
                self._delete_nat_gateway(nat_gateway)
        for gateway in by_name(self._tables.internet_gateways.values()):
            vpc = wanted.get(gateway.vpc_id)
            if gateway.declared and not (vpc is not None and vpc.internet_gateway):
                self._delete_gateway(gateway)

    def _delete_table(self, table: RouteTable) -> None:
        name = f"{self._tables.vpcs[table.vpc_id].name}/{table.name}"
        if table.main:
            bare = replace(table, name=MAIN_ROUTE_TABLE, routes=(), subnet_ids=(), declared=False)
            self._tables.put(bare)
        else:
            self._changes.remove(table)
        self._line("delete", "route-table", name, "")

    def _delete_nat_gateway(self, gateway: NatGateway) -> None:
        self._changes.nat_gateways.delete(gateway)
        name = f"{self._tables.vpcs[gateway.vpc_id].name}/{gateway.name}"
        self._line("delete", "nat-gateway", name, "")

    def _delete_gateway(self, gateway: InternetGateway) -> None:
        if gateway.vpc_id:
            if mapped := self._gateways.mapped(gateway.vpc_id):
                what = f"internet gateway {gateway.name}"
                user = f"public address {mapped[0].address}"
                self._used("internet-gateway", gateway.name, what, gateway.id, user)
                return
            gateway = self._gateways.detach(gateway)
        self._tables.remove(gateway)
        self._line("delete", "internet-gateway", gateway.name, "")
