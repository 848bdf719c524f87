# SPDX-License-Identifier: Apache-2.0
"""Commands on one resource: what they do, what they refuse and under which name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.documents import document_of
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.resources import (
    Code,
    FunctionResource,
    Networking,
    Resources,
    RuleResource,
)
from hyperplane_nat.model.states import FunctionState, UpdateStatus
from hyperplane_nat.model.store import Store
from tests.model.support import (
    NONE,
    Scene,
    function,
    lab,
    network,
    refusal,
    rule,
    service,
    vpc,
)


def names(region: Region) -> dict[str, set[str]]:
    tables = region.tables
    return {
        "vpcs": {each.name for each in tables.vpcs.values()} - {"internet"},
        "subnets": {each.name for each in tables.subnets.values()} - {"internet"},
        "groups": {each.name for each in tables.groups.values()},
        "functions": {each.name for each in tables.functions.values()},
    }


def build(scene: Scene) -> None:
    """VPC "shop" with subnet "a", group "app" and function "f", in an empty region."""
    with scene.region.commands() as commands:
        commands.create_vpc(network("10.0.0.0/16"), "shop")
    with scene.region.commands() as commands:
        commands.create_subnet("shop", network("10.0.1.0/24"), "a")
        commands.create_security_group("shop", "app")
    with scene.region.commands() as commands:
        commands.create_function(FunctionResource("f", subnets=("a",), security_groups=("app",)))


def code(scene: Scene, work: Callable[[Commands], object]) -> str:
    """The error of a command, which leaves everything as it was."""
    before = document_of(scene.region.tables)

    def call() -> None:
        with scene.region.commands() as commands:
            work(commands)

    found = refusal(call)
    assert document_of(scene.region.tables) == before
    return found


def test_everything_is_made_and_deleted_one_by_one() -> None:
    scene = Scene()
    build(scene)
    scene.active()
    assert scene.function("f").state is FunctionState.ACTIVE
    assert scene.statuses() == ["in-use"]
    placement = scene.run("f")
    scene.region.end(placement.environment)
    for work in (
        lambda commands: commands.delete_vpc("shop"),
        lambda commands: commands.delete_subnet("a"),
        lambda commands: commands.delete_security_group("app"),
    ):
        assert code(scene, work) == "DependencyViolation"
    with scene.region.commands() as commands:
        commands.delete_function("f")
    scene.take_down()
    # The interface outlives its function.
    assert code(scene, lambda commands: commands.delete_subnet("a")) == "DependencyViolation"
    scene.pass_seconds(scene.settings.interface_deletion_seconds)
    scene.take_down()
    with scene.region.commands() as commands:
        commands.delete_security_group("app")
        commands.delete_subnet("a")
        commands.delete_vpc("shop")
    assert names(scene.region) == {
        "vpcs": set(),
        "subnets": set(),
        "groups": set(),
        "functions": set(),
    }


def test_a_vpc_comes_and_goes_with_what_ec2_makes_with_it() -> None:
    scene = Scene()
    with scene.region.commands() as commands:
        vpc = commands.create_vpc(network("10.0.0.0/16"), "shop", defaults=True)
    tables = scene.region.tables
    (group,) = tables.groups.values()
    (rule,) = group.ingress
    assert (group.name, group.vpc_id, rule.group_id) == ("default", vpc.id, group.id)
    assert [(each.vpc_id, each.main) for each in tables.route_tables.values()] == [(vpc.id, True)]
    with scene.region.commands() as commands:
        other = commands.create_security_group("shop", "other")
        commands.authorize(other.id, "ingress", [RuleResource(group=group.id)])
    assert code(scene, lambda c: c.delete_vpc("shop")) == "DependencyViolation"
    assert group.id in scene.region.tables.groups
    with scene.region.commands() as commands:
        commands.delete_security_group(other.id)
        commands.delete_vpc("shop")
    assert names(scene.region)["groups"] == set()
    assert names(scene.region)["vpcs"] == set()
    assert scene.region.tables.route_tables == {}


def test_ids_and_names_are_the_same() -> None:
    scene = Scene()
    with scene.region.commands() as commands:
        customer = commands.create_vpc(network("10.0.0.0/16"))
        subnet = commands.create_subnet(customer.id, network("10.0.1.0/24"))
        group = commands.create_security_group(customer.name, "app")
        assert commands.vpc(customer.id) == commands.vpc(customer.name) == customer
        assert commands.subnet(f"{customer.name}/{subnet.name}") == subnet
        assert commands.group(group.id) == commands.group("app") == group
        made = commands.create_function(
            FunctionResource("f", subnets=(subnet.id,), security_groups=(group.id,))
        )
    assert customer.id.startswith("vpc-")
    assert customer.id.startswith(customer.name)
    assert made.config.subnet_ids == (subnet.id,)


def test_a_name_of_two_needs_its_vpc() -> None:
    scene = Scene()
    with scene.region.commands() as commands:
        for name in ("one", "other"):
            commands.create_vpc(network("10.0.0.0/16"), name)
            commands.create_subnet(name, network("10.0.1.0/24"), "a")
        assert commands.subnet("one/a") != commands.subnet("other/a")
    assert code(scene, lambda commands: commands.delete_subnet("a")) == "InvalidParameterValue"


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda c: c.create_vpc(network("10.0.0.0/16"), "shop"), "InvalidParameterValue"),
        (lambda c: c.create_vpc(network("10.0.0.0/16"), "internet"), "InvalidParameterValue"),
        (lambda c: c.create_vpc(network("10.0.0.0/16"), "x", "nobody"), "InvalidParameterValue"),
        (lambda c: c.delete_vpc("vpc-0"), "InvalidVpcID.NotFound"),
        (lambda c: c.delete_vpc("internet"), "OperationNotPermitted"),
        (lambda c: c.delete_subnet("internet/internet"), "OperationNotPermitted"),
        (lambda c: c.create_subnet("none", network("10.0.9.0/24")), "InvalidVpcID.NotFound"),
        (lambda c: c.create_subnet("shop", network("10.9.0.0/24")), "InvalidSubnet.Range"),
        (lambda c: c.create_subnet("shop", network("10.0.9.0/29")), "InvalidSubnet.Range"),
        (lambda c: c.create_subnet("shop", network("10.0.1.128/25")), "InvalidSubnet.Conflict"),
        (lambda c: c.create_subnet("shop", network("10.0.9.0/24"), "a"), "InvalidParameterValue"),
        (lambda c: c.delete_subnet("subnet-0"), "InvalidSubnetID.NotFound"),
        (lambda c: c.create_security_group("shop", "app"), "InvalidGroup.Duplicate"),
        (lambda c: c.delete_security_group("sg-0"), "InvalidGroup.NotFound"),
        (
            lambda c: c.authorize("app", "egress", [rule("all", cidr="0.0.0.0/0")]),
            "InvalidPermission.Duplicate",
        ),
        (
            lambda c: c.authorize("app", "ingress", [rule(cidr="10.0.0.0/8")] * 2),
            "InvalidPermission.Duplicate",
        ),
        (lambda c: c.authorize("app", "ingress", [rule()]), "InvalidPermission.Malformed"),
        (lambda c: c.authorize("app", "ingress", [rule(group="sg-0")]), "InvalidGroup.NotFound"),
        (
            lambda c: c.authorize(
                "app", "egress", [rule("tcp", port, port, cidr="10.0.0.0/8") for port in range(60)]
            ),
            "RulesPerSecurityGroupLimitExceeded",
        ),
        (
            lambda c: c.revoke("app", "egress", [rule(cidr="10.0.0.0/8")]),
            "InvalidPermission.NotFound",
        ),
        (lambda c: c.create_function(function("f", NONE)), "ResourceConflictException"),
        (lambda c: c.delete_function("g"), "ResourceNotFoundException"),
        (
            lambda c: c.update_function_configuration("g", memory_mb=256),
            "ResourceNotFoundException",
        ),
        (
            lambda c: c.update_function_configuration("f", memory_mb=1),
            "InvalidParameterValueException",
        ),
        (
            lambda c: c.update_function_configuration("f", security_groups=()),
            "InvalidParameterValueException",
        ),
        (
            lambda c: c.create_function(FunctionResource("g", subnets=("subnet-0",))),
            "InvalidParameterValueException",
        ),
        (
            lambda c: c.create_function(
                FunctionResource("g", subnets=("a",), security_groups=("sg-0",))
            ),
            "InvalidParameterValueException",
        ),
        (lambda c: c.create_service("shop", service("s", "10.0.2.9")), "InvalidParameterValue"),
        (lambda c: c.create_service("shop", service("s", "10.0.1.4")), "InvalidIPAddress.InUse"),
        (lambda c: c.delete_service("s"), "ResourceNotFoundException"),
        (lambda c: c.create_account("default"), "InvalidParameterValue"),
        (lambda c: c.create_account("x", "12"), "InvalidParameterValue"),
        (lambda c: c.delete_account("default"), "DependencyViolation"),
    ],
)
def test_what_is_refused(work: Callable[[Commands], object], expected: str) -> None:
    scene = Scene()
    scene.apply(Resources(accounts=()))
    build(scene)
    scene.active()
    assert code(scene, work) == expected


def test_several_commands_are_one_transaction() -> None:
    scene = Scene()

    def work(commands: Commands) -> None:
        commands.create_vpc(network("10.0.0.0/16"), "shop")
        commands.create_subnet("shop", network("10.9.0.0/24"))

    assert code(scene, work) == "InvalidSubnet.Range"


def test_what_cannot_be_saved_is_not_done(tmp_path: Path) -> None:
    scene = Scene()
    build(scene)
    before = document_of(scene.region.tables)

    def full() -> None:
        raise OSError

    with pytest.raises(OSError), scene.region.commands(full) as commands:  # noqa: PT011
        commands.delete_function("f")
    assert document_of(scene.region.tables) == before
    with Store(tmp_path / "state") as store:
        with scene.region.commands(lambda: store.save(scene.region)) as commands:
            commands.create_security_group("shop", "db")
        assert names(store.load_region())["groups"] == {"app", "db"}


def test_rules_are_added_and_taken() -> None:
    scene = Scene()
    build(scene)
    with scene.region.commands() as commands:
        group = commands.create_security_group("shop", "db")
        commands.authorize("db", "ingress", [rule("tcp", 5432, 5432, group="app")])
        commands.authorize("app", "egress", [rule("tcp", 5432, 5432, group=group.id)])
        commands.revoke("app", "egress", [rule("all", cidr="0.0.0.0/0")])
    scene.active()
    (interface,) = scene.region.wanted().interfaces
    assert interface.policy.egress == ()
    assert code(scene, lambda c: c.delete_security_group("db")) == "DependencyViolation"
    with scene.region.commands() as commands:
        commands.create_service("shop", service("d", "10.0.1.9", groups=("db",), port=5432))
    (interface,) = scene.region.wanted().interfaces
    assert [(each.cidr, each.first) for each in interface.policy.egress or ()] == [
        ("10.0.1.9/32", 5432)
    ]


def test_a_function_changes_its_network() -> None:
    scene = Scene()
    build(scene)
    scene.active()
    with scene.region.commands() as commands:
        commands.create_subnet("shop", network("10.0.2.0/24"), "b")
        commands.update_function_configuration("f", subnets=("b",), memory_mb=256)
    assert scene.function("f").last_update_status is UpdateStatus.IN_PROGRESS
    assert (
        code(scene, lambda c: c.update_function_configuration("f", subnets=("a",)))
        == "ResourceConflictException"
    )
    scene.active()
    assert scene.function("f").memory_mb == 256
    with scene.region.commands() as commands:
        commands.update_function_configuration("f", subnets=(), security_groups=())
    assert scene.function("f").config.networking is Networking.NONE
    with scene.region.commands() as commands:
        commands.update_function_configuration("f", memory_mb=512)
    assert scene.function("f").config.networking is Networking.NONE


def test_a_declaration_leaves_alone_what_commands_have_made() -> None:
    scene = Scene()
    build(scene)
    lines = scene.apply(lab(function("orders")))
    assert {line.action for line in lines} == {"create"}
    assert names(scene.region)["functions"] == {"f", "orders"}
    with scene.region.commands() as commands:
        commands.create_subnet("customer", network("10.0.9.0/24"), "mine")
    assert scene.apply(lab(function("orders"))) == ()
    overlapping = vpc(subnets=(("a", "10.0.1.0/24"), ("c", "10.0.9.0/25")))
    assert refusal(lambda: scene.apply(lab(vpcs=[overlapping]))) == "InvalidSubnet.Conflict"
    assert refusal(lambda: scene.apply(Resources())) == "DependencyViolation"


def test_what_a_declaration_names_is_its_own_from_then_on() -> None:
    scene = Scene()
    build(scene)
    scene.active()
    shop = vpc("shop", account="default", subnets=(("a", "10.0.1.0/24"),), groups=("app",))
    named = lab(function("f", account="default", vpc="shop"), vpcs=[shop], accounts=())
    assert scene.apply(named) == ()
    assert "delete" in {line.action for line in scene.apply(replace(named, functions=()))}


def test_a_vpc_without_subnets() -> None:
    scene = Scene()
    with scene.region.commands() as commands:
        commands.create_vpc(network("10.0.0.0/16"), "shop")
    (wanted,) = scene.region.wanted().vpcs
    # Those of its resolver.
    assert wanted.addresses == ("10.0.0.2", "169.254.169.253")


def test_a_restart_leaves_alone_what_commands_have_changed() -> None:
    scene = Scene()
    wanted = lab(function("orders"))
    scene.region.resume(wanted)
    with scene.region.commands() as commands:
        commands.revoke("app", "egress", [rule("all", cidr="0.0.0.0/0")])
        commands.delete_security_group("db")
        commands.delete_function("orders")
    before = document_of(scene.region.tables)
    scene.region.resume(wanted)
    assert document_of(scene.region.tables) == before
    scene.region.resume(lab(function("orders"), function("more")))
    assert names(scene.region)["functions"] == {"orders", "more"}
    assert names(scene.region)["groups"] == {"app", "db"}


def test_a_restart_ends_what_an_apply_has_left_for_later() -> None:
    scene = Scene()
    scene.apply(lab(function("orders")))
    scene.active()
    wanted = lab(vpcs=[vpc(groups=("db",))])
    scene.region.apply(scene.region.plan(wanted, keep_used=True))
    assert names(scene.region)["groups"] == {"app", "db"}
    scene.pass_seconds(scene.settings.interface_deletion_seconds)
    scene.take_down()
    scene.region.resume(wanted)
    assert names(scene.region)["groups"] == {"db"}


@pytest.mark.parametrize(
    "change",
    [
        {"memory_mb": 256},
        {"code": Code("/code", "other", "app.handler", "python3.11")},
        {"environment": (("TABLE", "t"),)},
    ],
)
def test_another_configuration_gets_environments_of_its_own(change: dict[str, Any]) -> None:
    first = replace(function("f"), code=Code("/code", "", "app.handler", "python3.11"))
    scene = Scene(first)
    changed = replace(first, **change)
    assert refusal(lambda: scene.apply(lab(changed))) == "ResourceConflictException"
    scene.active()
    idle, busy = scene.run("f"), scene.run("f")
    scene.region.end(idle.environment)
    scene.apply(lab(changed))
    assert scene.region.reaped() == [idle.environment]
    scene.region.end(busy.environment)
    assert set(scene.region.reaped()) == {idle.environment, busy.environment}
    assert scene.run("f").cold
    assert scene.apply(lab(changed)) == ()


def test_reserved_concurrency() -> None:
    limited = replace(function("f"), reserved_concurrency=2)
    scene = Scene(limited)
    scene.active()
    first = scene.run("f")
    scene.run("f")
    assert refusal(lambda: scene.run("f")) == "TooManyRequestsException"
    scene.region.end(first.environment)
    assert not scene.run("f").cold
    scene.apply(lab(replace(function("f"), reserved_concurrency=3)))
    assert scene.run("f").cold
    scene.apply(lab(replace(function("f"), reserved_concurrency=0)))
    assert refusal(lambda: scene.run("f")) == "TooManyRequestsException"
    assert scene.region.reaped() == []
