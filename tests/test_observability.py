# SPDX-License-Identifier: Apache-2.0
"""The alert rules and the dashboard: each by its own tool, and both against the list of metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from hyperplane_nat.metrics import METRICS

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
    document: dict[str, Any] = json.loads((ROOM / "dashboard.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in document["panels"] for target in panel.get("targets", ())]


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
