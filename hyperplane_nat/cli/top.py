# SPDX-License-Identifier: Apache-2.0
"""`top`: a running lab at a glance, again and again.

Theory of operation
-------------------
Two looks at the lab make the document that `--json` prints (`ui.look`); the picture is drawn from
the document alone (`top_picture`). A lab that does not answer any more keeps its last picture,
which says so, and is asked again.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.live import Live

from hyperplane_nat.cli import common, watching
from hyperplane_nat.cli.common import JsonOption, LabOption
from hyperplane_nat.cli.top_picture import Picture
from hyperplane_nat.client import Client, ClientError
from hyperplane_nat.ui.look import ANSWER_SECONDS, Looker, document


def top(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="Show it once, as in a pipe.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="From look to look.")
    ] = 1.0,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Watch a lab: traffic, interfaces, ports, drops, events. q or Ctrl-C ends it."""
    name, root = common.lab_name(ctx, lab), common.runtime_root(ctx)
    looker = Looker(Client(name, runtime_directory=root, timeout=ANSWER_SECONDS))
    console = common.console()
    with watching.until_interrupted():
        before = looker.look()
        if once or as_json or not console.is_terminal:
            watching.pause(interval)
            shown = document(before, looker.look())
            if as_json:
                common.print_json(shown)
            else:
                console.print(Picture(shown))
            return
        shown, away = document(before, before), None
        with (
            Live(Picture(shown), console=console, screen=True, auto_refresh=False) as live,
            watching.keyboard() as wait,
        ):
            while b"q" not in wait(interval):
                try:
                    now = looker.look()
                except ClientError as error:
                    away = away or time.time()
                    live.update(Picture(shown, away, str(error)), refresh=True)
                    continue
                shown, before, away = document(before, now), now, None
                live.update(Picture(shown), refresh=True)
