# SPDX-License-Identifier: Apache-2.0
"""Load balancers, listeners and target groups: how they come, change and go; what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from hyperplane_nat.model.balancer_description import (
    describe_listeners,
    describe_load_balancers,
    describe_target_groups,
)
from hyperplane_nat.model.balancer_resources import (
    GroupAttributes,
    HealthCheck,
    ListenerResource,
    NodeResource,
    TargetResource,
    TargetType,
)
from hyperplane_nat.model.description import describe_interfaces
from hyperplane_nat.model.documents import document_of, tables_of
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.planner import PlanLine
from tests.model import invariants
from tests.model.balancing import (
    BOTH,
    TCP,
    UDP,
    active,
    balancer,
    declared,
    do,
    group,
    health,
    ips,
    listener,
    nodes,
    place,
    the_balancer,
    the_group,
)
from tests.model.support import Scene, address, lab, refusal


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A region whose invariants hold at the end."""
    scene = Scene()
    yield scene
    assert invariants.violations(scene.region, set()) == []


@pytest.mark.requirement("NLB-nodes", profile="both")
@pytest.mark.requirement("NLB-states", profile="both")
def test_from_provisioning_to_active_with_a_node_in_each_zone(scene: Scene) -> None:
    lines = scene.apply(declared())
    assert PlanLine("create", "load-balancer", "customer/front", "10.0.1.6, 10.0.2.5") in lines
    assert PlanLine("create", "listener", "customer/front:80", "TCP to web") in lines
    assert PlanLine("create", "target-group", "customer/web", "TCP 80") in lines
    (row,) = describe_load_balancers(scene.region)
    assert (row["State"], nodes(scene)) == ("provisioning", ())
    active(scene)
    (row,) = describe_load_balancers(scene.region)
    assert row["State"] == "active"
    found = {each["NetworkInterfaceId"]: each for each in describe_interfaces(scene.region)}
    for zone, node in zip(row["AvailabilityZones"], nodes(scene), strict=True):
        interface = found[zone["NetworkInterfaceId"]]
        assert interface["Description"] == f"ELB net/front/{row['LoadBalancerId']}"
        assert interface["InterfaceType"] == "network_load_balancer"
        assert (interface["Number"], interface["PrivateIpAddress"]) == (node.number, node.address)
    # They have no link to be made.
    assert not {each.number for each in nodes(scene)} & {
        each.number for each in scene.region.wanted().interfaces
    }
    assert scene.apply(declared()) == ()


def test_a_node_has_the_address_that_is_chosen(scene: Scene) -> None:
    chosen = (NodeResource("a", address("10.0.1.77")), NodeResource("b"))
    scene.apply(declared(nodes=chosen))
    assert str(the_balancer(scene).nodes[0].address) == "10.0.1.77"
    # Another address is another load balancer.
    before = the_balancer(scene).id
    scene.apply(declared(nodes=(NodeResource("a", address("10.0.1.78")), NodeResource("b"))))
    assert the_balancer(scene).id != before
    assert str(the_balancer(scene).nodes[0].address) == "10.0.1.78"


def test_zones_come_and_go(scene: Scene) -> None:
    scene.apply(declared())
    first = the_balancer(scene).nodes[0]
    active(scene)
    scene.apply(declared(nodes=(NodeResource("a"), NodeResource("c"))))
    assert [each.address for each in nodes(scene)] == ["10.0.1.6", "10.0.3.4"]
    assert the_balancer(scene).nodes[0] == first
    do(scene, "modify_load_balancer", "front", nodes=[NodeResource("b")])
    assert [each.address for each in nodes(scene)] == ["10.0.2.5"]
    assert len(scene.region.retired_numbers()) == 3


@pytest.mark.requirement("NLB-more-ports", profile="both")
def test_secondary_addresses_can_be_more_and_not_fewer(scene: Scene) -> None:
    scene.apply(declared(secondary_addresses=2))
    active(scene)
    assert [len(each.secondary) for each in nodes(scene)] == [2, 2]
    do(scene, "modify_load_balancer", "front", secondary_addresses=7)
    assert [len(each.secondary) for each in nodes(scene)] == [7, 7]
    for wanted in (6, 8):
        code = refusal(
            lambda wanted=wanted: do(  # type: ignore[misc]
                scene, "modify_load_balancer", "front", secondary_addresses=wanted
            )
        )
        assert code == "InvalidConfigurationRequest"


def test_what_a_load_balancer_has_goes_with_it(scene: Scene) -> None:
    scene.apply(declared())
    active(scene)
    do(scene, "delete_load_balancer", "front")
    tables = scene.region.tables
    assert (len(tables.load_balancers), len(tables.listeners)) == (0, 0)
    assert health(scene)["one"] == ("unused", "Target.NotInUse")
    assert len(scene.region.retired_hosts()) == 1
    # The hosts need the interface to the router yet.
    assert [each["Kind"] for each in describe_interfaces(scene.region)] == ["router"]
    scene.apply(lab(vpcs=[place()]))
    assert len(tables.target_groups) == 0


def test_a_vpc_without_hosts_has_a_way_to_its_router_for_the_checks(scene: Scene) -> None:
    only = replace(place(balancer(), groups=[ips("10.0.1.80")]), hosts=())
    scene.apply(lab(vpcs=[only]))
    active(scene)
    (checker,) = scene.region.wanted().hosts
    assert checker.checks_from == tuple(each.address for each in nodes(scene))
    assert checker.interface == nodes(scene)[0].interface
    scene.apply(lab(vpcs=[replace(place(), hosts=())]))
    assert describe_interfaces(scene.region) == []


def test_a_document_keeps_it_all(scene: Scene) -> None:
    scene.apply(declared(GroupAttributes(stickiness=True), secondary_addresses=1))
    document = document_of(scene.region.tables)
    assert document_of(tables_of(document)) == document


@pytest.mark.requirement("NLB-idle-udp", profile="both")
@pytest.mark.requirement("NLB-listeners", profile="both")
def test_a_listener_of_both_protocols_is_two_for_the_forwarder(scene: Scene) -> None:
    wanted = [
        place(
            balancer(listeners=(ListenerResource(BOTH, 53, "web", 60),)),
            groups=[group(protocol=BOTH)],
        )
    ]
    scene.apply(lab(vpcs=wanted))
    active(scene)
    found = [(each.protocol, each.port, each.idle_seconds) for each in nodes(scene)[0].listeners]
    assert found == [("tcp", 53, 60), ("udp", 53, 120)]


@pytest.mark.requirement("NLB-listener-group", profile="both")
@pytest.mark.parametrize(
    ("listens", "forwards", "fits"),
    [
        (TCP, TCP, True),
        (TCP, BOTH, True),
        (TCP, UDP, False),
        (UDP, UDP, True),
        (UDP, BOTH, True),
        (UDP, TCP, False),
        (BOTH, BOTH, True),
        (BOTH, TCP, False),
    ],
)
def test_which_listener_forwards_to_which_group(
    scene: Scene, listens: Any, forwards: Any, fits: bool
) -> None:
    wanted = lab(
        vpcs=[
            place(
                balancer(listeners=(ListenerResource(listens, 80, "web"),)),
                groups=[group(protocol=forwards)],
            )
        ]
    )
    if fits:
        scene.apply(wanted)
    else:
        assert refusal(lambda: scene.apply(wanted)) == "IncompatibleProtocols"


@pytest.mark.requirement("NLB-client-ip-default", profile="both")
@pytest.mark.parametrize(
    ("protocol", "kind", "preserved"),
    [
        (TCP, TargetType.INSTANCE, True),
        (TCP, TargetType.IP, False),
        (UDP, TargetType.IP, True),
        (BOTH, TargetType.IP, True),
        (UDP, TargetType.INSTANCE, True),
    ],
)
def test_client_addresses_are_preserved_by_default(
    scene: Scene, protocol: Any, kind: TargetType, preserved: bool
) -> None:
    made = group(protocol=protocol, type=kind, targets=())
    scene.apply(lab(vpcs=[place(groups=[made])]))
    (row,) = describe_target_groups(scene.region)
    assert row["Attributes"]["preserve_client_ip.enabled"] == str(preserved).lower()


def test_what_is_no_host_cannot_have_the_client_s_address(scene: Scene) -> None:
    """Its answers do not come by the forwarder."""
    chosen = GroupAttributes(preserve_client_ip=True)
    for targets, preserved in ((["10.0.1.4"], True), (["10.0.1.4", "10.0.1.80"], False)):
        made = ips(*targets, attributes=chosen)
        scene.apply(lab(vpcs=[place(balancer(), groups=[made])]))
        active(scene)
        assert listener(scene).preserve_client_ip is preserved


DATAGRAMS = GroupAttributes(preserve_client_ip=False)
REFUSED_GROUPS: list[tuple[dict[str, Any], str]] = [
    ({"protocol": UDP, "attributes": DATAGRAMS}, "InvalidConfigurationRequest"),
    (
        {"protocol": UDP, "attributes": GroupAttributes(unhealthy_terminates=True)},
        "InvalidConfigurationRequest",
    ),
    *(
        (
            {"protocol": protocol, "attributes": GroupAttributes(proxy_protocol_v2=True)},
            "InvalidConfigurationRequest",
        )
        for protocol in (UDP, BOTH)
    ),
    ({"attributes": GroupAttributes(unhealthy_draining_seconds=5)}, "InvalidConfigurationRequest"),
    (
        {"attributes": GroupAttributes(deregistration_delay_seconds=3601)},
        "InvalidConfigurationRequest",
    ),
    ({"attributes": GroupAttributes(minimum_healthy=0)}, "InvalidConfigurationRequest"),
    ({"health_check": HealthCheck(interval_seconds=4)}, "ValidationError"),
    ({"health_check": HealthCheck(interval_seconds=301)}, "ValidationError"),
    ({"health_check": HealthCheck(interval_seconds=5)}, "ValidationError"),
    ({"health_check": HealthCheck(healthy_count=1)}, "ValidationError"),
    ({"health_check": HealthCheck(codes="600")}, "ValidationError"),
    ({"health_check": HealthCheck(path="index")}, "ValidationError"),
    ({"targets": (TargetResource(host="nobody"),)}, "InvalidTarget"),
    ({"targets": (TargetResource(address=address("10.0.1.9")),)}, "InvalidTarget"),
    ({"targets": (TargetResource(host="one", port=0),)}, "InvalidTarget"),
    ({"targets": (TargetResource(host="one"),) * 2}, "InvalidConfigurationRequest"),
    (
        {"type": TargetType.IP, "targets": (TargetResource(address=address("8.8.8.8")),)},
        "InvalidTarget",
    ),
]


@pytest.mark.requirement("NLB-target-addresses", profile="both")
@pytest.mark.requirement("NLB-checks", profile="both")
@pytest.mark.parametrize(("fields", "code"), REFUSED_GROUPS)
def test_groups_that_are_refused(scene: Scene, fields: dict[str, Any], code: str) -> None:
    wanted = {"name": "web", **fields}
    assert refusal(lambda: scene.apply(lab(vpcs=[place(groups=[group(**wanted)])]))) == code


@pytest.mark.parametrize("text", ["10.9.9.9", "172.16.0.1", "192.168.1.1", "100.64.0.1"])
def test_private_addresses_outside_the_vpc_are_targets_of_all_zones(
    scene: Scene, text: str
) -> None:
    scene.apply(lab(vpcs=[place(balancer(), groups=[ips(text)])]))
    active(scene)
    assert [each.listeners[0].targets for each in nodes(scene)] == [((text, 80),)] * 2


REFUSED_BALANCERS: list[tuple[dict[str, Any], str]] = [
    ({"nodes": ()}, "ValidationError"),
    ({"nodes": (NodeResource("nowhere"),)}, "SubnetNotFound"),
    ({"nodes": (NodeResource("a"), NodeResource("a"))}, "InvalidConfigurationRequest"),
    ({"nodes": (NodeResource("a", address("10.0.1.3")),)}, "InvalidConfigurationRequest"),
    ({"nodes": (NodeResource("a", address("10.0.2.9")),)}, "InvalidConfigurationRequest"),
    ({"nodes": (NodeResource("a", address("10.0.1.4")),)}, "InvalidConfigurationRequest"),
    ({"security_groups": ("none",)}, "InvalidSecurityGroup"),
    ({"secondary_addresses": 8}, "InvalidConfigurationRequest"),
    ({"listeners": (ListenerResource(TCP, 80, "none"),)}, "TargetGroupNotFound"),
    ({"listeners": (ListenerResource(TCP, 80, "web", 59),)}, "InvalidConfigurationRequest"),
    ({"listeners": (ListenerResource(TCP, 80, "web", 6001),)}, "InvalidConfigurationRequest"),
    ({"listeners": (ListenerResource(TCP, 0, "web"),)}, "ValidationError"),
    ({"listeners": (ListenerResource(TCP, 80, "web"),) * 2}, "DuplicateListener"),
    ({"name": "internal-one"}, "ValidationError"),
    ({"name": "one-"}, "ValidationError"),
]


@pytest.mark.requirement("NLB-idle", profile="both")
@pytest.mark.parametrize(("fields", "code"), REFUSED_BALANCERS)
def test_load_balancers_that_are_refused(scene: Scene, fields: dict[str, Any], code: str) -> None:
    wanted = lab(vpcs=[place(balancer(**fields), groups=[group()])])
    assert refusal(lambda: scene.apply(wanted)) == code
    assert scene.region.tables.load_balancers == {}


@pytest.mark.requirement("NLB-target-addresses", profile="both")
def test_a_load_balancer_is_no_target_its_own_or_another_s(scene: Scene) -> None:
    nodes_ = (NodeResource("a", address("10.0.1.77")),)
    wanted = lab(vpcs=[place(balancer(nodes=nodes_), groups=[ips("10.0.1.77")])])
    with pytest.raises(ModelError, match=r"InvalidTarget.*Target\.IpUnusable"):
        scene.apply(wanted)
    # Where the address was there first it is not used.
    scene.apply(lab(vpcs=[place(groups=[ips("10.0.1.77")])]))
    do(scene, "create_load_balancer", "customer", "front", nodes_)
    do(scene, "create_listener", "front", TCP, 80, "web")
    assert health(scene) == {"10.0.1.77": ("unused", "Target.IpUnusable")}
    active(scene)
    assert listener(scene).targets == ()


def test_security_groups_only_where_one_was_at_creation(scene: Scene) -> None:
    scene.apply(declared())
    assert (
        refusal(lambda: do(scene, "modify_load_balancer", "front", security_groups=["app"]))
        == "InvalidConfigurationRequest"
    )
    bare = the_balancer(scene).id
    scene.apply(declared(security_groups=("app",)))
    assert the_balancer(scene).id != bare
    do(scene, "modify_load_balancer", "front", security_groups=["db"])
    assert (
        refusal(lambda: do(scene, "modify_load_balancer", "front", security_groups=[]))
        == "InvalidConfigurationRequest"
    )
    # It is in use now.
    assert refusal(lambda: do(scene, "delete_security_group", "db")) == "DependencyViolation"
    assert refusal(lambda: do(scene, "delete_subnet", "a")) == "DependencyViolation"


def test_what_is_created_again_is_the_same_unless_it_differs(scene: Scene) -> None:
    scene.apply(lab(vpcs=[place()]))
    subnets = [NodeResource("a"), NodeResource("b")]
    made = do(scene, "create_load_balancer", "customer", "front", subnets)
    assert do(scene, "create_load_balancer", "customer", "front", subnets[::-1]).id == made.id
    assert (
        refusal(lambda: do(scene, "create_load_balancer", "customer", "front", subnets[:1]))
        == "DuplicateLoadBalancerName"
    )
    first = do(scene, "create_target_group", "customer", group())
    assert do(scene, "create_target_group", "customer", group()).id == first.id
    assert (
        refusal(lambda: do(scene, "create_target_group", "customer", group(protocol=UDP)))
        == "DuplicateTargetGroupName"
    )
    heard = do(scene, "create_listener", "front", TCP, 80, "web")
    assert do(scene, "create_listener", "front", TCP, 80, "web").id == heard.id
    assert (
        refusal(lambda: do(scene, "create_listener", "front", TCP, 80, "web", 60))
        == "DuplicateListener"
    )
    assert [each["Port"] for each in describe_listeners(scene.region)] == [80]


def test_a_group_is_one_balancer_s_and_stays_while_it_is_used(scene: Scene) -> None:
    scene.apply(declared())
    do(scene, "create_load_balancer", "customer", "other", [NodeResource("a")])
    assert (
        refusal(lambda: do(scene, "create_listener", "other", TCP, 80, "web"))
        == "TargetGroupAssociationLimit"
    )
    assert refusal(lambda: do(scene, "delete_target_group", "web")) == "ResourceInUse"
    do(scene, "delete_listener", "front:80")
    do(scene, "delete_target_group", "web")
    assert refusal(lambda: do(scene, "delete_listener", "front:80")) == "ListenerNotFound"
    for command, code in (
        ("delete_load_balancer", "LoadBalancerNotFound"),
        ("delete_target_group", "TargetGroupNotFound"),
    ):
        assert refusal(lambda command=command: do(scene, command, "none")) == code  # type: ignore[misc]


@pytest.mark.requirement("NLB-quotas", profile="both")
def test_quotas() -> None:
    scene = Scene(
        load_balancers_per_region=1,
        listeners_per_load_balancer=1,
        target_groups_per_region=1,
        targets_per_group=3,
    )
    scene.apply(declared())
    attempts: list[tuple[str, tuple[Any, ...], str]] = [
        (
            "create_load_balancer",
            ("customer", "other", [NodeResource("a")]),
            "TooManyLoadBalancers",
        ),
        ("create_listener", ("front", TCP, 81, "web"), "TooManyListeners"),
        ("create_target_group", ("customer", group("other")), "TooManyTargetGroups"),
        ("register_targets", ("web", [TargetResource(host="one", port=9)]), "TooManyTargets"),
    ]
    for command, arguments, code in attempts:
        found = refusal(lambda c=command, a=arguments: do(scene, c, *a))  # type: ignore[misc]
        assert found == code


def test_a_file_changes_listeners_and_groups(scene: Scene) -> None:
    scene.apply(declared())
    other = (ListenerResource(TCP, 80, "web", 400), ListenerResource(TCP, 81, "web"))
    lines = scene.apply(declared(GroupAttributes(stickiness=True), listeners=other))
    assert [(each.action, each.kind, each.name) for each in lines] == [
        ("change", "target-group", "customer/web"),
        ("change", "listener", "customer/front:80"),
        ("create", "listener", "customer/front:81"),
    ]
    lines = scene.apply(declared(listeners=other[1:]))
    assert ("delete", "listener", "customer/front:80") in [
        (each.action, each.kind, each.name) for each in lines
    ]
    # Another port of the group is another group.
    before = the_group(scene).id
    wanted = place(balancer(), groups=[replace(group(), port=8080)])
    scene.apply(lab(vpcs=[wanted]))
    assert the_group(scene).id != before
    scene.apply(lab(vpcs=[place()]))
    assert scene.region.tables.target_groups == {}
