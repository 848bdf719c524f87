# SPDX-License-Identifier: Apache-2.0
"""The application itself: help, version, unknown commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperplane_nat import __version__, client
from tests.cli.conftest import Run

COMMANDS = [
    "doctor",
    "up",
    "apply",
    "invoke",
    "exec",
    "status",
    "environments",
    "interfaces",
    "functions",
    "security-groups",
    "flows",
    "verify",
    "config",
    "coldstart",
    "down",
]


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"hyperplane-nat {__version__}\n"


def test_help_names_every_command(run: Run) -> None:
    output = run("--help").stdout
    assert [command for command in COMMANDS if f"\n  {command} " not in output] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_on_the_page(run: Run, command: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "cli.md"
    assert f"hyperplane-nat {command}" in page.read_text(encoding="utf-8")
    assert run(command, "--help").exit_code == 0


def test_an_unknown_command_is_exit_2(run: Run) -> None:
    result = run("start")
    assert result.exit_code == 2
    assert "No such command 'start'" in result.stderr


def test_a_bug_is_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(client.Client, "get", broken)
    assert isinstance(run("status").exception, ZeroDivisionError)
