# SPDX-License-Identifier: Apache-2.0
"""`events`: what happened in a lab lately, and what happens while one looks.

Following asks again for what came after the last event seen. A controller that is being replaced
meanwhile is waited for; the numbers of its successor's events are higher, so none is missed.
"""

from __future__ import annotations

import json
import time
from typing import Annotated, Any

import typer

from hyperplane_nat.cli import common, watching
from hyperplane_nat.cli.common import JsonOption, LabOption
from hyperplane_nat.client import AwayError, Client

POLL_SECONDS = 0.5

AWAY_SECONDS = 30.0
"""How long a controller that was there may be away before a follower gives up."""


def events(
    ctx: typer.Context,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what happens, until interrupted.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Events to show: the newest; default: all kept.")
    ] = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show events: exhausted ports, a full table, forwarders restarted, interfaces, losses."""
    connection = common.client(ctx, lab)
    rows = common.rows(connection.get("/v1/events", {"limit": limit}))
    if not follow:
        if as_json:
            common.print_json(rows)
        else:
            for row in rows:
                typer.echo(line(row))
        return
    with watching.until_interrupted():
        _follow(connection, rows, as_json=as_json)


def _follow(connection: Client, rows: list[dict[str, Any]], *, as_json: bool) -> None:
    last = 0
    answered = time.monotonic()
    while True:
        for row in rows:
            typer.echo(json.dumps(row) if as_json else line(row))
            last = row["number"]
        watching.pause(POLL_SECONDS)
        try:
            rows = common.rows(connection.get("/v1/events", {"after": last}))
            answered = time.monotonic()
        except AwayError:
            rows = []
            if time.monotonic() > answered + AWAY_SECONDS:
                raise


def line(row: dict[str, Any]) -> str:
    """An event for people: local time, kind, message, what was suppressed."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["time"]))
    more = f" ({row['suppressed']} more not shown)" if row["suppressed"] else ""
    return f"{when}  {row['kind']}  {row['message']}{more}"
