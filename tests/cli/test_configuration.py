# SPDX-License-Identifier: Apache-2.0
"""config."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from hyperplane_nat.config.lab import Config
from tests.cli.conftest import Run
from tests.cli.fake_api import FakeApi


def test_config_is_toml_that_reads_back(run: Run, runtime: Path) -> None:
    result = run("config", "-n", "7", "--lab", "other", "--set", "metrics.port=0")
    config = Config.model_validate(tomllib.loads(result.stdout))
    assert (config.lab.name, config.lab.environments, config.metrics.port) == ("other", 7, 0)
    assert config.lab.runtime_directory == str(runtime)


def test_config_of_the_running_lab(run: Run, api: FakeApi) -> None:
    running = Config(timeouts={"udp_seconds": 5})  # type: ignore[arg-type]
    api.answers["/v1/config"] = running.model_dump(mode="json")
    result = run("config", "--running", "--json")
    assert Config.model_validate_json(result.stdout) == running


@pytest.mark.parametrize("more", [("-c", "lab.toml"), ("-n", "3"), ("--set", "metrics.port=0")])
def test_what_runs_is_not_changed_by_asking(run: Run, api: FakeApi, more: tuple[str, ...]) -> None:
    result = run("config", "--running", *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--running asks the lab that runs (leave it out, or -c, " in result.stderr
    assert api.requests == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "metrics.port"], "not an assignment (write section.field=value)"),
        (["--set", "port=3"], "not an assignment (write section.field=value)"),
        (["--set", "metrics.prt=3"], "command line: metrics.prt: unknown field"),
        (["--set", "lab.environments=ten"], "command line: lab.environments: 'ten': "),
        (["-c", "/nonexistent/lab.toml"], "/nonexistent/lab.toml: no such file"),
    ],
)
def test_config_errors_are_one_line(run: Run, arguments: list[str], message: str) -> None:
    result = run("config", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
