# SPDX-License-Identifier: Apache-2.0
"""Internet-facing load balancers: public addresses of nodes, and where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest

from hyperplane_nat.model.balancer_description import describe_load_balancers
from hyperplane_nat.model.balancer_resources import ListenerResource, NodeResource, Scheme
from hyperplane_nat.model.description import describe_addresses
from hyperplane_nat.model.names import resolver_of
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.resources import Resources, RouteResource, RouteTableResource
from hyperplane_nat.model.validation import INTERNET
from hyperplane_nat.model.wanted import WantedInterface
from tests.model import invariants
from tests.model.balancing import (
    TCP,
    active,
    balancer,
    checked,
    do,
    group,
    nodes,
    place,
    the_balancer,
)
from tests.model.support import Scene, address, lab, refusal


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A region whose invariants hold at the end."""
    scene = Scene()
    yield scene
    assert invariants.violations(scene.region, set()) == []


TO_INTERNET = RouteTableResource(
    "public",
    subnets=("a", "b"),
    routes=(RouteResource(IPv4Network("0.0.0.0/0"), internet_gateway=True),),
)


def facing(**fields: Any) -> Resources:
    """One load balancer that faces the internet, and its VPC's way there."""
    given = {"scheme": Scheme.INTERNET_FACING, **fields}
    wanted = place(
        balancer(**given), groups=[group()], internet_gateway=True, route_tables=(TO_INTERNET,)
    )
    return lab(vpcs=[wanted])


def gateway(scene: Scene) -> WantedInterface:
    (found,) = (each for each in scene.region.wanted().interfaces if each.gateway_of is not None)
    return found


def public(scene: Scene) -> list[str | None]:
    (row,) = describe_load_balancers(scene.region)
    return [each["IpAddress"] for each in row["AvailabilityZones"]]


@pytest.mark.requirement("NLB-nodes", profile="both")
def test_each_node_has_a_public_address(scene: Scene) -> None:
    scene.apply(facing())
    active(scene)
    (row,) = describe_load_balancers(scene.region)
    assert (row["Scheme"], public(scene)) == ("internet-facing", ["203.0.113.1", "203.0.113.2"])
    numbers = {each.number: each.address for each in nodes(scene)}
    assert {at: numbers[number] for at, number in gateway(scene).balanced.items()} == {
        "203.0.113.1": "10.0.1.6",
        "203.0.113.2": "10.0.2.5",
    }
    table = next(each for each in scene.region.wanted().route_tables)
    assert {each.route_table for each in nodes(scene)} == {table.number}
    first, second = describe_addresses(scene.region)
    assert (first["LoadBalancerName"], first["PrivateIpAddress"]) == ("customer/front", "10.0.1.6")
    assert first["NetworkInterfaceId"] == row["AvailabilityZones"][0]["NetworkInterfaceId"]
    assert [each["Kept"] for each in (first, second)] == [False, False]
    assert scene.apply(facing()) == ()


def test_addresses_go_with_their_nodes(scene: Scene) -> None:
    scene.apply(facing())
    scene.apply(facing(nodes=(NodeResource("b"),)))
    assert public(scene) == ["203.0.113.2"]
    scene.apply(facing(nodes=(NodeResource("a"), NodeResource("b"))))
    assert public(scene) == ["203.0.113.1", "203.0.113.2"]
    scene.apply(lab(vpcs=[place(groups=[group()])]))
    tables = scene.region.tables
    assert (tables.elastic_addresses, tables.internet_gateways) == ({}, {})
    assert tables.load_balancers == {}


def test_an_address_can_be_chosen_in_the_file(scene: Scene) -> None:
    chosen = (NodeResource("a", elastic_address=address("198.51.100.9")), NodeResource("b"))
    scene.apply(facing(nodes=chosen))
    before = the_balancer(scene).id
    assert public(scene) == ["198.51.100.9", "203.0.113.1"]
    assert scene.apply(facing(nodes=chosen)) == ()
    other = (NodeResource("a", elastic_address=address("198.51.100.10")), NodeResource("b"))
    scene.apply(facing(nodes=other))
    assert the_balancer(scene).id != before
    assert public(scene) == ["198.51.100.10", "203.0.113.1"]
    # Another scheme is another load balancer as well.
    before = the_balancer(scene).id
    scene.apply(facing(scheme=Scheme.INTERNAL))
    assert (the_balancer(scene).id != before, public(scene)) == (True, [None, None])


def test_an_elastic_address_stays_when_its_node_goes(scene: Scene) -> None:
    scene.apply(facing(nodes=(NodeResource("a"),), name="other", listeners=()))
    kept = do(scene, "allocate_address", "shop", address("198.51.100.20"))
    chosen = [NodeResource("b", allocation=kept.id)]
    asked = ("customer", "front", chosen)
    made = do(scene, "create_load_balancer", *asked, scheme=Scheme.INTERNET_FACING)
    assert made.nodes[0].allocation_id == kept.id
    again = do(scene, "create_load_balancer", *asked, scheme=Scheme.INTERNET_FACING)
    assert again == made
    for code, work in (
        ("ResourceInUse", lambda: create(scene, chosen)),
        (
            "AllocationIdNotFound",
            lambda: create(scene, [NodeResource("b", allocation="none")]),
        ),
        ("AuthFailure", lambda: do(scene, "disassociate_address", kept.id)),
        ("InvalidIPAddress.InUse", lambda: do(scene, "release_address", kept.id)),
        ("DependencyViolation", lambda: do(scene, "detach_internet_gateway", "customer")),
        (
            "InvalidConfigurationRequest",
            lambda: do(scene, "modify_load_balancer", "front", nodes=[taking(scene, "b")]),
        ),
    ):
        assert refusal(work) == code
    do(scene, "delete_load_balancer", "front")
    assert scene.region.tables.elastic_addresses[kept.id].association_id == ""
    do(scene, "release_address", kept.id)


def create(scene: Scene, chosen: list[NodeResource]) -> Any:
    return do(
        scene, "create_load_balancer", "customer", "more", chosen, scheme=Scheme.INTERNET_FACING
    )


def taking(scene: Scene, subnet: str) -> NodeResource:
    """A node with an address of its own, which nobody has yet."""
    return NodeResource(subnet, allocation=do(scene, "allocate_address", "shop").id)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"nodes": (NodeResource("a", address("10.0.1.9")),)}, "InvalidConfigurationRequest"),
    (
        {"nodes": (NodeResource("a", elastic_address=address("192.0.2.9")),)},
        "InvalidParameterValue",
    ),
    (
        {
            "scheme": Scheme.INTERNAL,
            "nodes": (NodeResource("a", elastic_address=address("203.0.113.9")),),
        },
        "InvalidConfigurationRequest",
    ),
]


@pytest.mark.parametrize(("fields", "code"), REFUSED)
def test_addresses_that_do_not_fit_are_refused(
    scene: Scene, fields: dict[str, Any], code: str
) -> None:
    assert refusal(lambda: scene.apply(facing(**fields))) == code
    assert scene.region.tables.load_balancers == {}


def test_without_an_internet_gateway_there_is_none(scene: Scene) -> None:
    wanted = place(balancer(scheme=Scheme.INTERNET_FACING), groups=[group()])
    assert refusal(lambda: scene.apply(lab(vpcs=[wanted]))) == "InvalidSubnet"
    scene.apply(lab(vpcs=[place(groups=[group()])]))
    assert refusal(lambda: create(scene, [NodeResource("a")])) == "InvalidSubnet"
    assert scene.region.tables.load_balancers == {}


def balanced(scene: Scene, vpc: str) -> dict[str, tuple[str, ...]]:
    tables = scene.region.tables
    (place_,) = (each for each in tables.vpcs.values() if each.name == vpc)
    found = resolver_of(tables, place_, "us-east-1", nodes(scene))
    assert found is not None
    return dict(found.balanced)


def test_its_names_are_public(scene: Scene) -> None:
    other = replace(place(), name="other", subnets=(), hosts=())
    wanted = facing()
    scene.apply(replace(wanted, vpcs=(*wanted.vpcs, other)))
    active(scene)
    checked(scene, one="", two="", three="Target.FailedHealthChecks")
    name = f"front-{the_balancer(scene).id}.elb.us-east-1.amazonaws.com"
    for vpc in ("customer", "other", INTERNET):
        assert balanced(scene, vpc) == {
            name: ("203.0.113.1",),
            "front.customer.internal": ("203.0.113.1",),
            f"us-east-1a.{name}": ("203.0.113.1",),
            f"us-east-1b.{name}": ("203.0.113.2",),
        }


def test_what_was_saved_is_loaded(scene: Scene) -> None:
    scene.apply(facing(listeners=(ListenerResource(TCP, 80, "web"),)))
    before = describe_load_balancers(scene.region)
    document = json.loads(json.dumps(scene.region.document()))
    scene.region = Region.from_document(document, **scene.options())
    assert describe_load_balancers(scene.region) == before
