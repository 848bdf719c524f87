# SPDX-License-Identifier: Apache-2.0
"""The application: global options, the commands, and the place where errors get their exit code."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from hyperplane_nat import __version__
from hyperplane_nat.cli import common, failures
from hyperplane_nat.cli.common import Settings, UserError, path
from hyperplane_nat.client import ClientError
from hyperplane_nat.controller.errors import ControllerError
from hyperplane_nat.errors import ConfigError
from hyperplane_nat.unix_socket import RUNTIME_DIRECTORY
from netns import NetnsError


@dataclass(frozen=True)
class _Verb:
    """Where a command is, below `hyperplane_nat.cli`."""

    module: str
    function: str
    settings: Mapping[str, object] = field(default_factory=dict)
    failure: int = 2
    """Exit status for what the user can mend."""


COMMANDS: Mapping[str, _Verb] = {
    "doctor": _Verb("doctor", "doctor"),
    "up": _Verb("lifecycle", "up"),
    "apply": _Verb("applying", "apply"),
    "wait": _Verb("waiting", "wait"),
    "invoke": _Verb("invocation", "invoke"),
    "logs": _Verb("handlers", "logs"),
    "credentials": _Verb("handlers", "credentials"),
    "exec": _Verb("execution", "execute", {"allow_interspersed_args": False}, failure=125),
    "status": _Verb("inspection", "status"),
    "environments": _Verb("inspection", "environments"),
    "interfaces": _Verb("inspection", "interfaces"),
    "hosts": _Verb("hosts", "hosts"),
    "attach": _Verb("hosts", "attach"),
    "detach": _Verb("hosts", "detach"),
    "route-tables": _Verb("routing", "route_tables"),
    "network-acls": _Verb("network_acls", "network_acls"),
    "nat-gateways": _Verb("routing", "nat_gateways"),
    "load-balancers": _Verb("balancing", "load_balancers"),
    "target-health": _Verb("balancing", "target_health"),
    "endpoint-services": _Verb("private_link", "endpoint_services"),
    "endpoints": _Verb("private_link", "endpoints"),
    "create-gateway-endpoint": _Verb("gateway_endpoints", "create_gateway_endpoint"),
    "modify-gateway-endpoint": _Verb("gateway_endpoints", "modify_gateway_endpoint"),
    "delete-gateway-endpoint": _Verb("gateway_endpoints", "delete_gateway_endpoint"),
    "functions": _Verb("resources", "functions"),
    "update-function-code": _Verb("publishing", "update_function_code"),
    "publish-version": _Verb("publishing", "publish_version"),
    "update-alias": _Verb("publishing", "update_alias"),
    "security-groups": _Verb("resources", "security_groups"),
    "flows": _Verb("flows", "flows"),
    "trace": _Verb("trace", "trace"),
    "flow-logs": _Verb("flow_logs", "flow_logs"),
    "describe-flow-logs": _Verb("requested_flow_logs", "describe_flow_logs"),
    "create-flow-log": _Verb("requested_flow_logs", "create_flow_log"),
    "delete-flow-log": _Verb("requested_flow_logs", "delete_flow_log"),
    "ports": _Verb("ports", "ports"),
    "top": _Verb("top", "top"),
    "ui": _Verb("ui", "ui"),
    "aws": _Verb("aws", "aws"),
    "events": _Verb("events", "events"),
    "capture": _Verb("capture", "capture"),
    "labs": _Verb("labs", "labs"),
    "advance": _Verb("clock", "advance", {"ignore_unknown_options": True}),
    "verify": _Verb("inspection", "verify"),
    "config": _Verb("configuration", "configuration"),
    "coldstart": _Verb("coldstart", "coldstart"),
    "down": _Verb("removal", "down"),
}
"""In the order of the help."""


_UsageError: Any = typer.BadParameter.__base__
"""A command line that is not understood. Where its class is depends on the version of typer."""


class _Group(TyperGroup):
    """The commands. A module is imported when its command is called: some take half a second."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All of them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of them, None if there is none of this name."""
        verb = COMMANDS.get(cmd_name)
        return None if verb is None else _command(cmd_name, verb)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the command as it was typed."""
        common.note_arguments(ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what the user can mend is told in lines, anything else is a traceback."""
        try:
            return super().invoke(ctx)
        except (UserError, ConfigError, ClientError, ControllerError, NetnsError) as error:
            failures.tell(ctx, error)
            raise typer.Exit(COMMANDS[ctx.invoked_subcommand].failure) from None
        except _UsageError as error:
            # It has no command when there is none of that name.
            if (name := ctx.invoked_subcommand) is None:
                raise
            error.exit_code = COMMANDS[name].failure
            options = {word for each in self.get_command(ctx, name).params for word in each.opts}
            if "--json" in options.intersection(common.arguments(ctx)):
                failures.tell_usage(error.format_message(), name)
                raise typer.Exit(error.exit_code) from None
            # Typer shows it.
            raise


def _command(name: str, verb: _Verb) -> Any:
    # What comes with a module stays: nothing is found by a search for garbage among it.
    gc.disable()
    module = import_module(f"hyperplane_nat.cli.{verb.module}")
    gc.enable()
    single = typer.Typer(add_completion=False, **_STYLE)
    single.command(name, context_settings=dict(verb.settings))(getattr(module, verb.function))
    return typer.main.get_command(single)


_STYLE: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}

app = typer.Typer(
    name="hyperplane-nat",
    cls=_Group,
    help="A NAT gateway that puts thousands of identical environments behind one interface.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    **_STYLE,
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
        # Looked at in the command's turn, where what is wrong with it is one line.
        str | None,
        typer.Option(
            envvar="HYPERPLANE_NAT_RUNTIME_DIRECTORY",
            metavar="DIRECTORY",
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
    called = ctx.obj or Settings()
    parse = path("--runtime-directory")
    directory = None if runtime_directory is None else parse(runtime_directory)
    ctx.obj = replace(called, lab=lab, runtime_directory=directory)
