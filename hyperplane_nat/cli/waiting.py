# SPDX-License-Identifier: Apache-2.0
"""`wait`: until functions are Active; and what `up --wait` and `apply --wait` share with it.

As AWS's waiters (`function-active-v2`, `function-updated-v2`): a function is waited for while it is
Pending or its last update InProgress. Failed is the end, and so is Inactive, which nothing but an
invocation changes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError
from hyperplane_nat.client import AwayError, Client

if TYPE_CHECKING:
    from rich.progress import Progress

EXIT_FAILED = 1
EXIT_TIMED_OUT = 124
"""As of timeout(1)."""

POLL_SECONDS = 0.2

AWAY_SECONDS = 30.0
"""How long a controller that was there may be away: another one may take over."""

TimeoutOption = Annotated[
    float | None,
    typer.Option(min=0.0, metavar="SECONDS", help="Wait so long at most; default: no limit."),
]


def wait(
    ctx: typer.Context,
    functions: Annotated[
        list[str] | None, typer.Argument(metavar="[FUNCTION...]", help="Which; default: all.")
    ] = None,
    timeout: TimeoutOption = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Wait until functions are Active and their last update is done."""
    limit = Limit(timeout)
    connection = common.client(ctx, lab)
    rows = until_active(connection, functions or None, limit)
    if as_json:
        common.print_json(rows)
    else:
        typer.echo(f"{len(rows)} function{'s are' if len(rows) != 1 else ' is'} Active")


def check_options(wanted: bool, timeout: float | None) -> None:
    """UserError for a limit of something that is not waited for."""
    if timeout is not None and not wanted:
        raise UserError("--timeout is for waiting (add --wait)")


class Limit:
    """How long to wait, from now on."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def pause(self, left: Callable[[], str]) -> None:
        """Wait for a moment; end the command when the time is up, saying what is `left`."""
        if self._end is not None and time.monotonic() >= self._end:
            typer.echo(f"hyperplane-nat: after {self._seconds:g} s {left()}", err=True)
            raise typer.Exit(EXIT_TIMED_OUT)
        time.sleep(POLL_SECONDS)


class Told:
    """What is told while one waits: a bar on a terminal, a line for each step elsewhere."""

    def __init__(self, bars: Progress, total: int, left: Callable[[], str]) -> None:
        self._bars = bars
        self._left = left
        self._task = bars.add_task(left(), total=total)

    def done(self, what: str) -> None:
        """One more is done."""
        if self._bars.disable:
            typer.echo(f"hyperplane-nat: {what}", err=True)
        self._bars.advance(self._task)

    def refresh(self) -> None:
        """Show what is left now."""
        self._bars.update(self._task, description=self._left())


@contextlib.contextmanager
def progress(total: int, left: Callable[[], str]) -> Iterator[Told]:
    """Tell how many of `total` are done, and what is `left`, on standard error."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    console = common.console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal or total == 0,
    ) as bars:
        yield Told(bars, total, left)


def until_active(
    connection: Client, names: Sequence[str] | None, limit: Limit
) -> list[dict[str, Any]]:
    """
    Wait for functions, None for all; their rows of GET /v1/functions.

    Ends the command when one has Failed or is Inactive, each with its reason, or the time is up.
    """
    rows = _chosen(connection.get("/v1/functions"), names)
    left = [row for row in rows if _waits(row)]

    def pending() -> str:
        return ", ".join(f"{row['FunctionName']} ({_state(row)})" for row in left)

    with progress(len(left), pending) as told:
        while left:
            limit.pause(lambda: f"not Active yet: {pending()}")
            before = {row["FunctionName"] for row in left}
            rows = _chosen(_patiently(connection, "/v1/functions"), names)
            left[:] = [row for row in rows if _waits(row)]
            for row in rows:
                if row["FunctionName"] in before and not _waits(row):
                    told.done(f"function {row['FunctionName']} is {_state(row)}")
            told.refresh()
    failed = [row for row in rows if not _succeeded(row)]
    for row in failed:
        typer.echo(f"hyperplane-nat: {_why(row)}", err=True)
    if failed:
        raise typer.Exit(EXIT_FAILED)
    return rows


def _chosen(answer: object, names: Sequence[str] | None) -> list[dict[str, Any]]:
    rows = common.rows(answer)
    if names is None:
        return rows
    by_name = {row["FunctionName"]: row for row in rows}
    for name in names:
        if name not in by_name:
            raise UserError(f"there is no function {name!r} (hyperplane-nat functions lists them)")
    return [by_name[name] for name in dict.fromkeys(names)]


def _patiently(connection: Client, path: str) -> object:
    """The answer, also of the controller that takes over from one that is gone."""
    end = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            return connection.get(path)
        except AwayError:
            # Away, or ended while it answered.
            if time.monotonic() > end:
                raise
        time.sleep(POLL_SECONDS)


def _waits(row: dict[str, Any]) -> bool:
    return bool(row["State"] == "Pending" or row["LastUpdateStatus"] == "InProgress")


def _succeeded(row: dict[str, Any]) -> bool:
    return (row["State"], row["LastUpdateStatus"]) == ("Active", "Successful")


def _state(row: dict[str, Any]) -> str:
    state, update = row["State"], row["LastUpdateStatus"]
    return state if state != "Active" or update == "Successful" else f"{state}, update {update}"


def _why(row: dict[str, Any]) -> str:
    """One line about a function that is not Active and will not be."""
    name, state = row["FunctionName"], row["State"]
    if state == "Inactive":
        return f"function {name} is Inactive: {row['StateReason']} (invoke it to wake it)"
    of, what = ("State", f"is {state}") if state == "Failed" else ("LastUpdateStatus", "")
    code, reason = row[f"{of}ReasonCode"], row[f"{of}Reason"]
    what = what or "is Active, but its last update Failed"
    return f"function {name} {what}: {code}: {reason} (change it and apply again)"
