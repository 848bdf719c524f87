# SPDX-License-Identifier: Apache-2.0
"""Showing something again and again, `--watch`.

On a terminal the former picture is drawn over; elsewhere one follows the other. Ctrl-C is how it
ends and no error.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.live import Live

from hyperplane_nat.cli import common

INTERVAL_SECONDS = 2.0

WatchOption = Annotated[
    bool, typer.Option("--watch", help=f"Show it again every {INTERVAL_SECONDS:g} seconds.")
]


def refuse_json(watching: bool, as_json: bool) -> None:
    """UserError for `--watch` together with `--json`."""
    if watching and as_json:
        raise common.UserError("--watch draws tables (leave out --json or --watch)")


def show(draw: Callable[[], RenderableType], watching: bool) -> None:
    """Print what `draw()` returns, once, or every `INTERVAL_SECONDS` until Ctrl-C."""
    console = common.console()
    if not watching:
        console.print(draw())
        return
    with contextlib.suppress(KeyboardInterrupt):
        if not console.is_terminal:
            while True:
                console.print(draw())
                time.sleep(INTERVAL_SECONDS)
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                live.update(draw(), refresh=True)
                time.sleep(INTERVAL_SECONDS)
