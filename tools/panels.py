# SPDX-License-Identifier: Apache-2.0
"""The panels of the Grafana dashboard as pictures, and the page of the documentation that shows
them.

Theory of operation
-------------------
Everything in a picture comes from `observability/dashboard.json`: title, unit, legend, queries.
What a panel says is digested, and the digest is kept in its picture (a text chunk of the PNG), so
that a test finds a picture whose panel has changed since. Grafana's own drawing is not imitated
beyond that.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DASHBOARD = ROOT / "observability" / "dashboard.json"
PAGE = ROOT / "docs" / "observability.md"
PICTURES = ROOT / "docs" / "panels"
DIGEST_KEY = "Panel"

INTRODUCTION = """\
<!-- Written by `python -m tools.panels`; do not edit. -->
# Observability

A lab serves [metrics](metrics.md) for Prometheus; `observability/` has what makes something of it.

## Setting it up

1. Let Prometheus scrape the lab: the address is `metrics_url` of `hyperplane-nat status --json`,
   `http://127.0.0.1:9109/metrics` unless configured otherwise.
2. Name [alerts.yml](../observability/alerts.yml) under `rule_files` of Prometheus. Each alert has
   its remedy as an annotation. `promtool test rules observability/alerts_test.yml` shows each of
   them quiet in a lab where all is well, and firing where it is not.
3. Import [dashboard.json](../observability/dashboard.json) into Grafana and choose that
   Prometheus; the variable *Lab* chooses among the labs that it scrapes.

## The dashboard

The pictures are drawn by `make docs-panels` (root, `prometheus`, three minutes) from the
dashboard's own queries, titles, units and legends, asked of a Prometheus that scraped a small lab
under traffic for two minutes. They are not Grafana's rendering, which was not at hand. In that lab
an address may have 350 source ports towards a remote endpoint and 1,500 in all; one environment
opens ever more flows until they are refused. Times are minutes and seconds from the beginning.
"""


@dataclass(frozen=True)
class Panel:
    """One panel, as the dashboard has it."""

    definition: Mapping[str, Any]

    @property
    def title(self) -> str:
        """As in Grafana."""
        return str(self.definition["title"])

    @property
    def description(self) -> str:
        """What is behind the small i in Grafana."""
        return str(self.definition["description"])

    @property
    def kind(self) -> str:
        """`timeseries` or `stat`."""
        return str(self.definition["type"])

    @property
    def unit(self) -> str:
        """Grafana's word for it."""
        return str(self.definition["fieldConfig"]["defaults"]["unit"])

    @property
    def targets(self) -> list[tuple[str, str]]:
        """Queries with the formats of their legends."""
        return [(each["expr"], each["legendFormat"]) for each in self.definition["targets"]]

    @cached_property
    def digest(self) -> str:
        """Of all that its picture depends on: where it stands is not."""
        said = {key: each for key, each in self.definition.items() if key not in ("gridPos", "id")}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def picture(self) -> Path:
        """Where its picture is."""
        word = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")
        return PICTURES / f"{word}.png"


def rows(dashboard: Path = DASHBOARD) -> dict[str, list[Panel]]:
    """The panels by the title of their row."""
    found: dict[str, list[Panel]] = {}
    title = ""
    for each in json.loads(dashboard.read_text(encoding="utf-8"))["panels"]:
        if each["type"] == "row":
            title = each["title"]
        else:
            found.setdefault(title, []).append(Panel(each))
    return found


def resolved(expression: str, *, rate_seconds: int) -> str:
    """A query with the values of Grafana's variables: all labs, and the interval of rates."""
    return expression.replace("$__rate_interval", f"{rate_seconds}s").replace("$instance", ".*")


def legend(form: str, labels: Mapping[str, str]) -> str:
    """What Grafana writes beside a curve."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), form)


def page() -> str:
    """docs/observability.md."""
    lines = [INTRODUCTION]
    for title, panels in rows().items():
        lines += [f"### {title}", ""]
        width = 220 if all(each.kind == "stat" for each in panels) else 420
        lines += [
            f'<img alt="{each.title}" src="{PICTURES.name}/{each.picture.name}" width="{width}">'
            for each in panels
        ]
        lines += ["", "| panel | shows |", "|---|---|"]
        lines += [f"| {each.title} | {each.description} |" for each in panels]
        lines.append("")
    return "\n".join(lines)


@dataclass(frozen=True)
class Curve:
    """What one query says under one set of labels."""

    label: str
    times: Sequence[float]
    """Seconds from the beginning."""
    values: Sequence[float]
    """NaN where there is nothing to say, so that the curve has a gap there."""


_COLOURS = (
    *("#2b8a3e", "#e8a33d", "#1c7ed6", "#d9480f", "#862e9c"),
    *("#0b7285", "#c2255c", "#5f6b7a", "#7a5c1e", "#74b816"),
)
_LIMIT_COLOUR = "#c92a2a"
_FACE, _INK, _GRID = "#ffffff", "#24292f", "#e3e6ea"
_DOTS_PER_INCH = 130
_UNITS = {"pps": "p/s", "Bps": "B/s", "cps": "c/s", "s": "s", "none": ""}
"""Grafana's words, and what it writes."""


def text(value: float, unit: str) -> str:
    """A value as an axis or a large number has it."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ")):
        small = prefix in ("m", "µ")
        if abs(value) >= factor and (not small or unit == "s"):
            return f"{value / factor:.3g} {prefix}{_UNITS[unit]}".rstrip()
    return f"{value:.3g} {_UNITS[unit]}".rstrip()


def draw(panel: Panel, curves: Sequence[Curve]) -> None:
    """Write the panel's picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plot

    with plot.rc_context({"font.size": 9, "text.color": _INK, "axes.edgecolor": _GRID}):
        size = (2.6, 1.25) if panel.kind == "stat" else (5.2, 3.0)
        figure, axes = plot.subplots(figsize=size, layout="constrained", facecolor=_FACE)
        axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", color=_INK)
        if panel.kind == "stat":
            _number(axes, panel, curves)
        else:
            _graph(axes, panel, curves)
        panel.picture.parent.mkdir(exist_ok=True)
        figure.savefig(
            panel.picture, dpi=_DOTS_PER_INCH, metadata={DIGEST_KEY: panel.digest, "Software": None}
        )
        plot.close(figure)
    _shrink(panel.picture)


def _number(axes: Any, panel: Panel, curves: Sequence[Curve]) -> None:
    axes.axis("off")
    (curve,) = curves
    last = [value for value in curve.values if not math.isnan(value)][-1]
    shown = text(last, panel.unit)
    axes.text(0.5, 0.5, shown, ha="center", va="center", fontsize=22, color=_COLOURS[0])
    axes.text(0.5, -0.05, curve.label, ha="center", va="center", fontsize=8, color="#5f6b7a")


def _graph(axes: Any, panel: Panel, curves: Sequence[Curve]) -> None:
    colours = iter(_COLOURS * (1 + len(curves) // len(_COLOURS)))
    for curve in curves:
        limit = curve.label in ("limit", "wanted")
        axes.plot(
            curve.times,
            curve.values,
            label=curve.label,
            linewidth=1.3,
            linestyle="--" if limit else "-",
            color=_LIMIT_COLOUR if limit else next(colours),
        )
    axes.set_xlim(min(curve.times[0] for curve in curves), max(curve.times[-1] for curve in curves))
    top = max((v for c in curves for v in c.values if not math.isnan(v)), default=0.0)
    axes.set_ylim(0, 1.08 * top or 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{int(value) // 60}:{int(value) % 60:02d}")
    axes.yaxis.set_major_formatter(lambda value, _: text(value, panel.unit))
    axes.grid(color=_GRID, linewidth=0.7)
    axes.tick_params(length=0, labelsize=8, labelcolor="#5f6b7a")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    widest = max(len(curve.label) for curve in curves)
    columns = max(1, min(len(curves), 66 // (widest + 6)))
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.1),
        ncols=columns,
        fontsize=8,
        frameon=False,
        handlelength=1.4,
    )


def _shrink(path: Path) -> None:
    """Few colours are enough for curves; the text stays in the file."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    with Image.open(path) as picture:
        kept = PngInfo()
        kept.add_text(DIGEST_KEY, picture.info[DIGEST_KEY])
        small = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    small.save(path, optimize=True, pnginfo=kept)


def drawn_of(path: Path) -> str:
    """The digest of the panel that a picture was drawn of."""
    from PIL import Image

    with Image.open(path) as picture:
        return str(picture.info.get(DIGEST_KEY))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
