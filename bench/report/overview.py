# SPDX-License-Identifier: Apache-2.0
"""One picture of a run: every workload's ratio to the kernel's NAT and to the bare link, with the
flow cache and without.

It is drawn into the page as SVG and needs no library. A ratio is turned round where less is better,
so that right of the line is ahead everywhere; the axis is logarithmic.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from bench.gateways import CACHED, KERNEL, LIMIT, OURS

WHO = {OURS: "cache off", CACHED: "cache on"}
COLOURS = {OURS: "#d9480f", CACHED: "#0b7285"}
PANELS = {KERNEL: "to nft", LIMIT: "to the bare link"}
INNER = "flow_table"
"""Workloads whose names begin so are in process, and nobody else's."""

_TITLES, _PANEL, _GAP, _ROW, _TOP = 300, 330, 30, 22, 44
_RANGE = 8.0
"""Ratios from an eighth to eight; what is beyond stands at the end."""


def ratio(entry: dict[str, Any], contender: str, base: str) -> float | None:
    """How far ahead a contender is of another by medians; None where one has none."""
    found, other = (entry["results"].get(name) for name in (contender, base))
    if not found or not other or not found["median"] or not other["median"]:
        return None
    value = float(found["median"] / other["median"])
    return value if entry["higher_is_better"] else 1 / value


def compared(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Workloads with anything to show."""
    return [
        entry
        for entry in document["workloads"]
        if any(ratio(entry, who, base) is not None for who in WHO for base in PANELS)
    ]


def draw(document: dict[str, Any]) -> str:
    """The picture; nothing when nobody was compared."""
    entries = compared(document)
    if not entries:
        return ""
    width = _TITLES + len(PANELS) * (_PANEL + _GAP)
    height = _TOP + _ROW * len(entries) + 30
    parts = [
        f'<svg role="img" viewBox="0 0 {width} {height}" width="100%" '
        'font-family="system-ui, sans-serif" font-size="12" fill="currentColor">'
        "<title>Every workload's ratio to nft and to the bare link</title>"
    ]
    for place, (who, said) in enumerate(WHO.items()):
        x = place * 110
        parts.append(
            f'<circle cx="{x + 8}" cy="12" r="5" fill="{COLOURS[who]}"/>'
            f'<text x="{x + 18}" y="16">{said}</text>'
        )
    for number, entry in enumerate(entries):
        y = _TOP + _ROW * number + _ROW // 2
        parts.append(
            f'<text x="{_TITLES - 8}" y="{y + 4}" text-anchor="end">'
            f"{html.escape(str(entry['title']))}</text>"
        )
    for place, (base, title) in enumerate(PANELS.items()):
        left = _TITLES + place * (_PANEL + _GAP)
        parts += _panel(entries, base, title, left)
    parts.append("</svg>")
    return "".join(parts)


def _panel(entries: Sequence[dict[str, Any]], base: str, title: str, left: int) -> list[str]:
    bottom = _TOP + _ROW * len(entries)
    parts = [f'<text x="{left}" y="16" font-weight="600">{title}</text>']
    for mark in (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0):
        x = left + _place(mark)
        strong = ' stroke-width="2"' if mark == 1 else ' stroke-opacity="0.25"'
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="currentColor"'
            f'{strong}/><text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{mark:g}</text>'
        )
    for number, entry in enumerate(entries):
        y = _TOP + _ROW * number + _ROW // 2
        for step, who in enumerate(WHO):
            value = ratio(entry, who, base)
            if value is None:
                continue
            at = y - 4 + 8 * step
            parts.append(
                f'<line x1="{left + _place(1):.1f}" y1="{at}" x2="{left + _place(value):.1f}" '
                f'y2="{at}" stroke="{COLOURS[who]}" stroke-width="6">'
                f"<title>{WHO[who]}: {value:.2f}</title></line>"
            )
    return parts


def _place(value: float) -> float:
    bounded = min(max(value, 1 / _RANGE), _RANGE)
    return _PANEL * (math.log(bounded) / math.log(_RANGE) + 1) / 2
