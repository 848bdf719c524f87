# SPDX-License-Identifier: Apache-2.0
"""The workloads, in the order in which they run."""

from __future__ import annotations

from bench.workloads.base import Workload
from bench.workloads.flood import Flood
from bench.workloads.flow_table import FlowTable
from bench.workloads.latency import Latency
from bench.workloads.new_flows import NewFlows
from bench.workloads.observed import Observed
from bench.workloads.scale import Scale
from bench.workloads.services import Services
from bench.workloads.tcp import Tcp
from bench.workloads.udp import Udp

ALL: dict[str, type[Workload]] = {
    each.name: each
    for each in (FlowTable, Udp, Tcp, Latency, NewFlows, Scale, Flood, Observed, Services)
}
FULL = tuple(name for name in ALL if name not in (Observed.name, Services.name))
"""Those of a full run: the others are runs of their own, and the minutes are counted."""
QUICK = ("flow_table", "udp", "tcp", "latency", "new_flows", "scale")
"""Those that fit into a quick run."""

__all__ = ["ALL", "FULL", "QUICK", "FlowTable", "Workload"]
