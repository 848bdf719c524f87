# SPDX-License-Identifier: Apache-2.0
"""Functions and interfaces over days and minutes of AWS's time."""

from __future__ import annotations

import pytest

from hyperplane_nat.model.resources import Networking
from hyperplane_nat.model.states import InterfaceStatus
from tests.model.support import HYPERPLANE, NONE, OWN, Scene, function, interface, lab, refusal, vpc

DAY = 86_400.0


@pytest.mark.requirement("AWS-function-states", profile="both")
def test_a_function_is_pending_until_its_interface_is_available() -> None:
    scene = Scene(function("orders"))
    seen = []
    for seconds in (0, 89.9, 0.1):
        scene.pass_seconds(seconds)
        orders = scene.function("orders")
        seen.append((orders.state, orders.state_reason_code, scene.interface().status))
    assert seen == [
        ("Pending", "Creating", "pending"),
        ("Pending", "Creating", "pending"),
        ("Active", "", "in-use"),
    ]


@pytest.mark.requirement("AWS-eni-description", profile="both")
def test_the_interface_looks_as_lambda_writes_it() -> None:
    scene = Scene(function("orders"))
    interface = scene.interface()
    assert interface.id.startswith("eni-")
    assert len(interface.id) == len("eni-") + 17
    assert interface.link == interface.id[:15]
    assert interface.description.startswith("AWS Lambda VPC ENI-orders-")
    assert len(interface.description.removeprefix("AWS Lambda VPC ENI-orders-")) == 36
    assert interface.owner_id == "123456789012"
    assert interface.requester_managed
    assert interface.requester_id != interface.owner_id
    assert str(interface.address) == "10.0.1.4"
    assert interface.number == 0


@pytest.mark.requirement("AWS-shared-interface", profile="both")
def test_the_same_combination_is_shared_at_once() -> None:
    scene = Scene(function("orders"))
    scene.active()
    scene.apply(lab(function("orders"), function("mail")))
    assert scene.function("mail").state == "Active"
    assert scene.region.references(scene.interface().id) == 2


@pytest.mark.requirement("AWS-shared-interface", profile="both")
def test_another_subnet_or_set_of_groups_is_another_interface() -> None:
    scene = Scene(
        function("one"),
        function("two", groups=("db", "app"), subnets=("a", "b")),
        function("three", groups=("app", "db"), subnets=("b",)),
    )
    combinations = {(item.subnet_id, item.group_ids) for item in scene.interfaces()}
    assert len(combinations) == len(scene.interfaces()) == 3


def test_accounts_share_nothing() -> None:
    scene = Scene()
    scene.apply(
        lab(
            function("orders"),
            function("ledger", account="bank", vpc="vault"),
            vpcs=(vpc(), vpc("vault", account="bank")),
        )
    )
    owners = [interface.owner_id for interface in scene.interfaces()]
    assert owners == ["123456789012", "210987654321"]
    # Overlapping networks: both have the first free address of their own subnet.
    assert len({interface.address for interface in scene.interfaces()}) == 1


def test_a_function_without_vpc_is_active_at_once_and_shares_the_services_interface() -> None:
    scene = Scene(function("public", NONE), function("public2", NONE))
    assert scene.function("public").state == "Active"
    assert scene.interface().owner_id == scene.interface().requester_id
    assert scene.region.references(scene.interface().id) == 2


def test_time_scale_divides_the_durations() -> None:
    scene = Scene(function("orders"), time_scale=90.0)
    scene.pass_seconds(1)
    assert scene.function("orders").state == "Active"


@pytest.mark.requirement("AWS-14-days", profile="both")
def test_fourteen_idle_days_and_back() -> None:
    scene = Scene(function("orders"))
    scene.active()
    scene.pass_seconds(14 * DAY - 1)
    assert scene.function("orders").state == "Active"
    scene.pass_seconds(1)
    orders = scene.function("orders")
    assert (orders.state, orders.state_reason_code) == ("Inactive", "Idle")
    assert scene.statuses() == ["available"]
    scene.pass_seconds(20 * 60)
    assert scene.statuses() == ["deleting"]
    scene.take_down()
    assert scene.interfaces() == []

    assert refusal(lambda: scene.region.begin("orders")) == "ResourceNotReadyException"
    orders = scene.function("orders")
    assert (orders.state, orders.state_reason_code) == ("Pending", "Restoring")
    assert refusal(lambda: scene.region.begin("orders")) == "ResourceNotReadyException"
    scene.active()
    assert scene.run("orders").cold


def test_transitions_happen_at_their_own_time_when_the_clock_jumps() -> None:
    scene = Scene(function("orders"))
    scene.pass_seconds(90 + 14 * DAY + 20 * 60)
    assert scene.function("orders").state == "Inactive"
    assert scene.statuses() == ["deleting"]


def test_an_invocation_starts_the_fourteen_days_again() -> None:
    scene = Scene(function("orders"))
    scene.active()
    scene.pass_seconds(13 * DAY)
    scene.region.end(scene.run("orders").environment)
    scene.pass_seconds(13 * DAY)
    assert scene.function("orders").state == "Active"
    scene.pass_seconds(DAY)
    assert scene.function("orders").state == "Inactive"


def test_a_running_invocation_keeps_a_function_active() -> None:
    scene = Scene(function("orders"))
    scene.active()
    scene.run("orders")
    scene.pass_seconds(15 * DAY)
    assert scene.function("orders").state == "Active"


def test_an_inactive_function_finds_the_interface_of_another_at_once() -> None:
    scene = Scene(function("orders"), function("mail"))
    scene.active()
    scene.pass_seconds(10 * DAY)
    scene.region.end(scene.run("mail").environment)
    scene.pass_seconds(5 * DAY)
    assert scene.function("orders").state == "Inactive"
    assert refusal(lambda: scene.region.begin("orders")) == "ResourceNotReadyException"
    assert scene.run("orders").cold


def test_restoring_fails_and_the_function_stays_inactive() -> None:
    scene = Scene(function("orders"), interfaces_per_vpc=1)
    scene.active()
    scene.pass_seconds(14 * DAY + 20 * 60)
    scene.take_down()
    scene.apply(lab(function("orders"), function("mail", groups=("db",))))
    assert refusal(lambda: scene.region.begin("orders")) == "ResourceNotReadyException"
    orders = scene.function("orders")
    assert (orders.state, orders.state_reason_code) == ("Inactive", "EniLimitExceeded")


@pytest.mark.parametrize("kind", [NONE, OWN])
def test_other_kinds_have_nothing_to_reclaim(kind: Networking) -> None:
    scene = Scene(function("orders", kind))
    scene.pass_seconds(30 * DAY)
    assert scene.function("orders").state == "Active"


@pytest.mark.requirement("AWS-deletion-20-min", profile="both")
def test_an_interface_is_deleted_twenty_minutes_after_its_last_user() -> None:
    scene = Scene(function("orders"))
    scene.active()
    placement = scene.run("orders")
    scene.apply(lab())
    scene.pass_seconds(3600)
    assert scene.statuses() == ["in-use"], "an environment is a user"
    scene.region.end(placement.environment)
    scene.reap()
    assert scene.statuses() == ["available"]
    scene.pass_seconds(20 * 60 - 1)
    assert scene.statuses() == ["available"]
    scene.pass_seconds(1)
    interface = scene.interface()
    assert interface.status is InterfaceStatus.DELETING
    assert scene.region.wanted().interfaces == ()
    assert scene.region.deleting() == [interface.id]
    assert scene.region.interface_removed(interface.id) == interface.number
    assert scene.region.retired_numbers() == [interface.number]


def test_an_interface_that_waits_for_its_deletion_is_taken_again() -> None:
    scene = Scene(function("orders"))
    scene.active()
    scene.apply(lab())
    scene.pass_seconds(19 * 60)
    scene.apply(lab(function("mail")))
    assert scene.function("mail").state == "Active"
    scene.pass_seconds(3600)
    assert scene.statuses() == ["in-use"]


def test_a_retired_number_is_not_used_again_until_it_is_released() -> None:
    scene = Scene(function("orders"))
    scene.active()
    scene.apply(lab())
    scene.pass_seconds(20 * 60)
    scene.region.interface_removed(scene.interface().id)
    scene.apply(lab(function("orders")))
    assert scene.interface().number == 1
    scene.region.release_number(0)
    scene.apply(lab(function("orders"), function("mail", groups=("db",))))
    assert sorted(interface.number for interface in scene.interfaces()) == [0, 1]


@pytest.mark.requirement("AWS-function-states", profile="both")
def test_the_old_configuration_serves_until_the_new_interface_is_there() -> None:
    scene = Scene(function("orders"))
    scene.active()
    old = scene.run("orders")
    scene.apply(lab(function("orders", subnets=("b",))))
    orders = scene.function("orders")
    assert (orders.state, orders.last_update_status) == ("Active", "InProgress")
    assert scene.run("orders").interface == old.interface
    scene.active()
    orders = scene.function("orders")
    assert (orders.state, orders.last_update_status) == ("Active", "Successful")
    new = scene.run("orders")
    assert new.interface != old.interface
    scene.region.end(old.environment)
    assert scene.reap() == [old.environment], "an old environment finishes and is not used again"


def test_a_second_change_during_the_first_is_refused() -> None:
    scene = Scene(function("orders"))
    scene.active()
    scene.apply(lab(function("orders", subnets=("b",))))
    assert (
        refusal(lambda: scene.apply(lab(function("orders", subnets=("a", "b")))))
        == "ResourceConflictException"
    )
    assert scene.apply(lab(function("orders", subnets=("b",)))) == ()


def test_kind_three_becomes_kind_two_without_a_redeployment() -> None:
    scene = Scene(function("orders", OWN))
    running, idle = scene.run("orders"), scene.run("orders")
    scene.region.end(idle.environment)
    scene.apply(lab(function("orders", HYPERPLANE)))
    warm = scene.run("orders")
    assert warm.environment == idle.environment, "until the shared interface is there"
    scene.region.end(warm.environment)
    scene.active()
    assert scene.region.reaped() == [idle.environment]
    new = scene.run("orders")
    assert new.cold
    assert new.interface not in (running.interface, idle.interface)
    scene.region.end(running.environment)
    assert running.environment in scene.region.reaped()


def test_a_broken_creation_fails_the_function_and_applying_again_repairs_it() -> None:
    scene = Scene(function("orders"))
    scene.region.interface_failed(scene.interface().id, "InternalError", "no link")
    orders = scene.function("orders")
    assert (orders.state, orders.state_reason_code) == ("Failed", "InternalError")
    assert refusal(lambda: scene.region.begin("orders")) == "ResourceConflictException"
    scene.take_down()
    (line,) = scene.apply(lab(function("orders")))
    assert (line.action, line.detail) == ("change", "try again")
    scene.active()
    assert scene.function("orders").state == "Active"


def test_a_broken_change_leaves_the_old_configuration() -> None:
    scene = Scene(function("orders"))
    scene.active()
    scene.apply(lab(function("orders", subnets=("b",))))
    pending = next(item for item in scene.interfaces() if item.status == "pending")
    scene.region.interface_failed(pending.id, "InternalError", "no link")
    orders = scene.function("orders")
    assert (orders.state, orders.last_update_status) == ("Active", "Failed")
    assert orders.last_update_status_reason_code == "InternalError"
    scene.run("orders")
    scene.take_down()
    scene.apply(lab(function("orders", subnets=("b",))))
    scene.active()
    assert scene.function("orders").last_update_status == "Successful"


def test_only_a_pending_interface_fails_and_only_a_deleting_one_is_removed() -> None:
    scene = Scene(function("orders"))
    interface = scene.interface().id
    assert (
        refusal(lambda: scene.region.interface_removed(interface))
        == "InvalidNetworkInterface.InUse"
    )
    scene.active()
    assert (
        refusal(lambda: scene.region.interface_failed(interface, "InternalError", "no link"))
        == "InvalidNetworkInterface.InUse"
    )
    assert (
        refusal(lambda: scene.region.interface_removed("eni-0"))
        == "InvalidNetworkInterfaceID.NotFound"
    )


@pytest.mark.requirement("AWS-lambda-65000", profile="both")
def test_65000_connections_bring_another_interface() -> None:
    scene = Scene(function("orders"))
    scene.active()
    first = scene.interface()
    assert scene.region.note_connections({first.id: 64_999}) == ()
    assert len(scene.interfaces()) == 1
    scene.region.note_connections({first.id: 65_000})
    scene.region.note_connections({first.id: 65_000})
    assert scene.statuses() == ["in-use", "pending"], "one beside it, and no more"
    assert scene.run("orders").interface == first.id
    scene.active()
    second = scene.interfaces()[1]
    assert scene.run("orders").interface == second.id
    scene.region.note_connections({first.id: 0, second.id: 65_000})
    assert len(scene.interfaces()) == 2
    scene.region.note_connections({first.id: 65_000, second.id: 65_000})
    assert len(scene.interfaces()) == 3


def test_no_room_for_another_interface_is_told() -> None:
    scene = Scene(function("orders"), interfaces_per_vpc=1)
    scene.active()
    (trouble,) = scene.region.note_connections({scene.interface().id: 65_000})
    assert "ENILimitReachedException" in trouble


def test_who_is_beyond_the_quota_is_failed_and_nobody_else() -> None:
    scene = Scene(function("orders"), interfaces_per_vpc=2)
    more = [function(name, groups=(name,)) for name in ("g0", "g1")]
    wanted = lab(function("orders"), *more, vpcs=(vpc(groups=("app", "db", "g0", "g1")),))
    planned = {line.name: line.detail for line in scene.region.plan(wanted).lines}
    assert (planned["g0"], planned["g1"]) == ("hyperplane", "hyperplane, Failed: EniLimitExceeded")
    scene.apply(wanted)
    failed = scene.function("g1")
    assert (failed.state, failed.state_reason_code) == ("Failed", "EniLimitExceeded")
    assert "VPC customer has 2" in failed.state_reason
    assert refusal(lambda: scene.region.begin("g1")) == "ENILimitReachedException"
    scene.active()
    assert [scene.function(name).state for name in ("orders", "g0")] == ["Active", "Active"]


def test_a_function_gets_all_of_its_interfaces_or_none() -> None:
    scene = Scene(interfaces_per_vpc=1)
    scene.apply(lab(function("orders", subnets=("a", "b"))))
    assert scene.function("orders").state == "Failed"
    assert scene.interfaces() == []
    scene.apply(lab(function("orders", subnets=("b",))))
    assert scene.function("orders").state == "Pending"
    scene.active()


def test_a_change_without_room_leaves_what_serves() -> None:
    scene = Scene(function("orders"), interfaces_per_vpc=1)
    scene.active()
    scene.apply(lab(function("orders", groups=("db",))))
    orders = scene.function("orders")
    assert (orders.state, orders.last_update_status) == ("Active", "Failed")
    assert orders.last_update_status_reason_code == "EniLimitExceeded"
    assert orders.update is None
    scene.region.end(scene.run("orders").environment)
    assert scene.function("orders").due is not None, "it grows old again"


def test_a_function_in_other_groups_frees_the_interfaces_that_it_had() -> None:
    scene = Scene(function("orders", subnets=("a", "b")))
    scene.active()
    former = {each.id for each in scene.interfaces()}
    scene.region.end(scene.run("orders").environment)
    busy = scene.run("orders").environment
    scene.apply(lab(function("orders", groups=("db",))))
    scene.pass_seconds(90)
    scene.take_down()
    scene.region.end(busy)
    scene.take_down()
    scene.pass_seconds(20 * 60)
    assert set(scene.region.deleting()) == former
    scene.take_down()
    assert [each.group_ids for each in scene.interfaces()] == [
        (scene.function("orders").config.group_ids)
    ]


@pytest.mark.requirement("AWS-no-address-fails-the-function", profile="both")
def test_a_full_subnet_fails_who_finds_no_address_there() -> None:
    groups = [f"g{number}" for number in range(12)]
    small = vpc(subnets=(("a", "10.0.1.0/28"),), groups=groups)
    configured = [interface("eni-a", "10.0.1.4")]
    functions = [function(name, groups=(name,)) for name in groups]
    scene = Scene()
    scene.apply(lab(*functions[:10], vpcs=(small,), interfaces=configured))
    scene.apply(lab(*functions, vpcs=(small,), interfaces=configured))
    last = [scene.function(name) for name in groups[9:]]
    assert [each.state for each in last] == ["Pending", "Failed", "Failed"]
    assert last[2].state_reason_code == "SubnetOutOfIPAddresses"
    assert refusal(lambda: scene.region.begin("g11")) == "SubnetIPAddressLimitReachedException"
    assert {str(item.address) for item in scene.interfaces()} == {
        f"10.0.1.{host}" for host in range(4, 15)
    }
