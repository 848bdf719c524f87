# SPDX-License-Identifier: Apache-2.0
"""wait, and what waits after apply."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.cli import waiting
from tests.cli.conftest import FUNCTION, Run
from tests.cli.fake_api import FakeApi, Refusal

PENDING = FUNCTION | {"State": "Pending", "StateReasonCode": "Creating"}
UPDATING = FUNCTION | {"LastUpdateStatus": "InProgress"}
FAILED = FUNCTION | {
    "State": "Failed",
    "StateReasonCode": "SubnetOutOfIPAddresses",
    "StateReason": "subnet a has no free address",
}
UPDATE_FAILED = FUNCTION | {
    "LastUpdateStatus": "Failed",
    "LastUpdateStatusReasonCode": "EniLimitExceeded",
    "LastUpdateStatusReason": "VPC a is full",
}
INACTIVE = FUNCTION | {"State": "Inactive", "StateReason": "The function is idle."}


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0.0)


def named(name: str, row: dict[str, Any]) -> dict[str, Any]:
    return row | {"FunctionName": name}


def answer_in_turn(api: FakeApi, path: str, answers: Iterable[Any]) -> None:
    """One after the other; the last one for ever."""
    left = list(answers)
    api.answers[path] = lambda _body: left.pop(0) if len(left) > 1 else left[0]


def test_wait_returns_when_all_are_active(run: Run, api: FakeApi) -> None:
    rounds = [[PENDING, named("b", UPDATING)], [UPDATING, named("b", FUNCTION)]]
    answer_in_turn(api, "/v1/functions", [*rounds, [FUNCTION, named("b", FUNCTION)]])
    result = run("wait")
    assert (result.exit_code, result.stdout) == (0, "2 functions are Active\n")
    assert result.stderr == (
        "hyperplane-nat: function b is Active\nhyperplane-nat: function checkout is Active\n"
    )


def test_a_controller_that_ends_while_it_answers_is_asked_again(run: Run, api: FakeApi) -> None:
    answers = iter([PENDING, PENDING, PENDING, FUNCTION])

    def answer(_body: object) -> list[dict[str, Any]]:
        # All but the first and the last one are broken off.
        api.cut_short = 1 <= len(api.requests) - 1 <= 2
        return [next(answers)]

    api.answers["/v1/functions"] = answer
    result = run("wait")
    assert (result.exit_code, result.stdout) == (0, "1 function is Active\n")
    assert len(api.requests) == 4


def test_wait_for_one_does_not_mind_the_others(run: Run, api: FakeApi) -> None:
    api.answers["/v1/functions"] = [FUNCTION, named("b", PENDING), named("c", FAILED)]
    result = run("wait", "checkout", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == [FUNCTION]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (FAILED, "is Failed: SubnetOutOfIPAddresses: subnet a has no free address (change it"),
        (UPDATE_FAILED, "its last update Failed: EniLimitExceeded: VPC a is full (change it"),
        (INACTIVE, "is Inactive: The function is idle. (invoke it to wake it)"),
    ],
)
def test_what_will_not_be_active_is_told_with_its_reason(
    run: Run, api: FakeApi, row: dict[str, Any], words: str
) -> None:
    answer_in_turn(api, "/v1/functions", [[PENDING], [row]])
    result = run("wait")
    assert (result.exit_code, result.stdout) == (1, "")
    assert words in result.stderr.splitlines()[-1]


def test_the_time_is_up(run: Run, api: FakeApi) -> None:
    api.answers["/v1/functions"] = [PENDING, named("b", UPDATING)]
    result = run("wait", "--timeout", "0.05")
    assert (result.exit_code, result.stdout) == (124, "")
    assert result.stderr == (
        "hyperplane-nat: after 0.05 s not Active yet: checkout (Pending), "
        "b (Active, update InProgress)\n"
    )


def test_an_unknown_function_is_exit_2(run: Run, api: FakeApi) -> None:
    result = run("wait", "nope")
    assert result.exit_code == 2
    assert "there is no function 'nope' (hyperplane-nat functions lists them)" in result.stderr


def test_nobody_to_wait_for(run: Run) -> None:
    result = run("wait")
    assert result.exit_code == 2
    assert "is not running" in result.stderr


@pytest.mark.parametrize("command", [["up"], ["apply", "lab.toml"]])
def test_a_limit_is_for_waiting(run: Run, command: list[str]) -> None:
    result = run(*command, "--timeout", "3")
    assert result.exit_code == 2
    assert "--timeout is for waiting (add --wait)" in result.stderr


def test_up_in_the_foreground_does_not_wait(run: Run) -> None:
    assert "--foreground stays here" in run("up", "--foreground", "--wait").stderr


GROUP = {"action": "delete", "kind": "security-group", "name": "v/g", "detail": ""}
SUBNET = GROUP | {"kind": "subnet", "name": "v/a"}
FUNCTION_LINE = GROUP | {"kind": "function", "name": "f"}
USED = {"waits_for": "interface eni-1"}
FREE = {"waits_for": ""}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    result = tmp_path / "lab.toml"
    result.write_text('[[function]]\nname = "checkout"\nnetworking = "none"\n')
    return result


def applied(api: FakeApi, *plans: list[dict[str, Any]]) -> None:
    answer_in_turn(api, "/v1/apply", [{"plan": plan, "applied": True} for plan in plans])


def test_apply_deletes_what_was_in_use_as_it_comes_free(run: Run, api: FakeApi, file: Path) -> None:
    applied(
        api,
        [FUNCTION_LINE | FREE, GROUP | USED, SUBNET | USED],
        [GROUP | USED, SUBNET | USED],
        [GROUP | FREE, SUBNET | USED],
        [GROUP | FREE, SUBNET | USED],
        [SUBNET | FREE],
        [SUBNET | FREE],
    )
    result = run("apply", str(file), "--wait")
    assert result.exit_code == 0, result.stderr
    assert "-\tsecurity-group\tv/g\twaits for interface eni-1\n" in result.stdout
    assert result.stdout.splitlines()[-1] == "# 3 to delete: done; 2 of those to delete still used"
    assert result.stderr == (
        "hyperplane-nat: security-group v/g is deleted\nhyperplane-nat: subnet v/a is deleted\n"
    )
    assert [body["dry_run"] for body in api.bodies] == [False, True, True, False, True, False]
    assert all(body["keep_used"] for body in api.bodies)


def test_apply_gives_up_when_somebody_else_changes_the_lab(
    run: Run, api: FakeApi, file: Path
) -> None:
    other = FUNCTION_LINE | FREE | {"name": "theirs"}
    applied(api, [GROUP | USED], [GROUP | FREE, other])
    result = run("apply", str(file), "--wait")
    assert result.exit_code == 2
    assert "the lab was changed meanwhile, function theirs too; still there: v/g" in result.stderr
    assert [body["dry_run"] for body in api.bodies] == [False, True]


def test_apply_waits_so_long_and_no_longer(run: Run, api: FakeApi, file: Path) -> None:
    applied(api, [GROUP | USED])
    result = run("apply", str(file), "--wait", "--timeout", "0.05")
    assert result.exit_code == 124
    assert "not deleted yet: security-group v/g (waits for interface eni-1)" in result.stderr


def test_apply_tells_of_a_function_that_failed_and_deletes_all_the_same(
    run: Run, api: FakeApi, file: Path
) -> None:
    api.answers["/v1/functions"] = [FAILED]
    applied(api, [GROUP | USED], [GROUP | FREE], [GROUP | FREE])
    result = run("apply", str(file), "--wait", "--json")
    assert result.exit_code == 1
    assert "function checkout is Failed" in result.stderr
    assert json.loads(result.stdout)["plan"] == [GROUP | FREE]


def test_a_dry_run_waits_for_nothing(run: Run, api: FakeApi, file: Path) -> None:
    api.answers["/v1/functions"] = Refusal(500, "failed", "not to be asked")
    applied(api, [GROUP | USED])
    assert run("apply", str(file), "--wait", "--dry-run").exit_code == 0
    assert len(api.bodies) == 1
