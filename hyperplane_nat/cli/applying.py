# SPDX-License-Identifier: Apache-2.0
"""`apply`: a running lab becomes what a file says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer
from rich.text import Text

from hyperplane_nat.cli import common, waiting
from hyperplane_nat.cli.common import JsonOption, LabOption, SetOption, UserError
from hyperplane_nat.cli.tables import Column, Remark, Table
from hyperplane_nat.cli.waiting import Limit, TimeoutOption
from hyperplane_nat.client import Client
from hyperplane_nat.config import lab as configuration
from hyperplane_nat.controller import record

SIGNS = {"create": ("+", "green"), "change": ("~", "yellow"), "delete": ("-", "red")}

APPLY_SECONDS = 120.0
"""How long an apply may take: new VPCs are namespaces, and hundreds of interfaces links."""


class Post(Protocol):
    """POST /v1/apply of one file."""

    def __call__(self, *, dry_run: bool) -> dict[str, Any]:
        """The answer."""


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
    wait: Annotated[
        bool,
        typer.Option(
            "--wait",
            help="Return when functions are Active; delete what is still in use once it is not.",
        ),
    ] = False,
    timeout: TimeoutOption = None,
    assignments: SetOption = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a running lab hold what a file says; print what that changes."""
    waiting.check_options(wait, timeout)
    limit = waiting.Limit(timeout)
    wanted = configuration.load(config, common.overrides(ctx, lab, None, assignments))
    common.acts_on(ctx, wanted.lab.name, named="name" in wanted.lab.model_fields_set)
    connection = Client(
        wanted.lab.name,
        runtime_directory=Path(wanted.lab.runtime_directory),
        timeout=APPLY_SECONDS,
    )

    def post(*, dry_run: bool) -> dict[str, Any]:
        body = apply_body(wanted, dry_run=dry_run, keep_used=wait)
        return common.mapping(connection.post("/v1/apply", body))

    answer = post(dry_run=dry_run)
    if not as_json:
        _print(answer)
    status = 0
    if wait and not dry_run:
        try:
            waiting.until_active(connection, [each.name for each in wanted.function], limit)
        except typer.Exit as failed:
            # What is to be deleted is deleted all the same.
            status = failed.exit_code
        _delete_the_rest(post, common.rows(answer["plan"]), limit)
        answer["plan"] = [line | {"waits_for": ""} for line in common.rows(answer["plan"])]
    if as_json:
        common.print_json(answer)
    raise typer.Exit(status)


def _print(answer: dict[str, Any]) -> None:
    plan = common.rows(answer["plan"])
    console = common.console()
    if not plan:
        console.print(Remark("nothing to do"))
        return
    console.print(plan_table(plan))
    counts = {action: sum(line["action"] == action for line in plan) for action in SIGNS}
    summary = ", ".join(f"{count} to {action}" for action, count in counts.items() if count)
    outcome = "done" if answer["applied"] else "nothing was changed (dry run)"
    if waiting_for := sum(bool(line["waits_for"]) for line in plan):
        outcome += f"; {waiting_for} of those to delete still used"
    console.print(Remark(f"{summary}: {outcome}"))


def _delete_the_rest(post: Post, plan: list[dict[str, Any]], limit: Limit) -> None:
    """Delete what was in use when the plan was carried out, as it comes free."""
    left = {_key(line): line["waits_for"] for line in plan if line["waits_for"]}
    with waiting.progress(len(left), lambda: _waiting_for(left)) as told:
        while left:
            found = common.rows(post(dry_run=True)["plan"])
            if strange := [line for line in found if _key(line) not in left]:
                kind, name = strange[0]["kind"], strange[0]["name"]
                raise UserError(
                    f"the lab was changed meanwhile, {kind} {name} too; still there: "
                    f"{', '.join(name for _, name in left)} (look at it and apply again)"
                )
            if any(not line["waits_for"] for line in found):
                found = common.rows(post(dry_run=False)["plan"])
            still = {_key(line): line["waits_for"] for line in found if line["waits_for"]}
            for kind, name in left.keys() - still.keys():
                told.done(f"{kind} {name} is deleted")
            left.clear()
            left.update(still)
            told.refresh()
            if left:
                limit.pause(lambda: f"not deleted yet: {_waiting_for(left)}")


def _key(line: Mapping[str, Any]) -> tuple[str, str]:
    return line["kind"], line["name"]


def _waiting_for(left: Mapping[tuple[str, str], str]) -> str:
    return ", ".join(f"{kind} {name} (waits for {user})" for (kind, name), user in left.items())


def apply_body(
    wanted: configuration.Config, *, dry_run: bool = False, keep_used: bool = False
) -> dict[str, Any]:
    """The body of POST /v1/apply."""
    return {
        "config": record.said(wanted),
        "dry_run": dry_run,
        "keep_used": keep_used,
        "client_token": None,
    }


def plan_table(plan: list[dict[str, Any]]) -> Table:
    """The steps of a plan, in their order."""
    result = Table(None, [Column("action"), Column("kind"), Column("name"), Column("detail")])
    for line in plan:
        sign, colour = SIGNS.get(line["action"], ("?", ""))
        detail = f"waits for {line['waits_for']}" if line["waits_for"] else line["detail"]
        result.add_row(Text(sign, style=colour), line["kind"], line["name"], detail)
    return result
