# SPDX-License-Identifier: Apache-2.0
"""What Prometheus sees of a lab: the list (`families`), the samples (`collector`), the page.

Names of `collector` are imported when they are first used: it takes Prometheus's library, which a
lab that nobody scrapes has no use for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperplane_nat.metrics.distribution import Distribution
from hyperplane_nat.metrics.families import METRICS, MetricSpec

if TYPE_CHECKING:
    from hyperplane_nat.metrics.collector import LabCollector, LabSnapshot, registry

__all__ = ["METRICS", "Distribution", "LabCollector", "LabSnapshot", "MetricSpec", "registry"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hyperplane_nat.metrics import collector

    return getattr(collector, name)
