# SPDX-License-Identifier: Apache-2.0
"""What Prometheus sees of a lab: the list (`families`), the samples (`collector`), the page.

Names are imported when they are first used: those of `collector` take Prometheus's library, which a
lab that nobody scrapes has no use for, and no lab need wait for the list at its start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperplane_nat.metrics.collector import LabCollector, LabSnapshot, registry
    from hyperplane_nat.metrics.distribution import Distribution
    from hyperplane_nat.metrics.families import METRICS, MetricSpec

__all__ = ["METRICS", "Distribution", "LabCollector", "LabSnapshot", "MetricSpec", "registry"]

_ELSEWHERE = {"METRICS": "families", "MetricSpec": "families", "Distribution": "distribution"}
"""The modules of the names that are not of `collector`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'collector')}"), name)
