# SPDX-License-Identifier: Apache-2.0
"""`coldstart`: one network interface for all environments against one for each.

Theory of operation
-------------------
The comparison has a lab of its own with a random name, removed at the end and when it is
interrupted. It holds two VPCs with a subnet of 4,091 free addresses each, and a function in each:
one whose environments share an interface, one whose environments have their own, as on AWS before
2019. For 1, 10, 100, 1,000 environments both are asked to start as many ahead. Functions of the
next size take the place of those of the last, so that every size begins with no environment, no
interface and a full pool.

Two kinds of time, never added up: what this program's network took, measured; and what AWS takes
for the same, modelled. All that the lab does between the measurements (making and deleting
interfaces) takes no modelled time, so that nobody waits for it.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hyperplane_nat.cli import coldstart_report, common, lifecycle, removal
from hyperplane_nat.cli.applying import apply_body
from hyperplane_nat.cli.coldstart_report import EACH, KINDS, SHARED, Measurement
from hyperplane_nat.cli.common import JsonOption, UserError
from hyperplane_nat.client import Client
from hyperplane_nat.config.lab import Config

SIZES = (1, 10, 100, 1000)

ENVIRONMENTS_MAX = 4000
"""Below the 4,091 free addresses of a /20, so that AWS's quota is what ends it."""

FLOWS_MAX = 65_536
"""No packet is sent: the flow table can be small."""

FOREVER_SECONDS = 366 * 86400.0

ANSWER_SECONDS = 600.0
"""How long the controller may take for the environments of one size."""

SETTLE_SECONDS = 300.0
"""How long a lab may take to fill its pool and to remove the interfaces of the last size."""

POLL_SECONDS = 0.2

VPCS = {SHARED: "shared", EACH: "each"}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A lab to compare in: what it is called, where it lives, how many environments it starts."""

    lab: str
    runtime_directory: str
    environments: int

    @property
    def sizes(self) -> list[int]:
        """How many environments are started, one after the other."""
        return [size for size in SIZES if size < self.environments] + [self.environments]

    def config(self, size: int) -> Config:
        """The lab with the functions for `size` environments."""
        return Config.model_validate(
            {
                "lab": {"name": self.lab, "runtime_directory": self.runtime_directory},
                "pool": {"size": self.environments},
                "flows": {"max": FLOWS_MAX},
                "metrics": {"port": 0},
                "lifecycle": {
                    "interface_creation_seconds": 0.0,
                    "interface_deletion_seconds": 0.0,
                    "per_environment_deletion_seconds": 0.0,
                    "warm_idle_seconds": FOREVER_SECONDS,
                },
                "vpc": [
                    {
                        "name": name,
                        "cidr": "10.0.0.0/16",
                        "subnet": [{"name": f"{name}-a", "cidr": "10.0.0.0/20"}],
                        "security_group": [{"name": "functions"}],
                    }
                    for name in VPCS.values()
                ],
                "function": [
                    {
                        "name": function_name(kind, size),
                        "networking": kind,
                        "vpc": name,
                        "subnets": [f"{name}-a"],
                        "security_groups": ["functions"],
                    }
                    for kind, name in VPCS.items()
                ],
            }
        )


def function_name(kind: str, size: int) -> str:
    """The function that `size` environments of a kind are started of."""
    return f"{kind}-{size}"


def coldstart(
    ctx: typer.Context,
    environments: Annotated[
        int,
        typer.Option("-n", "--environments", min=1, max=ENVIRONMENTS_MAX, help="Up to how many."),
    ] = SIZES[-1],
    plot: Annotated[
        Path | None,
        typer.Option(
            parser=common.path("--plot"), metavar="FILE.png", help="Also draw the comparison."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare cold starts with a shared interface and with one for each environment."""
    common.require_root(ctx, "coldstart")
    if plot is not None:
        # Before the work of a minute, not after it.
        coldstart_report.check_plot(plot)
    comparison = Comparison(
        f"cold-{secrets.token_hex(4)}", str(common.runtime_root(ctx).absolute()), environments
    )
    found = _with_progress(comparison)
    if plot is not None:
        coldstart_report.draw(found, plot)
    if as_json:
        common.print_json([asdict(measurement) for measurement in found])
    else:
        coldstart_report.show(found)
    if any(measurement.error and measurement.kind == SHARED for measurement in found):
        raise typer.Exit(1)


def _with_progress(comparison: Comparison) -> list[Measurement]:
    console = common.console(stderr=True)
    with (
        Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as bars,
        interruptible(),
    ):
        show = lifecycle.progress_bars(bars)
        with temporary_lab(comparison.config(comparison.sizes[0]), show) as connection:
            return measure(connection, comparison, show)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let SIGTERM end the work as Ctrl-C does, and Ctrl-C in every case: the lab is removed."""
    with _handled(signal.default_int_handler):
        yield


@contextlib.contextmanager
def temporary_lab(config: Config, progress: Callable[[str, int, int], None]) -> Iterator[Client]:
    """A lab of this configuration for as long as the context lasts; UserError if there is none."""
    name, root = config.lab.name, Path(config.lab.runtime_directory)
    lifecycle.start(config, progress)
    try:
        yield Client(name, runtime_directory=root, timeout=ANSWER_SECONDS)
    finally:
        progress("removing the lab", 0, 1)
        with _uninterrupted():
            if not removal.stop(name, root):
                removal.clean(name, root)
        progress("removing the lab", 1, 1)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Who presses Ctrl-C twice wants the end sooner, not half of the lab left."""
    with _handled(signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, former in zip(numbers, before, strict=True):
            signal.signal(number, former)


def measure(
    connection: Client, comparison: Comparison, progress: Callable[[str, int, int], None]
) -> list[Measurement]:
    """
    Start the environments of all sizes and both kinds in a lab that has the functions of the first.

    Raises UserError for a lab that does not get ready, ClientError for one that does not answer.
    """
    found: list[Measurement] = []
    total = len(comparison.sizes) * len(KINDS)
    progress("cold starts", 0, total)
    for size in comparison.sizes:
        if size != comparison.sizes[0]:
            connection.post("/v1/apply", apply_body(comparison.config(size)))
        for kind in KINDS:
            settle(connection, comparison.environments)
            name = function_name(kind, size)
            answer = connection.post(f"/v1/functions/{name}/provision", {"count": size})
            found.append(coldstart_report.measurement(kind, common.mapping(answer)))
            progress("cold starts", len(found), total)
    return found


def settle(connection: Client, pool: int, timeout_seconds: float = SETTLE_SECONDS) -> None:
    """Wait until functions are Active, the pool is full and no interface is left of before."""
    deadline = time.monotonic() + timeout_seconds
    while (missing := unsettled(connection, pool)) is not None:
        if time.monotonic() > deadline:
            raise UserError(
                f"the lab is not ready after {timeout_seconds:g} seconds: {missing} "
                "(try fewer environments: --environments N)"
            )
        time.sleep(POLL_SECONDS)


def unsettled(connection: Client, pool: int) -> str | None:
    """What a lab is still waiting for; UserError if that will never come."""
    for function in common.rows(connection.get("/v1/functions")):
        if function["State"] == "Failed":
            raise UserError(
                f"function {function['FunctionName']} failed: {function['StateReason']} "
                "(please report this)"
            )
        if function["State"] != "Active":
            return f"function {function['FunctionName']} is {function['State']}"
    leaving = _count(connection.get("/v1/interfaces"), "kind", "per-environment")
    if leaving:
        return f"{leaving} network interfaces are being removed"
    environments = connection.get("/v1/environments")
    terminating = _count(environments, "state", "terminating")
    if terminating:
        return f"{terminating} environments are being removed"
    pooled = _count(environments, "state", "pooled")
    return None if pooled >= pool else f"the pool has {pooled} of {pool} environments"


def _count(document: Any, field: str, value: str) -> int:
    return sum(row[field] == value for row in common.rows(document))
