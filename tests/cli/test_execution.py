# SPDX-License-Identifier: Apache-2.0
"""exec: finding the environment, and becoming the program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.cli.common import UserError
from hyperplane_nat.cli.execution import find_namespace
from netns import namespace, topology
from tests.cli.conftest import Run

pytestmark = pytest.mark.live


@pytest.fixture
def environment(lab_name: str) -> Iterator[str]:
    """The lab with one environment that is an empty namespace."""
    names = [topology.environment_namespace(lab_name, number) for number in (2, 3)]
    try:
        namespace.create(names, lambda _name: None)
        yield lab_name
    finally:
        namespace.delete(names)


def execute(lab: str, *arguments: str, shell_input: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hyperplane_nat.cli", "--lab", lab, "exec", *arguments],
        input=shell_input,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("arguments", [("env-2", "--"), ("2", "--"), ("env-2",)])
def test_the_program_runs_in_the_namespace(environment: str, arguments: tuple[str, ...]) -> None:
    done = execute(environment, *arguments, "readlink", "/proc/self/ns/net")
    assert (done.returncode, done.stderr) == (0, "")
    inode = Path(namespace.path(topology.environment_namespace(environment, 2))).stat().st_ino
    assert done.stdout == f"net:[{inode}]\n"


def test_the_exit_status_is_the_programs(environment: str) -> None:
    assert execute(environment, "env-2", "--", "sh", "-c", "exit 42").returncode == 42


def test_death_by_signal_is_the_programs(environment: str) -> None:
    assert execute(environment, "env-2", "--", "sh", "-c", "kill -TERM $$").returncode == -15


def test_options_of_the_program_are_its_own(environment: str) -> None:
    done = execute(environment, "env-2", "--", "printf", "%s.", "--json", "--lab", "--", "-x")
    assert done.stdout == "--json.--lab.--.-x."


def test_standard_input_is_the_programs(environment: str) -> None:
    assert execute(environment, "env-2", "--", "cat", shell_input="hello").stdout == "hello"


def test_a_broken_pipe_ends_the_program(environment: str) -> None:
    """Python ignores SIGPIPE; the program must not inherit that."""
    done = execute(environment, "env-2", "--", "sh", "-c", "yes | head -n 1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "y\n", "")


def test_a_program_that_is_not_there_is_127(environment: str) -> None:
    done = execute(environment, "env-2", "--", "no-such-program")
    assert done.returncode == 127
    assert done.stderr == "hyperplane-nat: no-such-program: command not found\n"


def test_a_program_that_cannot_be_run_is_126(environment: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    done = execute(environment, "env-2", "--", str(file))
    assert done.returncode == 126
    assert done.stderr == f"hyperplane-nat: {file}: Permission denied\n"


def test_a_program_without_a_name_is_not_found(environment: str) -> None:
    done = execute(environment, "env-2", "--", "")
    assert (done.returncode, done.stderr) == (127, "hyperplane-nat: : command not found\n")


@pytest.mark.parametrize("name", ["env-4", "0", "env-", "web", "env-02"])
def test_an_unknown_environment_is_one_line_and_exit_125(environment: str, name: str) -> None:
    done = execute(environment, name, "--", "true")
    assert done.returncode == 125
    assert done.stderr == (
        f"hyperplane-nat: unknown environment {name!r} (lab {environment!r} has env-2 to env-3; "
        f"see: hyperplane-nat --lab {environment} environments)\n"
    )


def test_no_lab(lab_name: str) -> None:
    with pytest.raises(UserError, match="has no environments"):
        find_namespace(lab_name, "env-1")


@pytest.mark.parametrize(
    "arguments", [(), ("env-1",), ("env-1", "--"), ("--bad", "env-1", "true"), ("--lab", "", "1")]
)
def test_what_is_not_understood_is_125(
    run: Run, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """The program's own 2 must not look like it."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    result = run("exec", *arguments)
    assert (result.exit_code, result.stdout) == (125, "")
    assert result.stderr
    assert run("--runtime-directory", "", "exec", "1", "true").exit_code == 125
