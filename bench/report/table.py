# SPDX-License-Identifier: Apache-2.0
"""The results in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.gateways import REPORTED
from bench.report import host as hosts

PIPE_WIDTH = 200


def number(value: float) -> str:
    """Four digits at most, with a separator: 1,234,000 or 12.3 or 0.45."""
    size = abs(value)
    if size >= 1000:
        digits = 3 - len(str(int(size)))
        return f"{round(value, min(digits, 0)):,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def spread(result: dict[str, Any]) -> str:
    """Median, and from where to where the runs went."""
    text = number(result["median"])
    if len(result["runs"]) > 1:
        text += f"\n{number(result['min'])} – {number(result['max'])}"
    return text


def verdict(entry: dict[str, Any]) -> Text:
    """Met, missed or nothing, with every comparison."""
    if entry["met"] is None:
        return Text("")
    lines = Text()
    # Targets of the workload's own always; being ahead of others only where it is not so.
    shown = [
        each for each in entry["checks"] if not each["text"].startswith("ahead") or not each["met"]
    ]
    for each in shown:
        mark, style = ("met", "green") if each["met"] else ("MISSED", "bold red")
        if lines:
            lines.append("\n")
        lines.append(mark, style=style)
        lines.append(f"  {each['text']}: {number(each['value'])}")
        stretch = each["stretch"]
        if stretch is not None and each["met"]:
            at_least = each["text"].startswith("≥")
            beyond = each["value"] >= stretch if at_least else each["value"] <= stretch
            if beyond:
                lines.append(f" (stretch {number(stretch)} too)")
    if not shown:
        lines.append("ahead", style="green")
    return lines


def contenders(document: dict[str, Any]) -> list[str]:
    """Those with a result, in the usual order."""
    seen = {name for entry in document["workloads"] for name in entry["results"]}
    return [name for name in REPORTED if name in seen]


def build(document: dict[str, Any], names: Sequence[str]) -> Table:
    """One row per workload."""
    table = Table(title_justify="left", header_style="bold", show_lines=False, pad_edge=False)
    table.title = f"{document['profile']} bench, median of {document['rounds']} rounds (min – max)"
    table.add_column("workload", overflow="fold")
    table.add_column("unit")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("to nft", justify="right")
    table.add_column("targets")
    group = None
    for entry in document["workloads"]:
        if group is not None and entry["group"] != group:
            table.add_section()
        group = entry["group"]
        cells = [
            spread(entry["results"][name]) if name in entry["results"] else "" for name in names
        ]
        ratio = entry["ratio_to_nft"]
        table.add_row(
            entry["title"],
            entry["unit"],
            *cells,
            "" if ratio is None else f"{ratio:.2f}",
            verdict(entry),
        )
    return table


def show(document: dict[str, Any], console: Console) -> None:
    """Table, host, who was left out, warnings, and the sum of it."""
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    console.print(build(document, contenders(document)))
    console.print(hosts.one_line(document["host"]))
    for name, reason in document["skipped"].items():
        console.print(f"left out: {name}: {reason}")
    for text in document["warnings"]:
        console.print(f"warning: {text}")
    console.print(summary(document))


def summary(document: dict[str, Any]) -> str:
    """How many targets are met, and which are not."""
    judged = [entry for entry in document["workloads"] if entry["met"] is not None]
    missed = [entry["name"] for entry in judged if not entry["met"]]
    text = f"{len(judged) - len(missed)} of {len(judged)} workloads with a target meet it"
    return f"{text}; missed: {', '.join(missed)}" if missed else text
