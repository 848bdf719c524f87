# SPDX-License-Identifier: Apache-2.0
"""Made-up measurements for the tests of verdicts and reports."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bench.report import document
from bench.result import Measurements

STARTED = datetime(2026, 1, 31, 23, 59, 58, tzinfo=UTC)

HOST: dict[str, Any] = {
    "processor": "Example 1 <fast>",
    "processors": 2,
    "architecture": "x86_64",
    "memory_bytes": 2**34,
    "kernel": "6.1.0",
    "python": "3.11.7",
    "load_before": 0.1,
    "tools": {},
    "packages": {},
}


def measured(name: str = "udp_64b_1_sender", **runs: list[float]) -> Measurements:
    """One measurement; contenders are written with underscores."""
    result = Measurements()
    add(result, name, better=True, **runs)
    return result


def add(result: Measurements, name: str, *, better: bool = True, **runs: list[float]) -> None:
    """Another one."""
    measurement = result.declare(name, f"about {name}", "things/s", group="udp")
    measurement.higher_is_better = better
    for contender, values in runs.items():
        for value in values:
            name = "cache on" if contender == "cache_on" else contender.replace("_", "-")
            measurement.add(name, value)


def built(measurements: Measurements) -> dict[str, Any]:
    """The JSON document of these measurements."""
    return document.build(
        measurements,
        host=HOST,
        started=STARTED,
        seconds=12.34,
        profile="full",
        rounds=3,
        warnings=["something <odd>"],
        skipped={"pasta": "pasta is not installed (apt-get install passt)"},
    )
