# SPDX-License-Identifier: Apache-2.0
"""Provisioned concurrency: what is kept for an alias, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from hyperplane_nat.model.description import describe_functions
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.resources import AliasResource, Code, FunctionResource
from tests.model.support import Scene, function, lab, refusal

DAY = 86_400


def coded(sha256: str = "one", count: int = 2, **more: Any) -> FunctionResource:
    return replace(
        function("orders"),
        code=Code("/code", sha256, "app.handler", "python3.11"),
        aliases=(AliasResource("live", None, count),),
        **more,
    )


def provide(scene: Scene) -> list[int]:
    """Start all that is missing, as the controller does."""
    started = []
    for version, count in scene.region.provisioning().items():
        for _ in range(count):
            placement = scene.region.provision(version)
            scene.region.ready(placement.environment)
            started.append(placement.environment)
    return started


def status(scene: Scene) -> tuple[int, int, str, str]:
    (row,) = describe_functions(scene.region)
    found = row["Aliases"][0]["ProvisionedConcurrency"]
    return (
        found["RequestedProvisionedConcurrentExecutions"],
        found["AvailableProvisionedConcurrentExecutions"],
        found["Status"],
        found["StatusReason"],
    )


@pytest.fixture
def scene() -> Scene:
    scene = Scene(coded())
    assert scene.region.provisioning() == {}, "it is not Active yet"
    scene.active()
    return scene


@pytest.mark.requirement("AWS-provisioned-concurrency", profile="both")
def test_environments_are_there_before_they_are_invoked(scene: Scene) -> None:
    assert scene.region.provisioning() == {"orders:1": 2}
    started = provide(scene)
    assert scene.region.provisioning() == {}
    assert status(scene) == (2, 0, "IN_PROGRESS", "")
    for each in started:
        scene.region.end(each)
    assert status(scene) == (2, 2, "READY", "")
    first = scene.region.begin("orders:live")
    assert (first.environment in started, first.cold) == (True, False)
    scene.region.begin("orders:live")
    assert status(scene) == (2, 2, "READY", ""), "those that serve are counted"
    third = scene.run("orders:live")
    assert third.cold, "what is beyond is a cold start"
    scene.region.end(third.environment)
    scene.region.end(first.environment)
    assert scene.region.begin("orders:live").environment == first.environment


def test_what_is_kept_does_not_grow_old(scene: Scene) -> None:
    for each in provide(scene):
        scene.region.end(each)
    scene.pass_seconds(20 * DAY)
    assert scene.function("orders:1").state == "Active"
    assert status(scene) == (2, 2, "READY", "")
    assert scene.function("orders").state == "Inactive"


def test_one_that_ends_is_started_again(scene: Scene) -> None:
    first, _ = provide(scene)
    scene.region.end(first)
    scene.region.discard(first)
    assert scene.region.provisioning() == {"orders:1": 1}


def test_a_failure_is_told_and_not_tried_again(scene: Scene) -> None:
    first, second = provide(scene)
    scene.region.provisioning_failed(first, "Runtime.ExitError: exit status 1")
    scene.region.end(second)
    assert status(scene) == (2, 1, "FAILED", "Runtime.ExitError: exit status 1")
    assert scene.region.provisioning() == {}
    assert first in scene.region.reaped()
    scene.apply(lab(coded()))
    assert scene.region.provisioning() == {"orders:1": 1}


def test_another_version_has_its_own_and_less_lets_go(scene: Scene) -> None:
    started = provide(scene)
    for each in started:
        scene.region.end(each)
    scene.apply(lab(coded(count=1)))
    assert len(scene.region.reaped()) == 1
    scene.apply(lab(coded("two", count=3)))
    assert scene.region.provisioning() == {"orders:2": 3}
    assert sorted(scene.region.reaped()) == sorted(started)


def test_what_serves_meanwhile_ends_as_any_other(scene: Scene) -> None:
    for each in provide(scene):
        scene.region.end(each)
    busy = scene.region.begin("orders:live").environment
    scene.apply(lab(coded(count=0)))
    assert busy not in scene.region.reaped()
    scene.region.end(busy)
    scene.pass_seconds(3600)
    assert busy in scene.region.reaped()


def test_initializing_is_no_concurrency(scene: Scene) -> None:
    reserved = Scene(coded(reserved_concurrency=2))
    reserved.active()
    provide(reserved)
    reserved.run("orders")


@pytest.mark.parametrize(
    "wanted",
    [
        replace(coded(), code=None),
        coded(reserved_concurrency=1),
    ],
)
def test_what_is_refused(wanted: FunctionResource) -> None:
    scene = Scene()
    assert refusal(lambda: scene.apply(lab(wanted))) == "InvalidParameterValueException"
    assert scene.region.tables.functions == {}


def test_an_alias_that_names_another_version_keeps_its_concurrency(scene: Scene) -> None:
    with scene.region.commands() as commands:
        put = commands.versions.put_alias
        orders = put(commands.versions.latest("orders"), "live", 1)
        assert orders.aliases[0].provisioned_concurrency == 2
        assert orders.aliases[0].declared, "it is the declaration's all the same"
        assert put(orders, "live", 1, 0).aliases[0].provisioned_concurrency == 0


def test_latest_has_none(scene: Scene) -> None:
    with scene.region.commands() as commands:
        orders = commands.versions.latest("orders")
        put = commands.versions.put_alias
        assert refusal(lambda: put(orders, "next", 0, 1)) == "InvalidParameterValueException"


def test_it_is_saved_and_comes_back(scene: Scene) -> None:
    for each in provide(scene):
        scene.region.end(each)
    other = Region.from_document(scene.region.document(), **scene.options())
    assert other.provisioning() == {}
    assert not other.begin("orders:live").cold
