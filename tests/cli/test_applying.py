# SPDX-License-Identifier: Apache-2.0
"""apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.config.lab import Config, load
from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi, Refusal, serving

PLAN = [
    {"action": "create", "kind": "security-group", "name": "payments/a[1]", "detail": "2 rules"},
    {"action": "change", "kind": "function", "name": "checkout", "detail": "memory_mb 128 -> 256"},
    {"action": "delete", "kind": "function", "name": "refund", "detail": ""},
]
for line in PLAN:
    line["waits_for"] = ""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    result = tmp_path / "lab.toml"
    result.write_text('[[function]]\nname = "checkout"\nnetworking = "none"\n')
    return result


def answer_plan(api: FakeApi, plan: list[dict[str, Any]]) -> None:
    api.answers["/v1/apply"] = lambda body: {"plan": plan, "applied": not body["dry_run"]}


def test_apply_sends_what_the_file_and_the_command_line_say(
    run: Run, api: FakeApi, file: Path, runtime: Path
) -> None:
    answer_plan(api, PLAN)
    result = run("apply", str(file), "--set", "metrics.port=0")
    assert result.exit_code == 0, result.stderr
    wanted = load(file, {"metrics.port": 0, "lab.runtime_directory": str(runtime)})
    assert api.requests == ["POST /v1/apply"]
    [body] = api.bodies
    assert Config.model_validate(body.pop("config")) == wanted
    assert body == {"dry_run": False, "keep_used": False, "client_token": None}


def test_apply_prints_the_plan(run: Run, api: FakeApi, file: Path) -> None:
    answer_plan(api, PLAN)
    output = run("apply", str(file)).stdout
    assert [line.split("\t") for line in output.splitlines()[:-1]] == [
        ["action", "kind", "name", "detail"],
        ["+", "security-group", "payments/a[1]", "2 rules"],
        ["~", "function", "checkout", "memory_mb 128 -> 256"],
        ["-", "function", "refund", ""],
    ]
    assert output.splitlines()[-1] == "# 1 to create, 1 to change, 1 to delete: done"


def test_a_dry_run_says_that_nothing_was_changed(run: Run, api: FakeApi, file: Path) -> None:
    answer_plan(api, PLAN[:1])
    result = run("apply", str(file), "--dry-run")
    assert result.stdout.splitlines()[-1] == "# 1 to create: nothing was changed (dry run)"
    assert api.bodies[0]["dry_run"] is True


def test_apply_with_nothing_to_do(run: Run, api: FakeApi, file: Path) -> None:
    answer_plan(api, [])
    result = run("apply", str(file))
    assert (result.exit_code, result.stdout) == (0, "# nothing to do\n")


def test_apply_as_json_is_the_apis_answer(run: Run, api: FakeApi, file: Path) -> None:
    answer_plan(api, PLAN)
    result = run("apply", str(file), "--json")
    assert json.loads(result.stdout) == {"plan": PLAN, "applied": True}


def test_apply_acts_on_the_lab_of_the_file(run: Run, runtime: Path, file: Path) -> None:
    file.write_text('[lab]\nname = "other"\n' + file.read_text())
    fake = FakeApi()
    answer_plan(fake, [])
    with serving(runtime / "other" / "control.sock", fake):
        assert run("apply", str(file)).exit_code == 0
        assert run("apply", str(file), "--lab", "third").exit_code == 2
    assert fake.bodies[0]["config"]["lab"]["name"] == "other"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            "subnet subnet-1 has a user (wait for it)",
            "DependencyViolation: subnet subnet-1 has a user (wait for it)",
        ),
        ("DependencyViolation: in use (wait)", "DependencyViolation: in use (wait)"),
    ],
)
def test_the_models_refusal_has_awss_name_once(
    run: Run, api: FakeApi, file: Path, message: str, text: str
) -> None:
    api.answers["/v1/apply"] = Refusal(400, "DependencyViolation", message)
    result = run("apply", str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"hyperplane-nat: {text}\n"


def test_a_wrong_file_is_not_sent(run: Run, api: FakeApi, file: Path) -> None:
    file.write_text('[[function]]\nname = "checkout"\n')
    result = run("apply", str(file))
    assert result.exit_code == 2
    assert "subnets" in result.stderr
    assert api.requests == []
