# SPDX-License-Identifier: Apache-2.0
"""Which environment serves an invocation, and how invocations are refused."""

from __future__ import annotations

import pytest

from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.states import EnvironmentState
from tests.model.support import NONE, OWN, Scene, function, lab, refusal, vpc


def state(scene: Scene, slot: int) -> EnvironmentState:
    return scene.region.tables.environments[slot].state


def test_cold_then_warm() -> None:
    scene = Scene(function("orders"))
    scene.active()
    cold = scene.region.begin("orders")
    assert (cold.cold, cold.interface_created, cold.interface) == (
        True,
        False,
        scene.interface().id,
    )
    assert cold.modelled_seconds == pytest.approx(0.0002)
    states = [state(scene, cold.environment)]
    scene.region.ready(cold.environment)
    states.append(state(scene, cold.environment))
    scene.region.end(cold.environment)
    states.append(state(scene, cold.environment))
    assert states == ["initializing", "busy", "idle"]
    warm = scene.region.begin("orders")
    assert (warm.environment, warm.cold, warm.modelled_seconds) == (cold.environment, False, 0.0)
    assert scene.region.tables.environments[warm.environment].invocations == 2


def test_concurrent_invocations_have_an_environment_each_and_one_interface() -> None:
    scene = Scene(function("orders"))
    scene.active()
    placements = [scene.run("orders") for _ in range(50)]
    assert len({item.environment for item in placements}) == 50
    assert len({item.interface for item in placements}) == 1
    assert scene.region.references(scene.interface().id) == 51


def test_environments_are_spread_over_the_subnets() -> None:
    scene = Scene(function("orders", subnets=("a", "b")), function("own", OWN, subnets=("a", "b")))
    scene.active()
    shared = [scene.run("orders").interface for _ in range(10)]
    assert sorted(shared.count(interface) for interface in set(shared)) == [5, 5]
    for _ in range(10):
        scene.run("own")
    subnets = [item.subnet_id for item in scene.interfaces() if item.kind == "per-environment"]
    assert sorted(subnets.count(subnet) for subnet in set(subnets)) == [5, 5]


def test_the_environment_idle_for_least_is_taken_and_the_others_age() -> None:
    scene = Scene(function("orders"))
    scene.active()
    first, second = (scene.run("orders").environment for _ in range(2))
    scene.region.end(first)
    scene.pass_seconds(1)
    scene.region.end(second)
    for _ in range(100):
        assert scene.region.begin("orders").environment == second
        scene.pass_seconds(6)
        scene.region.end(second)
    assert scene.reap() == [first]


def test_a_warm_environment_is_kept_for_its_idle_time() -> None:
    scene = Scene(function("orders"))
    scene.active()
    slot = scene.run("orders").environment
    scene.region.end(slot)
    scene.pass_seconds(599)
    assert state(scene, slot) == "idle"
    scene.pass_seconds(1)
    assert scene.region.reaped() == [slot]
    assert scene.region.begin("orders").cold, "what terminates serves no more"
    scene.region.removed(slot)
    assert slot not in scene.region.tables.environments


def test_functions_do_not_share_environments() -> None:
    scene = Scene(function("orders"), function("mail"))
    scene.active()
    scene.region.end(scene.run("orders").environment)
    assert scene.run("mail").cold


@pytest.mark.requirement("AWS-per-environment-eni", profile="both")
def test_an_interface_for_each_environment() -> None:
    scene = Scene(function("orders", OWN))
    assert scene.interfaces() == []
    placements = [scene.region.begin("orders") for _ in range(3)]
    assert [item.interface_created for item in placements] == [True] * 3
    assert [item.modelled_seconds for item in placements] == [12.0] * 3
    assert scene.statuses() == ["pending"] * 3
    assert len({item.address for item in scene.interfaces()}) == 3
    for item in placements:
        scene.region.ready(item.environment)
    assert scene.statuses() == ["in-use"] * 3
    scene.region.end(placements[0].environment)
    warm = scene.region.begin("orders")
    assert (warm.interface, warm.interface_created) == (placements[0].interface, False)


def test_its_interface_goes_some_time_after_the_environment() -> None:
    scene = Scene(function("orders", OWN))
    scene.region.end(scene.run("orders").environment)
    scene.pass_seconds(600)
    scene.reap()
    assert scene.statuses() == ["available"]
    scene.run("orders")
    assert len(scene.interfaces()) == 2, "it is nobody else's"
    scene.pass_seconds(20 * 60)
    assert sorted(scene.statuses()) == ["deleting", "in-use"]


def test_the_quota_ends_interfaces_per_environment() -> None:
    scene = Scene(function("orders", OWN), interfaces_per_vpc=5)
    for _ in range(5):
        scene.run("orders")
    free = len(scene.slots.free)
    assert refusal(lambda: scene.region.begin("orders")) == "ENILimitReachedException"
    assert len(scene.slots.free) == free, "no slot is taken for it"


@pytest.mark.requirement("AWS-eni-quota", profile="both")
def test_500_interfaces_with_the_settings_of_aws() -> None:
    scene = Scene(function("orders", OWN, subnets=("a", "b")))
    for _ in range(500):
        scene.run("orders")
    assert refusal(lambda: scene.region.begin("orders")) == "ENILimitReachedException"


def test_a_full_subnet_ends_interfaces_per_environment() -> None:
    scene = Scene()
    wanted = lab(
        function("orders", OWN, subnets=("a", "b")),
        vpcs=(vpc(subnets=(("a", "10.0.1.0/28"), ("b", "10.0.2.0/28"))),),
    )
    scene.apply(wanted)
    for _ in range(22):
        scene.run("orders")
    assert refusal(lambda: scene.region.begin("orders")) == "SubnetIPAddressLimitReachedException"


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_an_empty_pool_leaves_nothing_behind(kind: str) -> None:
    scene = Scene(function("shared"), function("own", OWN))
    scene.active()
    scene.slots.free.clear()
    before = scene.region.document()
    with pytest.raises(LookupError):
        scene.region.begin(kind)
    assert scene.region.document() == before


def test_a_function_is_in_its_account() -> None:
    scene = Scene(function("orders"))
    found, other = scene.function("orders"), "210987654321"
    assert found.account_id not in (other, "444455556666")
    assert scene.region.function("orders", found.account_id) is found
    for name, account, code in (
        ("orders", other, "ResourceNotFoundException"),
        ("nobody", found.account_id, "ResourceNotFoundException"),
        ("orders", "444455556666", "AccessDeniedException"),
        ("nobody", "444455556666", "AccessDeniedException"),
    ):
        with pytest.raises(ModelError) as raised:
            scene.region.function(name, account)
        assert raised.value.code == code


def test_refusals() -> None:
    scene = Scene(function("orders"), function("public", NONE))
    assert refusal(lambda: scene.region.begin("nobody")) == "ResourceNotFoundException"
    assert refusal(lambda: scene.region.begin("orders")) == "ResourceConflictException"
    slot = scene.region.begin("public").environment
    assert refusal(lambda: scene.region.end(slot)) == "ResourceConflictException"
    assert refusal(lambda: scene.region.removed(slot)) == "ResourceConflictException"
    scene.region.ready(slot)
    assert refusal(lambda: scene.region.ready(slot)) == "ResourceConflictException"
    assert refusal(lambda: scene.region.end(slot + 1)) == "ResourceNotFoundException"


def test_a_token_gives_the_running_invocation_again() -> None:
    scene = Scene(function("orders"), function("mail"))
    scene.active()
    placement = scene.region.begin("orders", "t-1")
    assert scene.region.begin("orders", "t-1") == placement
    assert scene.region.begin("orders", "t-2") != placement
    assert refusal(lambda: scene.region.begin("mail", "t-1")) == "IdempotentParameterMismatch"
    scene.region.ready(placement.environment)
    scene.region.end(placement.environment)
    assert not scene.region.begin("orders", "t-1").cold, "the ended one is not remembered here"


def test_a_discarded_environment_terminates_whatever_it_does() -> None:
    scene = Scene(function("orders", OWN))
    initializing, busy, idle = (scene.region.begin("orders").environment for _ in range(3))
    scene.region.ready(busy)
    scene.region.ready(idle)
    scene.region.end(idle)
    for slot in (initializing, busy, idle, idle):
        scene.region.discard(slot)
    assert sorted(scene.reap()) == sorted((initializing, busy, idle))
    # An interface that was never there has nothing to wait for.
    assert sorted(scene.statuses()) == ["available", "available", "deleting"]


def test_an_interface_that_could_not_be_attached_ends_its_environment() -> None:
    scene = Scene(function("orders", OWN))
    placement = scene.region.begin("orders")
    scene.region.interface_failed(placement.interface, "InternalError", "no link")
    assert scene.reap() == [placement.environment]
    assert scene.region.deleting() == [placement.interface]


def test_interrupted_invocations_are_given_up() -> None:
    scene = Scene(function("orders"))
    scene.active()
    initializing = scene.region.begin("orders").environment
    busy = scene.run("orders").environment
    idle = scene.run("orders").environment
    scene.region.end(idle)
    assert sorted(scene.region.interrupted()) == sorted((initializing, busy))
    assert state(scene, idle) == "idle"


def test_a_deleted_function_lets_its_invocations_finish() -> None:
    scene = Scene(function("orders"))
    scene.active()
    busy, idle = scene.run("orders").environment, scene.run("orders").environment
    scene.region.end(idle)
    scene.apply(lab())
    assert scene.region.reaped() == [idle]
    scene.region.end(busy)
    assert sorted(scene.region.reaped()) == sorted((busy, idle))


def test_a_function_made_again_has_new_environments() -> None:
    scene = Scene(function("orders"))
    scene.active()
    busy = scene.run("orders").environment
    scene.apply(lab())
    scene.apply(lab(function("orders")))
    scene.region.end(busy)
    assert scene.run("orders").environment != busy
