# SPDX-License-Identifier: Apache-2.0
"""One bar chart per workload, as PNG: bars are medians, whiskers go from the lowest to the highest.

matplotlib is in the optional dependencies (`pip install hyperplane-nat[plots]`); without it
`draw` raises BenchError, and the run says so and goes on to the page without pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.gateways import CACHED, KERNEL, LIMIT, OURS, REPORTED

COLOURS = {OURS: "#d9480f", CACHED: "#0b7285", KERNEL: "#1864ab", LIMIT: "#868e96"}
OTHER_COLOURS = ("#2b8a3e", "#862e9c", "#5c940d")
BAR = 0.8
INCHES_PER_BAR = 0.27
LOG_FROM = 30.0
"""Ratio of the largest bar to the smallest from which on the axis is logarithmic."""


def draw(document: dict[str, Any], directory: Path) -> dict[str, Path]:
    """One file per group and unit in `directory`; their paths by group."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise BenchError(
            "no plots: matplotlib is not installed (pip install 'hyperplane-nat[plots]')"
        ) from None
    mpl.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in document["workloads"]:
        groups.setdefault(entry["group"], []).append(entry)
    result = {}
    for group, entries in groups.items():
        for place, (unit, same) in enumerate(_by_unit(entries).items()):
            name = group if place == 0 else f"{group}_{place + 1}"
            result[name] = directory / f"{name}.png"
            _chart(name.replace("_", " "), unit, same, result[name])
    return result


def _by_unit(entries: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    result: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        result.setdefault(entry["unit"], []).append(entry)
    return result


def _chart(title: str, unit: str, entries: list[dict[str, Any]], path: Path) -> None:
    from matplotlib.figure import Figure

    names = [name for name in REPORTED if any(name in entry["results"] for entry in entries)]
    bars = len(entries) * len(names)
    figure = Figure(figsize=(9, 1.4 + INCHES_PER_BAR * bars + 0.15 * len(entries)), dpi=110)
    axes = figure.subplots()
    height = BAR / len(names)
    spare = iter(OTHER_COLOURS)
    for place, name in enumerate(names):
        colour = COLOURS.get(name) or next(spare)
        positions, medians, low, high = [], [], [], []
        for row, entry in enumerate(entries):
            found = entry["results"].get(name)
            if found is None:
                continue
            positions.append(row + (place - (len(names) - 1) / 2) * height)
            medians.append(found["median"])
            low.append(found["median"] - found["min"])
            high.append(found["max"] - found["median"])
        axes.barh(
            positions,
            medians,
            height * 0.92,
            xerr=(low, high),
            color=colour,
            label=name,
            error_kw={"elinewidth": 1, "ecolor": "#212529"},
        )
    better = "higher" if entries[0]["higher_is_better"] else "lower"
    values = [each["median"] for entry in entries for each in entry["results"].values()]
    if min(values) > 0 and max(values) / min(values) > LOG_FROM:
        axes.set_xscale("log")
    elif max(values) >= 1000:
        axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_yticks(range(len(entries)), [entry["title"] for entry in entries], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit} ({better} is better)" if unit else f"{better} is better")
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": "hyperplane-nat bench"})
