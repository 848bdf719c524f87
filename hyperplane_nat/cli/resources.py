# SPDX-License-Identifier: Apache-2.0
"""What customers own: `apply` changes it, `functions` and `security-groups` show it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from hyperplane_nat import config as configuration
from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, SetOption
from hyperplane_nat.client import Client

SIGNS = {"create": ("+", "green"), "change": ("~", "yellow"), "delete": ("-", "red")}

APPLY_SECONDS = 120.0
"""How long an apply may take: new VPCs are namespaces, and hundreds of interfaces links."""

EVERY_PROTOCOL = "-1"
"""EC2 API, `IpProtocol`: all protocols."""


def apply(
    ctx: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="LAB.toml", help="What the lab is to hold.")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and change nothing.")
    ] = False,
    assignments: SetOption = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a running lab hold what a file says; print what that changes."""
    wanted = configuration.load(config, common.overrides(ctx, lab, None, assignments))
    connection = Client(
        wanted.lab.name,
        runtime_directory=Path(wanted.lab.runtime_directory),
        timeout=APPLY_SECONDS,
    )
    answer = common.mapping(connection.post("/v1/apply", apply_body(wanted, dry_run=dry_run)))
    if as_json:
        common.print_json(answer)
        return
    plan = common.rows(answer["plan"])
    if not plan:
        typer.echo("nothing to do")
        return
    console = common.console()
    console.print(plan_table(plan))
    counts = {action: sum(line["action"] == action for line in plan) for action in SIGNS}
    summary = ", ".join(f"{count} to {action}" for action, count in counts.items() if count)
    console.print(f"{summary}: {'done' if answer['applied'] else 'nothing was changed (dry run)'}")


def apply_body(wanted: configuration.Config, *, dry_run: bool = False) -> dict[str, Any]:
    """The body of POST /v1/apply."""
    return {
        "config": wanted.model_dump(mode="json"),
        "dry_run": dry_run,
        "client_token": None,
    }


def plan_table(plan: list[dict[str, Any]]) -> Table:
    """The steps of a plan, in their order. Not markup: a group may have brackets in its name."""
    result = common.table(None, [("", False), ("kind", False), ("name", False), ("detail", False)])
    for line in plan:
        sign, colour = SIGNS.get(line["action"], ("?", ""))
        result.add_row(
            Text(sign, style=colour), line["kind"], Text(line["name"]), Text(line["detail"])
        )
    return result


def functions(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the functions."""
    answer = common.client(ctx, lab).get("/v1/functions")
    if as_json:
        common.print_json(answer)
        return
    result = common.table(
        None,
        [
            ("function", False),
            ("account", False),
            ("networking", False),
            ("state", False),
            ("last update", False),
            ("VPC", False),
            ("interfaces", False),
            ("environments", True),
            ("memory (MB)", True),
        ],
    )
    for row in common.rows(answer):
        result.add_row(
            row["FunctionName"],
            row["Account"],
            row["Networking"],
            _with_reason(row["State"], row["StateReasonCode"]),
            _with_reason(row["LastUpdateStatus"], row["LastUpdateStatusReasonCode"]),
            (row["VpcConfig"] or {}).get("VpcName", "-"),
            "\n".join(row["NetworkInterfaceIds"]) or "-",
            str(row["Environments"]),
            str(row["MemorySize"]),
        )
    common.console().print(result)


def _with_reason(state: str, code: str | None) -> str:
    return f"{state} ({code})" if code else state


def security_groups(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the security groups with their rules."""
    answer = common.client(ctx, lab).get("/v1/security-groups")
    if as_json:
        common.print_json(answer)
        return
    rows = common.rows(answer)
    names = {row["GroupId"]: row["GroupName"] for row in rows}
    result = common.table(
        None,
        [
            ("VPC", False),
            ("group", False),
            ("id", False),
            ("lets in", False),
            ("lets out", False),
            ("interfaces", True),
        ],
    )
    for row in rows:
        result.add_row(
            row["VpcName"],
            Text(row["GroupName"]),
            row["GroupId"],
            _rules(row["IpPermissions"], "from", names),
            _rules(row["IpPermissionsEgress"], "to", names),
            str(len(row["NetworkInterfaceIds"])),
        )
    common.console().print(result)


def _rules(
    permissions: list[Mapping[str, Any]], preposition: str, names: Mapping[str, str]
) -> Text:
    """A rule a line."""
    lines = [f"{_traffic(rule)} {preposition} {_peers(rule, names)}" for rule in permissions]
    return Text("\n".join(lines) or "nothing")


def _traffic(rule: Mapping[str, Any]) -> str:
    protocol: str = rule["IpProtocol"]
    if protocol == EVERY_PROTOCOL:
        return "everything"
    if "FromPort" not in rule:
        return protocol
    first, last = rule["FromPort"], rule["ToPort"]
    if (first, last) == (0, 65535):
        return protocol
    return f"{protocol} {first}" if first == last else f"{protocol} {first}-{last}"


def _peers(rule: Mapping[str, Any], names: Mapping[str, str]) -> str:
    networks = [item["CidrIp"] for item in rule.get("IpRanges", [])]
    groups = [item["GroupId"] for item in rule.get("UserIdGroupPairs", [])]
    return ", ".join(networks + [f"group {names.get(group, group)}" for group in groups])
