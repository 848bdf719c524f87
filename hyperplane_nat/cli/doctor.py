# SPDX-License-Identifier: Apache-2.0
"""`doctor`: what the host offers, what is missing and how to get it; how a running lab is."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import typer
from rich.text import Text

from hyperplane_nat.cli import checks, common, lab_checks
from hyperplane_nat.cli.common import ConfigOption, JsonOption, LabOption, UserError
from hyperplane_nat.cli.tables import Column, Remark, Table
from hyperplane_nat.config import lab as configuration

COLOURS = {
    checks.Outcome.OK: "green",
    checks.Outcome.FAILED: "bold red",
    checks.Outcome.MISSING: "yellow",
    checks.Outcome.NOTED: "yellow",
}

HOST = ("the gateway can run here", "the gateway cannot run here")


def doctor(
    ctx: typer.Context,
    config: ConfigOption = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what the host offers, or how a running lab is; exit 1 if it is not enough."""
    named = common.named_lab(ctx, lab)
    if named is None:
        effective = configuration.load(config, common.overrides(ctx, None, None, None))
        _show(list(checks.run(effective)), HOST, as_json)
        return
    if config is not None:
        raise UserError("a running lab has its configuration (leave out --lab or --config)")
    common.require_root(ctx, f"doctor --lab {named}")
    found = list(lab_checks.run(named, common.runtime_root(ctx)))
    verdicts = (f"lab {named} is in order", f"lab {named} is not in order")
    _show(found, verdicts, as_json)


def _show(found: list[checks.Check], verdicts: tuple[str, str], as_json: bool) -> None:
    failed = [check for check in found if check.outcome is checks.Outcome.FAILED]
    if as_json:
        common.print_json({"ready": not failed, "checks": [asdict(check) for check in found]})
    else:
        _print(found, failed, verdicts)
    if failed:
        raise typer.Exit(1)


def _print(
    found: list[checks.Check], failed: list[checks.Check], verdicts: tuple[str, str]
) -> None:
    table = Table(None, [Column("check"), Column("outcome"), Column("found"), Column("remedy")])
    for check in found:
        table.add_row(
            check.name,
            Text(check.outcome.value, style=COLOURS[check.outcome]),
            check.found,
            check.remedy,
        )
    console = common.console()
    console.print(table)
    good, bad = verdicts
    if failed:
        console.print(Remark(f"{bad}: {', '.join(check.name for check in failed)}"))
        return
    counts = Counter(check.outcome for check in found)
    if missing := counts[checks.Outcome.MISSING]:
        good += f" ({missing} optional parts are missing)"
    if noted := counts[checks.Outcome.NOTED]:
        good += f" ({noted} noted)"
    console.print(Remark(good))
