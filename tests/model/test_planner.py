# SPDX-License-Identifier: Apache-2.0
"""Plans: their lines, their order, what is refused, and that nothing is half done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.resources import (
    AccountResource,
    FunctionResource,
    Resources,
    SecurityGroupResource,
    SubnetResource,
    VpcResource,
)
from tests.model.invariants import violations
from tests.model.support import (
    NONE,
    OWN,
    Scene,
    address,
    function,
    interface,
    lab,
    network,
    refusal,
    rule,
    service,
    vpc,
)


def words(scene: Scene, wanted: Resources) -> list[str]:
    return [f"{line.action} {line.kind} {line.name}" for line in scene.region.plan(wanted).lines]


def test_a_new_lab_is_created_in_the_order_of_references() -> None:
    wanted = lab(
        function("orders"),
        vpcs=(vpc(groups=("app",), services=(service("web", "10.0.1.80"),)),),
        internet=(service("example", "198.51.100.1"),),
    )
    assert words(Scene(), wanted) == [
        "create account shop",
        "create account bank",
        "create vpc customer",
        "create subnet customer/a",
        "create subnet customer/b",
        "create security-group customer/app",
        "create service customer/web",
        "create internet-host example",
        "create function orders",
    ]


def test_a_plan_changes_nothing_and_is_what_apply_does() -> None:
    scene = Scene()
    before = scene.region.document()
    plan = scene.region.plan(lab(function("orders")))
    assert scene.region.document() == before
    assert scene.region.apply(plan) == plan.lines
    assert scene.region.plan(plan.wanted).lines == ()


def test_changes_and_deletions() -> None:
    scene = Scene()
    start = vpc(
        groups=("app", "db", "old"),
        services=(service("web", "10.0.1.80"), service("gone", "10.0.1.81")),
    )
    scene.apply(lab(function("orders"), function("mail"), vpcs=(start,)))
    scene.active()
    after = vpc(
        subnets=(("a", "10.0.1.0/24"),),
        groups=(SecurityGroupResource("app", ingress=(rule(group="db"),)), "db"),
        services=(service("web", "10.0.1.80", port=81),),
    )
    assert words(scene, lab(function("orders", memory_mb=256), vpcs=(after,))) == [
        "change security-group customer/app",
        "change service customer/web",
        "delete service customer/gone",
        "delete function mail",
        "change function orders",
        "delete security-group customer/old",
        "delete subnet customer/b",
    ]


def test_everything_can_be_deleted_once_the_interfaces_are_gone() -> None:
    scene = Scene(function("orders"), function("own", OWN), function("public", NONE))
    scene.active()
    scene.region.end(scene.run("own").environment)
    nothing = Resources(accounts=())
    assert refusal(lambda: scene.apply(nothing)) == "DependencyViolation"
    scene.apply(lab())
    scene.reap()
    assert refusal(lambda: scene.apply(nothing)) == "DependencyViolation"
    scene.pass_seconds(20 * 60)
    scene.take_down()
    scene.apply(nothing)
    left = scene.region.document()["entities"]
    assert [kind for kind, rows in left.items() if rows] == ["vpc", "subnet"], "the internet's"
    assert scene.region.wanted().vpcs == ()


def without_subnet(wanted: VpcResource) -> VpcResource:
    return replace(wanted, subnets=wanted.subnets[1:])


def without_group(wanted: VpcResource) -> VpcResource:
    return replace(wanted, security_groups=wanted.security_groups[1:])


def other_network(wanted: VpcResource) -> VpcResource:
    return replace(wanted, mtu_bytes=9001)


def other_subnet(wanted: VpcResource) -> VpcResource:
    subnets = (SubnetResource("a", network("10.0.3.0/24")), *wanted.subnets[1:])
    return replace(wanted, subnets=subnets)


@pytest.mark.parametrize("change", [without_subnet, without_group, other_network, other_subnet])
def test_what_an_interface_uses_cannot_go(change: object) -> None:
    scene = Scene(function("orders"))
    scene.active()
    before = scene.region.document()
    assert callable(change)
    kept = function("orders", subnets=("b",), groups=("db",))
    assert refusal(lambda: scene.apply(lab(kept, vpcs=(change(vpc()),)))) == "DependencyViolation"
    assert scene.region.document() == before
    scene.apply(lab(kept))
    scene.active()
    scene.pass_seconds(20 * 60)
    scene.take_down()
    if change is not other_network:
        scene.apply(lab(kept, vpcs=(change(vpc()),)))


def test_a_subnet_that_nobody_uses_is_replaced() -> None:
    scene = Scene()
    scene.apply(lab())
    wanted = lab(vpcs=(vpc(subnets=(("a", "10.0.3.0/24"), ("b", "10.0.2.0/24"))),))
    assert words(scene, wanted) == ["create subnet customer/a", "delete subnet customer/a"]
    scene.apply(wanted)
    subnets = {item.name: str(item.cidr) for item in scene.region.tables.subnets.values()}
    assert subnets["a"] == "10.0.3.0/24"


def test_groups_refer_to_each_other_and_to_themselves() -> None:
    scene = Scene()
    groups = (
        SecurityGroupResource("one", ingress=(rule(group="two"), rule(group="one"))),
        SecurityGroupResource("two", ingress=(rule(group="one"),)),
    )
    wanted = lab(vpcs=(vpc(groups=groups),))
    scene.apply(wanted)
    assert words(scene, wanted) == []


def test_vpcs_may_overlap_and_have_numbers_of_their_own() -> None:
    scene = Scene()
    scene.apply(lab(vpcs=(vpc("one"), vpc("two", account="bank"))))
    vpcs = scene.region.tables.vpcs.values()
    assert sorted(item.number for item in vpcs) == [1, 2, 3]


def test_the_address_of_an_interface_is_no_service_s() -> None:
    scene = Scene(function("orders"))
    there = str(scene.interface().address)
    taken = lab(function("orders"), vpcs=(vpc(services=(service("web", there),)),))
    assert refusal(lambda: scene.apply(taken)) == "InvalidIPAddress.InUse"
    taken = lab(function("orders"), interfaces=[interface("eni-a", there)])
    assert refusal(lambda: scene.apply(taken)) == "InvalidIPAddress.InUse"


def test_interfaces_keep_clear_of_services_and_configured_interfaces() -> None:
    scene = Scene()
    customer = vpc(services=(service("web", "10.0.1.5"),))
    configured = interface("eni-a", "10.0.1.4", "10.0.1.6")
    scene.apply(lab(function("orders"), vpcs=(customer,), interfaces=[configured]))
    (made,) = (each for each in scene.interfaces() if each.id != "eni-a")
    assert (str(made.address), made.number) == ("10.0.1.7", 2)


def test_accounts_have_twelve_digits() -> None:
    scene = Scene()
    scene.apply(lab(vpcs=(), accounts=(AccountResource("shop"),)))
    (account,) = scene.region.tables.accounts.values()
    assert len(account.id) == 12
    assert account.id.isdigit()
    assert words(scene, lab(vpcs=(), accounts=(AccountResource("shop"),))) == []


def test_the_default_account_needs_no_mention() -> None:
    scene = Scene()
    scene.apply(lab(FunctionResource("public", NONE), vpcs=(), accounts=()))
    assert scene.function("public").account_id == "111122223333"


def test_a_function_of_another_account_is_another_function() -> None:
    scene = Scene(function("public", NONE))
    lines = words(scene, lab(function("public", NONE, account="bank")))
    assert lines == ["delete function public", "create function public"]


def later(scene: Scene, wanted: Resources) -> list[tuple[str, str]]:
    """What an apply that leaves what is used deletes, and what each of that waits for."""
    lines = scene.region.apply(scene.region.plan(wanted, keep_used=True))
    return [(f"{line.kind} {line.name}", line.waits_for) for line in lines]


def test_what_is_used_is_left_and_deleted_once_it_is_not() -> None:
    scene = Scene(function("orders"))
    scene.active()
    user = f"interface {scene.interface().id}"
    nothing = Resources(accounts=())
    first = later(scene, nothing)
    assert first == [
        ("function orders", ""),
        ("security-group customer/app", user),
        ("security-group customer/db", ""),
        ("subnet customer/a", user),
        ("subnet customer/b", ""),
        ("vpc customer", "security group app"),
        ("account bank", ""),
        ("account shop", "VPC customer"),
    ]
    waiting = [line for line in first if line[1]]
    assert later(scene, nothing) == waiting
    # Also after a restart, and refused by who does not wait.
    document = scene.region.document()
    scene.region = Region.from_document(document, **scene.options())
    assert later(scene, nothing) == waiting
    assert refusal(lambda: scene.apply(nothing)) == "DependencyViolation"
    scene.pass_seconds(20 * 60)
    scene.take_down()
    assert later(scene, nothing) == [(name, "") for name, _ in waiting]
    assert later(scene, nothing) == []


def test_a_group_that_the_rule_of_a_used_one_names_is_left_too() -> None:
    """As on EC2: no group goes whose id stands in a rule."""
    groups = (
        SecurityGroupResource("app", egress=(rule(group="db"),)),
        SecurityGroupResource("db", ingress=(rule(group="far"), rule(group="db"))),
        "far",
        "free",
    )
    scene = Scene()
    scene.apply(lab(function("orders"), vpcs=(vpc(groups=groups),)))
    scene.active()
    user = f"interface {scene.interface().id}"
    assert later(scene, lab(vpcs=(vpc(groups=()),))) == [
        ("function orders", ""),
        ("security-group customer/app", user),
        ("security-group customer/db", "security group app"),
        ("security-group customer/far", "security group db"),
        ("security-group customer/free", ""),
    ]
    document = scene.region.document()
    assert Region.from_document(document, **scene.options()).document() == document


@pytest.mark.parametrize("change", [other_network, other_subnet])
def test_what_is_made_anew_under_its_name_cannot_wait(change: object) -> None:
    scene = Scene(function("orders"))
    scene.active()
    before = scene.region.document()
    assert callable(change)
    with pytest.raises(ModelError, match="what is made anew has its name") as refused:
        later(scene, lab(vpcs=(change(vpc()),)))
    assert refused.value.code == "DependencyViolation"
    assert scene.region.document() == before


def test_what_is_left_is_used_again_by_who_wants_it_again() -> None:
    scene = Scene(function("orders"))
    scene.active()
    group = scene.function("orders").config.group_ids
    later(scene, lab(vpcs=(vpc(groups=("db",)),)))
    scene.apply(lab(function("orders")))
    assert scene.function("orders").config.group_ids == group


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (lab(vpcs=(vpc(groups=("db",)),)), '[[vpc]] "customer", security_group "app"'),
        (
            lab(function("orders", groups=tuple("abcdef")), vpcs=(vpc(groups=tuple("abcdef")),)),
            '[[function]] "orders": security_groups',
        ),
        (
            lab(
                function("orders"),
                vpcs=(vpc(services=(service("web", "10.0.1.4"),)),),
            ),
            '[[vpc]] "customer", service "web": address',
        ),
    ],
)
def test_a_refusal_names_the_field(wanted: Resources, field: str) -> None:
    scene = Scene(function("orders"))
    scene.active()
    with pytest.raises(ModelError) as refused:
        scene.apply(wanted)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{refused.value.code}: {field}: ")


def provided(**more: Any) -> Resources:
    """A lab file with two interfaces, one of two addresses, and five environments."""
    interfaces = [interface("eni-b", "10.0.2.9", subnet="b"), interface("eni-a", "10.0.1.9")]
    interfaces[0] = replace(interfaces[0], addresses=(address("10.0.2.9"), address("10.0.2.10")))
    return lab(interfaces=interfaces, environments=5, **more)


def test_what_the_lab_file_provides_is_there_at_once_and_stays() -> None:
    scene = Scene()
    lines = scene.apply(provided())
    assert {line.kind for line in lines} == {"account", "vpc", "subnet", "security-group"}
    tables = scene.region.tables
    assert [(each.id, each.numbers) for each in scene.interfaces()] == [
        ("eni-b", (0, 2)),
        ("eni-a", (1,)),
    ]
    assert [tables.environments[slot].interface_id for slot in range(1, 6)] == [
        "eni-b",
        "eni-a",
        "eni-b",
        "eni-a",
        "eni-b",
    ]
    assert scene.statuses() == ["in-use", "in-use"]
    before = scene.region.document()
    scene.pass_seconds(400 * 86_400)
    assert scene.apply(provided()) == ()
    scene.region.interrupted()
    assert scene.region.document() == before
    assert violations(scene.region, set()) == []


def test_an_interface_without_environments_waits_for_nothing() -> None:
    scene = Scene()
    scene.apply(lab(interfaces=[interface("eni-a", "10.0.1.9")]))
    scene.pass_seconds(400 * 86_400)
    assert scene.statuses() == ["available"]
    assert violations(scene.region, set()) == []


def test_what_the_lab_file_provides_is_no_interface_of_lambda() -> None:
    scene = Scene(interfaces_per_vpc=1)
    scene.apply(provided())
    assert not any(each.requester_managed for each in scene.interfaces())
    scene.apply(replace(provided(), functions=(function("orders"),)))
    policies = {each.id: each.policy for each in scene.region.wanted().interfaces}
    assert policies["eni-a"].egress is None


def test_a_vpc_is_not_replaced_under_an_interface_of_the_lab_file() -> None:
    scene = Scene()
    scene.apply(provided())
    other = provided(vpcs=(vpc(cidr="10.0.0.0/8"),))
    assert refusal(lambda: scene.apply(other)) == "DependencyViolation"
    with scene.region.commands() as commands:
        assert refusal(lambda: commands.delete_subnet("a")) == "DependencyViolation"
        assert refusal(lambda: commands.delete_vpc("customer")) == "DependencyViolation"
