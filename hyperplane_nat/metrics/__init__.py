# SPDX-License-Identifier: Apache-2.0
"""What Prometheus sees of a lab: the list (`families`), the samples (`collector`), the page."""

from hyperplane_nat.metrics.collector import LabCollector, LabSnapshot, registry
from hyperplane_nat.metrics.distribution import Distribution
from hyperplane_nat.metrics.families import METRICS, MetricSpec

__all__ = ["METRICS", "Distribution", "LabCollector", "LabSnapshot", "MetricSpec", "registry"]
