# SPDX-License-Identifier: Apache-2.0
"""Route tables, internet gateways and public addresses: commands, declarations, what is wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.description import describe_route_tables
from hyperplane_nat.model.documents import document_of, tables_of
from hyperplane_nat.model.resources import (
    HostResource,
    Resources,
    RouteResource,
    RouteTableResource,
    SubnetResource,
    VpcResource,
)
from hyperplane_nat.model.wanted import WantedInterface, WantedRoute
from tests.model.support import (
    Scene,
    address,
    function,
    interface,
    lab,
    network,
    refusal,
    service,
    vpc,
)
from tests.model.test_hosts import command, lines

ALL = network("0.0.0.0/0")
TO_INTERNET = RouteResource(ALL, internet_gateway=True)
TO_HOST = RouteResource(network("192.0.2.0/24"), host="bastion")
BASTION = HostResource("bastion", "a", public=True, public_address=address("203.0.113.9"))
TO_BASTION = {"host": "bastion"}
PUBLIC = RouteTableResource("public", subnets=("a",), routes=(TO_INTERNET,))


def with_ways_out(*tables: RouteTableResource, **fields: Any) -> VpcResource:
    given = {"hosts": (BASTION,), "internet_gateway": True, "route_tables": tables, **fields}
    return replace(vpc(), **given)


def declared(*tables: RouteTableResource, **fields: Any) -> Resources:
    return lab(vpcs=[with_ways_out(*tables, **fields)])


def states(scene: Scene) -> dict[str, list[tuple[str, str]]]:
    """Destinations and states of routes, by the name of their table."""
    return {
        table["RouteTableName"]: [
            (route["DestinationCidrBlock"], route["State"]) for route in table["Routes"]
        ]
        for table in describe_route_tables(scene.region)
    }


def gateway_interface(scene: Scene) -> WantedInterface:
    (found,) = (each for each in scene.region.wanted().interfaces if each.gateway_of is not None)
    return found


def test_a_declaration_from_its_first_line_to_its_last() -> None:
    scene = Scene()
    main = RouteTableResource("rest", main=True, routes=(TO_HOST,))
    made = lines(scene, declared(PUBLIC, main))
    basics = ("account", "vpc", "subnet", "security-group")
    assert [each[:3] for each in made if each[1] not in basics] == [
        ("create", "internet-gateway", "customer"),
        ("create", "host", "customer/bastion"),
        ("create", "public-address", "customer/bastion"),
        ("create", "route-table", "customer/public"),
        ("create", "route-table", "customer/rest"),
    ]
    assert lines(scene, declared(PUBLIC, main)) == []
    wanted = scene.region.wanted()
    (host,) = wanted.hosts
    tables = {table.number: table for table in wanted.route_tables}
    assert host.route_table is not None
    interface = gateway_interface(scene)
    assert tables[host.route_table].routes == (
        WantedRoute("0.0.0.0/0", interface=interface.number),
    )
    assert [table.routes for table in tables.values() if table.number != host.route_table] == [
        (WantedRoute("192.0.2.0/24", host=host.number),)
    ]
    assert (interface.vpc, interface.gateway_of) == ("internet", host.vpc_number)
    ((_, public),) = interface.secondary
    assert (public, interface.mapped) == ("203.0.113.9", {"203.0.113.9": host.number})
    fewer = declared(hosts=(replace(BASTION, public=False, public_address=None),))
    assert lines(scene, fewer) == [
        ("delete", "public-address", "customer/bastion", "203.0.113.9"),
        ("delete", "route-table", "customer/public", ""),
        ("delete", "route-table", "customer/rest", ""),
    ]
    assert scene.region.wanted().route_tables == ()
    assert scene.region.wanted().hosts[0].route_table is None
    assert gateway_interface(scene).secondary == ()
    gone = lines(scene, declared(hosts=(), internet_gateway=False))
    assert [each[:3] for each in gone] == [
        ("delete", "host", "customer/bastion"),
        ("delete", "internet-gateway", "customer"),
    ]
    assert lines(scene, lab(vpcs=()))[-1][:3] == ("delete", "vpc", "customer")
    assert scene.region.tables.route_tables == {}


def test_interfaces_of_the_file_keep_their_numbers_beside_an_internet_gateway() -> None:
    scene = Scene()
    own = (interface("eni-a", "10.0.1.100"), interface("eni-b", "10.0.1.101", "10.0.1.102"))
    scene.apply(replace(declared(PUBLIC), interfaces=own, environments=2))
    numbers = {
        each.id: [each.number, *(number for number, _ in each.secondary)]
        for each in scene.region.tables.interfaces.values()
    }
    assert (numbers["eni-a"], numbers["eni-b"]) == ([0], [1, 2])
    taken = [number for each in numbers.values() for number in each]
    assert sorted(taken) == sorted(set(taken))


def test_a_table_becomes_the_main_one_and_ceases_to_be() -> None:
    scene = Scene()
    scene.apply(declared(PUBLIC))
    numbers = {row.name: row.number for row in scene.region.tables.route_tables.values()}
    assert set(numbers) == {"main", "public"}
    as_main = replace(PUBLIC, main=True, subnets=())
    assert [each[:3] for each in lines(scene, declared(as_main))] == [
        ("change", "route-table", "customer/public")
    ]
    (only,) = scene.region.tables.route_tables.values()
    assert (only.name, only.main, only.number) == ("public", True, numbers["public"])
    lines(scene, declared(PUBLIC))
    assert {row.name: row.main for row in scene.region.tables.route_tables.values()} == {
        "main": True,
        "public": False,
    }


@pytest.mark.requirement("VPC-association", profile="both")
def test_a_subnet_has_its_own_table_or_the_main_one() -> None:
    scene = Scene()
    main = RouteTableResource("rest", main=True, routes=(TO_HOST,))
    hosts = (BASTION, HostResource("other", "b"))
    scene.apply(lab(function("f", subnets=("b",)), vpcs=[with_ways_out(PUBLIC, main, hosts=hosts)]))
    wanted = scene.region.wanted()
    tables = {each.id: each.number for each in scene.region.tables.route_tables.values()}
    by_name = {each.name: tables[each.id] for each in scene.region.tables.route_tables.values()}
    assert {host.name: host.route_table for host in wanted.hosts} == {
        "bastion": by_name["public"],
        "other": by_name["rest"],
    }
    # An interface of a function has that of its subnet, one to the VPC's router none.
    assert {each.kind.value: each.route_table for each in wanted.interfaces} == {
        "hyperplane": by_name["rest"],
        "router": None,
        "internet-gateway": None,
    }


def test_public_addresses_move_between_hosts_in_one_plan() -> None:
    scene = Scene()
    other = HostResource("other", "b", public=True)
    scene.apply(declared(hosts=(BASTION, other)))
    former = gateway_interface(scene)
    assert sorted(former.mapped) == ["203.0.113.1", "203.0.113.9"]
    moved = (
        replace(BASTION, public=False, public_address=None),
        replace(other, public_address=address("203.0.113.9")),
    )
    assert lines(scene, declared(hosts=moved)) == [
        ("delete", "public-address", "customer/bastion", "203.0.113.9"),
        ("delete", "public-address", "customer/other", "203.0.113.1"),
        ("create", "public-address", "customer/other", "203.0.113.9"),
    ]
    names = {host.number: host.name for host in scene.region.wanted().hosts}
    mapped = gateway_interface(scene).mapped
    assert {public: names[number] for public, number in mapped.items()} == {"203.0.113.9": "other"}


@pytest.mark.requirement("VPC-route-state", profile="both")
def test_what_a_route_leads_to_goes_and_the_route_is_a_blackhole() -> None:
    scene = Scene()
    scene.apply(declared())
    command(scene, lambda commands: commands.create_route_table("customer", "t"))
    command(scene, lambda commands: commands.create_route("t", ALL, internet_gateway="customer"))
    command(
        scene,
        lambda commands: commands.create_route("t", network("192.0.2.0/24"), host="bastion"),
    )
    local = ("10.0.0.0/16", "active")
    assert states(scene)["t"] == [local, ("192.0.2.0/24", "active"), ("0.0.0.0/0", "active")]
    command(scene, lambda commands: commands.delete_host("bastion"))
    command(scene, lambda commands: commands.detach_internet_gateway("customer"))
    assert states(scene)["t"] == [local, ("192.0.2.0/24", "blackhole"), ("0.0.0.0/0", "blackhole")]
    (table,) = scene.region.wanted().route_tables
    assert [(each.interface, each.host) for each in table.routes] == [(None, None), (None, None)]
    command(scene, lambda commands: commands.attach_internet_gateway("customer", "customer"))
    assert states(scene)["t"][2] == ("0.0.0.0/0", "active")
    command(scene, lambda commands: commands.delete_route("t", ALL))
    command(scene, lambda commands: commands.delete_route_table("t"))
    assert set(states(scene)) == {"main"}


def test_numbers_of_public_addresses_retire() -> None:
    scene = Scene()
    scene.apply(declared())
    ((number, _),) = gateway_interface(scene).secondary
    command(scene, lambda commands: commands.delete_host("bastion"))
    assert number in scene.region.retired_numbers()
    primary = gateway_interface(scene).number
    command(scene, lambda commands: commands.detach_internet_gateway("customer"))
    assert primary in scene.region.retired_numbers()


def test_an_address_is_allocated_associated_and_released() -> None:
    scene = Scene(elastic_addresses=1)
    scene.apply(declared())
    command(scene, lambda commands: commands.allocate_address("shop"))
    (kept,) = (each for each in scene.region.tables.elastic_addresses.values() if each.kept)
    assert str(kept.address) == "203.0.113.1"
    # The one that the host was assigned goes.
    command(scene, lambda commands: commands.associate_address(kept.id, "bastion"))
    assert [str(each.address) for each in scene.region.tables.elastic_addresses.values()] == [
        "203.0.113.1"
    ]
    again = tables_of(document_of(scene.region.tables))
    assert again.public_address_of(kept.id) is None
    (host,) = scene.region.tables.hosts.values()
    assert again.public_address_of(host.id) == scene.region.tables.public_address_of(host.id)
    command(scene, lambda commands: commands.delete_host("bastion"))
    (left,) = scene.region.tables.elastic_addresses.values()
    assert left.association_id == ""
    command(scene, lambda commands: commands.release_address(left.id))
    assert not scene.region.tables.elastic_addresses


def do(scene: Scene, method: str, *arguments: Any, **named: Any) -> None:
    def work(commands: Commands) -> None:
        getattr(commands, method)(*arguments, **named)

    command(scene, work)


@pytest.mark.requirement("VPC-reserved-destinations", profile="both")
@pytest.mark.requirement("VPC-more-specific-than-local", profile="both")
@pytest.mark.parametrize(
    ("code", "method", "arguments", "named"),
    [
        ("InvalidVpcID.NotFound", "create_route_table", ("z",), {}),
        ("OperationNotPermitted", "create_route_table", ("internet",), {}),
        ("InvalidParameterValue", "create_route_table", ("customer", "public"), {}),
        ("RouteTableLimitExceeded", "create_route_table", ("customer",), {}),
        ("InvalidRouteTableID.NotFound", "delete_route_table", ("z",), {}),
        ("DependencyViolation", "delete_route_table", ("public",), {}),
        ("DependencyViolation", "delete_route_table", ("main",), {}),
        ("RouteAlreadyExists", "create_route", ("public", ALL), {"host": "bastion"}),
        (
            "RouteLimitExceeded",
            "create_route",
            ("public", network("1.0.0.0/8")),
            {"host": "bastion"},
        ),
        ("InvalidParameterCombination", "create_route", ("main", ALL), {}),
        (
            "InvalidParameterValue",
            "create_route",
            ("main", network("10.0.1.0/24")),
            {"host": "bastion"},
        ),
        (
            "InvalidParameterValue",
            "create_route",
            ("main", network("169.254.169.0/24")),
            {"host": "bastion"},
        ),
        ("InvalidInstanceID.NotFound", "create_route", ("main", ALL), {"host": "z"}),
        (
            "InvalidInternetGatewayID.NotFound",
            "create_route",
            ("main", ALL),
            {"internet_gateway": "z"},
        ),
        (
            "InvalidParameterValue",
            "create_route",
            ("bank/main", ALL),
            {"internet_gateway": "customer"},
        ),
        ("InvalidRoute.NotFound", "delete_route", ("main", ALL), {}),
        ("InvalidRoute.NotFound", "replace_route", ("main", ALL), {"host": "bastion"}),
        ("Resource.AlreadyAssociated", "associate_route_table", ("main", ["a"]), {}),
        ("InvalidSubnetID.NotFound", "associate_route_table", ("main", ["z"]), {}),
        ("InvalidAssociationID.NotFound", "disassociate_route_table", ("public", ["b"]), {}),
        ("InvalidParameterValue", "create_internet_gateway", ("customer",), {}),
        ("Resource.AlreadyAssociated", "attach_internet_gateway", ("customer", "bank"), {}),
        ("InvalidParameterValue", "attach_internet_gateway", ("loose", "customer"), {}),
        ("Gateway.NotAttached", "detach_internet_gateway", ("loose",), {}),
        ("DependencyViolation", "detach_internet_gateway", ("customer",), {}),
        ("DependencyViolation", "delete_internet_gateway", ("customer",), {}),
        ("InvalidParameterValue", "allocate_address", (None, address("10.0.0.9")), {}),
        ("InvalidIPAddress.InUse", "allocate_address", (None, address("203.0.113.9")), {}),
        ("InvalidIPAddress.InUse", "allocate_address", (None, address("203.0.113.80")), {}),
        ("InvalidAllocationID.NotFound", "associate_address", ("z", "bastion"), {}),
        ("Resource.AlreadyAssociated", "associate_address", ("203.0.113.9", "bastion"), {}),
        ("InvalidIPAddress.InUse", "release_address", ("203.0.113.9",), {}),
        ("InvalidAllocationID.NotFound", "disassociate_address", ("z",), {}),
        (
            "Gateway.NotAttached",
            "create_host",
            (HostResource("x", "bank/a", public=True),),
            {},
        ),
        ("DependencyViolation", "delete_vpc", ("customer",), {}),
    ],
)
def test_what_cannot_be_done_has_aws_s_name(
    code: str, method: str, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    scene = Scene(route_tables_per_vpc=2, routes_per_table=1)
    bank = vpc("bank", account="bank")
    main = with_ways_out(PUBLIC)
    scene.apply(lab(vpcs=[main, bank], internet=[service("web", "203.0.113.80")]))
    do(scene, "create_internet_gateway", "loose")
    before = document_of(scene.region.tables)
    if arguments[:1] == ("main",):
        arguments = ("customer/main", *arguments[1:])
    assert refusal(lambda: do(scene, method, *arguments, **named)) == code
    assert document_of(scene.region.tables) == before


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("Gateway.NotAttached", declared(internet_gateway=False)),
        ("InvalidParameterValue", declared(PUBLIC, internet_gateway=False, hosts=())),
        (
            "InvalidInstanceID.NotFound",
            declared(RouteTableResource("t", routes=(TO_HOST,)), hosts=()),
        ),
        ("InvalidSubnetID.NotFound", declared(replace(PUBLIC, subnets=("z",)))),
        ("InvalidParameterValue", declared(PUBLIC, PUBLIC)),
        ("Resource.AlreadyAssociated", declared(PUBLIC, replace(PUBLIC, name="p"))),
        ("InvalidParameterValue", declared(replace(PUBLIC, name="main"))),
        (
            "InvalidParameterValue",
            declared(replace(PUBLIC, main=True), RouteTableResource("p", main=True)),
        ),
        (
            "InvalidParameterCombination",
            declared(RouteTableResource("t", routes=(RouteResource(ALL),))),
        ),
        (
            "InvalidParameterValue",
            declared(hosts=(replace(BASTION, public_address=address("10.0.0.9")),)),
        ),
        (
            "InvalidIPAddress.InUse",
            lab(vpcs=[with_ways_out()], internet=[service("web", "203.0.113.9")]),
        ),
    ],
)
def test_what_cannot_be_declared_has_aws_s_name(code: str, wanted: Resources) -> None:
    assert refusal(lambda: Scene().region.plan(wanted)) == code


def test_an_internet_host_takes_no_public_address() -> None:
    scene = Scene()
    scene.apply(declared())
    both = lab(vpcs=[with_ways_out()], internet=[service("web", "203.0.113.9")])
    assert refusal(lambda: scene.region.plan(both)) == "InvalidIPAddress.InUse"


def test_a_subnet_in_another_zone_is_another_one() -> None:
    scene = Scene()
    scene.apply(lab())
    first, second = vpc().subnets
    moved = replace(vpc(), subnets=(SubnetResource("a", first.cidr, "b"), second))
    assert lines(scene, lab(vpcs=[moved])) == [
        ("create", "subnet", "customer/a", "10.0.1.0/24"),
        ("delete", "subnet", "customer/a", ""),
    ]
