# SPDX-License-Identifier: Apache-2.0
"""The JSON of a run.

`ratio_to_nft` is our median by nft's, `target` the threshold of the workload's first target (null
without one), `met` whether everything in `checks` holds (null without any).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from bench import cache_targets, targets
from bench.gateways import KERNEL, OURS, REPORTED
from bench.result import Measurement, Measurements

SCHEMA = 1


def workload(measurement: Measurement, measurements: Measurements) -> dict[str, Any]:
    """One measurement with its verdict."""
    found = [
        *targets.checks(measurement, measurements),
        *cache_targets.checks(measurement, measurements),
    ]
    own = targets.TARGETS.get(measurement.name, ())
    return {
        "name": measurement.name,
        "title": measurement.title,
        "group": measurement.group,
        "unit": measurement.unit,
        "higher_is_better": measurement.higher_is_better,
        "results": {
            name: summary.document()
            for name in measurement.runs
            if (summary := measurement.summary(name)) is not None
        },
        "ratio_to_nft": measurement.ratio(OURS, KERNEL),
        "target": own[0].threshold if own else None,
        "met": targets.met(found),
        "checks": [each.document() for each in found],
    }


def build(
    measurements: Measurements,
    *,
    host: dict[str, Any],
    started: datetime,
    seconds: float,
    profile: str,
    rounds: int,
    warnings: Sequence[str],
    skipped: Mapping[str, str],
) -> dict[str, Any]:
    """The whole document."""
    return {
        "schema": SCHEMA,
        "started": started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "duration_seconds": round(seconds, 1),
        "profile": profile,
        "rounds": rounds,
        "host": host,
        "contenders": {name: gateway.remark for name, gateway in REPORTED.items()},
        "skipped": dict(skipped),
        "warnings": list(warnings),
        "workloads": [
            workload(each, measurements)
            for group in measurements.groups().values()
            for each in group
        ],
    }


def file_stem(started: datetime) -> str:
    """Name of a run's files: 20260131T235959Z."""
    return started.strftime("%Y%m%dT%H%M%SZ")


def write(document: dict[str, Any], directory: Path, started: datetime) -> Path:
    """Write `<UTC time>.json` and the same as `latest.json`; the former's path."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    path = directory / f"{file_stem(started)}.json"
    path.write_text(text, encoding="utf-8")
    # Whoever reads `latest.json` meanwhile sees the old run or the new one.
    temporary = directory / f".latest.{os.getpid()}"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(directory / "latest.json")
    return path
