# SPDX-License-Identifier: Apache-2.0
"""The alert rules and the dashboard: each by its own tool, and both against the list of metrics."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from hyperplane_nat.metrics import METRICS
from tools import panels
from tools.panels import Curve, Panel

ROOM = Path(__file__).parent.parent / "observability"


def promtool(*arguments: str) -> None:
    binary = shutil.which("promtool")
    assert binary, "promtool is missing: apt-get install prometheus, or make deps"
    done = subprocess.run(
        [binary, *arguments], cwd=ROOM, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> dict[str, str]:
    (group,) = yaml.safe_load((ROOM / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


def queries() -> list[str]:
    """Every query of the dashboard's panels."""
    return [query for panel in every_panel() for query, _ in panel.targets]


def every_panel() -> list[Panel]:
    return [panel for row in panels.rows().values() for panel in row]


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "alerts.yml")


def test_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_every_alert_is_seen_quiet_and_firing() -> None:
    quiet, firing = yaml.safe_load((ROOM / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    assert {case["alertname"] for case in quiet["alert_rule_test"]} == set(alerts())
    samples = firing["promql_expr_test"][0]["exp_samples"]
    assert {each["labels"] for each in samples} == {f'{{alertname="{name}"}}' for name in alerts()}


def test_only_metrics_that_there_are_are_asked_for() -> None:
    exported = {spec.exported for spec in METRICS}
    exported |= {f"{spec.exported}_bucket" for spec in METRICS if spec.kind == "histogram"}
    named = set(re.findall(r"hyperplane_nat_\w+", " ".join([*alerts().values(), *queries()])))
    assert named
    assert named <= exported


@pytest.mark.parametrize("panel", every_panel(), ids=lambda panel: panel.title)
def test_every_panel_has_a_picture_of_what_it_is_now(panel: Panel) -> None:
    assert panels.drawn_of(panel.picture) == panel.digest, "run: make docs-panels"


def test_there_are_no_other_pictures_and_they_are_small() -> None:
    found = set(panels.PICTURES.iterdir())
    assert found == {panel.picture for panel in every_panel()}
    assert sum(path.stat().st_size for path in found) < 600_000


def test_the_page_of_the_dashboard_is_current() -> None:
    assert panels.PAGE.read_text(encoding="utf-8") == panels.page(), "run: python -m tools.panels"


def test_a_picture_remembers_its_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panels, "PICTURES", tmp_path)
    curves = [Curve("a", (0, 1, 2), (1.0, math.nan, 2.0)), Curve("limit", (0, 1, 2), (3.0,) * 3)]
    graph = next(panel for panel in every_panel() if panel.kind == "timeseries")
    number = next(panel for panel in every_panel() if panel.kind == "stat")
    panels.draw(graph, curves)
    panels.draw(number, curves[:1])
    assert [panels.drawn_of(each.picture) for each in (graph, number)] == [
        graph.digest,
        number.digest,
    ]
    renamed = Panel({**graph.definition, "title": "something else"})
    moved = Panel({**graph.definition, "gridPos": {}})
    assert renamed.digest != graph.digest == moved.digest


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "none", "0"),
        (1234, "none", "1.23 k"),
        (0.25, "percentunit", "25 %"),
        (0.00123, "s", "1.23 ms"),
        (2_500_000, "Bps", "2.5 MB/s"),
        (0.5, "pps", "0.5 p/s"),
    ],
)
def test_values_have_grafanas_units(value: float, unit: str, text: str) -> None:
    assert panels.text(value, unit) == text


def test_every_unit_is_known() -> None:
    for panel in every_panel():
        panels.text(1.0, panel.unit)


def test_legends_are_filled_in() -> None:
    assert panels.legend("{{a}} to {{b}}{{c}}", {"a": "x", "b": "y"}) == "x to y"
