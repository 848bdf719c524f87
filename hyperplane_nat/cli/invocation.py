# SPDX-License-Identifier: Apache-2.0
"""`invoke`: a program in an environment of a function, once or many times.

Theory of operation
-------------------
One invocation passes the program on, output as it comes and exit status, so that `invoke` can
stand where the program could. Many are a measurement: so many threads as are to be under way at a
time each send one request after the other, and what comes back is counted. The threads are daemons:
an interrupt does not wait for programs that still run. All times are the controller's own; nothing
of this process is in them.
"""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from hyperplane_nat.cli import common, handlers
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError
from hyperplane_nat.cli.execution import EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND
from hyperplane_nat.client import ApiError, Client, ClientError
from hyperplane_nat.output_frames import END, STDERR, frames

if TYPE_CHECKING:
    from hyperplane_nat.cli.tables import Table

EXIT_TIMED_OUT = 124
"""As of timeout(1)."""

EXIT_SIGNAL = 128
"""Plus the signal's number: as of a shell."""

PROGRAM_ERRORS = {"ProgramNotFound": EXIT_NOT_FOUND, "ProgramNotExecutable": EXIT_NOT_EXECUTABLE}

GRACE_SECONDS = 60.0
"""What an answer may take beyond the program's own timeout."""

CONCURRENCY_MAX = 1000

PERCENTS = (("p50", 50.0), ("p95", 95.0), ("p99", 99.0), ("max", 100.0))


def invoke(
    ctx: typer.Context,
    function: Annotated[str, typer.Argument(metavar="FUNCTION", help="Name of the function.")],
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[-- CMD ...]", help="A program, and no handler.")
    ] = None,
    payload: Annotated[
        str | None,
        typer.Option(metavar="JSON|@FILE", help="Invoke the function's handler with this event."),
    ] = None,
    event: Annotated[
        bool, typer.Option("--async", help="Do not wait for the handler's answer.")
    ] = False,
    log: Annotated[
        bool, typer.Option("--log", help="Show the end of the handler's log, too.")
    ] = False,
    count: Annotated[int, typer.Option(min=1, help="How many times.")] = 1,
    concurrency: Annotated[
        int, typer.Option(min=1, max=CONCURRENCY_MAX, help="How many at a time.")
    ] = 1,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001, metavar="SECONDS", help="Kill the program and its children after so long."
        ),
    ] = None,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="The program reads what is on standard input.")
    ] = False,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Invoke a function's handler, or run a program in an environment of the function."""
    if (payload is None) == (not command):
        raise UserError(
            "either a handler is invoked or a program is run "
            "(write: hyperplane-nat invoke FUNCTION --payload JSON, or FUNCTION -- CMD ...)"
        )
    connection = Client(
        common.lab_name(ctx, lab),
        runtime_directory=common.runtime_root(ctx),
        timeout=None if timeout is None else timeout + GRACE_SECONDS,
    )
    path = f"/v1/functions/{quote(function, safe='')}"
    if payload is not None:
        if count != 1 or timeout is not None or stdin:
            raise UserError("--count, --timeout and --stdin are for programs (leave them out)")
        handlers.invoke(
            connection,
            function,
            handlers.payload_of(payload),
            event=event,
            log=log,
            as_json=as_json,
        )
        return
    given = base64.b64encode(sys.stdin.buffer.read()).decode() if stdin else None
    body = {"command": command, "timeout_seconds": timeout, "stdin": given}

    def call() -> dict[str, Any]:
        return common.mapping(connection.post(f"{path}/invocations", body))

    if count == 1:
        with _program_errors():
            if as_json:
                answer = call()
                common.print_json(answer)
            else:
                streaming = f"{path}/response-streaming-invocations"
                answer = _pass_on(connection.stream("POST", streaming, body=body))
        raise typer.Exit(exit_status(answer))
    summary = summarise(_with_progress(repeat(call, count, concurrency), count, function))
    if as_json:
        common.print_json(summary)
    else:
        _print_summary(summary, function)
    if summary["failed"]:
        raise typer.Exit(1)


@contextlib.contextmanager
def _program_errors() -> Iterator[None]:
    """A program that cannot be run is told as a shell does."""
    try:
        yield
    except ApiError as error:
        if error.code not in PROGRAM_ERRORS:
            raise
        typer.echo(f"hyperplane-nat: {error}", err=True)
        raise typer.Exit(PROGRAM_ERRORS[error.code]) from None


def _pass_on(stream: Iterable[bytes]) -> dict[str, Any]:
    """Write what comes, report how it went, and return that."""
    line_ended = True
    for kind, data in frames(stream):
        if kind == END:
            answer = common.mapping(json.loads(data))
            if not line_ended:
                sys.stderr.buffer.write(b"\n")
                sys.stderr.buffer.flush()
            typer.echo(f"hyperplane-nat: {report(answer)}", err=True)
            return answer
        if kind == STDERR:
            line_ended = data.endswith(b"\n")
        to = sys.stderr.buffer if kind == STDERR else sys.stdout.buffer
        to.write(data)
        to.flush()
    raise ClientError(
        "the controller ended its answer before the program's end (see its controller.log)"
    )


def exit_status(answer: dict[str, Any]) -> int:
    """What a shell would call the end of the program."""
    if answer["timed_out"]:
        return EXIT_TIMED_OUT
    status: int = answer["status"]
    return status if status >= 0 else EXIT_SIGNAL - status


def report(answer: dict[str, Any]) -> str:
    """One line about an invocation: where it ran, and how long its network took."""
    start = "cold" if answer["cold"] else "warm"
    interface = answer["interface"] + (" made for it" if answer["interface_created"] else "")
    parts = [
        f"{start} start in {answer['environment']}",
        f"interface {interface}",
        f"network ready after {common.latency(answer['network_ready_seconds'])}",
    ]
    if answer["modelled_seconds"]:
        parts.append(f"AWS would add {common.latency(answer['modelled_seconds'])}")
    parts.append(f"{common.latency(answer['elapsed_seconds'])} in all")
    if answer["timed_out"]:
        parts.append("timed out")
    elif answer["status"] < 0:
        parts.append(f"killed by signal {-answer['status']}")
    return ", ".join(parts)


def repeat(
    call: Callable[[], dict[str, Any]], count: int, concurrency: int
) -> Iterator[dict[str, Any] | ApiError]:
    """
    The outcomes of `count` calls, `concurrency` at a time, as they come.

    What the controller refuses is an outcome; any other error is raised, and ends it all.
    """
    outcomes: queue.SimpleQueue[dict[str, Any] | Exception] = queue.SimpleQueue()
    # Taking from a list is atomic.
    tickets = [None] * count

    def work() -> None:
        while True:
            try:
                tickets.pop()
            except IndexError:
                return
            try:
                outcomes.put(call())
            except Exception as error:
                outcomes.put(error)

    for _ in range(min(concurrency, count)):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in range(count):
            outcome = outcomes.get()
            if isinstance(outcome, Exception) and not isinstance(outcome, ApiError):
                raise outcome
            yield outcome
    finally:
        tickets.clear()


def _with_progress(
    outcomes: Iterable[dict[str, Any] | ApiError], count: int, function: str
) -> Iterator[dict[str, Any] | ApiError]:
    # What draws is imported where something is drawn: one invocation prints an answer and no more.
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = common.console(stderr=True)
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        yield from bars.track(outcomes, total=count, description=function)


def summarise(outcomes: Iterable[dict[str, Any] | ApiError]) -> dict[str, Any]:
    """
    What many invocations come to: how they began and ended, and percentiles in seconds.

    An invocation has failed if the controller refused it, which counts under the error's code, or
    if its program did. Times are those of all that ran.
    """
    failures: Counter[str] = Counter()
    ran: list[dict[str, Any]] = []
    count = 0
    for outcome in outcomes:
        count += 1
        failure = _failure(outcome)
        if failure is not None:
            failures[failure] += 1
        if not isinstance(outcome, ApiError):
            ran.append(outcome)
    cold = [answer for answer in ran if answer["cold"]]
    return {
        "count": count,
        "failed": failures.total(),
        "cold": len(cold),
        "warm": len(ran) - len(cold),
        "environments": len({answer["environment"] for answer in ran}),
        "interfaces": len({answer["interface"] for answer in ran}),
        "interfaces_created": sum(answer["interface_created"] for answer in ran),
        "network_ready_seconds": _percentiles(ran, "network_ready_seconds"),
        "network_ready_cold_seconds": _percentiles(cold, "network_ready_seconds"),
        "modelled_seconds_max": max((answer["modelled_seconds"] for answer in ran), default=0.0),
        "elapsed_seconds": _percentiles(ran, "elapsed_seconds"),
        "failures": dict(failures.most_common()),
    }


def _failure(outcome: dict[str, Any] | ApiError) -> str | None:
    if isinstance(outcome, ApiError):
        return outcome.code
    if outcome["timed_out"]:
        return "timed out"
    status = outcome["status"]
    if status == 0:
        return None
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _percentiles(answers: list[dict[str, Any]], key: str) -> dict[str, float] | None:
    values = [answer[key] for answer in answers]
    if not values:
        return None
    return {name: common.percentile(values, percent) for name, percent in PERCENTS}


def _print_summary(summary: dict[str, Any], function: str) -> None:
    from hyperplane_nat.cli.tables import Remark

    console = common.console()
    console.print(_times(summary))
    made = summary["interfaces_created"]
    text = (
        f"{function}: {summary['count']} invocations, {summary['cold']} cold, "
        f"{summary['warm']} warm; environments used: {summary['environments']}; "
        f"interfaces used: {summary['interfaces']}"
    )
    console.print(Remark(text + f", {made} of them made for it" * bool(made)))
    if summary["failures"]:
        console.print(_failures(summary["failures"]))


def _times(summary: dict[str, Any]) -> Table:
    from hyperplane_nat.cli.tables import Column, Table

    result = Table(None, [Column("time"), *(Column(name, numeric=True) for name, _ in PERCENTS)])
    for heading, key in (
        ("network ready", "network_ready_seconds"),
        ("network ready, cold starts", "network_ready_cold_seconds"),
        ("in all", "elapsed_seconds"),
    ):
        values = summary[key]
        if values is not None:
            result.add_row(heading, *(common.latency(values[name]) for name, _ in PERCENTS))
    if summary["modelled_seconds_max"]:
        most = common.latency(summary["modelled_seconds_max"])
        result.add_row("AWS would add (modelled)", *[""] * (len(PERCENTS) - 1), most)
    return result


def _failures(failures: dict[str, int]) -> Table:
    from hyperplane_nat.cli.tables import Column, Table

    result = Table("failures", [Column("code"), Column("invocations", numeric=True)])
    for code, number in failures.items():
        result.add_row(code, str(number))
    return result
