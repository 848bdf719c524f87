# SPDX-License-Identifier: Apache-2.0
"""The command line: `all`, `quick`, one workload, or `against` another build.

Exit status: 0 when the run is complete, targets met or not (a bench is not a test); 2 when it could
not be made at all; 130 when interrupted. Whatever happens, everything that was started is stopped
and removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from bench import against, gateways, handlers, processes, strays, workloads
from bench.errors import BenchError, MissingToolError
from bench.gateways.base import Options
from bench.gateways.hyperplane import Build, build_of, isolated
from bench.progress import Display, clock_text
from bench.report import comparison, page, plots, table
from bench.report import document as documents
from bench.report import host as hosts
from bench.session import FULL, LAB_SECONDS, QUICK, Profile, Session
from netns import NetnsError

RESULTS = Path(__file__).resolve().parent / "results"
AGAINST = tuple(name for name in workloads.FULL if name != workloads.FlowTable.name)
"""What needs nothing but a lab can be measured with another build's."""
AGAINST_DEFAULT = tuple(name for name in AGAINST if name not in ("flood", "scale"))
AGAINST_PROFILE = replace(QUICK, name="against", rounds=1, new_flow_rounds=1, budget_seconds=0)
QUICK_CONTENDERS = (gateways.OURS, gateways.KERNEL)
ALIASES = {"cache off": gateways.OURS}
"""Other names of contenders."""

ROUNDS_LEAST = 1

app = typer.Typer(
    name="bench",
    help="Measure hyperplane-nat against the kernel's NAT, slirp4netns, pasta and a bare link.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ContenderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--contender", "-c", metavar="NAME", help=f"Repeatable; of: {', '.join(gateways.ALL)}."
    ),
]
RoundsOption = Annotated[
    int | None, typer.Option("--rounds", min=ROUNDS_LEAST, help="Rounds of each measurement.")
]
BriefOption = Annotated[
    bool, typer.Option("--brief", help="Only what has a target, as `quick` does.")
]
ResultsOption = Annotated[
    Path, typer.Option("--results", metavar="DIRECTORY", help="Where the files go.")
]


class _InterruptedError(BaseException):
    """SIGINT or SIGTERM, so that contexts are left in order."""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # Once: what is tidied up now must not be interrupted by an impatient second time.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise _InterruptedError


def choose(contenders: Sequence[str] | None, default: Sequence[str]) -> list[str]:
    """The contenders that are meant, ours first; BenchError for a name that is none."""
    wanted = {ALIASES.get(name, name) for name in contenders or default}
    if unknown := sorted(wanted - gateways.ALL.keys()):
        raise BenchError(f"no contender {unknown[0]!r} (of: {', '.join(gateways.ALL)})")
    return [name for name in gateways.ALL if name in wanted | {gateways.OURS}]


def estimate(profile: Profile, names: Sequence[str], contenders: Sequence[str]) -> float:
    """Seconds that a run should take."""
    shared = 0.0
    if set(names) & {"udp", "tcp", "latency", "new_flows"}:
        shared = sum(LAB_SECONDS.get(each, 0.3) for each in contenders)
    return shared + sum(workloads.ALL[name]().seconds(profile, contenders) for name in names)


def run(
    names: Sequence[str],
    profile: Profile,
    contenders: Sequence[str],
    results: Path,
    console: Console,
) -> dict[str, Any]:
    """Run workloads, show and write what came of it; the JSON document."""
    started, clock = datetime.now(UTC), time.monotonic()
    host = hosts.describe()
    if host["load_before"] > 0.5 * host["processors"]:
        console.print(
            f"warning: the machine is busy (load {host['load_before']}): figures will be noisy"
        )
    with (
        Display(console, estimate(profile, names, contenders)) as display,
        Session(profile, contenders, display) as session,
    ):
        for name in contenders:
            try:
                processes.require(*gateways.ALL[name].tools)
            except MissingToolError as error:
                session.skip(name, str(error))
        for name in names:
            workloads.ALL[name]().run(session)
        display.show("removing the labs")
    document = documents.build(
        session.measurements,
        host=host,
        started=started,
        seconds=time.monotonic() - clock,
        profile=profile.name,
        rounds=profile.rounds,
        warnings=session.warnings,
        skipped=session.skipped,
    )
    write(document, results, started, console)
    return document


def write(document: dict[str, Any], results: Path, started: datetime, console: Console) -> None:
    """The table on the console, and the files."""
    pictures: dict[str, Path] = {}
    try:
        pictures = plots.draw(document, results / documents.file_stem(started))
    except BenchError as error:
        document["warnings"].append(str(error))
    path = documents.write(document, results, started)
    report = path.with_suffix(".html")
    report.write_text(page.build(document, pictures), encoding="utf-8")
    table.show(document, console)
    console.print(f"took {clock_text(document['duration_seconds'])}")
    for line in (path, report, *pictures.values()):
        console.print(f"  {line}", soft_wrap=True)


def execute(
    names: Sequence[str],
    profile: Profile,
    contenders: Sequence[str] | None,
    rounds: int | None,
    results: Path,
    default: Sequence[str] = tuple(gateways.ALL),
) -> None:
    """A command: run and exit."""
    console = _console()
    if rounds is not None:
        least = min(rounds, profile.new_flow_rounds), min(rounds, profile.table_rounds)
        profile = replace(profile, rounds=rounds, new_flow_rounds=least[0], table_rounds=least[1])
    with _in_order(console, labs=set(names) != {"flow_table"}):
        run(names, profile, choose(contenders, default), results, console)


def _console(*, stderr: bool = False) -> Console:
    console = Console(highlight=False, markup=False, stderr=stderr)
    if not console.is_terminal:
        console.width = table.PIPE_WIDTH
    return console


@contextlib.contextmanager
def _in_order(console: Console, *, labs: bool) -> Iterator[None]:
    """A command that ends with its exit status; with `labs`, the only one that has any."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        if os.geteuid() != 0 and labs:
            raise BenchError("namespaces need root (run it with sudo)")
        with contextlib.ExitStack() as stack:
            if labs:
                stack.enter_context(strays.only_one())
                for lab in strays.clear():
                    console.print(f"removed lab {lab} that a killed run had left")
            yield
    except (BenchError, NetnsError) as error:
        typer.echo(f"bench: {error}", err=True)
        raise typer.Exit(2) from None
    except _InterruptedError:
        typer.echo("bench: interrupted; everything it started is removed", err=True)
        raise typer.Exit(130) from None


@app.command("all")
def everything(
    contender: ContenderOption = None,
    rounds: RoundsOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """Every comparison with every contender, at most 17 minutes; `observed` runs by itself."""
    execute(workloads.FULL, FULL, contender, rounds, results)


@app.command()
def quick(
    contender: ContenderOption = None,
    rounds: RoundsOption = None,
    results: ResultsOption = RESULTS,
) -> None:
    """What has a target, against nft only; at most 90 seconds."""
    execute(workloads.QUICK, QUICK, contender, rounds, results, QUICK_CONTENDERS)


@app.command("against")
def compare_builds(
    python: Annotated[
        Path,
        typer.Option(
            "--python", metavar="PATH", help="Interpreter with the other build installed."
        ),
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORKLOAD]...", help=f"Of: {', '.join(AGAINST)}; all but flood and scale."
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=ROUNDS_LEAST,
            help=f"So many rounds (default {against.ROUNDS}); with --until at least so many "
            f"(default {against.LEAST_ROUNDS}).",
        ),
    ] = None,
    until: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="HALF-WIDTH",
            help="Go on until every interval but those of p99 and p99.9 is that narrow: 0.05.",
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="No round ends later than so many minutes.")
    ] = 10.0,
    everything: Annotated[
        bool, typer.Option("--full", help="Every case of each workload, not those with a target.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The document instead of a table.")
    ] = False,
) -> None:
    """This build and another one in turn: ratios, and how sure they are."""
    console = _console(stderr=as_json)
    chosen = [spelling.replace("-", "_") for spelling in names or AGAINST_DEFAULT]
    least = rounds or (against.ROUNDS if until is None else against.LEAST_ROUNDS)
    with _in_order(console, labs=False):
        builds = two_builds(chosen, python)
    with _in_order(console, labs=True):
        for word, build in zip(("this build ", "other build"), builds, strict=True):
            console.print(f"{word} {build.version}  {build.directory}", soft_wrap=True)
        plan = against.Plan(least, until, 60 * minutes)
        document, comparisons = contest(chosen, python, builds, plan, console, brief=not everything)
        if as_json:
            typer.echo(json.dumps(document, indent=2))
        else:
            comparison.show(comparisons, console)
            console.print(f"took {clock_text(document['duration_seconds'])}")


@app.command("handlers")
def measure_handlers(
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Cold starts of each kind.")] = 50,
    environments: Annotated[
        int,
        typer.Option(
            "-n",
            "--environments",
            min=0,
            max=2000,
            help="Memory is that of so many and twice as many; 0: it is not measured.",
        ),
    ] = 1000,
    crowd: Annotated[
        int, typer.Option("--at-once", min=0, max=1000, help="Cold starts in the same moment.")
    ] = 200,
    flows: Annotated[
        bool, typer.Option(help="Advance the clock of a lab with 100,000 flows.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="The figures instead of tables.")] = False,
) -> None:
    """Cold, warm and thawed starts of handlers, the clock, and the memory of environments without a
    process.
    """
    console = _console(stderr=as_json)
    with _in_order(console, labs=True):
        report = handlers.measure(rounds, environments, crowd, flows=flows)
        if as_json:
            typer.echo(json.dumps(report.document(), indent=2))
        else:
            handlers.show(report, console)


def two_builds(names: Sequence[str], python: Path) -> tuple[Build, Build]:
    """This build and that of an interpreter; BenchError when they cannot be compared in `names`."""
    if unknown := [name for name in names if name not in AGAINST]:
        raise BenchError(f"no workload {unknown[0]!r} to compare (of: {', '.join(AGAINST)})")
    builds = build_of([sys.executable]), build_of(isolated(python))
    if builds[0].directory == builds[1].directory:
        raise BenchError(f"{python} runs this very build: {builds[0].directory}")
    return builds


def contest(
    names: Sequence[str],
    python: Path,
    builds: tuple[Build, Build],
    plan: against.Plan,
    console: Console,
    *,
    brief: bool,
) -> tuple[dict[str, Any], list[against.Comparison]]:
    """Compare this build with that of an interpreter; the JSON document, and what is in it."""
    host, clock = hosts.describe(), time.monotonic()
    profile = replace(AGAINST_PROFILE, brief=brief)
    makers: dict[str, Callable[[Options], gateways.Gateway]] = {
        gateways.OURS: gateways.HyperplaneNat,
        gateways.OTHER: partial(gateways.OtherBuild, python=python),
    }
    with (
        Display(console, plan.rounds * estimate(profile, names, gateways.BUILDS)) as display,
        Session(profile, gateways.BUILDS, display, makers) as session,
    ):
        chosen = [workloads.ALL[name]() for name in names]
        found = against.Contest(session, chosen, plan, time.monotonic)
        comparisons = found.run()
        if found.stopped_early:
            session.warn("the minutes were over before all was measured as wanted")
        display.show("removing the labs")
    document = comparison.document(
        comparisons,
        host=host,
        builds=builds,
        seconds=time.monotonic() - clock,
        stopped_early=found.stopped_early,
        warnings=session.warnings,
    )
    return document, comparisons


def _add(name: str, workload: type[workloads.Workload]) -> None:
    def command(
        contender: ContenderOption = None,
        rounds: RoundsOption = None,
        brief: BriefOption = False,
        results: ResultsOption = RESULTS,
    ) -> None:
        execute((name,), replace(FULL, brief=brief, name=name), contender, rounds, results)

    # `new-flows` as one types it, `new_flows` as the report has it.
    for spelling in dict.fromkeys((name.replace("_", "-"), name)):
        hidden = spelling != name.replace("_", "-")
        app.command(spelling, help=f"{workload.summary}.", hidden=hidden)(command)


for _name, _workload in workloads.ALL.items():
    _add(_name, _workload)
