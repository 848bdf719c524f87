# SPDX-License-Identifier: Apache-2.0
"""The picture of `top`, drawn from its document.

On a terminal it fits the screen: the head has three lines, and one for why a lab does not answer;
each section has a heading and its rows. The lines that are left are dealt out to the sections in
turn, so that a long one takes only what the others do not need; a heading says how many rows there
are when not all are shown. In a pipe it is everything, as tables are.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from hyperplane_nat.cli import events
from hyperplane_nat.cli.ports import remote_name
from hyperplane_nat.cli.tables import Column, Table, visible

BAR_CELLS = 10

Section = tuple[str, list[Column], list[list[str]]]
"""Title, columns, rows."""


class Picture:
    """For rich's consoles to print."""

    def __init__(
        self, document: dict[str, Any], away_since: float | None = None, why: str = ""
    ) -> None:
        """`away_since` is when the lab was found not to answer, in seconds since the epoch."""
        self._document = document
        self._away_since = away_since
        self._why = why

    def __rich_console__(self, console: Console, _options: ConsoleOptions) -> RenderResult:
        terminal = console.is_terminal
        sections = _sections(self._document)
        if not terminal:
            yield _table("lab", [Column("figure"), Column("value")], _head(self._document))
            for title, columns, rows in sections:
                yield _table(title, columns, rows)
            return
        head = list(self._head_lines())
        for line in head:
            line.truncate(console.width, overflow="ellipsis")
            yield line
        room = max(console.height - len(head) - len(sections), 0)
        counts = deal(room, [len(rows) for _, _, rows in sections])
        for (title, columns, rows), count in zip(sections, counts, strict=True):
            first = columns[0]
            if count < len(rows):
                first = replace(first, heading=f"{first.heading} ({count} of {len(rows)})")
            yield _table(title, [first, *columns[1:]], rows[:count], compact=True)

    def _head_lines(self) -> Iterable[Text]:
        told = {each[0]: each[1] for each in _head(self._document)}
        if self._away_since is None:
            yield Text(f"lab {told['lab']}, up since {told['up since']}", style="bold")
        else:
            since = _clock(self._away_since)
            yield Text(f"NO ANSWER since {since}, asking again", style="bold red")
            yield Text(visible(self._why), style="red")
        yield Text(
            f"env {told['environments']}  flows {told['flows']}  out {told['out']}  in {told['in']}"
        )
        yield Text(f"forwarder {told['forwarder']}")


def deal(room: int, wanted: list[int]) -> list[int]:
    """Lines for each that wants some: evenly, and nobody gets more than is wanted."""
    given = [0] * len(wanted)
    while room > 0 and given != wanted:
        for index, want in enumerate(wanted):
            if given[index] < want and room > 0:
                given[index] += 1
                room -= 1
    return given


def bar(percent: float | None) -> str:
    """A share as a bar; one that is not empty has a mark, one that is not full a gap."""
    if percent is None:
        return "-"
    marks = int(percent * BAR_CELLS / 100)
    marks = max(min(marks, BAR_CELLS), 1 if percent > 0 else 0)
    return "#" * marks + "." * (BAR_CELLS - marks)


def quantity(value: float) -> str:
    """A number for people, in powers of 1000: 7, 0.3, 12.5k, 3.2M."""
    if value < 1000:
        return f"{value:.1f}" if 0 < value < 10 and value != int(value) else f"{value:.0f}"
    for unit in "kMG":
        value /= 1000
        if value < 999.95 or unit == "G":
            break
    return f"{value:.1f}{unit}"


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _head(shown: dict[str, Any]) -> list[list[str]]:
    forwarder, flows = shown["forwarder"], shown["flows"]
    process = "not running" if forwarder["pid"] is None else f"pid {forwarder['pid']}"
    process += (
        f", restarts {forwarder['restarts']}, processor {_percent(forwarder['cpu_percent'])} %, "
        f"ring {_percent(forwarder['ring_percent'])} % full"
    )
    if forwarder["problem"]:
        process += f", NOT UP: {visible(forwarder['problem'])}"
    state = "" if shown["state"] == "running" else f" ({visible(shown['state'])})"
    return [
        ["lab", f"{visible(shown['lab'])}{state}"],
        ["up since", _clock(shown["up_since"])],
        ["environments", str(shown["environments"])],
        ["flows", f"{flows['active']} of {flows['max']}"],
        *(
            [
                way,
                f"{quantity(shown[f'packets_{way}_per_second'])} pkt/s "
                f"{quantity(shown[f'bits_{way}_per_second'])}bit/s",
            ]
            for way in ("out", "in")
        ),
        ["forwarder", process],
    ]


def _sections(shown: dict[str, Any]) -> list[Section]:
    share = [
        Column("ports", numeric=True),
        Column("limit", numeric=True, rank=3),
        Column("%", numeric=True),
    ]
    return [
        (
            "interfaces, the fullest first",
            [
                Column("interface"),
                Column("address", rank=4),
                Column("VPC", rank=6),
                Column("environments", numeric=True, rank=5),
                Column("flows", numeric=True, rank=5),
                Column("pkt/s out", numeric=True, rank=2),
                Column("bit/s out", numeric=True),
                Column("pkt/s in", numeric=True, rank=2),
                Column("bit/s in", numeric=True),
                *share,
                Column("used", rank=1),
            ],
            [_interface(row) for row in shown["interfaces"]],
        ),
        *_host_section(shown["hosts"]),
        (
            "remotes that take most ports",
            [
                Column("remote"),
                Column("protocol", rank=2),
                Column("interface", rank=4),
                Column("address", rank=5),
                *share,
                Column("used", rank=1),
                Column("errors", numeric=True),
            ],
            [_remote(row) for row in shown["remotes"]],
        ),
        (
            "drops",
            [Column("drop reason"), Column("packets/s", numeric=True)],
            [
                [reason, quantity(rate)]
                for reason, rate in sorted(
                    shown["drops_per_second"].items(), key=lambda item: (-item[1], item[0])
                )
            ],
        ),
        (
            "events, the latest first",
            [Column("event")],
            [[visible(events.line(row))] for row in shown["events"]],
        ),
    ]


def _host_section(hosts: list[dict[str, Any]]) -> list[Section]:
    """Nothing in a lab without hosts, which has better use for the lines."""
    if not hosts:
        return []
    columns = [
        Column("host"),
        Column("address", rank=3),
        Column("VPC", rank=2),
        Column("flows", numeric=True, rank=4),
        Column("pkt/s out", numeric=True, rank=1),
        Column("bit/s out", numeric=True),
        Column("pkt/s in", numeric=True, rank=1),
        Column("bit/s in", numeric=True),
        Column("drops/s", numeric=True),
    ]
    rows = [
        [
            row["host"],
            row["address"],
            row["vpc"],
            str(row["flows"]),
            *_rates(row),
            quantity(row["drops_per_second"]),
        ]
        for row in hosts
    ]
    return [("hosts, those with most packets first", columns, rows)]


def _rates(row: dict[str, Any]) -> list[str]:
    """Packets and bits per second out, then in."""
    return [
        quantity(row[f"{unit}_{way}_per_second"])
        for way in ("out", "in")
        for unit in ("packets", "bits")
    ]


def _share(row: dict[str, Any], ports: int) -> list[str]:
    limit, percent = row["limit"], row["used_percent"]
    return [str(ports), "-" if limit is None else str(limit), _percent(percent), bar(percent)]


def _interface(row: dict[str, Any]) -> list[str]:
    return [
        row["interface"],
        row["address"],
        row["vpc"],
        str(row["environments"]),
        str(row["flows"]),
        *_rates(row),
        *_share(row, row["ports"]),
    ]


def _remote(row: dict[str, Any]) -> list[str]:
    return [
        remote_name(row["remote_address"], row["remote_port"]),
        row["protocol"],
        row["interface"],
        row["address"],
        *_share(row, row["in_use"] + row["held"]),
        str(row["allocation_errors"]),
    ]


def _table(
    title: str, columns: list[Column], rows: list[list[str]], *, compact: bool = False
) -> Table:
    result = Table(title, columns, compact=compact)
    for row in rows:
        result.add_row(*map(visible, row))
    return result
