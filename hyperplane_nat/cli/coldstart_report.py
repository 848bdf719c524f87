# SPDX-License-Identifier: Apache-2.0
"""What `coldstart` found, as a table and as a picture.

Measured and modelled times stand apart: the first are this program's own on this machine, the
second are AWS's figures for what this program does not wait for.

matplotlib is in the optional dependencies (`pip install 'hyperplane-nat[plots]'`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import UserError
from hyperplane_nat.cli.tables import Column, Remark, Table

SHARED = "hyperplane"
EACH = "interface-per-environment"
KINDS = (SHARED, EACH)

COLOURS = {SHARED: "#d9480f", EACH: "#1864ab"}


@dataclass(frozen=True, slots=True)
class Measurement:
    """Environments of one kind, started at once. Times are in seconds."""

    kind: str
    requested: int
    started: int
    interfaces: int
    addresses: int
    """Addresses of the subnet that their interfaces take."""
    network_ready_p50: float | None
    """Measured, from the request to an attached environment; None if none was started."""
    network_ready_p99: float | None
    elapsed: float
    """Measured, for all of them."""
    modelled: float
    """What AWS would add to each."""
    error: str | None
    """AWS's name for what stopped it."""
    message: str | None


def measurement(kind: str, answer: dict[str, Any]) -> Measurement:
    """From the answer of POST /v1/functions/{name}/provision."""
    ready: list[float] = answer["network_ready_seconds"]
    error = answer["error"] or {"code": None, "message": None}
    return Measurement(
        kind=kind,
        requested=answer["requested"],
        started=answer["started"],
        interfaces=len(set(answer["interfaces"])),
        addresses=answer["addresses"],
        network_ready_p50=common.percentile(ready, 50) if ready else None,
        network_ready_p99=common.percentile(ready, 99) if ready else None,
        elapsed=answer["elapsed_seconds"],
        modelled=max(answer["modelled_seconds"], default=0.0),
        error=error["code"],
        message=error["message"],
    )


def show(found: Sequence[Measurement]) -> None:
    """Print the table, and what AWS would have refused."""
    console = common.console()
    console.print(table(found))
    for item in found:
        if item.error is not None:
            named = item.error in (item.message or "")
            reason = (item.message or "") if named else f"{item.error}: {item.message or ''}"
            remark = f"{item.kind}, {item.started} of {item.requested}: {reason}"
            console.print(Remark(remark))


def table(found: Sequence[Measurement]) -> Table:
    """A row for each size and kind."""
    result = Table(
        "cold starts",
        [
            Column("environments", numeric=True),
            Column("networking"),
            Column("started", numeric=True, rank=1),
            Column("interfaces", numeric=True),
            Column("subnet addresses", numeric=True, rank=3),
            Column("measured p50", numeric=True, rank=2),
            Column("measured p99", numeric=True, rank=1),
            Column("measured, all", numeric=True, rank=4),
            Column("modelled: AWS adds", numeric=True, rank=1),
            Column("AWS refuses", rank=5),
        ],
    )
    for item in found:
        result.add_row(
            str(item.requested),
            item.kind,
            str(item.started),
            str(item.interfaces),
            str(item.addresses),
            _latency(item.network_ready_p50),
            _latency(item.network_ready_p99),
            _latency(item.elapsed),
            _latency(item.modelled),
            item.error or "",
            end_section=item.kind == KINDS[-1],
        )
    return result


def _latency(seconds: float | None) -> str:
    return "-" if seconds is None else common.latency(seconds)


def check_plot(path: Path) -> None:
    """Raise UserError if there could be no picture at `path`."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise UserError(
            "no plot: matplotlib is not installed (pip install 'hyperplane-nat[plots]')"
        ) from None
    # Not one that needs a display.
    mpl.use("Agg")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise UserError(f"no plot: {path} cannot be written (choose another place)")


def draw(found: Sequence[Measurement], path: Path) -> None:
    """Two pictures side by side as PNG: times and what the network needs, over environments."""
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.5), dpi=110, layout="constrained")
    times, needs = figure.subplots(1, 2)
    _lines(times, found, "measured p50", lambda item: item.network_ready_p50, "o-")
    _lines(times, found, "measured p99", lambda item: item.network_ready_p99, "^:")
    _lines(times, found, "modelled: AWS adds", lambda item: item.modelled, "x--")
    _lines(needs, found, "interfaces", lambda item: item.interfaces, "o-")
    _lines(needs, found, "subnet addresses", lambda item: item.addresses, "x--")
    for axes, label, title in (
        (times, "seconds", "Time until the network is ready"),
        (needs, "number", "What the VPC gives for it"),
    ):
        axes.set(
            xscale="log", yscale="log", xlabel="environments asked for", ylabel=label, title=title
        )
        axes.grid(visible=True, which="major", alpha=0.3)
        axes.margins(y=0.15)
        axes.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12))
    _mark_refusals(needs, found)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise UserError(f"no plot: {path}: {error.strerror} (choose another place)") from None


def _lines(
    axes: Any,
    found: Sequence[Measurement],
    label: str,
    value: Callable[[Measurement], float | None],
    style: str,
) -> None:
    for kind in KINDS:
        # A logarithmic axis has no zero.
        points = [(item.requested, y) for item in found if item.kind == kind and (y := value(item))]
        if points:
            axes.plot(
                *zip(*points, strict=True), style, color=COLOURS[kind], label=f"{kind}: {label}"
            )


def _mark_refusals(axes: Any, found: Sequence[Measurement]) -> None:
    for item in found:
        if item.error is not None and item.interfaces:
            axes.annotate(
                item.error,
                (item.requested, item.interfaces),
                xytext=(0, 8),
                textcoords="offset points",
                ha="right",
                color=COLOURS[item.kind],
                fontsize="small",
            )
