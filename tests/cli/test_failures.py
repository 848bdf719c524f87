# SPDX-License-Identifier: Apache-2.0
"""What is said when a command fails: which lab, the command to type, all mistakes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.cli import common
from hyperplane_nat.errors import ConfigError, Problem
from tests.cli.conftest import STATUS, Run
from tests.cli.fake_api import FakeApi, Refusal, serving


@contextlib.contextmanager
def labs(runtime: Path, *names: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(
                serving(runtime / name / "control.sock", FakeApi({"/v1/status": STATUS}))
            )
        yield


def test_one_lab_that_runs_is_named_with_the_command_for_it(run: Run, runtime: Path) -> None:
    with labs(runtime, "alpha"):
        result = run("flows", "--remote", "10.0.1.80:80", "--limit", "3")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "hyperplane-nat: lab 'default' is not running; 'alpha' is the only one that runs "
        "(run: hyperplane-nat --lab alpha flows --remote 10.0.1.80:80 --limit 3)\n"
    )


def test_several_labs_that_run_are_all_named(run: Run, runtime: Path) -> None:
    with labs(runtime, "beta", "alpha"):
        result = run("status")
    assert result.stderr == (
        "hyperplane-nat: lab 'default' is not running; 'alpha', 'beta' are running "
        "(run: hyperplane-nat --lab alpha status)\n"
    )


def test_who_named_a_lab_is_told_how_to_start_it(run: Run, runtime: Path) -> None:
    with labs(runtime, "alpha"):
        for arguments in (["--lab", "other", "status"], ["status", "--lab", "other"]):
            assert run(*arguments).stderr == (
                "hyperplane-nat: lab 'other' is not running; 'alpha' is the only one that runs "
                "(start it with: hyperplane-nat up --lab other)\n"
            )


def test_apply_names_the_labs_that_run(run: Run, runtime: Path, tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text("[lab]\nenvironments = 3\n")
    with labs(runtime, "alpha"):
        assert f"(run: hyperplane-nat --lab alpha apply {file})" in run("apply", str(file)).stderr
        file.write_text('[lab]\nname = "other"\n')
        assert "(start it with: hyperplane-nat up --lab other)" in run("apply", str(file)).stderr


def test_exec_and_down_name_the_labs_that_run(
    run: Run, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with labs(runtime, "alpha"):
        result = run("exec", "env-16000", "--", "true")
        assert result.exit_code == 125
        assert "(run: hyperplane-nat --lab alpha exec env-16000 -- true)" in result.stderr
        result = run("down")
        assert result.exit_code == 0
        assert result.stdout == (
            "lab default: nothing is running; 'alpha' is the only one that runs "
            "(run: hyperplane-nat --lab alpha down)\n"
        )


def test_a_hint_of_the_controller_is_for_the_lab_that_was_asked(run: Run, runtime: Path) -> None:
    message = "there is no interface x (hyperplane-nat interfaces lists them)"
    with serving(
        runtime / "other" / "control.sock",
        FakeApi({"/v1/flows": Refusal(404, "no_such_interface", message)}),
    ):
        result = run("--lab", "other", "flows", "--interface", "x")
    assert "(hyperplane-nat --lab other interfaces lists them)" in result.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hyperplane-nat status", "hyperplane-nat --lab x status"),
        ("sudo hyperplane-nat up", "sudo hyperplane-nat --lab x up"),
        ("hyperplane-nat up --lab x; hyperplane-nat down --lab x", None),
        ("hyperplane-nat config > lab.toml", None),
        ("hyperplane-nat doctor", None),
        ("/var/log/hyperplane-nat is full", None),
        ("hyperplane-nat --lab x status", None),
    ],
)
def test_a_hint_has_the_lab_once(text: str, expected: str | None) -> None:
    assert common.with_lab(text, "x") == (expected or text)
    assert common.with_lab(text, "default") == text


MISTAKES = """\
[lab]
environments = "ten"
[[function]]
name = "web"
networking = "none"
memory_mb = 12
"""


@pytest.mark.parametrize("command", [["config", "-c"], ["apply"], ["up", "-c"]])
def test_all_mistakes_are_told_a_line_each(
    run: Run, runtime: Path, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    file = tmp_path / "lab.toml"
    file.write_text(MISTAKES)
    result = run(*command, str(file))
    assert (result.exit_code, result.stdout) == (2, "")
    first, second = result.stderr.splitlines()
    assert first.startswith(f"hyperplane-nat: {file}:2: lab.environments: 'ten': ")
    assert second.startswith(f'hyperplane-nat: {file}:6: [[function]] "web": memory_mb: 12: ')
    assert list(runtime.iterdir()) == [], "something was made"


def test_mistakes_as_json(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "lab.toml"
    file.write_text(MISTAKES)
    result = run("config", "-c", str(file), "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    document = json.loads(result.stderr)
    assert document["error"] == "InvalidParameterValueException"
    assert [(each["line"], each["entry"], each["field"]) for each in document["problems"]] == [
        (2, "", "lab.environments"),
        (6, '[[function]] "web"', "memory_mb"),
    ]


def test_what_the_controller_finds_wrong_is_a_line_each(run: Run, runtime: Path) -> None:
    error = ConfigError.of(
        [
            Problem("", None, "", field, "cannot change while the lab runs", "leave it")
            for field in ("flows.max", "metrics.port")
        ]
    )
    body = {
        "error": "InvalidParameterValueException",
        "message": error.line,
        "problems": [problem.document() for problem in error.problems],
    }
    fake = FakeApi({"/v1/status": json.dumps(body).encode()}, status=400)
    with serving(runtime / "default" / "control.sock", fake):
        result = run("status")
        document = json.loads(run("status", "--json").stderr)
    assert result.stderr.splitlines() == [
        f"hyperplane-nat: InvalidParameterValueException: {each}" for each in error.problems
    ]
    assert document["problems"] == body["problems"]


@pytest.mark.parametrize(
    ("command", "status"), [("flows --nonsense", 2), ("flows --limit many", 2), ("labs extra", 2)]
)
def test_a_command_line_that_is_not_understood_is_an_object_for_programs(
    run: Run, command: str, status: int
) -> None:
    verb = command.split()[0]
    for words in (f"{command} --json", f"{verb} --json {command.removeprefix(verb)}"):
        result = run(*words.split())
        assert (result.exit_code, result.stdout) == (status, "")
        said = json.loads(result.stderr)
        assert said["error"] == "usage"
        assert said["message"].endswith(f"(see: hyperplane-nat {verb} --help)")
    assert run(*command.split()).stderr.startswith("Usage: ")


def test_json_of_a_program_that_is_run_is_its_own(run: Run) -> None:
    result = run("exec", "--nonsense", "env-1", "--", "ip", "--json", "address")
    assert result.exit_code == 125
    assert result.stderr.startswith("Usage: ")
