# SPDX-License-Identifier: Apache-2.0
"""NAT gateways: their states over time, failures, addresses that come and go, what is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from hyperplane_nat.model.description import (
    describe_addresses,
    describe_interfaces,
    describe_nat_gateways,
    describe_route_tables,
)
from hyperplane_nat.model.documents import document_of, tables_of
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.gateway_entities import NatGateway
from hyperplane_nat.model.planner import PlanLine
from hyperplane_nat.model.resources import (
    NatGatewayResource,
    Resources,
    RouteResource,
    RouteTableResource,
    VpcResource,
)
from hyperplane_nat.model.wanted import WantedNatGateway, WantedRoute
from tests.model import invariants
from tests.model.support import Scene, address, lab, network, refusal, vpc
from tests.model.test_gateways import ALL, PUBLIC, do, gateway_interface
from tests.model.test_hosts import lines

OUT = NatGatewayResource("out", "a")
PRIVATE = RouteTableResource(
    "private", subnets=("b",), routes=(RouteResource(ALL, nat_gateway="out"),)
)


def with_gateways(*gateways: NatGatewayResource, **fields: Any) -> VpcResource:
    tables = (PUBLIC, PRIVATE) if gateways else (PUBLIC,)
    given = {"internet_gateway": True, "route_tables": tables, "nat_gateways": gateways, **fields}
    return replace(vpc(), **given)


def declared(*gateways: NatGatewayResource, **fields: Any) -> Resources:
    return lab(vpcs=[with_gateways(*gateways, **fields)])


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A region whose invariants hold at the end."""
    scene = Scene()
    yield scene
    assert invariants.violations(scene.region, set()) == []


def gateway(scene: Scene, name: str = "out") -> NatGateway:
    (found,) = (each for each in scene.region.tables.nat_gateways.values() if each.name == name)
    return found


def wanted(scene: Scene) -> list[WantedNatGateway]:
    return list(scene.region.wanted().nat_gateways)


def route_states(scene: Scene) -> list[str]:
    (table,) = (
        row for row in describe_route_tables(scene.region) if row["RouteTableName"] == "private"
    )
    return [route["State"] for route in table["Routes"][1:]]


def available(scene: Scene) -> None:
    scene.pass_seconds(scene.settings.nat_gateway_creation_seconds)


@pytest.mark.requirement("NATGW-states", profile="both")
@pytest.mark.requirement("NATGW-described", profile="both")
@pytest.mark.requirement("NATGW-deletion", profile="both")
@pytest.mark.requirement("VPC-route-state", profile="both")
def test_from_pending_to_what_is_described_no_more(scene: Scene) -> None:
    made = scene.apply(declared(OUT))
    assert PlanLine("create", "nat-gateway", "customer/out", "203.0.113.1") in made
    assert gateway(scene).state == "pending"
    assert (wanted(scene), route_states(scene)) == ([], ["blackhole"])
    available(scene)
    assert gateway(scene).state == "available"
    assert route_states(scene) == ["active"]
    (item,) = wanted(scene)
    internet = gateway_interface(scene)
    tables = {each.number: each for each in scene.region.wanted().route_tables}
    assert item.route_table is not None
    assert tables[item.route_table].routes == (WantedRoute("0.0.0.0/0", interface=internet.number),)
    assert (item.name[:4], item.address, item.secondary, item.draining) == (
        "nat-",
        "10.0.1.4",
        (),
        (),
    )
    assert internet.translated == {"203.0.113.1": item.number}
    assert internet.mapped == {}
    assert WantedRoute("0.0.0.0/0", nat_gateway=item.number) in [
        route for table in tables.values() for route in table.routes
    ]
    # Its interface has no link to be made.
    assert item.number not in [each.number for each in scene.region.wanted().interfaces]
    assert scene.apply(declared(OUT)) == ()
    do(scene, "delete_nat_gateway", "out")
    assert gateway(scene).state == "deleting"
    assert (len(wanted(scene)), route_states(scene)) == (1, ["active"])
    scene.pass_seconds(scene.settings.nat_gateway_deletion_seconds)
    assert gateway(scene).state == "deleted"
    assert (wanted(scene), route_states(scene)) == ([], ["blackhole"])
    assert item.number in scene.region.retired_numbers()
    # What a file has given it is released.
    assert describe_addresses(scene.region) == []
    assert gateway_interface(scene).secondary == ()
    scene.pass_seconds(3600)
    assert scene.region.tables.nat_gateways == {}
    # The same file has it again.
    assert [each.kind for each in scene.apply(declared(OUT))] == ["nat-gateway", "route-table"]


@pytest.mark.requirement("NATGW-deletion", profile="both")
def test_a_command_makes_one_that_keeps_its_address(scene: Scene) -> None:
    scene.apply(declared())
    do(scene, "allocate_address", "shop")
    (allocation,) = scene.region.tables.elastic_addresses
    do(
        scene,
        "create_nat_gateway",
        "a",
        "out",
        allocations=[allocation],
        address=address("10.0.1.77"),
    )
    available(scene)
    (row,) = describe_nat_gateways(scene.region)
    assert (row["State"], row["ConnectivityType"], row["AvailabilityZone"]) == (
        "available",
        "public",
        "a",
    )
    assert row["NatGatewayAddresses"] == [
        {
            "PrivateIp": "10.0.1.77",
            "PublicIp": "203.0.113.1",
            "AllocationId": allocation,
            "AssociationId": scene.region.tables.elastic_addresses[allocation].association_id,
            "IsPrimary": True,
            "Status": "succeeded",
        }
    ]
    (interface,) = (
        each
        for each in describe_interfaces(scene.region)
        if each["NetworkInterfaceId"] == row["NetworkInterfaceId"]
    )
    assert interface["InterfaceType"] == "natGateway"
    assert interface["Description"] == f"Interface for NAT Gateway {row['NatGatewayId']}"
    do(scene, "delete_nat_gateway", row["NatGatewayId"])
    scene.pass_seconds(scene.settings.nat_gateway_deletion_seconds)
    (left,) = describe_addresses(scene.region)
    assert (left["AssociationId"], left["NatGatewayId"], left["Kept"]) == (None, None, True)
    assert describe_nat_gateways(scene.region)[0]["DeleteTime"] == scene.clock.now


@pytest.mark.requirement("NATGW-failures", profile="both")
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("Gateway.NotAttached", "Network {vpc} has no Internet gateway attached"),
        (
            "InvalidAllocationID.NotFound",
            "Elastic IP address {allocation} could not be associated with this NAT gateway",
        ),
        ("Resource.AlreadyAssociated", "Elastic IP address {allocation} is already associated"),
        (
            "InsufficientFreeAddressesInSubnet",
            "Subnet has insufficient free addresses to create this NAT gateway",
        ),
    ],
)
def test_a_failure_has_aws_s_code_and_text(scene: Scene, code: str, text: str) -> None:
    small = vpc(subnets=[("a", "10.0.1.0/28")])
    scene.apply(lab(vpcs=[replace(small, internet_gateway=True)]))
    do(scene, "allocate_address", "shop")
    (allocation,) = scene.region.tables.elastic_addresses
    connectivity: dict[str, Any] = {"allocations": [allocation]}
    if code == "Gateway.NotAttached":
        do(scene, "detach_internet_gateway", "customer")
    elif code == "InvalidAllocationID.NotFound":
        allocation = "eipalloc-0"
        connectivity = {"allocations": [allocation]}
    elif code == "Resource.AlreadyAssociated":
        do(scene, "create_nat_gateway", "a", "first", allocations=[allocation])
    else:
        do(scene, "create_nat_gateway", "a", "first", addresses=8)
        connectivity = {"addresses": 4}
    do(scene, "create_nat_gateway", "a", "out", **connectivity)
    assert gateway(scene).state == "pending"
    available(scene)
    found = gateway(scene)
    (there,) = (each for each in scene.region.tables.vpcs.values() if each.name == "customer")
    assert (found.state, found.failure_code, found.interface_id) == ("failed", code, "")
    assert found.failure_message == text.format(vpc=there.id, allocation=allocation)
    scene.pass_seconds(3600)
    assert "out" not in [each.name for each in scene.region.tables.nat_gateways.values()]


@pytest.mark.requirement("NATGW-quota", profile="both")
def test_only_what_has_not_ended_counts_for_the_quota(scene: Scene) -> None:
    scene.apply(lab(vpcs=[replace(vpc(), internet_gateway=True)]))
    for number in range(5):
        do(scene, "create_nat_gateway", "a", f"n{number}", addresses=1)

    def make() -> None:
        do(scene, "create_nat_gateway", "b", "more", addresses=1)

    with pytest.raises(ModelError, match="would exceed the limit of 5 NAT gateways"):
        make()
    do(scene, "delete_nat_gateway", "n0")
    assert refusal(make) == "NatGatewayLimitExceeded"
    scene.pass_seconds(scene.settings.nat_gateway_deletion_seconds)
    make()
    # Another zone has its own.
    do(scene, "create_subnet", "customer", network("10.0.9.0/24"), "c", "c")
    do(scene, "create_nat_gateway", "c", "far", addresses=1)


@pytest.mark.requirement("NATGW-drain", profile="both")
@pytest.mark.requirement("NATGW-address-status", profile="both")
@pytest.mark.requirement("NATGW-addresses", profile="both")
def test_an_address_drains_and_is_gone(scene: Scene) -> None:
    two = replace(OUT, addresses=2)
    scene.apply(declared(two))
    available(scene)
    (item,) = wanted(scene)
    ((number, private),) = item.secondary
    assert gateway_interface(scene).translated == {
        "203.0.113.1": item.number,
        "203.0.113.2": number,
    }
    assert lines(scene, declared(OUT)) == [("change", "nat-gateway", "customer/out", "1 addresses")]
    assert lines(scene, declared(OUT)) == []
    assert [each.status for each in gateway(scene).addresses] == ["succeeded", "disassociating"]
    assert wanted(scene)[0].draining == (number,)
    assert refusal(lambda: do(scene, "give_up_nat_gateway_addresses", "out", [private])) == (
        "IncorrectState"
    )
    assert refusal(lambda: do(scene, "associate_nat_gateway_address", "out", [])) == (
        "IncorrectState"
    )
    scene.pass_seconds(349)
    assert wanted(scene)[0].draining == (number,)
    scene.pass_seconds(1)
    assert (wanted(scene)[0].draining, wanted(scene)[0].secondary) == ((), ())
    assert number in scene.region.retired_numbers()
    assert gateway_interface(scene).translated == {"203.0.113.1": item.number}
    assert lines(scene, declared(two)) == [("change", "nat-gateway", "customer/out", "2 addresses")]
    assert [each.status for each in gateway(scene).addresses] == ["succeeded", "succeeded"]


@pytest.mark.requirement("NATGW-drain", profile="both")
def test_an_address_without_flows_is_gone_before_its_time(scene: Scene) -> None:
    three = replace(OUT, public=False, addresses=3)
    scene.apply(declared(three))
    available(scene)
    _, one, other = (str(each.address) for each in gateway(scene).addresses)
    assert scene.region.draining_addresses() == {}
    do(scene, "give_up_nat_gateway_addresses", "out", [one, other])
    draining = scene.region.draining_addresses()
    assert [str(each) for _, each in draining.values()] == [one, other]
    number = next(iter(draining))
    scene.region.addresses_unused([draining[number]])
    assert len(gateway(scene).addresses) == 2
    assert scene.region.retired_numbers() == [number]
    # Told again, or of what is not given up: nothing happens.
    kept = (gateway(scene).id, gateway(scene).addresses[0].address)
    scene.region.addresses_unused([draining[number], kept, ("nat-gone", kept[1])])
    assert len(gateway(scene).addresses) == 2
    scene.pass_seconds(350)
    assert len(gateway(scene).addresses) == 1
    assert scene.region.draining_addresses() == {}


@pytest.mark.requirement("NATGW-addresses", profile="both")
@pytest.mark.requirement("NATGW-address-status", profile="both")
def test_a_private_one_has_up_to_eight_addresses(scene: Scene) -> None:
    inside = replace(OUT, public=False, addresses=7)
    scene.apply(declared(inside))
    available(scene)
    do(scene, "assign_nat_gateway_addresses", "out", 1)
    assert len(gateway(scene).addresses) == 8
    assert refusal(lambda: do(scene, "assign_nat_gateway_addresses", "out", 1)) == (
        "AddressLimitExceeded"
    )
    last = str(gateway(scene).addresses[-1].address)
    do(scene, "give_up_nat_gateway_addresses", "out", [last], 10)
    assert gateway(scene).addresses[-1].status == "unassigning"
    scene.pass_seconds(10)
    assert len(gateway(scene).addresses) == 7
    assert gateway_interface(scene).translated == {}


def test_a_private_one_of_a_file_has_no_public_address(scene: Scene) -> None:
    inside = replace(OUT, public=False, addresses=2)
    assert ("create", "nat-gateway", "customer/out", "private") in lines(scene, declared(inside))
    available(scene)
    assert scene.region.tables.elastic_addresses == {}
    assert len(gateway(scene).addresses) == 2


def test_explicit_addresses_are_had_as_they_are_named(scene: Scene) -> None:
    named = replace(
        OUT, elastic_addresses=(address("203.0.113.7"), address("203.0.113.8")), addresses=2
    )
    scene.apply(declared(named))
    available(scene)
    fewer = replace(named, elastic_addresses=named.elastic_addresses[:1])
    assert lines(scene, declared(fewer)) == [
        ("change", "nat-gateway", "customer/out", "1 addresses")
    ]
    # Another primary address makes another gateway; the former one goes.
    other = replace(named, elastic_addresses=(address("203.0.113.9"),))
    done = lines(scene, declared(other))
    assert [each[:3] for each in done] == [
        ("delete", "nat-gateway", "customer/out"),
        ("create", "nat-gateway", "customer/out"),
        ("change", "route-table", "customer/private"),
    ]


def test_an_address_takes_the_place_of_another_where_there_is_room() -> None:
    public = (address("203.0.113.7"), address("203.0.113.8"))
    named = replace(OUT, elastic_addresses=public, addresses=2)
    other = replace(named, elastic_addresses=(public[0], address("203.0.113.9")))
    full = Scene()
    full.apply(declared(named))
    available(full)
    assert refusal(lambda: full.region.plan(declared(other))) == "AddressLimitExceeded"
    scene = Scene(nat_gateway_elastic_addresses=3)
    scene.apply(declared(named))
    available(scene)
    lines(scene, declared(other))
    statuses = [each.status for each in gateway(scene).addresses]
    assert statuses == ["succeeded", "disassociating", "succeeded"]
    assert lines(scene, declared(other)) == []
    scene.pass_seconds(350)
    assert sorted(gateway_interface(scene).translated) == ["203.0.113.7", "203.0.113.9"]


def test_what_is_declared_no_more_goes_with_all_it_has(scene: Scene) -> None:
    scene.apply(declared(OUT))
    available(scene)
    assert lines(scene, declared()) == [
        ("delete", "route-table", "customer/private", ""),
        ("delete", "nat-gateway", "customer/out", ""),
    ]
    bare = lab(vpcs=[vpc(subnets=[("b", "10.0.2.0/24")])])
    # Its interface and its public address are there until it is deleted.
    assert refusal(lambda: scene.region.plan(bare)) == "DependencyViolation"
    kept = scene.region.plan(bare, keep_used=True)
    waiting = {(each.kind, each.name): each.waits_for for each in kept.lines if each.waits_for}
    assert waiting == {
        ("internet-gateway", "customer"): "public address 203.0.113.1",
        ("subnet", "customer/a"): "NAT gateway out",
    }
    scene.region.apply(kept)
    scene.pass_seconds(scene.settings.nat_gateway_deletion_seconds)
    scene.region.resume(bare)
    assert [each.name for each in scene.region.tables.subnets.values()] == ["internet", "b"]
    assert scene.region.tables.internet_gateways == {}
    assert scene.region.tables.nat_gateways == {}


def test_what_commands_have_deleted_stays_away(scene: Scene) -> None:
    both = lab(vpcs=[with_gateways(OUT), vpc("bank", account="bank", subnets=[], groups=[])])
    scene.apply(both)
    do(scene, "delete_vpc", "bank")
    scene.region.resume(both)
    assert {each.name for each in scene.region.tables.vpcs.values()} == {"customer", "internet"}
    assert gateway(scene).state == "pending"


def test_a_region_comes_back_with_its_gateways(scene: Scene) -> None:
    scene.apply(declared(replace(OUT, addresses=2)))
    available(scene)
    do(scene, "give_up_nat_gateway_addresses", "out", ["203.0.113.2"], 100)
    again = tables_of(document_of(scene.region.tables))
    assert again.nat_gateways == scene.region.tables.nat_gateways
    assert again.next_deadline() == scene.clock.now + 100


@pytest.mark.parametrize(
    ("code", "method", "arguments", "named"),
    [
        ("InvalidSubnetID.NotFound", "create_nat_gateway", ("z",), {}),
        ("InvalidParameterValue", "create_nat_gateway", ("a", "out"), {}),
        ("AddressLimitExceeded", "create_nat_gateway", ("a", "x"), {"addresses": 9}),
        ("InvalidParameterValue", "create_nat_gateway", ("a", "x"), {"allocations": []}),
        ("AddressLimitExceeded", "create_nat_gateway", ("a", "x"), {"allocations": ["1"] * 3}),
        (
            "InvalidIPAddress.InUse",
            "create_nat_gateway",
            ("a", "x"),
            {"address": address("10.0.1.4")},
        ),
        (
            "InvalidParameterValue",
            "create_nat_gateway",
            ("a", "x"),
            {"address": address("10.0.1.3")},
        ),
        ("NatGatewayNotFound", "delete_nat_gateway", ("z",), {}),
        ("OperationNotPermitted", "assign_nat_gateway_addresses", ("out", 1), {}),
        ("AddressLimitExceeded", "associate_nat_gateway_address", ("out", ["1", "2"]), {}),
        ("InvalidAllocationID.NotFound", "associate_nat_gateway_address", ("out", ["1"]), {}),
        ("InvalidParameterValue", "give_up_nat_gateway_addresses", ("out", ["203.0.113.1"]), {}),
        ("InvalidAddress.NotFound", "give_up_nat_gateway_addresses", ("out", ["1.2.3.4"]), {}),
        ("NatGatewayNotFound", "create_route", ("customer/main", ALL), {"nat_gateway": "z"}),
        ("InvalidParameterValue", "create_route", ("bank/main", ALL), {"nat_gateway": "out"}),
        ("DependencyViolation", "delete_subnet", ("a",), {}),
        ("DependencyViolation", "detach_internet_gateway", ("customer",), {}),
    ],
)
def test_what_cannot_be_done_has_aws_s_name(
    scene: Scene, code: str, method: str, arguments: tuple[Any, ...], named: dict[str, Any]
) -> None:
    scene.apply(lab(vpcs=[with_gateways(OUT), vpc("bank", account="bank", subnets=[])]))
    available(scene)
    before = document_of(scene.region.tables)
    assert refusal(lambda: do(scene, method, *arguments, **named)) == code
    assert document_of(scene.region.tables) == before


@pytest.mark.parametrize(
    ("code", "gateways", "fields"),
    [
        ("Gateway.NotAttached", (OUT,), {"internet_gateway": False, "route_tables": ()}),
        ("InvalidSubnetID.NotFound", (replace(OUT, subnet="z"),), {}),
        ("InvalidParameterValue", (OUT, OUT), {}),
        ("AddressLimitExceeded", (replace(OUT, addresses=3),), {}),
        ("InvalidParameterValue", (replace(OUT, elastic_addresses=(address("10.0.0.9"),)),), {}),
        (
            "InvalidParameterValue",
            (replace(OUT, public=False, elastic_addresses=(address("203.0.113.9"),)),),
            {},
        ),
        ("NatGatewayNotFound", (replace(OUT, name="x"),), {}),
        (
            "InsufficientFreeAddressesInSubnet",
            (
                replace(OUT, public=False, addresses=8),
                replace(OUT, name="x", public=False, addresses=8),
            ),
            {"subnets": vpc(subnets=[("a", "10.0.1.0/28"), ("b", "10.0.2.0/24")]).subnets},
        ),
        (
            "InvalidIPAddress.InUse",
            tuple(
                replace(OUT, name=name, elastic_addresses=(address("203.0.113.9"),))
                for name in ("out", "x")
            ),
            {},
        ),
    ],
)
def test_what_cannot_be_declared_has_aws_s_name(
    code: str, gateways: tuple[NatGatewayResource, ...], fields: dict[str, Any]
) -> None:
    assert refusal(lambda: Scene().region.plan(declared(*gateways, **fields))) == code
