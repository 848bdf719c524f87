# SPDX-License-Identifier: Apache-2.0
"""`exec`: any program inside an environment or on a host, in place of this process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from pathlib import Path
from typing import Annotated

import typer

from hyperplane_nat.cli import common, hosts
from hyperplane_nat.cli.common import LabOption, Settings, UserError
from hyperplane_nat.client import Client, NotRunningError
from netns import files, namespace
from netns.cgroups import group_of
from netns.names import environment_namespace, host_namespace

EXIT_NOT_FOUND = 127
EXIT_NOT_EXECUTABLE = 126

ENVIRONMENT = re.compile(r"(?:env-)?([1-9][0-9]*)")
"""How an environment is named, and no host."""


def execute(
    ctx: typer.Context,
    environment: Annotated[
        str,
        typer.Argument(
            metavar="ENVIRONMENT|HOST", help="env-1 or just 1; a host's name, VPC/name or id."
        ),
    ],
    command: Annotated[list[str], typer.Argument(metavar="-- CMD ...", help="The program.")],
    lab: LabOption = None,
) -> None:
    """Run a program inside an environment or on a host."""
    name = common.lab_name(ctx, lab)
    common.require_root(ctx, "exec")
    namespace_name = find_namespace(name, common.runtime_root(ctx), environment)
    if command and command[0] == "--":
        command = command[1:]
    if not command:
        raise UserError("no command given (write: hyperplane-nat exec env-1 -- CMD ...)")
    matched = ENVIRONMENT.fullmatch(environment)
    if matched is not None:
        _hold(ctx, name, int(matched[1]))
    namespace.enter(namespace_name, sysfs=True)
    etc = common.runtime_root(ctx) / name
    files.show(etc, hostname=matched is not None, name=namespace_name)
    if matched is not None:
        files.be_called(etc)
    # Python ignores these two, and a program started by exec would go on ignoring them.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    settings: Settings = ctx.obj
    if settings.umask is not None:
        os.umask(settings.umask)
    try:
        if not command[0]:
            raise FileNotFoundError
        os.execvp(command[0], command)
    except FileNotFoundError:
        typer.echo(f"hyperplane-nat: {command[0]}: command not found", err=True)
        raise typer.Exit(EXIT_NOT_FOUND) from None
    except OSError as error:
        typer.echo(f"hyperplane-nat: {command[0]}: {error.strerror}", err=True)
        raise typer.Exit(EXIT_NOT_EXECUTABLE) from None


def _hold(ctx: typer.Context, lab: str, number: int) -> None:
    """Let an environment that has a handler go on for as long as the program runs.

    Execve(2) keeps the process. ClientError when no controller does it.
    """
    if not group_of(lab, environment_namespace(lab, number)).exists:
        return
    connection = Client(lab, runtime_directory=common.runtime_root(ctx))
    connection.post("/v1/holds", {"environment": number, "pid": os.getpid()})


def find_namespace(lab: str, runtime_directory: Path, environment: str) -> str:
    """The namespace of an environment or host that exists; UserError says which ones do,
    ClientError that there is no lab.
    """
    matched = ENVIRONMENT.fullmatch(environment)
    if matched is not None:
        name = environment_namespace(lab, int(matched[1]))
        if namespace.is_complete(name):
            return name
    elif re.fullmatch(r"(?:[a-z0-9-]+/)?[a-z][a-z0-9-]*", environment):
        # Numbers of hosts are the region's, which the controller has. Without one there are only
        # environments to enter.
        connection = Client(lab, runtime_directory=runtime_directory)
        with contextlib.suppress(NotRunningError):
            if common.rows(connection.get(hosts.PATH)):
                return host_namespace(lab, hosts.find(connection, environment)["Number"])
    prefix = environment_namespace(lab, 1).removesuffix("1")
    numbers = []
    for name in namespace.names(prefix):
        with contextlib.suppress(ValueError):
            numbers.append(int(name.removeprefix(prefix)))
    if not numbers:
        Client(lab, runtime_directory=runtime_directory).get("/v1/status")
        raise UserError(f"lab {lab!r} has no environments (see: hyperplane-nat environments)")
    raise UserError(
        f"unknown environment {environment!r} (lab {lab!r} has env-{min(numbers)} to "
        f"env-{max(numbers)}; see: hyperplane-nat environments)"
    )
