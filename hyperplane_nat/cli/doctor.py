# SPDX-License-Identifier: Apache-2.0
"""`doctor`: what the host offers, what is missing and how to get it."""

from __future__ import annotations

from dataclasses import asdict

import typer
from rich.text import Text

from hyperplane_nat import config as configuration
from hyperplane_nat.cli import checks, common
from hyperplane_nat.cli.common import ConfigOption, JsonOption
from hyperplane_nat.cli.tables import Column, Remark, Table

COLOURS = {
    checks.Outcome.OK: "green",
    checks.Outcome.FAILED: "bold red",
    checks.Outcome.MISSING: "yellow",
}


def doctor(ctx: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Tell what the host offers; exit 1 if too little."""
    effective = configuration.load(config, common.overrides(ctx, None, None, None))
    found = list(checks.run(effective))
    failed = [check for check in found if check.outcome is checks.Outcome.FAILED]
    if as_json:
        common.print_json({"ready": not failed, "checks": [asdict(check) for check in found]})
    else:
        _print(found, failed)
    if failed:
        raise typer.Exit(1)


def _print(found: list[checks.Check], failed: list[checks.Check]) -> None:
    table = Table(None, [Column("check"), Column(""), Column("found"), Column("remedy")])
    for check in found:
        table.add_row(
            check.name,
            Text(check.outcome.value, style=COLOURS[check.outcome]),
            check.found,
            check.remedy,
        )
    console = common.console()
    console.print(table)
    if failed:
        names = ", ".join(check.name for check in failed)
        console.print(Remark(f"the gateway cannot run here: {names}"))
    else:
        missing = sum(check.outcome is checks.Outcome.MISSING for check in found)
        extra = f" ({missing} optional parts are missing)" if missing else ""
        console.print(Remark(f"the gateway can run here{extra}"))
