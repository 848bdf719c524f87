# SPDX-License-Identifier: Apache-2.0
"""Two builds: the table in the terminal, and the document."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.against import CONFIDENCE, Comparison
from bench.gateways.hyperplane import Build
from bench.report.table import number


def document(
    comparisons: Sequence[Comparison],
    *,
    host: dict[str, Any],
    builds: tuple[Build, Build],
    seconds: float,
    stopped_early: bool,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """What `--json` prints; `builds` are ours and the other."""
    ours, other = ({"version": each.version, "directory": each.directory} for each in builds)
    return {
        "host": host,
        "ours": ours,
        "other": other,
        "confidence": CONFIDENCE,
        "duration_seconds": seconds,
        "stopped_early": stopped_early,
        "warnings": list(warnings),
        "comparisons": [each.document() for each in comparisons],
    }


def show(comparisons: Sequence[Comparison], console: Console) -> None:
    """One row for each measurement."""
    table = Table(title="this build by the other: more than 1 is faster", title_justify="left")
    table.add_column("measurement")
    table.add_column("unit")
    for column in ("rounds", "this build", "other build", "ratio", f"{CONFIDENCE:.0%} interval"):
        table.add_column(column, justify="right")
    for each in comparisons:
        table.add_row(
            each.measurement.name,
            each.measurement.unit,
            str(len(each.ours)),
            number(statistics.median(each.ours)),
            number(statistics.median(each.other)),
            f"{each.ratio:.3f}",
            "" if each.interval is None else f"{each.interval.low:.3f} – {each.interval.high:.3f}",
        )
    console.print(table)
