# SPDX-License-Identifier: Apache-2.0
"""A lab at the moment of a scrape: what its parts know, gathered for the metrics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperplane_nat.controller.events import EventLog
from hyperplane_nat.controller.forwarder.supervisor import ForwarderSupervisor
from hyperplane_nat.controller.functions import Functions
from hyperplane_nat.controller.network import resolvers
from hyperplane_nat.controller.network.services import ServiceSupervisor
from hyperplane_nat.controller.paths import LabPaths
from hyperplane_nat.controller.views import lab as views
from hyperplane_nat.controller.views.balancing import node_figures, target_counts
from hyperplane_nat.controller.views.interface_metrics import InterfaceMetrics
from hyperplane_nat.controller.views.lab import MapReader
from hyperplane_nat.controller.views.port_usage import PortNames
from hyperplane_nat.controller.views.private_link import endpoint_figures
from hyperplane_nat.engine.readers.flow_record_ring import read_figures

if TYPE_CHECKING:
    from hyperplane_nat.metrics import LabSnapshot


@dataclass(frozen=True, slots=True)
class Running:
    """The parts of a lab that know figures of their own."""

    forwarder: ForwarderSupervisor
    services: ServiceSupervisor
    functions: Functions
    figures: InterfaceMetrics
    events: EventLog


def snapshot(
    paths: LabPaths, state_map: MapReader, names: PortNames, running: Running
) -> LabSnapshot:
    """What is exported now."""
    # With Prometheus's library, which a lab that nobody scrapes need not wait for.
    from hyperplane_nat.metrics import LabSnapshot

    forwarder, functions, figures = running.forwarder, running.functions, running.figures
    environments = Counter(dict.fromkeys(names.interfaces.values(), 0))
    environments.update(views.attached_interfaces(functions.region).values())
    return LabSnapshot(
        lab=paths.lab,
        counters=state_map.counters(),
        flows_max=state_map.flows_max,
        state_file_bytes=state_map.bytes,
        forwarder_up=forwarder.up,
        forwarder_restarts=forwarder.restarts,
        forwarder_hangs=forwarder.hangs,
        forwarder_resident_bytes=forwarder.resident_bytes,
        forwarder_cpu_seconds=forwarder.cpu_seconds,
        forwarder_failover_seconds=forwarder.failover_seconds or 0.0,
        environments_by_interface=environments,
        hosts=views.host_figures(functions.region, state_map),
        targets=target_counts(functions.region),
        nodes=node_figures(functions.region, state_map),
        endpoints=endpoint_figures(functions.region, state_map),
        services=running.services.states(),
        interfaces=figures.figures(),
        remote_errors=figures.remote_errors(),
        ports=figures.ports(),
        ports_limit=names.limit_per_interface,
        remote_ports=figures.remote_ports(),
        remote_ports_limit=names.limit_per_remote,
        pool_ready=functions.pool.ready,
        pool_size=functions.pool.size,
        function_states=functions.states(),
        invocations=dict(functions.invocations),
        cold_starts=functions.cold_starts.distribution,
        events=dict(running.events.counts),
        flow_logs=read_figures(paths.records_file),
        dns_queries=resolvers.counts(paths),
    )
