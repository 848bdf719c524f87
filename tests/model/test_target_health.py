# SPDX-License-Identifier: Apache-2.0
"""The health of targets: their states over time, who is used by which node, whose flows end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from hyperplane_nat.model.balancer_resources import (
    CheckProtocol,
    GroupAttributes,
    HealthCheck,
    ListenerResource,
    NodeResource,
    TargetResource,
)
from hyperplane_nat.model.names import dns_name
from hyperplane_nat.model.resources import Protocol, RuleResource, SecurityGroupResource
from tests.model import invariants
from tests.model.balancing import (
    BOTH,
    HOSTS,
    TCP,
    active,
    balancer,
    checked,
    declared,
    do,
    ended,
    group,
    health,
    ips,
    listener,
    nodes,
    place,
    targets,
    the_balancer,
    the_group,
)
from tests.model.support import Scene, lab, refusal

FAILED = "Target.FailedHealthChecks"
EVERYBODY = {name: "" for name, _ in HOSTS}


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A region whose invariants hold at the end."""
    scene = Scene()
    yield scene
    assert invariants.violations(scene.region, set()) == []


@pytest.mark.requirement("NLB-target-states", profile="both")
def test_from_registration_to_health_and_back(scene: Scene) -> None:
    scene.apply(declared())
    assert set(health(scene).values()) == {("initial", "Elb.RegistrationInProgress")}
    active(scene)
    assert set(health(scene).values()) == {("initial", "Elb.InitialHealthChecking")}
    checked(scene, one="", two=FAILED, three="Target.Timeout")
    assert health(scene) == {
        "one": ("healthy", None),
        "two": ("unhealthy", FAILED),
        "three": ("unhealthy", "Target.Timeout"),
    }
    checked(scene, one="Target.ResponseCodeMismatch", two="", three=FAILED)
    assert health(scene) == {
        "one": ("unhealthy", "Target.ResponseCodeMismatch"),
        "two": ("healthy", None),
        "three": ("unhealthy", FAILED),
    }


def test_targets_of_a_group_that_nothing_forwards_to_are_unused(scene: Scene) -> None:
    scene.apply(declared())
    active(scene)
    checked(scene, **EVERYBODY)
    do(scene, "delete_listener", "front:80")
    assert set(health(scene).values()) == {("unused", "Target.NotInUse")}
    do(scene, "create_listener", "front", TCP, 80, "web")
    assert set(health(scene).values()) == {("initial", "Elb.InitialHealthChecking")}


@pytest.mark.requirement("NLB-cross-zone", profile="both")
def test_a_node_uses_targets_of_its_zone_unless_zones_are_crossed(scene: Scene) -> None:
    scene.apply(declared())
    active(scene)
    checked(scene, **EVERYBODY)
    assert targets(scene) == [["one", "two"], ["three"]]
    do(scene, "modify_load_balancer", "front", cross_zone=True)
    assert targets(scene) == [["one", "three", "two"]] * 2
    # What the group says counts more.
    do(scene, "modify_target_group", "web", attributes=GroupAttributes(cross_zone=False))
    assert targets(scene) == [["one", "two"], ["three"]]
    do(scene, "modify_load_balancer", "front", cross_zone=False)
    do(scene, "modify_target_group", "web", attributes=GroupAttributes(cross_zone=True))
    assert targets(scene) == [["one", "three", "two"]] * 2


def test_a_target_in_a_zone_without_a_node_is_unused(scene: Scene) -> None:
    scene.apply(declared(nodes=(NodeResource("a"),), cross_zone=True))
    active(scene)
    assert health(scene)["three"] == ("unused", "Target.NotInUse")
    assert targets(scene) == [["one", "two"]]


@pytest.mark.requirement("NLB-fail-open", profile="both")
def test_with_fewer_healthy_targets_than_the_minimum_all_are_used(scene: Scene) -> None:
    scene.apply(declared())
    active(scene)
    assert targets(scene) == [["one", "two"], ["three"]]
    checked(scene, one="", two=FAILED, three=FAILED)
    assert targets(scene) == [["one"], ["three"]]
    checked(scene, one=FAILED)
    assert targets(scene) == [["one", "two"], ["three"]]
    checked(scene, one="")
    do(scene, "modify_target_group", "web", attributes=GroupAttributes(minimum_healthy=2))
    assert targets(scene) == [["one", "two"], ["three"]]
    # Across zones the healthy ones of all count.
    crossing = GroupAttributes(minimum_healthy=2, cross_zone=True)
    do(scene, "modify_target_group", "web", attributes=crossing)
    checked(scene, three="")
    assert targets(scene) == [["one", "three"]] * 2


@pytest.mark.requirement("NLB-unhealthy", profile="both")
def test_flows_of_unhealthy_targets_end_unless_all_are_used(scene: Scene) -> None:
    scene.apply(declared())
    active(scene)
    checked(scene, one="", two=FAILED, three=FAILED)
    assert ended(scene) == [["two"], []]
    checked(scene, one=FAILED)
    assert ended(scene) == [[], []]
    checked(scene, one="")
    do(scene, "modify_target_group", "web", attributes=GroupAttributes(unhealthy_terminates=False))
    assert ended(scene) == [[], []]


def test_flows_of_datagrams_go_on_at_unhealthy_targets(scene: Scene) -> None:
    wanted = balancer(listeners=(ListenerResource(BOTH, 80, "web"),))
    scene.apply(lab(vpcs=[place(wanted, groups=[group(protocol=BOTH)])]))
    active(scene)
    checked(scene, one="", two=FAILED, three=FAILED)
    assert ended(scene) == [[], []]


@pytest.mark.requirement("NLB-unhealthy", profile="both")
def test_connections_can_be_kept_for_a_while(scene: Scene) -> None:
    kept = GroupAttributes(unhealthy_terminates=False, unhealthy_draining_seconds=50)
    scene.apply(declared(kept))
    active(scene)
    checked(scene, **EVERYBODY)
    checked(scene, one=FAILED, two=FAILED)
    assert health(scene)["one"] == ("unhealthy.draining", FAILED)
    scene.pass_seconds(49)
    checked(scene, two="")
    assert health(scene)["one"] == ("unhealthy.draining", FAILED)
    scene.pass_seconds(1)
    assert health(scene)["one"] == ("unhealthy", FAILED)
    assert health(scene)["two"] == ("healthy", None)


@pytest.mark.requirement("NLB-deregistration", profile="both")
def test_a_deregistered_target_drains_and_its_flows_go_on(scene: Scene) -> None:
    scene.apply(declared())
    active(scene)
    checked(scene, **EVERYBODY)
    do(scene, "deregister_targets", "web", [TargetResource(host="one")])
    assert health(scene)["one"] == ("draining", "Target.DeregistrationInProgress")
    assert (targets(scene), ended(scene)) == ([["two"], ["three"]], [[], []])
    # Nor does it take any when all are used, or is checked.
    checked(scene, one="", two=FAILED)
    assert targets(scene) == [["two"], ["three"]]
    assert health(scene)["one"][0] == "draining"
    scene.pass_seconds(300)
    assert "one" not in health(scene)
    assert ended(scene) == [[], []]


@pytest.mark.requirement("NLB-deregistration", profile="both")
def test_flows_end_with_the_delay_where_the_group_says_so(scene: Scene) -> None:
    ending = GroupAttributes(deregistration_terminates=True, deregistration_delay_seconds=60)
    scene.apply(declared(ending))
    active(scene)
    checked(scene, **EVERYBODY)
    do(scene, "deregister_targets", "web", [TargetResource(host="three")])
    assert ended(scene) == [[], []]
    scene.pass_seconds(60)
    # Each node ends its own, whose target it may have been when zones were crossed.
    assert ended(scene) == [["three"], ["three"]]
    (end,) = nodes(scene)[1].ends
    assert end.drained is not None
    scene.region.targets_ended([end.drained])
    assert (ended(scene), "three" in health(scene)) == ([[], []], False)
    # It may have gone with its group meanwhile.
    scene.region.targets_ended([end.drained, ("none", ("i-1", 80))])


def test_who_is_registered_again_while_draining_begins_anew(scene: Scene) -> None:
    scene.apply(declared())
    active(scene)
    checked(scene, **EVERYBODY)
    one = [TargetResource(host="one")]
    do(scene, "deregister_targets", "web", one)
    do(scene, "register_targets", "web", one)
    assert health(scene)["one"] == ("initial", "Elb.InitialHealthChecking")
    # Registering what there is changes nothing.
    checked(scene, one="")
    do(scene, "register_targets", "web", one)
    assert health(scene)["one"] == ("healthy", None)
    do(scene, "deregister_targets", "web", one)
    do(scene, "deregister_targets", "web", one)
    wrong = [TargetResource(host="one", port=81)]
    assert refusal(lambda: do(scene, "deregister_targets", "web", wrong)) == "InvalidTarget"


def test_a_file_registers_exactly_its_targets(scene: Scene) -> None:
    scene.apply(declared())
    left = group(targets=(TargetResource(host="one"), TargetResource(host="two", port=8080)))
    scene.apply(lab(vpcs=[place(balancer(), groups=[left])]))
    found = [(each.port, each.state.value) for each in the_group(scene).targets]
    assert sorted(found) == [(80, "draining"), (80, "draining"), (80, "initial"), (8080, "initial")]


def test_a_host_that_goes_is_a_target_no_more(scene: Scene) -> None:
    scene.apply(declared())
    do(scene, "delete_host", "one")
    assert sorted(health(scene)) == ["three", "two"]


def test_what_is_found_of_what_has_gone_is_passed_over(scene: Scene) -> None:
    scene.apply(declared())
    found = {"none": {("i-1", 80): ""}, the_group(scene).id: {("i-1", 80): ""}}
    do(scene, "note_health", found)
    assert {state for state, _ in health(scene).values()} == {"initial"}


@pytest.mark.requirement("NLB-checks", profile="both")
def test_each_node_checks_what_it_could_use_from_its_own_address() -> None:
    scene = Scene(time_scale=10)
    check = HealthCheck(CheckProtocol.HTTP, port=8080, path="/ok", codes="200")
    wanted = balancer(
        listeners=(ListenerResource(TCP, 80, "web"), ListenerResource(TCP, 81, "web"))
    )
    scene.apply(lab(vpcs=[place(wanted, groups=[group(health_check=check)])]))
    scene.pass_seconds(scene.settings.scaled(scene.settings.load_balancer_creation_seconds))
    first, second = nodes(scene)
    assert [each.address for each in first.checks] == ["10.0.1.4", "10.0.1.5"]
    (found,) = second.checks
    assert (found.node, found.port, found.path, found.codes) == (second.address, 8080, "/ok", "200")
    assert found.host == f"{second.address}:80"
    assert (found.interval_seconds, found.timeout_seconds) == (3, 0.6)
    assert (found.healthy_count, found.unhealthy_count) == (5, 2)
    (checker,) = (each for each in scene.region.wanted().hosts if each.checks_from is not None)
    assert checker.checks_from == (first.address, second.address)


@pytest.mark.requirement("NLB-proxy-protocol", profile="both")
@pytest.mark.parametrize("enabled", [False, True])
def test_the_proxy_protocol_is_for_connections_and_for_checks(scene: Scene, enabled: bool) -> None:
    attributes = GroupAttributes(proxy_protocol_v2=enabled)
    scene.apply(lab(vpcs=[place(balancer(), groups=[group(attributes=attributes)])]))
    active(scene)
    for node in nodes(scene):
        assert [each.proxy_protocol for each in node.listeners] == [enabled]
        assert {each.proxy_protocol for each in node.checks} == {enabled}


@pytest.mark.requirement("NLB-security-groups", profile="both")
def test_the_groups_of_a_load_balancer_guard_it_and_have_its_addresses(scene: Scene) -> None:
    tcp = Protocol.TCP
    front = SecurityGroupResource("front", ingress=(RuleResource(tcp, 80, 80, group="app"),))
    behind = SecurityGroupResource("behind", ingress=(RuleResource(tcp, 80, 80, group="front"),))
    made = place(balancer(security_groups=("front",), secondary_addresses=1), groups=[group()])
    hosts = (
        replace(made.hosts[0], security_groups=("app",)),
        replace(made.hosts[1], security_groups=("behind",)),
        made.hosts[2],
    )
    groups = (front, behind, SecurityGroupResource("app"))
    scene.apply(lab(vpcs=[replace(made, hosts=hosts, security_groups=groups)]))
    active(scene)
    ingress = nodes(scene)[0].policy.ingress
    assert ingress is not None
    assert [rule.cidr for rule in ingress] == ["10.0.1.4/32"]
    found = {each.name: each for each in scene.region.wanted().hosts}
    assert found["two"].policy.ingress is not None
    admitted = {rule.cidr for rule in found["two"].policy.ingress}
    assert admitted == {
        f"{address}/32"
        for node in nodes(scene)
        for address in (node.address, *(other for _, other in node.secondary))
    }


def test_without_groups_everything_is_let_in(scene: Scene) -> None:
    scene.apply(declared())
    active(scene)
    policy = nodes(scene)[0].policy
    assert (policy.ingress, policy.outward.egress) == (None, None)


@pytest.mark.requirement("NLB-names", profile="both")
def test_names_are_those_of_all_nodes_and_of_each(scene: Scene) -> None:
    scene.apply(declared())
    name = dns_name(the_balancer(scene), "us-east-1")
    assert name == f"front-{the_balancer(scene).id}.elb.us-east-1.amazonaws.com"
    assert _names(scene) == {}
    active(scene)
    a, b = (node.address for node in nodes(scene))
    assert _names(scene) == {
        name: (a, b),
        "front.customer.internal": (a, b),
        f"us-east-1a.{name}": (a,),
        f"us-east-1b.{name}": (b,),
    }


@pytest.mark.requirement("NLB-zone-names", profile="both")
def test_a_zone_without_healthy_targets_is_left_out_of_the_name(scene: Scene) -> None:
    scene.apply(declared())
    active(scene)
    a, b = (node.address for node in nodes(scene))
    checked(scene, one="", two="", three=FAILED)
    assert _names(scene)["front.customer.internal"] == (a,)
    checked(scene, three="")
    assert _names(scene)["front.customer.internal"] == (a, b)
    # Unless none has any.
    checked(scene, one=FAILED, two=FAILED, three=FAILED)
    assert _names(scene)["front.customer.internal"] == (a, b)


def test_a_host_has_its_name_whatever_a_load_balancer_is_called(scene: Scene) -> None:
    scene.apply(lab(vpcs=[place(balancer("one"), groups=[ips("10.0.1.80")])]))
    active(scene)
    assert "one.customer.internal" not in _names(scene)


def _names(scene: Scene) -> dict[str, tuple[str, ...]]:
    (vpc,) = (each for each in scene.region.wanted().vpcs if each.name == "customer")
    assert vpc.resolver is not None
    return dict(vpc.resolver.balanced)


def test_stickiness_is_the_listener_s(scene: Scene) -> None:
    scene.apply(declared(GroupAttributes(stickiness=True)))
    active(scene)
    assert listener(scene).sticky
