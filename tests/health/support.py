# SPDX-License-Identifier: Apache-2.0
"""A check to change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyperplane_nat.health.checks import Check

CHECK = Check(
    name="one",
    source="127.0.0.1",
    address="127.0.0.1",
    port=1,
    protocol="TCP",
    path="/",
    codes="200-399",
    host="127.0.0.2:80",
    interval_seconds=0.01,
    timeout_seconds=5.0,
    healthy_count=3,
    unhealthy_count=2,
)


def check(**fields: Any) -> Check:
    return replace(CHECK, **fields)
