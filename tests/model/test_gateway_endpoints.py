# SPDX-License-Identifier: Apache-2.0
"""Gateway endpoints: declarations, commands, routes to prefix lists, and what is wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.description import describe_route_tables, describe_security_groups
from hyperplane_nat.model.documents import document_of, tables_of
from hyperplane_nat.model.gateway_endpoints import prefix_list_id
from hyperplane_nat.model.private_link_description import (
    describe_gateway_endpoints,
    describe_prefix_lists,
)
from hyperplane_nat.model.private_link_entities import GatewayEndpoint
from hyperplane_nat.model.private_link_resources import GatewayEndpointResource
from hyperplane_nat.model.resources import (
    HostResource,
    Resources,
    RouteResource,
    RouteTableResource,
    SecurityGroupResource,
    ServiceResource,
    VpcResource,
)
from hyperplane_nat.model.wanted import WantedRoute
from tests.model.invariants import violations
from tests.model.support import Scene, address, lab, network, refusal, rule, vpc
from tests.model.test_hosts import command, lines, refused

REGION = "us-east-1"
S3, DYNAMODB = (f"com.amazonaws.{REGION}.{each}" for each in ("s3", "dynamodb"))
BUCKETS, OBJECTS, ITEMS = "198.51.100.80", "198.51.100.81", "198.51.100.90"
INTERNET = (
    ServiceResource("buckets", "http", address(BUCKETS), 80, aws_service="s3"),
    ServiceResource("objects", "http", address(OBJECTS), 80, aws_service="s3"),
    ServiceResource("items", "http", address(ITEMS), 80, aws_service="dynamodb"),
    ServiceResource("site", "http", address("198.51.100.99"), 80),
)
HOST = HostResource("bastion", "a")
TO_INTERNET = RouteResource(network("0.0.0.0/0"), internet_gateway=True)
PUBLIC = RouteTableResource("public", subnets=("a",), routes=(TO_INTERNET,))
STORE = GatewayEndpointResource("store", S3, ("public",))


def with_endpoints(*endpoints: GatewayEndpointResource, **fields: Any) -> VpcResource:
    given: dict[str, Any] = {"hosts": (HOST,), "internet_gateway": True, "route_tables": (PUBLIC,)}
    return replace(vpc(), **{**given, **fields}, gateway_endpoints=endpoints)


def declared(*endpoints: GatewayEndpointResource, **fields: Any) -> Resources:
    return replace(lab(vpcs=[with_endpoints(*endpoints, **fields)]), internet=INTERNET)


def done(scene: Scene, work: Callable[[Commands], GatewayEndpoint]) -> GatewayEndpoint:
    """What a command has made or changed."""
    with scene.region.commands() as commands:
        return work(commands)


def routes(scene: Scene, table: str = "public") -> list[dict[str, Any]]:
    """Those of a table, but the local one."""
    (found,) = (
        each for each in describe_route_tables(scene.region) if each["RouteTableName"] == table
    )
    own: list[dict[str, Any]] = found["Routes"]
    return own[1:]


def leading(scene: Scene) -> set[str]:
    """Destinations that go by gateway endpoints in what is wanted of the world."""
    return {
        route.destination
        for table in scene.region.wanted().route_tables
        for route in table.routes
        if route.gateway_endpoint is not None
    }


def test_a_declaration_from_its_first_line_to_its_last() -> None:
    scene = Scene()
    made = lines(scene, declared(STORE))
    assert made[-1] == ("create", "gateway-endpoint", "customer/store", f"{S3}, 1 route tables")
    assert lines(scene, declared(STORE)) == []
    (endpoint,) = describe_gateway_endpoints(scene.region)
    assert (endpoint["ServiceName"], endpoint["State"]) == (S3, "Available")
    assert [each["RouteTableName"] for each in endpoint["RouteTables"]] == ["public"]
    assert routes(scene)[1:] == [
        {
            "DestinationPrefixListId": prefix_list_id("s3", REGION),
            "DestinationPrefixListName": S3,
            "GatewayId": endpoint["VpcEndpointId"],
            "State": "active",
        }
    ]
    wanted = scene.region.wanted()
    (host,) = wanted.hosts
    (link,) = (each for each in wanted.interfaces if each.endpoints_of is not None)
    assert (link.vpc, link.endpoints_of, link.way_back) == (
        "internet",
        host.vpc_number,
        ("10.0.0.0/16",),
    )
    (table,) = wanted.route_tables
    assert host.route_table == table.number
    assert table.routes[:2] == (
        WantedRoute(f"{BUCKETS}/32", gateway_endpoint=link.number),
        WantedRoute(f"{OBJECTS}/32", gateway_endpoint=link.number),
    )
    assert tables_of(document_of(scene.region.tables)).gateway_endpoints == (
        scene.region.tables.gateway_endpoints
    )
    assert violations(scene.region, set()) == []
    assert lines(scene, declared()) == [("delete", "gateway-endpoint", "customer/store", "")]
    assert leading(scene) == set()
    assert all(each.endpoints_of is None for each in scene.region.wanted().interfaces)
    assert link.number in scene.region.tables.retired_numbers


def test_endpoints_of_a_vpc_share_one_link_until_the_last_is_gone() -> None:
    scene = Scene()
    items = GatewayEndpointResource("items", "dynamodb", ("public",))
    scene.apply(declared(STORE, items))
    links = [each for each in scene.region.wanted().interfaces if each.endpoints_of is not None]
    assert len(links) == 1
    assert leading(scene) == {f"{each}/32" for each in (BUCKETS, OBJECTS, ITEMS)}
    scene.apply(declared(items))
    assert leading(scene) == {f"{ITEMS}/32"}
    assert links == [each for each in scene.region.wanted().interfaces if each.endpoints_of]
    scene.apply(declared())
    assert not [each for each in scene.region.wanted().interfaces if each.endpoints_of]


def test_the_prefix_list_follows_the_hosts_that_stand_for_the_service() -> None:
    scene = Scene()
    scene.apply(declared(STORE))
    listed = {
        each["PrefixListName"]: each["Entries"] for each in describe_prefix_lists(scene.region)
    }
    assert listed == {S3: [f"{BUCKETS}/32", f"{OBJECTS}/32"], DYNAMODB: [f"{ITEMS}/32"]}
    scene.apply(replace(declared(STORE), internet=(INTERNET[0],)))
    assert leading(scene) == {f"{BUCKETS}/32"}
    before = scene.region.network_revision
    command(scene, lambda commands: commands.modify_service("buckets", {"aws_service": "dynamodb"}))
    assert leading(scene) == set()
    assert scene.region.network_revision > before
    assert len(routes(scene)) == 2


@pytest.mark.requirement("PL-gateway-priority", profile="both")
def test_of_the_same_destination_a_route_of_the_table_counts() -> None:
    """VPC user guide, "Route priority"."""
    to_host = RouteResource(network(f"{BUCKETS}/32"), host="bastion")
    table = replace(PUBLIC, routes=(TO_INTERNET, to_host))
    scene = Scene()
    scene.apply(declared(STORE, route_tables=(table,)))
    assert leading(scene) == {f"{OBJECTS}/32"}
    (found,) = scene.region.wanted().route_tables
    assert [each.destination for each in found.routes] == [
        f"{BUCKETS}/32",
        f"{OBJECTS}/32",
        "0.0.0.0/0",
    ]


def test_a_table_without_routes_of_its_own_counts() -> None:
    scene = Scene()
    bare = replace(PUBLIC, routes=())
    scene.apply(declared(STORE, route_tables=(bare,)))
    (host,) = scene.region.wanted().hosts
    assert host.route_table is not None
    scene.apply(declared(replace(STORE, route_tables=()), route_tables=(bare,)))
    (host,) = scene.region.wanted().hosts
    assert host.route_table is None


def test_a_table_goes_from_one_endpoint_to_another() -> None:
    """Whichever of them comes first in the file."""
    scene = Scene()
    other = GatewayEndpointResource("another", S3)
    scene.apply(declared(other, STORE))
    moved = (replace(other, route_tables=("public",)), replace(STORE, route_tables=()))
    assert sorted(lines(scene, declared(*moved))) == [
        ("change", "gateway-endpoint", "customer/another", "1 route tables"),
        ("change", "gateway-endpoint", "customer/store", "0 route tables"),
    ]
    assert lines(scene, declared(*moved)) == []


def test_another_service_is_another_endpoint() -> None:
    scene = Scene()
    scene.apply(declared(STORE))
    (before,) = scene.region.tables.gateway_endpoints
    assert lines(scene, declared(replace(STORE, service=DYNAMODB))) == [
        ("delete", "gateway-endpoint", "customer/store", ""),
        ("create", "gateway-endpoint", "customer/store", f"{DYNAMODB}, 1 route tables"),
    ]
    assert before not in scene.region.tables.gateway_endpoints


def test_commands_from_the_first_to_the_last() -> None:
    scene = Scene()
    scene.apply(declared())
    made = done(
        scene,
        lambda commands: commands.create_gateway_endpoint(
            "customer", S3, route_tables=["public"], policy='{"Statement": []}'
        ),
    )
    assert (made.name, made.policy) == (made.id, '{"Statement": []}')
    assert leading(scene) == {f"{BUCKETS}/32", f"{OBJECTS}/32"}
    changed = done(
        scene,
        lambda commands: commands.modify_gateway_endpoint(
            made.id, add_route_tables=["main", "main"], remove_route_tables=["public"], policy=""
        ),
    )
    (main,) = (each for each in scene.region.tables.route_tables.values() if each.main)
    assert (changed.route_table_ids, changed.policy) == ((main.id,), "")
    # A declaration that does not name it leaves it.
    assert lines(scene, declared()) == []
    command(scene, lambda commands: commands.delete_gateway_endpoint(made.id))
    assert scene.region.tables.gateway_endpoints == {}
    assert violations(scene.region, set()) == []


def test_a_route_table_that_goes_is_named_no_more() -> None:
    scene = Scene()
    scene.apply(declared(STORE, route_tables=(replace(PUBLIC, subnets=()),)))
    command(scene, lambda commands: commands.delete_route_table("public"))
    (endpoint,) = scene.region.tables.gateway_endpoints.values()
    assert endpoint.route_table_ids == ()
    assert violations(scene.region, set()) == []


def test_a_vpc_with_an_endpoint_stays() -> None:
    scene = Scene()
    scene.apply(declared())
    command(scene, lambda commands: commands.create_gateway_endpoint("customer", "s3", name="own"))
    told = refusal(lambda: scene.apply(lab(vpcs=())))
    assert told == "DependencyViolation"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"service": "com.amazonaws.us-east-1.ec2"}, "InvalidServiceName"),
        ({"service": "com.amazonaws.eu-west-1.s3"}, "InvalidServiceName"),
        ({"route_tables": ["nowhere"]}, "InvalidRouteTableId.NotFound"),
        ({"route_tables": ["public"]}, "RouteAlreadyExists"),
        ({"policy": "[]"}, "InvalidPolicyDocument"),
        ({"policy": "{"}, "InvalidPolicyDocument"),
        ({"policy": '{"a": "' + "x" * 20_480 + '"}'}, "InvalidPolicyDocument"),
        ({"name": "store"}, "InvalidParameterValue"),
        ({"vpc": "nobody"}, "InvalidVpcID.NotFound"),
        ({"vpc": "internet"}, "OperationNotPermitted"),
    ],
)
def test_a_command_that_is_refused(wrong: dict[str, Any], code: str) -> None:
    scene = Scene()
    scene.apply(declared(STORE))
    asked: dict[str, Any] = {"vpc": "customer", "service": "s3", **wrong}
    told = refusal(
        lambda: command(scene, lambda commands: commands.create_gateway_endpoint(**asked))
    )
    assert told == code
    assert len(scene.region.tables.gateway_endpoints) == 1


def test_a_service_that_nobody_stands_for() -> None:
    scene = Scene()
    told = refusal(lambda: scene.apply(replace(declared(STORE), internet=INTERNET[2:])))
    assert told == "InvalidServiceName"


def test_networks_that_overlap_do_not_both_have_endpoints() -> None:
    """The internet has one way back to an address."""
    scene = Scene()
    other = replace(
        with_endpoints(STORE, route_tables=(replace(PUBLIC, subnets=("a2",)),)),
        name="other",
        subnets=tuple(replace(each, name=f"{each.name}2") for each in vpc().subnets),
        hosts=(),
    )
    both = replace(lab(vpcs=[with_endpoints(STORE), other]), internet=INTERNET)
    told = refusal(lambda: scene.apply(both))
    assert told == "InvalidParameter"
    # One may have them when the other one gives them up.
    first = replace(other, gateway_endpoints=())
    scene.apply(replace(lab(vpcs=[with_endpoints(STORE), first]), internet=INTERNET))
    scene.apply(replace(lab(vpcs=[with_endpoints(), other]), internet=INTERNET))
    (endpoint,) = scene.region.tables.gateway_endpoints.values()
    assert scene.region.tables.vpcs[endpoint.vpc_id].name == "other"


@pytest.mark.requirement("PL-gateway-quota", profile="both")
def test_no_more_than_the_region_may_have() -> None:
    scene = Scene(gateway_endpoints=1)
    scene.apply(declared(STORE))
    told = refusal(lambda: scene.apply(declared(STORE, replace(STORE, name="b", route_tables=()))))
    assert told == "VpcEndpointLimitExceeded"


def test_only_hosts_of_the_internet_are_of_a_service() -> None:
    wanted = ServiceResource("web", "http", IPv4Address("10.0.1.80"), 80, aws_service="s3")
    scene = Scene()
    told = refusal(lambda: scene.apply(declared(services=(wanted,))))
    assert told == "InvalidParameterValue"
    scene.apply(declared())
    unknown = replace(
        INTERNET[0], name="queue", address=address("198.51.100.70"), aws_service="sqs"
    )
    told = refusal(lambda: command(scene, lambda each: _put(each, unknown)))
    assert told == "InvalidParameterValue"


def _put(commands: Commands, wanted: ServiceResource) -> object:
    return commands.create_service("internet", wanted)


def with_rule(named: str) -> VpcResource:
    """A host whose group lets it to a prefix list alone."""
    group = SecurityGroupResource("app", egress=(rule("tcp", 443, 443, prefix_list=named),))
    return replace(
        vpc(groups=(group,)), hosts=(HostResource("app", "a", security_groups=("app",)),)
    )


def let_to(scene: Scene) -> list[str]:
    """Whom the only host may send to."""
    (host,) = scene.region.wanted().hosts
    assert host.policy.outward.egress is not None
    assert {(each.first, each.last) for each in host.policy.outward.egress} <= {(443, 443)}
    return [each.cidr for each in host.policy.outward.egress]


@pytest.mark.parametrize("named", ["s3", S3, prefix_list_id("s3", REGION)])
def test_a_rule_that_names_a_prefix_list_follows_its_entries(named: str) -> None:
    scene = Scene()
    scene.apply(replace(lab(vpcs=[with_rule(named)]), internet=INTERNET))
    assert let_to(scene) == [f"{BUCKETS}/32", f"{OBJECTS}/32"]
    (group,) = describe_security_groups(scene.region)
    assert group["IpPermissionsEgress"] == [
        {
            "IpProtocol": "tcp",
            "FromPort": 443,
            "ToPort": 443,
            "PrefixListIds": [{"PrefixListId": prefix_list_id("s3", REGION), "PrefixListName": S3}],
        }
    ]
    # However it is named it is the same.
    assert lines(scene, replace(lab(vpcs=[with_rule(S3)]), internet=INTERNET)) == []
    tables = tables_of(document_of(scene.region.tables))
    assert tables.groups == scene.region.tables.groups
    command(scene, lambda commands: commands.delete_service("buckets"))
    assert let_to(scene) == [f"{OBJECTS}/32"]
    scene.apply(replace(lab(vpcs=[with_rule(S3)]), internet=INTERNET[2:]))
    assert let_to(scene) == []


def test_commands_add_and_take_rules_that_name_prefix_lists() -> None:
    scene = Scene()
    scene.apply(replace(lab(vpcs=[with_rule(S3)]), internet=INTERNET))
    items = rule("tcp", 443, 443, prefix_list=DYNAMODB)
    command(scene, lambda commands: commands.authorize("app", "egress", [items]))
    assert let_to(scene) == [f"{BUCKETS}/32", f"{OBJECTS}/32", f"{ITEMS}/32"]
    same = replace(items, prefix_list="dynamodb")
    found = refused(scene, lambda commands: commands.authorize("app", "egress", [same]))
    assert found == "InvalidPermission.Duplicate"
    command(scene, lambda commands: commands.revoke("app", "egress", [same]))
    assert let_to(scene) == [f"{BUCKETS}/32", f"{OBJECTS}/32"]
    for wrong, code in (
        (replace(items, prefix_list="pl-0"), "InvalidPrefixListID.NotFound"),
        (replace(items, cidr=network("0.0.0.0/0")), "InvalidPermission.Malformed"),
    ):
        asked = [wrong]
        assert refused(scene, lambda commands: commands.authorize("app", "egress", asked)) == code  # noqa: B023


def test_who_comes_from_a_prefix_list_is_let_in_by_it() -> None:
    scene = Scene()
    group = SecurityGroupResource("app", ingress=(rule("udp", 53, 53, prefix_list="dynamodb"),))
    there = replace(
        vpc(groups=(group,)), hosts=(HostResource("app", "a", security_groups=("app",)),)
    )
    scene.apply(replace(lab(vpcs=[there]), internet=INTERNET))
    (host,) = scene.region.wanted().hosts
    assert host.policy.ingress is not None
    assert [each.cidr for each in host.policy.ingress] == [f"{ITEMS}/32"]


def test_a_declared_rule_that_names_no_prefix_list_is_refused() -> None:
    scene = Scene()
    wanted = replace(lab(vpcs=[with_rule("com.amazonaws.us-east-1.sqs")]), internet=INTERNET)
    assert refusal(lambda: scene.apply(wanted)) == "InvalidPrefixListID.NotFound"
