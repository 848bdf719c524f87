# SPDX-License-Identifier: Apache-2.0
"""Endpoint services and endpoints: how they come, are accepted and go; what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from hyperplane_nat.model.balancer_resources import NodeResource, TargetResource, TargetType
from hyperplane_nat.model.description import describe_interfaces
from hyperplane_nat.model.documents import document_of, tables_of
from hyperplane_nat.model.errors import ModelError, StateError
from hyperplane_nat.model.names import resolver_of
from hyperplane_nat.model.planner import PlanLine
from hyperplane_nat.model.private_link_description import (
    describe_endpoint_services,
    describe_endpoints,
)
from hyperplane_nat.model.resources import SecurityGroupResource
from hyperplane_nat.model.states import EndpointState
from tests.model import invariants
from tests.model.balancing import active, do, group, nodes
from tests.model.private_link import (
    BANK,
    accepted,
    addresses,
    consumer,
    declared,
    endpoint,
    provider,
    service,
    the_endpoint,
    the_service,
)
from tests.model.support import Scene, address, lab, refusal, rule

DNS = {"enable_dns_hostnames": True}


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A region whose invariants hold at the end."""
    scene = Scene()
    yield scene
    assert invariants.violations(scene.region, set()) == []


def code_of(scene: Scene, command: str, *arguments: Any, **options: Any) -> str:
    return refusal(lambda: do(scene, command, *arguments, **options))


def names(scene: Scene, vpc: str = "bank") -> dict[str, tuple[str, ...]]:
    (found,) = (each for each in scene.region.tables.vpcs.values() if each.name == vpc)
    resolver = resolver_of(scene.region.tables, found, "us-east-1", ())
    assert resolver is not None
    return dict(resolver.balanced)


@pytest.mark.requirement("PL-acceptance", profile="both")
@pytest.mark.requirement("PL-endpoint", profile="both")
def test_from_acceptance_to_available(scene: Scene) -> None:
    lines = scene.apply(declared())
    made = the_service(scene)
    assert (
        PlanLine(
            "create",
            "endpoint-service",
            "customer/orders",
            f"com.amazonaws.vpce.us-east-1.{made.id}",
        )
        in lines
    )
    assert (
        PlanLine("create", "endpoint", "bank/orders", "of customer/orders, PendingAcceptance")
        in lines
    )
    active(scene)
    # It has its addresses, and they lead nowhere.
    assert [(each.address, each.node) for each in addresses(scene)] == [
        ("10.0.1.4", None),
        ("10.0.2.4", None),
    ]
    do(scene, "accept_endpoints", "customer/orders", ["bank/orders"])
    assert the_endpoint(scene).state is EndpointState.PENDING
    assert [each.node for each in addresses(scene)] == [None, None]
    scene.pass_seconds(scene.settings.endpoint_creation_seconds)
    assert the_endpoint(scene).state is EndpointState.AVAILABLE
    assert [each.node for each in addresses(scene)] == [each.number for each in nodes(scene)]
    found = {each["NetworkInterfaceId"]: each for each in describe_interfaces(scene.region)}
    for own in the_endpoint(scene).nodes:
        interface = found[own.interface_id]
        assert interface["InterfaceType"] == "vpc_endpoint"
        assert interface["Description"] == f"VPC Endpoint Interface {the_endpoint(scene).id}"
        assert interface["OwnerId"] == BANK
    # They have no link to be made.
    assert not {each.number for each in addresses(scene)} & {
        each.number for each in scene.region.wanted().interfaces
    }
    assert scene.apply(declared()) == ()


def test_without_acceptance_it_is_pending_at_once(scene: Scene) -> None:
    scene.apply(declared(service(acceptance_required=False)))
    assert the_endpoint(scene).state is EndpointState.PENDING


@pytest.mark.requirement("PL-acceptance", profile="both")
def test_the_owner_rejects_and_accepts_again(scene: Scene) -> None:
    scene.apply(declared())
    accepted(scene)
    do(scene, "reject_endpoints", the_service(scene).id, [the_endpoint(scene).id])
    assert the_endpoint(scene).state is EndpointState.REJECTED
    assert [each.node for each in addresses(scene)] == [None, None]
    assert code_of(scene, "reject_endpoints", "customer/orders", ["orders"]) == "InvalidState"
    accepted(scene)
    assert the_endpoint(scene).state is EndpointState.AVAILABLE
    assert code_of(scene, "accept_endpoints", "customer/orders", ["orders"]) == "InvalidState"
    unknown = code_of(scene, "accept_endpoints", "customer/orders", ["vpce-0"])
    assert unknown == "InvalidVpcEndpoint.NotFound"


@pytest.mark.requirement("PL-principals", profile="both")
def test_who_is_not_allowed_is_told_of_no_service(scene: Scene) -> None:
    scene.apply(lab(vpcs=[provider(service(principals=())), consumer()]))
    asked = ("bank", "customer/orders", [NodeResource("a")])
    assert code_of(scene, "create_endpoint", *asked) == "InvalidServiceName"
    do(scene, "modify_endpoint_service", "orders", add_principals=["bank"])
    made = do(scene, "create_endpoint", *asked)
    assert made.name == made.id
    # A permission that is taken away leaves what there is.
    do(scene, "modify_endpoint_service", "orders", remove_principals=["bank"])
    assert the_service(scene).principals == ()
    assert code_of(scene, "create_endpoint", *asked) == "InvalidServiceName"
    do(scene, "accept_endpoints", "orders", [made.id])
    do(scene, "modify_endpoint_service", "orders", add_principals=["*"])
    do(scene, "create_endpoint", *asked, name="second")
    # Its own account needs no permission.
    do(scene, "modify_endpoint_service", "orders", remove_principals=["*"])
    do(scene, "create_endpoint", "customer", "customer/orders", [NodeResource("a")])
    assert code_of(scene, "modify_endpoint_service", "orders", add_principals=["nobody"]) == (
        "InvalidParameterValue"
    )


@pytest.mark.requirement("PL-zones", profile="both")
def test_zones_are_those_of_the_load_balancer(scene: Scene) -> None:
    scene.apply(declared())
    asked = ("bank", the_service(scene).id)
    for subnets in (["c"], ["a", "a"]):
        given = [NodeResource(each) for each in subnets]
        assert code_of(scene, "create_endpoint", *asked, given) == "InvalidParameter"
    assert code_of(scene, "create_endpoint", *asked, []) == "MissingParameter"
    with pytest.raises(ModelError, match=r"does not support the availability zone of the subnet"):
        do(scene, "create_endpoint", *asked, [NodeResource("c")])


def test_subnets_groups_and_addresses_change(scene: Scene) -> None:
    chosen = (NodeResource("a", address("10.0.1.77")), NodeResource("b"))
    scene.apply(declared(asked=endpoint(nodes=chosen)))
    first, second = the_endpoint(scene).nodes
    assert str(first.address) == "10.0.1.77"
    do(scene, "modify_endpoint", "bank/orders", nodes=[NodeResource("a")], security_groups=["app"])
    assert the_endpoint(scene).nodes == (first,)
    assert second.interface_id not in scene.region.tables.interfaces
    assert scene.region.tables.interfaces[first.interface_id].group_ids != ()
    taken = [NodeResource("a"), NodeResource("b", address("10.0.1.77"))]
    assert code_of(scene, "modify_endpoint", "bank/orders", nodes=taken) != ""
    # With another address in the file it is another endpoint.
    before = the_endpoint(scene).id
    moved = (NodeResource("a", address("10.0.1.78")),)
    scene.apply(declared(asked=endpoint(nodes=moved)))
    assert the_endpoint(scene).id != before


@pytest.mark.requirement("PL-deletion", profile="both")
def test_a_service_with_connections_stays(scene: Scene) -> None:
    scene.apply(declared())
    assert code_of(scene, "delete_endpoint_service", "orders") == "ExistingVpcEndpointConnections"
    assert code_of(scene, "delete_load_balancer", "front") == "ResourceInUse"
    do(scene, "reject_endpoints", "orders", ["orders"])
    do(scene, "delete_endpoint_service", "orders")
    (row,) = describe_endpoints(scene.region)
    assert (row["State"], row["EndpointService"]) == ("Rejected", None)
    assert row["ServiceName"].startswith("com.amazonaws.vpce.us-east-1.vpce-svc-")
    assert code_of(scene, "modify_endpoint", "orders", private_dns=True) == "InvalidServiceName"
    do(scene, "delete_endpoint", "orders")
    do(scene, "delete_load_balancer", "front")


def test_what_an_endpoint_has_goes_with_it(scene: Scene) -> None:
    scene.apply(declared())
    do(scene, "delete_endpoint", "bank/orders")
    assert addresses(scene) == ()
    # The bank has no host that needs the interface to its router.
    assert all(each["VpcId"] != _vpc(scene, "bank") for each in describe_interfaces(scene.region))
    assert len(scene.region.retired_numbers()) == 3


def _vpc(scene: Scene, name: str) -> str:
    return next(each.id for each in scene.region.tables.vpcs.values() if each.name == name)


def test_what_is_declared_no_more_goes(scene: Scene) -> None:
    scene.apply(declared())
    accepted(scene)
    lines = scene.apply(lab(vpcs=[provider(), consumer()]))
    assert [line.kind for line in lines if line.action == "delete"] == [
        "endpoint",
        "endpoint-service",
    ]
    scene.apply(declared())
    # What another account has made keeps the service.
    do(scene, "create_endpoint", "bank", "customer/orders", [NodeResource("a")], name="own")
    with pytest.raises(ModelError, match="ExistingVpcEndpointConnections"):
        scene.apply(lab(vpcs=[provider(), consumer()]))


def test_another_load_balancer_of_the_name_serves_on(scene: Scene) -> None:
    scene.apply(declared())
    accepted(scene)
    before = the_service(scene)
    wanted = declared()
    shop, bank = wanted.vpcs
    # With its first security group it is another one.
    (front,) = shop.load_balancers
    shop = replace(shop, load_balancers=(replace(front, security_groups=("app",)),))
    scene.apply(replace(wanted, vpcs=(shop, bank)))
    after = the_service(scene)
    assert (after.id, after.load_balancer_id != before.load_balancer_id) == (before.id, True)
    assert [each.node for each in addresses(scene)] == [None, None]
    active(scene)
    assert [each.node for each in addresses(scene)] == [each.number for each in nodes(scene)]


@pytest.mark.requirement("PL-names", profile="both")
@pytest.mark.requirement("PL-private-dns", profile="both")
def test_names(scene: Scene) -> None:
    offered = service(private_dns_name="orders.example.com")
    scene.apply(declared(offered, endpoint(private_dns=True), **DNS))
    assert names(scene) == {}
    accepted(scene)
    own, base = the_endpoint(scene).id, f"{the_service(scene).id}.us-east-1.vpce.amazonaws.com"
    both = ("10.0.1.4", "10.0.2.4")
    assert names(scene) == {
        f"{own}.{base}": both,
        "orders.bank.internal": both,
        f"{own}-us-east-1a.{base}": both[:1],
        f"{own}-us-east-1b.{base}": both[1:],
        "orders.example.com": both,
    }
    (row,) = describe_endpoints(scene.region)
    assert set(row["DnsEntries"]) < names(scene).keys()
    assert "orders.example.com" not in names(scene, "customer")
    (row,) = describe_endpoint_services(scene.region)
    assert row["BaseEndpointDnsName"] == base
    do(scene, "modify_endpoint", "orders", private_dns=False)
    assert "orders.example.com" not in names(scene)


@pytest.mark.requirement("PL-private-dns", profile="both")
@pytest.mark.parametrize(
    ("offered", "fields", "words"),
    [
        (service(), DNS, "does not provide a private DNS name"),
        (
            service(private_dns_name="orders.example.com"),
            {},
            "requires both enableDnsSupport and enableDnsHostnames",
        ),
    ],
)
def test_private_dns_that_cannot_be(
    scene: Scene, offered: Any, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        scene.apply(declared(offered, endpoint(private_dns=True), **fields))


def test_one_endpoint_has_a_private_name(scene: Scene) -> None:
    offered = service(private_dns_name="orders.example.com")
    scene.apply(declared(offered, endpoint(private_dns=True), **DNS))
    asked = ("bank", "customer/orders", [NodeResource("a")])
    with pytest.raises(ModelError, match=r"conflicting DNS domain for orders\.example\.com"):
        do(scene, "create_endpoint", *asked, private_dns=True)
    for name in ("*.example.com", "example", "Orders.example.com", "a..b"):
        code = code_of(scene, "modify_endpoint_service", "orders", private_dns_name=name)
        assert code == "InvalidParameter"


@pytest.mark.requirement("PL-groups", profile="both")
def test_groups_of_the_endpoint_and_of_the_balancer_say_who_comes(scene: Scene) -> None:
    tellers = SecurityGroupResource("tellers", ingress=(rule("tcp", 80, 80, cidr="10.0.1.0/24"),))
    wanted = declared(asked=endpoint(security_groups=("tellers",)), security_groups=(tellers,))
    shop, bank = wanted.vpcs
    front = SecurityGroupResource(
        "front",
        ingress=(rule("tcp", 80, 80, cidr="10.0.0.0/16"), rule("tcp", 80, 80, group="front")),
    )
    (balancer,) = shop.load_balancers
    shop = replace(
        shop,
        security_groups=(front,),
        load_balancers=(replace(balancer, security_groups=("front",)),),
    )
    scene.apply(replace(wanted, vpcs=(shop, bank)))
    accepted(scene)
    for each in addresses(scene):
        assert [rule.cidr for rule in each.ingress or ()] == ["10.0.1.0/24"]
        # Whose address is a member's in the other VPC is none.
        assert [rule.cidr for rule in each.admission or ()] == ["10.0.0.0/16"]
    do(scene, "modify_endpoint", "orders", security_groups=[])
    assert {each.ingress for each in addresses(scene)} == {None}


def test_without_a_group_it_has_the_default_one(scene: Scene) -> None:
    groups = (SecurityGroupResource("default"), SecurityGroupResource("other"))
    scene.apply(lab(vpcs=[provider(service()), consumer(security_groups=groups)]))
    made = do(scene, "create_endpoint", "bank", "customer/orders", [NodeResource("a")])
    (key,) = made.group_ids
    assert scene.region.tables.groups[key].name == "default"


def test_an_endpoint_is_no_target(scene: Scene) -> None:
    scene.apply(declared())
    own = endpoint(nodes=(NodeResource("a", address("10.0.1.77")),))
    shop, bank = declared().vpcs
    shop = replace(shop, endpoints=(own,))
    scene.apply(lab(vpcs=[shop, bank]))
    do(
        scene,
        "create_target_group",
        "customer",
        replace(group("loop"), type=TargetType.IP, targets=()),
    )
    to_itself = [TargetResource(address=address("10.0.1.77"))]
    assert code_of(scene, "register_targets", "loop", to_itself) == "InvalidTarget"


@pytest.mark.requirement("PL-quotas", profile="both")
def test_quotas(scene: Scene) -> None:
    scene.apply(declared())
    scene.region.settings = replace(scene.region.settings, endpoints_per_vpc=1)
    scene.region._lifecycle.settings = scene.region.settings
    asked = ("bank", "customer/orders", [NodeResource("a")])
    assert code_of(scene, "create_endpoint", *asked) == "VpcEndpointLimitExceeded"


def test_a_region_is_read_as_it_was_written(scene: Scene) -> None:
    scene.apply(declared())
    accepted(scene)
    document = document_of(scene.region.tables)
    assert document_of(tables_of(document)) == document
    (row,) = document["entities"]["vpc_endpoint"]
    row["nodes"][0]["interface_id"] = "eni-0"
    with pytest.raises(StateError, match="or has no interface there"):
        tables_of(document)


@pytest.mark.parametrize(
    ("offered", "asked", "code"),
    [
        (None, endpoint(service="customer/none"), "InvalidServiceName"),
        (None, endpoint(nodes=(NodeResource("none"),)), "InvalidSubnetId.NotFound"),
        (None, endpoint(security_groups=("none",)), "InvalidSecurityGroupId.NotFound"),
        (service(principals=("nobody",)), None, "InvalidParameterValue"),
        (service(principals=()), None, "InvalidServiceName"),
        (service(private_dns_name="no name"), None, "InvalidParameter"),
    ],
)
def test_what_a_declaration_cannot_name(scene: Scene, offered: Any, asked: Any, code: str) -> None:
    assert refusal(lambda: scene.apply(declared(offered, asked))) == code
