# SPDX-License-Identifier: Apache-2.0
"""What groups let an interface send, as plain rules."""

from __future__ import annotations

import pytest

from hyperplane_nat.model.resources import Networking, RuleResource, SecurityGroupResource
from hyperplane_nat.model.security_group import Policy, PolicyRule
from tests.model.support import NONE, OWN, Scene, function, lab, rule, service, vpc

ALL = PolicyRule("all", "0.0.0.0/0", 0, 65535)
WITHHELD = (PolicyRule("tcp", "0.0.0.0/0", 25, 25), PolicyRule("icmp", "0.0.0.0/0", 0, 65535))


def group(
    name: str, *ingress: RuleResource, egress: tuple[RuleResource, ...] | None = None
) -> SecurityGroupResource:
    made = SecurityGroupResource(name, ingress=ingress)
    return made if egress is None else SecurityGroupResource(name, "", ingress, egress)


def policy(scene: Scene, index: int = 0) -> Policy:
    return scene.region.wanted_interface(scene.interfaces()[index].id).policy


def postgres(cidr: str = "0.0.0.0/0") -> PolicyRule:
    return PolicyRule("tcp", cidr, 5432, 5432)


def test_a_new_group_lets_everything_out() -> None:
    scene = Scene(function("orders"))
    assert policy(scene) == Policy(egress=(ALL,), withheld=WITHHELD)


@pytest.mark.requirement("AWS-sg-stateful", profile="both")
def test_egress_is_the_union_of_the_groups() -> None:
    one = group("one", egress=(rule("tcp", 443, 443, cidr="10.0.0.0/8"),))
    two = group("two", egress=(rule("udp", 53, 53, cidr="10.0.0.2/32"), one.egress[0]))
    scene = Scene()
    scene.apply(
        lab(function("orders", groups=("two", "one")), vpcs=(vpc(groups=(one, two)),)),
    )
    egress = policy(scene).egress
    assert egress is not None
    assert set(egress) == {
        PolicyRule("tcp", "10.0.0.0/8", 443, 443),
        PolicyRule("udp", "10.0.0.2/32", 53, 53),
    }
    assert len(egress) == 2


def test_no_egress_rules_let_nothing_out() -> None:
    scene = Scene()
    scene.apply(lab(function("orders"), vpcs=(vpc(groups=(group("app", egress=()),)),)))
    assert policy(scene).egress == ()


def test_the_internet_has_no_groups() -> None:
    assert policy(Scene(function("public", NONE))) == Policy(None, withheld=WITHHELD)


@pytest.mark.parametrize("kind", [NONE, OWN, Networking.HYPERPLANE])
def test_what_lambda_withholds_is_a_setting(kind: Networking) -> None:
    scene = Scene(function("orders", kind), blocked_tcp_ports=(465, 25, 25), icmp=True)
    if kind is OWN:
        scene.run("orders")
    withheld = policy(scene).withheld
    assert [(each.protocol, each.first, each.last) for each in withheld] == [
        ("tcp", 25, 25),
        ("tcp", 465, 465),
    ]
    assert policy(Scene(function("free", NONE), blocked_tcp_ports=(), icmp=True)) == Policy(None)


def test_egress_to_a_group_means_its_members() -> None:
    app = group("app", egress=(rule("tcp", 5432, 5432, group="db"),))
    scene = Scene()
    scene.apply(
        lab(
            function("orders"),
            function("other", groups=("db",)),
            vpcs=(
                vpc(
                    groups=(app, group("db")),
                    services=(service("db", "10.0.1.50", groups=("db",)),),
                ),
            ),
        )
    )
    member = scene.interfaces()[1]
    assert policy(scene).egress == (postgres(f"{member.address}/32"), postgres("10.0.1.50/32"))


def test_members_come_and_go() -> None:
    app = group("app", egress=(rule("tcp", 5432, 5432, group="db"),))
    scene = Scene()
    wanted = vpc(groups=(app, "db"))
    scene.apply(lab(function("orders"), vpcs=(wanted,)))
    revision = scene.region.policy_revision
    assert policy(scene).egress == ()
    scene.apply(lab(function("orders"), function("new", OWN, groups=("db",)), vpcs=(wanted,)))
    slot = scene.run("new").environment
    assert scene.region.policy_revision != revision
    egress = policy(scene).egress
    assert egress == (postgres("10.0.1.5/32"),)
    scene.region.discard(slot)
    scene.reap()
    scene.pass_seconds(20 * 60)
    assert policy(scene).egress == (), "what is being deleted is no member"


def test_an_interface_that_no_rule_names_changes_no_other_policy() -> None:
    scene = Scene(function("orders"), function("own", OWN))
    policies, network = scene.region.policy_revision, scene.region.network_revision
    scene.run("own")
    assert scene.region.policy_revision == policies
    assert scene.region.network_revision != network


def test_the_databases_group_allows_the_functions_group() -> None:
    db = group("db", rule("tcp", 5432, 5432, group="app"))
    scene = Scene()
    scene.apply(
        lab(
            function("orders"),
            function("stranger", groups=("other",)),
            vpcs=(
                vpc(
                    groups=("app", "other", db),
                    services=(
                        service("db", "10.0.1.50", groups=("db",)),
                        service("open", "10.0.1.51"),
                    ),
                ),
            ),
        )
    )
    admitted, refused = policy(scene, 0), policy(scene, 1)
    assert [(guard.address, guard.ingress) for guard in admitted.guarded] == [
        ("10.0.1.50", (postgres(),))
    ]
    assert [(guard.address, guard.ingress) for guard in refused.guarded] == [("10.0.1.50", ())]


def test_ingress_by_address() -> None:
    db = group("db", rule("tcp", 5432, 5432, cidr="10.0.2.0/24"))
    scene = Scene()
    scene.apply(
        lab(
            function("in-a"),
            function("in-b", subnets=("b",)),
            vpcs=(vpc(groups=("app", db), services=(service("db", "10.0.1.50", groups=("db",)),)),),
        )
    )
    assert [policy(scene, index).guarded[0].ingress for index in (0, 1)] == [(), (postgres(),)]


def test_services_of_one_address_are_guarded_as_one() -> None:
    web = group("web", rule("tcp", 80, 80, cidr="10.0.0.0/8"))
    echo = group("echo", rule("udp", 7, 7, cidr="10.0.0.0/8"))
    scene = Scene()
    services = (
        service("web", "10.0.1.50", groups=("web",)),
        service("echo", "10.0.1.50", groups=("echo",), kind="udp-echo", port=7),
    )
    scene.apply(lab(function("orders"), vpcs=(vpc(groups=("app", web, echo), services=services),)))
    (guard,) = policy(scene).guarded
    assert len(guard.ingress) == 2


def test_services_of_other_vpcs_are_none_of_its_business() -> None:
    scene = Scene()
    far = vpc("far", services=(service("db", "10.0.1.50", groups=("db",)),))
    scene.apply(lab(function("orders"), vpcs=(vpc(), far)))
    assert policy(scene).guarded == ()


def test_the_document_is_what_the_forwarder_takes() -> None:
    db = group("db", rule("tcp", 5432, 5432, group="app"))
    scene = Scene()
    scene.apply(
        lab(
            function("orders"),
            vpcs=(vpc(groups=("app", db), services=(service("db", "10.0.1.50", groups=("db",)),)),),
        )
    )
    assert policy(scene).document() == {
        "egress": [{"protocol": "all", "cidr": "0.0.0.0/0", "first": 0, "last": 65535}],
        "guarded": [
            {
                "address": "10.0.1.50",
                "ingress": [{"protocol": "tcp", "cidr": "0.0.0.0/0", "first": 5432, "last": 5432}],
            }
        ],
        "withheld": [
            {"protocol": "tcp", "cidr": "0.0.0.0/0", "first": 25, "last": 25},
            {"protocol": "icmp", "cidr": "0.0.0.0/0", "first": 0, "last": 65535},
        ],
    }
    assert Policy(None).document() == {"egress": None, "guarded": []}
