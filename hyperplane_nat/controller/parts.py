# SPDX-License-Identifier: Apache-2.0
"""What the controller is made of besides itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hyperplane_nat.controller import cleanup
from hyperplane_nat.controller.forwarder import equipment
from hyperplane_nat.controller.network import reconcile
from hyperplane_nat.controller.views import lab as views
from hyperplane_nat.engine import StateMap
from netns import topology
from netns.topology import LabSpec, Mended, Topology


@dataclass(frozen=True, slots=True)
class Parts:
    """Functions and programs; tests replace some."""

    build: Callable[[LabSpec, Callable[[int, int], None]], Topology] = topology.build
    mend: Callable[[LabSpec], Mended | None] = topology.mend
    namespaces: cleanup.Namespaces = field(default_factory=cleanup.Namespaces)
    open_map: views.MapOpener = StateMap.open
    open_sockets: equipment.OpenSockets = equipment.packet_sockets
    forwarder_program: tuple[str, ...] = reconcile.module_command("hyperplane_nat.forwarder")
    service_program: tuple[str, ...] = reconcile.module_command("netns.services")
