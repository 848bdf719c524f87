# SPDX-License-Identifier: Apache-2.0
"""The run as one self-contained HTML page: the table, the plots within it, how it was measured."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.report import host as hosts
from bench.report import overview, table
from bench.workloads import ALL as WORKLOADS

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
       color: #212529; }
table { border-collapse: collapse; font-size: 13px; }
th, td { border-bottom: 1px solid #dee2e6; padding: .3rem .6rem; text-align: right;
         vertical-align: top; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
small { color: #868e96; white-space: nowrap; }
.met { color: #2b8a3e; font-weight: 600; }
.missed { color: #c92a2a; font-weight: 600; }
tr.group td { border-top: 2px solid #868e96; }
img { max-width: 100%; margin: 1rem 0; }
.wide { overflow-x: auto; }
@media (prefers-color-scheme: dark) {
  body { background: #16181b; color: #e9ecef; } th, td { border-color: #343a40; }
  img { background: white; } .met { color: #69db7c; } .missed { color: #ff8787; }
}
"""


def build(document: dict[str, Any], plots: Mapping[str, Path]) -> str:
    """The page; plots are read from their files and embedded."""
    names = table.contenders(document)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>hyperplane-nat bench, {_text(document['started'])}</title>",
        f"<style>{STYLE}</style></head><body>",
        "<h1>hyperplane-nat bench</h1>",
        f"<p>{_text(hosts.one_line(document['host']))}<br>"
        f"{_text(document['started'])}, {document['duration_seconds']:.0f} seconds, "
        f"{_text(document['profile'])} profile, {document['rounds']} rounds. Medians; in grey the "
        "lowest and highest run.</p>",
        overview.draw(document),
        f"<p><strong>{_text(table.summary(document))}</strong></p>",
        f'<div class="wide">{_table(inner_last(document), names)}</div>',
        _list("Left out", [f"{name}: {why}" for name, why in document["skipped"].items()]),
        _list("Warnings", document["warnings"]),
    ]
    for name, path in sorted(plots.items(), key=lambda each: each[0].startswith(overview.INNER)):
        picture = base64.b64encode(path.read_bytes()).decode("ascii")
        parts.append(
            f"<h2>{_text(name.replace('_', ' '))}</h2>"
            f'<img alt="{_text(name)}" src="data:image/png;base64,{picture}">'
        )
    parts += [
        _list("Contenders", [f"{name}: {document['contenders'][name]}" for name in names]),
        _list("Workloads", [f"{each.name}: {each.summary}" for each in WORKLOADS.values()]),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def inner_last(document: dict[str, Any]) -> dict[str, Any]:
    """The document with what nobody is compared in at the end."""
    return document | {
        "workloads": sorted(
            document["workloads"], key=lambda each: str(each["group"]).startswith(overview.INNER)
        )
    }


def _text(value: object) -> str:
    return html.escape(str(value))


def _list(title: str, items: list[str]) -> str:
    if not items:
        return ""
    rows = "".join(f"<li>{_text(item)}</li>" for item in items)
    return f"<h2>{_text(title)}</h2><ul>{rows}</ul>"


def _table(document: dict[str, Any], names: list[str]) -> str:
    heads = "".join(f"<th>{_text(name)}</th>" for name in names)
    rows = [
        f"<tr><th>workload</th><th class=text>unit</th>{heads}<th>to nft</th>"
        "<th class=text>targets</th></tr>"
    ]
    group = None
    for entry in document["workloads"]:
        first = ' class="group"' if group is not None and entry["group"] != group else ""
        group = entry["group"]
        ratio = "" if entry["ratio_to_nft"] is None else f"{entry['ratio_to_nft']:.2f}"
        cells = "".join(f"<td>{_cell(entry['results'].get(name))}</td>" for name in names)
        rows.append(
            f"<tr{first}><td>{_text(entry['title'])}</td><td class=text>{_text(entry['unit'])}</td>"
            f"{cells}<td>{ratio}</td><td class=text>{_verdict(entry)}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def _cell(result: dict[str, Any] | None) -> str:
    if result is None:
        return ""
    median, _, rest = table.spread(result).partition("\n")
    return f"{_text(median)}<br><small>{_text(rest)}</small>" if rest else _text(median)


def _verdict(entry: dict[str, Any]) -> str:
    lines = []
    for each in entry["checks"]:
        word = "met" if each["met"] else "missed"
        value = table.number(each["value"])
        lines.append(f'<span class="{word}">{word}</span> {_text(each["text"])}: {value}')
    return "<br>".join(lines)
