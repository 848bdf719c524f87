# SPDX-License-Identifier: Apache-2.0
"""Versions and aliases: what is published stays as it was, and holds its interfaces."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from hyperplane_nat.model.description import describe_functions, describe_versions
from hyperplane_nat.model.entities import Function
from hyperplane_nat.model.provisioned import provisioned_of
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.resources import AliasResource, Code, FunctionResource
from tests.model.support import OWN, Scene, function, lab, refusal, vpc

CODE = Code("/code", "one", "app.handler", "python3.11")


def coded(
    sha256: str = "one", *, alias: str | None = None, version: int | None = None
) -> FunctionResource:
    aliases = () if alias is None else (AliasResource(alias, version),)
    made = function("orders", groups=("app",))
    return replace(made, code=replace(CODE, sha256=sha256), aliases=aliases)


def publish(scene: Scene, name: str = "orders") -> Function:
    with scene.region.commands() as commands:
        return commands.versions.publish_settled(commands.versions.latest(name))


def put_alias(scene: Scene, name: str, version: int) -> None:
    with scene.region.commands() as commands:
        commands.versions.put_alias(commands.versions.latest("orders"), name, version)


def test_applying_again_repairs_a_version_that_found_no_room() -> None:
    scene = Scene(function("other", subnets=("b",)), interfaces_per_vpc=1)
    scene.apply(lab(function("other", subnets=("b",)), coded(alias="live")))
    failed = scene.function("orders:1")
    assert failed.state_reason_code == "EniLimitExceeded"
    told = provisioned_of(scene.region.tables, failed)
    assert (told.status, told.reason) == ("FAILED", failed.state_reason)
    scene.apply(lab(coded(alias="live")))
    scene.pass_seconds(3000)
    scene.take_down()
    lines = scene.apply(lab(coded(alias="live")))
    assert [(line.action, line.name, line.detail) for line in lines] == [
        ("change", "orders", "try again"),
        ("change", "orders:1", "try again"),
    ]
    scene.active()
    assert scene.function("orders:1").state == "Active"
    assert scene.apply(lab(coded(alias="live"))) == ()
    assert scene.region.begin("orders:live").environment


def delete(scene: Scene, name: str) -> None:
    with scene.region.commands() as commands:
        commands.delete_function(name)


@pytest.fixture
def scene() -> Scene:
    scene = Scene(coded())
    scene.active()
    return scene


@pytest.mark.requirement("AWS-versions", profile="both")
def test_a_version_never_changes(scene: Scene) -> None:
    version = publish(scene)
    assert (version.name, version.published) == ("orders:1", 1)
    assert scene.function("orders:1").state == "Active", "its interfaces were there"
    scene.apply(lab(replace(coded("two"), memory_mb=256)))
    latest, first = scene.function("orders"), scene.function("orders:1")
    assert latest.code is not None
    assert first.code is not None
    assert (latest.code.sha256, latest.memory_mb) == ("two", 256)
    assert (first.code.sha256, first.memory_mb) == ("one", 128)
    with scene.region.commands() as commands:
        for change in (
            lambda: commands.update_function_configuration("orders:1", memory_mb=512),
            lambda: commands.update_function_code("orders:1", "/x", "x"),
            lambda: commands.versions.latest("orders:1"),
        ):
            assert refusal(change) == "InvalidParameterValueException"


def test_what_has_not_changed_is_not_published_again(scene: Scene) -> None:
    assert publish(scene).id == publish(scene).id
    scene.apply(lab(coded("two")))
    assert publish(scene).name == "orders:2"
    delete(scene, "orders:2")
    assert publish(scene).name == "orders:3", "no number is used twice"


def test_nothing_is_published_while_a_change_is_under_way() -> None:
    scene = Scene(coded())
    assert refusal(lambda: publish(scene)) == "ResourceConflictException"
    scene.active()
    scene.apply(lab(replace(coded(), security_groups=("db",))))
    assert refusal(lambda: publish(scene)) == "ResourceConflictException"
    assert refusal(lambda: publish(scene, "nobody")) == "ResourceNotFoundException"


def weigh(scene: Scene, version: int, weights: dict[int, float] | None) -> None:
    with scene.region.commands() as commands:
        made = commands.versions
        made.put_alias(made.latest("orders"), "live", version, additional=weights)


def two_versions() -> Scene:
    scene = Scene(coded())
    scene.active()
    publish(scene)
    scene.apply(lab(replace(coded("two"), memory_mb=256)))
    scene.active()
    publish(scene)
    scene.active()
    return scene


def test_an_alias_with_weights_leads_to_two_versions() -> None:
    scene = two_versions()
    weigh(scene, 1, {2: 0.25})

    def served(token: str | None = None) -> str:
        begun = scene.region.begin("orders:live", token)
        if token is not None:
            assert scene.region.begin("orders:live", token) == begun
        if begun.cold:
            scene.region.ready(begun.environment)
        found = scene.region.served_by(begun.environment)
        assert found is not None
        scene.region.end(begun.environment)
        return found.qualifier

    turns = [served() for _ in range(400)]
    # Six standard deviations.
    assert 48 <= turns.count("2") <= 152
    assert turns.count("1") + turns.count("2") == 400
    assert {served(f"token {number}") for number in range(40)} == {"1", "2"}
    assert scene.region.function("orders:live").qualifier == "1"
    (alias,) = describe_functions(scene.region)[0]["Aliases"]
    assert alias["RoutingConfig"] == {"AdditionalVersionWeights": {"2": 0.25}}
    assert refusal(lambda: delete(scene, "orders:2")) == "ResourceConflictException"
    weigh(scene, 1, None)
    assert scene.function("orders").aliases[0].additional == ((2, 0.25),)
    weigh(scene, 2, {})
    assert {served() for _ in range(20)} == {"2"}


@pytest.mark.parametrize(
    ("version", "weights", "code"),
    [
        (0, {1: 0.1}, "InvalidParameterValueException"),
        (1, {0: 0.1}, "InvalidParameterValueException"),
        (1, {1: 0.1}, "InvalidParameterValueException"),
        (1, {2: 1.1}, "InvalidParameterValueException"),
        (1, {2: 0.1, 3: 0.1}, "InvalidParameterValueException"),
        (1, {3: 0.1}, "ResourceNotFoundException"),
    ],
)
def test_weights_that_cannot_be(version: int, weights: dict[int, float], code: str) -> None:
    scene = two_versions()
    assert refusal(lambda: weigh(scene, version, weights)) == code
    assert scene.function("orders").aliases == ()


def test_weights_of_a_declaration() -> None:
    scene = two_versions()
    wanted = replace(coded("two"), memory_mb=256)
    canary = AliasResource("live", 1, additional=((2, 0.1),))
    lines = scene.apply(lab(replace(wanted, aliases=(canary,))))
    assert [line.detail for line in lines] == ["version 1, 0.1 of it version 2"]
    assert scene.apply(lab(replace(wanted, aliases=(canary,)))) == ()
    scene.apply(lab(replace(wanted, aliases=(AliasResource("live", 1),))))
    assert scene.function("orders").aliases[0].additional == ()


@pytest.mark.requirement("AWS-versions", profile="both")
def test_a_version_holds_its_interfaces_until_it_is_deleted(scene: Scene) -> None:
    publish(scene)
    former = scene.interface().id
    scene.apply(lab(replace(coded(), security_groups=("db",))))
    scene.pass_seconds(90 + 20 * 60)
    assert former in {each.id for each in scene.interfaces()}
    assert scene.region.deleting() == []
    assert (
        refusal(
            lambda: scene.apply(
                lab(replace(coded(), security_groups=("db",)), vpcs=(vpc(groups=("db",)),))
            )
        )
        == "DependencyViolation"
    )
    delete(scene, "orders:1")
    scene.pass_seconds(20 * 60)
    assert scene.region.deleting() == [former]


def test_environments_are_those_of_a_version(scene: Scene) -> None:
    publish(scene)
    first = scene.run("orders:1")
    scene.region.end(first.environment)
    latest = scene.run("orders")
    assert latest.environment != first.environment
    assert latest.interface == first.interface
    again = scene.region.begin("orders:1")
    assert (again.environment, again.cold) == (first.environment, False)
    served = scene.region.served_by(again.environment)
    assert served is not None
    assert served.qualifier == "1"


def test_reserved_concurrency_is_one_for_all_versions() -> None:
    scene = Scene(replace(coded(), reserved_concurrency=2))
    scene.active()
    publish(scene)
    scene.run("orders:1")
    scene.run("orders")
    for name in ("orders", "orders:1"):
        assert refusal(partial(scene.region.begin, name)) == "TooManyRequestsException"


def test_an_alias_leads_to_its_version(scene: Scene) -> None:
    publish(scene)
    put_alias(scene, "live", 1)
    put_alias(scene, "next", 0)
    assert scene.region.function("orders:live").name == "orders:1"
    assert scene.region.function("orders:next").name == "orders"
    assert scene.region.function("orders:$LATEST").name == "orders"
    scene.apply(lab(coded("two")))
    publish(scene)
    put_alias(scene, "live", 2)
    served = scene.region.served_by(scene.run("orders:live").environment)
    assert served is not None
    assert served.name == "orders:2"
    for name in ("orders:none", "orders:3", "orders:", "nobody:live", "orders:live:1"):
        assert refusal(partial(scene.region.begin, name)) == "ResourceNotFoundException"


@pytest.mark.parametrize("name", ["12", "", "$LATEST", "a b", "x" * 129])
def test_what_is_no_alias(scene: Scene, name: str) -> None:
    assert refusal(lambda: put_alias(scene, name, 0)) == "InvalidParameterValueException"


def test_a_version_with_an_alias_is_not_deleted(scene: Scene) -> None:
    publish(scene)
    put_alias(scene, "live", 1)
    assert refusal(lambda: delete(scene, "orders:1")) == "ResourceConflictException"
    assert refusal(lambda: delete(scene, "orders:live")) == "ResourceNotFoundException"
    assert refusal(lambda: put_alias(scene, "live", 2)) == "ResourceNotFoundException"
    with scene.region.commands() as commands:
        orders = commands.versions.latest("orders")
        orders = commands.versions.delete_alias(orders, "live")
        missing = lambda: commands.versions.delete_alias(orders, "live")  # noqa: E731
        assert refusal(missing) == "ResourceNotFoundException"
    delete(scene, "orders:1")
    assert describe_versions(scene.region) == []


def test_versions_end_with_their_function(scene: Scene) -> None:
    publish(scene)
    idle = scene.run("orders:1").environment
    scene.region.end(idle)
    delete(scene, "orders")
    assert scene.region.tables.functions == {}
    assert scene.region.reaped() == [idle]


def test_an_alias_of_a_declaration_is_published_with_each_change() -> None:
    scene = Scene()
    lines = scene.apply(lab(coded(alias="live")))
    assert [(line.action, line.kind, line.name) for line in lines[-3:]] == [
        ("create", "function", "orders"),
        ("create", "version", "orders:1"),
        ("create", "alias", "orders:live"),
    ]
    scene.active()
    assert scene.function("orders:1").state == "Active"
    assert scene.apply(lab(coded(alias="live"))) == ()
    lines = scene.apply(lab(coded("two", alias="live")))
    assert [(line.action, line.kind, line.name, line.detail) for line in lines] == [
        ("change", "function", "orders", "code"),
        ("create", "version", "orders:2", ""),
        ("change", "alias", "orders:live", "version 2"),
        ("delete", "version", "orders:1", ""),
    ]
    assert [line.name for line in scene.apply(lab(coded("two")))] == ["orders:live", "orders:2"]
    assert describe_versions(scene.region) == []


def test_what_commands_have_published_stays() -> None:
    scene = Scene(coded())
    scene.active()
    publish(scene)
    put_alias(scene, "mine", 1)
    scene.apply(lab(coded("two", alias="live", version=1)))
    scene.apply(lab(coded("two")))
    assert [row["Version"] for row in describe_versions(scene.region)] == ["1"]
    (row,) = describe_functions(scene.region)
    assert (row["FunctionName"], row["Version"]) == ("orders", "$LATEST")
    assert [(each["Name"], each["FunctionVersion"]) for each in row["Aliases"]] == [("mine", "1")]


def test_an_alias_of_a_version_that_is_not_there() -> None:
    scene = Scene()
    wanted = lab(coded(alias="live", version=7))
    assert refusal(lambda: scene.apply(wanted)) == "ResourceNotFoundException"
    assert scene.region.tables.functions == {}


def test_versions_are_saved_and_come_back() -> None:
    scene = Scene(coded(alias="live"))
    scene.active()
    other = Region.from_document(scene.region.document(), **scene.options())
    assert other.function("orders:live").name == "orders:1"
    assert other.document() == scene.region.document()


def test_an_interface_of_its_own_is_described_by_the_functions_name() -> None:
    scene = Scene(replace(coded(alias="live"), networking=OWN))
    scene.run("orders:live")
    assert scene.interface().description.startswith("AWS Lambda VPC ENI-orders-")
