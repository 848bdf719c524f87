# SPDX-License-Identifier: Apache-2.0
"""What a command says when it fails, on standard error: a line for each thing that is wrong, or,
where it was told `--json`, an object in one line.

Hints are written without a lab, wherever they come from. Which lab is meant is known here, and so
the commands in them are completed here, and a command for a lab that does not run is shown as it
has to be typed for one that does.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.client import ApiError, ClientError, NotRunningError, running_labs
from hyperplane_nat.errors import ConfigError, Problem


def tell(ctx: typer.Context, error: Exception) -> None:
    """Say why the command failed."""
    lab, _ = common.acted_on(ctx)
    name = ""
    match error:
        case NotRunningError():
            text = _not_running(ctx, error)
        case ApiError():
            problems = "\n".join(str(Problem(**problem)) for problem in error.problems)
            name, text = error.name, problems or error.message
        case _:
            text = str(error)
    lines = [common.with_lab(line, lab) for line in text.splitlines()]
    if common.wants_json(ctx):
        document: dict[str, Any] = {"error": _code(error), "message": "; ".join(lines)}
        if found := _problems(error):
            document["problems"] = found
        typer.echo(json.dumps(document), err=True)
        return
    for line in lines:
        typer.echo(f"hyperplane-nat: {name}{line}", err=True)


def tell_usage(message: str, command: str) -> None:
    """Say as an object that the command line was not understood."""
    hint = f"see: hyperplane-nat {command} --help"
    document = {"error": "usage", "message": f"{message.rstrip('.')} ({hint})"}
    typer.echo(json.dumps(document), err=True)


def others(ctx: typer.Context, lab: str, runtime_directory: Path) -> str:
    """What to add for who named no lab while others run: which, and the command for one."""
    running = [each for each in running_labs(runtime_directory) if each != lab]
    _, named = common.acted_on(ctx)
    if not running or named:
        return ""
    command = shlex.join(["hyperplane-nat", "--lab", running[0], *common.arguments(ctx)])
    return f"; {_listed(running)} (run: {command})"


def _not_running(ctx: typer.Context, error: NotRunningError) -> str:
    text = str(error)
    about = f"lab {error.lab!r} is not running"
    if not text.startswith(f"{about} ("):
        return text
    if found := others(ctx, error.lab, error.runtime_directory):
        return about + found
    running = running_labs(error.runtime_directory)
    return text.replace(about, f"{about}; {_listed(running)}", 1) if running else text


def _listed(running: list[str]) -> str:
    if len(running) == 1:
        return f"{running[0]!r} is the only one that runs"
    return f"{', '.join(map(repr, running))} are running"


def _code(error: Exception) -> str:
    match error:
        case ApiError():
            return error.code
        case ConfigError():
            return "InvalidParameterValueException"
        case NotRunningError():
            return "not_running"
        case ClientError():
            return "unreachable"
        case _:
            return "failed"


def _problems(error: Exception) -> list[Any]:
    if isinstance(error, ConfigError):
        return [problem.document() for problem in error.problems]
    return list(error.problems) if isinstance(error, ApiError) else []
