# SPDX-License-Identifier: Apache-2.0
"""`apply`: a running lab becomes what a file says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from hyperplane_nat import config as configuration
from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, SetOption
from hyperplane_nat.cli.tables import Column, Remark, Table
from hyperplane_nat.client import Client
from hyperplane_nat.controller import record

SIGNS = {"create": ("+", "green"), "change": ("~", "yellow"), "delete": ("-", "red")}

APPLY_SECONDS = 120.0
"""How long an apply may take: new VPCs are namespaces, and hundreds of interfaces links."""


def apply(
    ctx: typer.Context,
    config: Annotated[
        Path,
        typer.Argument(
            parser=common.path("LAB.toml"), metavar="LAB.toml", help="What the lab is to hold."
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and change nothing.")
    ] = False,
    assignments: SetOption = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a running lab hold what a file says; print what that changes."""
    wanted = configuration.load(config, common.overrides(ctx, lab, None, assignments))
    common.acts_on(ctx, wanted.lab.name, named="name" in wanted.lab.model_fields_set)
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
    console = common.console()
    if not plan:
        console.print(Remark("nothing to do"))
        return
    console.print(plan_table(plan))
    counts = {action: sum(line["action"] == action for line in plan) for action in SIGNS}
    summary = ", ".join(f"{count} to {action}" for action, count in counts.items() if count)
    outcome = "done" if answer["applied"] else "nothing was changed (dry run)"
    console.print(Remark(f"{summary}: {outcome}"))


def apply_body(wanted: configuration.Config, *, dry_run: bool = False) -> dict[str, Any]:
    """The body of POST /v1/apply."""
    return {
        "config": record.said(wanted),
        "dry_run": dry_run,
        "client_token": None,
    }


def plan_table(plan: list[dict[str, Any]]) -> Table:
    """The steps of a plan, in their order."""
    result = Table(None, [Column("action"), Column("kind"), Column("name"), Column("detail")])
    for line in plan:
        sign, colour = SIGNS.get(line["action"], ("?", ""))
        result.add_row(Text(sign, style=colour), line["kind"], line["name"], line["detail"])
    return result
