# SPDX-License-Identifier: Apache-2.0
"""The application itself: help, version, unknown commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperplane_nat import __version__, client
from hyperplane_nat.cli import application
from tests.cli.conftest import Run

COMMANDS = [
    "doctor",
    "up",
    "apply",
    "wait",
    "invoke",
    "logs",
    "credentials",
    "exec",
    "status",
    "environments",
    "interfaces",
    "hosts",
    "attach",
    "detach",
    "route-tables",
    "network-acls",
    "nat-gateways",
    "load-balancers",
    "target-health",
    "endpoint-services",
    "endpoints",
    "create-gateway-endpoint",
    "modify-gateway-endpoint",
    "delete-gateway-endpoint",
    "functions",
    "update-function-code",
    "publish-version",
    "update-alias",
    "security-groups",
    "flows",
    "trace",
    "flow-logs",
    "describe-flow-logs",
    "create-flow-log",
    "delete-flow-log",
    "ports",
    "top",
    "ui",
    "aws",
    "events",
    "capture",
    "labs",
    "advance",
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


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("hyperplane-nat fl", {"flows", "flow-logs"}),
        ("hyperplane-nat flows --sor", {"--sort"}),
        ("hyperplane-nat create-", {"create-gateway-endpoint", "create-flow-log"}),
        ("hyperplane-nat create-flow-log --traffic-type R", {"REJECT"}),
    ],
)
def test_the_shell_completes(typed: str, offered: set[str]) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "hyperplane-nat"],
        env={
            **os.environ,
            "_HYPERPLANE_NAT_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(typed.count(" ")),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize(
    ("command", "reads_configuration"),
    [
        *((name, False) for name in ("status", "flows", "ports", "invoke", "exec", "down")),
        *((name, True) for name in ("up", "apply")),
    ],
)
def test_what_a_command_does_not_need_is_not_imported(
    command: str, reads_configuration: bool
) -> None:
    """These take longer to import than the command takes to answer."""
    script = f"""
import sys
from hyperplane_nat.cli import app
try:
    app(["{command}", "--help"])
except SystemExit:
    pass
heavy = ("pyroute2", "hyperplane_nat.config.lab", "aiohttp", "hyperplane_nat.model.region")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    needed = ["hyperplane_nat.config.lab"] if reads_configuration else []
    assert done.stdout.splitlines()[-1] == str(needed)


@pytest.mark.parametrize(
    "command", ["up", "down", "wait", "invoke", "exec", "attach", "create-gateway-endpoint"]
)
def test_what_draws_is_not_imported_where_nothing_is_drawn(command: str) -> None:
    script = f"""
import sys
from hyperplane_nat.cli import app
try:
    app(["{command}", "--help"])
except SystemExit:
    pass
print("rich" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_the_list_of_commands_is_whole() -> None:
    assert list(application.COMMANDS) == COMMANDS


def test_an_unknown_command_is_exit_2(run: Run) -> None:
    result = run("start")
    assert result.exit_code == 2
    assert "No such command 'start'" in result.stderr


@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("--runtime-directory", ("--runtime-directory", "", "status")),
        ("--config", ("config", "-c", "")),
        ("LAB.toml", ("apply", "")),
        ("-w", ("capture", "--interface", "eni-a", "-w", "")),
        ("--directory", ("flow-logs", "--directory", "")),
        ("--plot", ("coldstart", "--plot", "")),
    ],
)
def test_an_empty_path_is_none(run: Run, option: str, arguments: tuple[str, ...]) -> None:
    """It is what a shell makes of a variable that is not set."""
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"hyperplane-nat: {option} is empty (is a variable of the shell not set?)\n"
    )


def test_a_bug_is_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(client.Client, "get", broken)
    assert isinstance(run("status").exception, ZeroDivisionError)


def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hyperplane_nat.cli", "config"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == ("hyperplane-nat: cannot write the output: No space left on device\n")


def ended(command: str) -> subprocess.CompletedProcess[str]:
    """A line of the shell, in which `hyperplane-nat` is what stands for it."""
    line = command.replace("hyperplane-nat", f"{sys.executable} -m hyperplane_nat.cli")
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["config", "config --json", "--help"])
def test_a_reader_that_is_gone_is_exit_2(command: str) -> None:
    """1 is an answer of some commands, which nobody got."""
    done = ended(f"hyperplane-nat {command} | exec <&-; echo ${{PIPESTATUS[0]}}")
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_status(closed: str) -> None:
    done = ended(f"hyperplane-nat config {closed}; echo $? >&2; hyperplane-nat nothing {closed}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "0"
    assert "Traceback" not in done.stderr


def test_an_error_that_cannot_be_written_keeps_its_status() -> None:
    assert ended("hyperplane-nat nothing 2>/dev/full").returncode == 2
    assert ended("hyperplane-nat config >/dev/full 2>&1").returncode == 2
