# SPDX-License-Identifier: Apache-2.0
"""The application: global options, the commands, and the place where errors get their exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hyperplane_nat import __version__
from hyperplane_nat.cli import (
    capture,
    coldstart,
    doctor,
    events,
    execution,
    flow_logs,
    flows,
    inspection,
    invocation,
    lifecycle,
    ports,
    resources,
)
from hyperplane_nat.cli.common import Settings, UserError
from hyperplane_nat.client import RUNTIME_DIRECTORY, ClientError
from hyperplane_nat.config import ConfigError
from hyperplane_nat.controller.errors import ControllerError
from netns import NetnsError


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run a command; what the user can mend is one line, anything else is a traceback."""
        try:
            return super().invoke(ctx)
        except (UserError, ConfigError, ClientError, ControllerError, NetnsError) as error:
            typer.echo(f"hyperplane-nat: {error}", err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    name="hyperplane-nat",
    cls=_Group,
    help="A NAT gateway that puts thousands of identical environments behind one interface.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hyperplane-nat {__version__}")
        raise typer.Exit


@app.callback()
def _globals(
    ctx: typer.Context,
    lab: Annotated[
        str | None,
        typer.Option(
            envvar="HYPERPLANE_NAT_LAB", metavar="NAME", help="Lab to act on; default: default."
        ),
    ] = None,
    runtime_directory: Annotated[
        Path | None,
        typer.Option(
            envvar="HYPERPLANE_NAT_RUNTIME_DIRECTORY",
            help=f"Directory with the labs' sockets; default: {RUNTIME_DIRECTORY}.",
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    ctx.obj = Settings(lab=lab, runtime_directory=runtime_directory)


app.command()(doctor.doctor)
app.command()(lifecycle.up)
app.command()(resources.apply)
app.command()(invocation.invoke)
app.command("exec", context_settings={"allow_interspersed_args": False})(execution.execute)
app.command()(inspection.status)
app.command()(inspection.environments)
app.command()(inspection.interfaces)
app.command()(resources.functions)
app.command("security-groups")(resources.security_groups)
app.command()(flows.flows)
app.command("flow-logs")(flow_logs.flow_logs)
app.command()(ports.ports)
app.command()(events.events)
app.command()(capture.capture)
app.command()(inspection.verify)
app.command("config")(inspection.configuration)
app.command()(coldstart.coldstart)
app.command()(lifecycle.down)
