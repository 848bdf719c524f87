# SPDX-License-Identifier: Apache-2.0
"""Ways out of VPCs through the control API, and in what the forwarder is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp

from hyperplane_nat.controller.forwarder import desired
from hyperplane_nat.controller.network.hosts import reached
from hyperplane_nat.controller.network.ways_out import WaysOut
from hyperplane_nat.controller.resources import resources_of
from hyperplane_nat.model.region import Region
from netns.topology import Host, Interface
from tests.controller.region_lab import RegionLab, talk
from tests.controller.support import config_in
from tests.controller.test_api_commands import ask, done, refused
from tests.controller.test_reconcile import config, network_of, region_of
from tests.model.support import Clock

VPC: dict[str, Any] = {
    "name": "one",
    "cidr": "10.0.0.0/16",
    "internet_gateway": True,
    "subnet": [{"name": "a", "cidr": "10.0.1.0/24", "availability_zone": "b"}],
    "security_group": [{"name": "app"}],
    "host": [{"name": "bastion", "subnet": "a", "public_address": "203.0.113.9"}],
    "route_table": [
        {
            "name": "public",
            "main": True,
            "routes": [
                {"destination": "0.0.0.0/0", "internet_gateway": True},
                {"destination": "192.0.2.0/24", "host": "bastion"},
            ],
        }
    ],
}


def test_the_forwarder_is_told_of_routes_and_public_addresses(directory: Path) -> None:
    wanted = region_of(config_in(directory, lab={"environments": 0}, vpc=[VPC])).wanted()
    (gateway,) = (each for each in wanted.interfaces if each.gateway_of is not None)
    (host,) = wanted.hosts
    assert gateway.link.startswith("igw-")
    assert len(gateway.link) == 15
    item = desired.interface(gateway, Interface(gateway.link, "internet", 9, "02:0", "02:1"))
    assert (
        item
        == {
            "number": gateway.number,
            "name": gateway.link,
            "ifindex": 9,
            "address": "192.0.2.4",
            "mac": "02:0",
            "subnet": "192.0.2.1/32",
            "router": "192.0.2.1",
            "destinations": ["0.0.0.0/0"],
            "vpc": gateway.vpc_number,
            "mtu": 1500,
            "secondary": [
                {"number": gateway.secondary[0][0], "address": "203.0.113.9", "host": host.number}
            ],
            "gateway_of": host.vpc_number,
        }
        | gateway.policy.document()
    )
    (table,) = wanted.route_tables
    assert desired.route_table(table) == {
        "number": table.number,
        "vpc": host.vpc_number,
        "routes": [
            {"destination": "192.0.2.0/24", "host": host.number},
            {"destination": "0.0.0.0/0", "internet_gateway": gateway.number},
        ],
    }
    standing = Host(host.number, 8, "02:00:00:00:00:02", "02:00:00:00:00:01")
    assert desired.host(host, standing)["route_table"] == table.number


def test_a_route_that_leads_nowhere_is_a_blackhole(directory: Path) -> None:
    region = region_of(config_in(directory, lab={"environments": 0}, vpc=[VPC]))
    with region.commands() as commands:
        commands.delete_host("bastion")
    (table,) = region.wanted().route_tables
    assert desired.route_table(table)["routes"][0] == {
        "destination": "192.0.2.0/24",
        "blackhole": True,
    }


def test_the_internet_reaches_public_addresses_by_the_gateway_s_link(directory: Path) -> None:
    region = region_of(config_in(directory, lab={"environments": 0}, vpc=[VPC]))
    wanted = region.wanted()
    assert [vpc.name for vpc in wanted.vpcs if vpc.name == "internet"] == ["internet"]
    (gateway,) = (each for each in wanted.interfaces if each.gateway_of is not None)
    assert reached(wanted)["internet", gateway.link] == {"203.0.113.9"}


NAT: dict[str, Any] = VPC | {
    "host": [],
    "nat_gateway": [{"name": "out", "subnet": "a", "addresses": 2}],
    "route_table": [
        {
            "name": "private",
            "main": True,
            "routes": [{"destination": "0.0.0.0/0", "nat_gateway": "out"}],
        }
    ],
}


def test_the_forwarder_is_told_of_nat_gateways_that_serve(directory: Path) -> None:
    clock = Clock()
    region = Region(clock=clock)
    lab = config_in(directory, lab={"environments": 0}, network_interface=[], vpc=[NAT])
    region.apply(region.plan(resources_of(lab)))
    ways = WaysOut()
    told = ways.everything(region.wanted())
    assert told["nat_gateways"] == []
    ((route,),) = (table["routes"] for table in told["route_tables"])
    assert route == {"destination": "0.0.0.0/0", "blackhole": True}
    clock.pass_seconds(60)
    region.advance()
    wanted = region.wanted()
    changes = ways.changes(wanted)
    (gateway,) = changes["nat_gateways"]
    (table,) = changes["route_tables"]
    (further,) = gateway["secondary"]
    assert gateway == {
        "number": gateway["number"],
        "name": gateway["name"],
        "address": "10.0.1.4",
        "vpc": wanted.vpcs[0].number if wanted.vpcs[0].name == "one" else wanted.vpcs[1].number,
        "mtu": 8500,
        "secondary": [{"number": further["number"], "address": "10.0.1.5"}],
        "route_table": table["number"],
    }
    assert table["routes"] == [{"destination": "0.0.0.0/0", "nat_gateway": gateway["number"]}]
    (internet,) = (each for each in wanted.interfaces if each.gateway_of is not None)
    item = desired.interface(internet, Interface(internet.link, "internet", 9, "02:0", "02:1"))
    assert [each["nat_gateway"] for each in item["secondary"]] == [
        gateway["number"],
        further["number"],
    ]
    ways.told(wanted)
    assert not any(ways.changes(wanted).values())
    assert ways.numbers == {gateway["number"], further["number"]}
    with region.commands() as commands:
        commands.give_up_nat_gateway_addresses("out", ["10.0.1.5"])
    (draining,) = ways.changes(region.wanted())["nat_gateways"]
    assert draining["draining"] == [further["number"]]
    with region.commands() as commands:
        commands.delete_nat_gateway("out")
    clock.pass_seconds(60)
    region.advance()
    gone = ways.changes(region.wanted())
    assert gone["remove_nat_gateways"] == [gateway["number"]]
    assert gone["route_tables"][0]["routes"][0]["blackhole"] is True


def test_nat_gateways_by_command(directory: Path) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        await done(client, "POST", "/v1/internet-gateways", {"vpc": "customer"})
        address = await done(client, "POST", "/v1/addresses", {})
        asked = {"subnet": "a", "name": "out", "allocations": [address["AllocationId"]]}
        made = await done(client, "POST", "/v1/nat-gateways", asked)
        assert (made["State"], made["SubnetName"]) == ("pending", "a")
        route = {"destination": "0.0.0.0/0", "nat_gateway": "out"}
        table = await done(
            client, "PATCH", "/v1/route-tables/customer%2Fmain", {"create_routes": [route]}
        )
        assert table["Routes"][1]["NatGatewayId"] == made["NatGatewayId"]
        path = "/v1/nat-gateways/out"
        changes: tuple[tuple[dict[str, Any], str], ...] = (
            ({}, "InvalidParameterCombination"),
            ({"assign": 1, "give_up": ["x"]}, "InvalidParameterCombination"),
            ({"assign": 1}, "OperationNotPermitted"),
        )
        for change, code in changes:
            assert await refused(client, "PATCH", path, change) == (400, code)
        private: dict[str, Any] = {"subnet": "a", "connectivity": "private", "allocations": ["x"]}
        creations = (
            ({"subnet": "a"}, "MissingParameter"),
            (private, "InvalidParameterCombination"),
        )
        for creation, code in creations:
            assert await refused(client, "POST", "/v1/nat-gateways", creation) == (400, code)
        await done(client, "DELETE", path)
        rows = (await ask(client, "GET", "/v1/nat-gateways"))[1]
        assert [row["NatGatewayId"] for row in rows] == [made["NatGatewayId"]]

    talk(directory, RegionLab(), work)


def test_labs_without_route_tables_are_told_as_ever(directory: Path) -> None:
    told = network_of(config(directory)).everything()
    assert "route_tables" not in told
    assert [item for item in told["interfaces"] if "route_table" in item] == []


def test_route_tables_gateways_and_addresses_by_command(directory: Path) -> None:
    lab = RegionLab()

    async def work(client: aiohttp.ClientSession) -> None:
        asked = {"vpc": "customer", "name": "igw"}
        gateway = await done(client, "POST", "/v1/internet-gateways", asked)
        (attachment,) = gateway["Attachments"]
        assert (attachment["VpcName"], attachment["State"]) == ("customer", "available")
        asked = {"vpc": "customer", "name": "public"}
        made = await done(client, "POST", "/v1/route-tables", asked)
        assert (made["Main"], made["Associations"]) == (False, [])
        path = "/v1/route-tables/public"
        route = {"destination": "0.0.0.0/0", "internet_gateway": "igw"}
        changed = await done(
            client, "PATCH", path, {"create_routes": [route], "associate": ["small"]}
        )
        assert [each["SubnetName"] for each in changed["Associations"]] == ["small"]
        assert changed["Routes"][1] == {
            "DestinationCidrBlock": "0.0.0.0/0",
            "GatewayId": gateway["InternetGatewayId"],
            "State": "active",
        }
        tables = (await ask(client, "GET", "/v1/route-tables"))[1]
        assert [row["RouteTableName"] for row in tables] == ["main", "public"]
        assert await refused(client, "PATCH", path, {"create_routes": [route]}) == (
            400,
            "RouteAlreadyExists",
        )
        host = {"name": "one", "subnet": "small", "public_address": True}
        made = await done(client, "POST", "/v1/hosts", host)
        assert made["PublicIpAddress"] == "203.0.113.1"
        address = await done(client, "POST", "/v1/addresses", {"address": "203.0.113.77"})
        found = f"/v1/addresses/{address['AllocationId']}"
        mapped = await done(client, "PATCH", found, {"host": "one"})
        assert (mapped["HostName"], mapped["Kept"]) == ("customer/one", True)
        assert [row["PublicIp"] for row in (await ask(client, "GET", "/v1/addresses"))[1]] == [
            "203.0.113.77"
        ]
        assert await refused(client, "PATCH", "/v1/internet-gateways/igw", {"vpc": None}) == (
            400,
            "DependencyViolation",
        )
        free = await done(client, "PATCH", found, {"host": None})
        assert free["AssociationId"] is None
        await done(client, "DELETE", found)
        loose = await done(client, "PATCH", "/v1/internet-gateways/igw", {"vpc": None})
        assert loose["Attachments"] == []
        tables = (await ask(client, "GET", "/v1/route-tables"))[1]
        assert tables[1]["Routes"][1]["State"] == "blackhole"
        await done(client, "DELETE", "/v1/internet-gateways/igw")
        await done(
            client, "PATCH", path, {"disassociate": ["small"], "delete_routes": ["0.0.0.0/0"]}
        )
        await done(client, "DELETE", path)
        rows = (await ask(client, "GET", "/v1/internet-gateways"))[1]
        assert rows == []

    talk(directory, lab, work)
