# SPDX-License-Identifier: Apache-2.0
"""What the controller tells of load balancers: states for events, figures for metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hyperplane_nat.controller.views.lab import MapReader
from hyperplane_nat.metrics.cloudwatch import NodeFigures, TargetCount
from hyperplane_nat.model.balancer_entities import TargetGroup
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.states import TargetState
from hyperplane_nat.model.tables import Tables
from hyperplane_nat.model.target_health import (
    Surroundings,
    address_of,
    balancer_of,
    health_of,
    in_reach,
    zone_of_node,
)


def load_balancer_states(region: Region) -> dict[str, str]:
    """What each load balancer is, by VPC/name and id."""
    tables = region.tables
    return {
        f"{tables.vpcs[each.vpc_id].name}/{each.name} ({each.id})": each.state.value
        for each in list(tables.load_balancers.values())
    }


class TargetStates:
    """What each target is; found out anew for groups of which something has changed."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._revision = -1
        self._found: dict[tuple[str, str], str] = {}
        self._groups: dict[str, tuple[object, Mapping[tuple[str, str], str]]] = {}
        """By group of what its states follow, and these."""

    def __call__(self) -> Mapping[tuple[str, str], str]:
        """By VPC/group and address:port, the state with its reason."""
        revision, tables = self._region.network_revision, self._region.tables
        if self._revision != revision:
            before, self._groups = self._groups, {}
            for group in tables.target_groups.values():
                around = Surroundings.of(tables, group.vpc_id)
                hosts = tables.revisions(("host",))
                of = (group, tables.vpcs[group.vpc_id], balancer_of(tables, group), around, hosts)
                known = before.get(group.id)
                if known is None or known[0] != of:
                    known = of, _target_states(tables, group, around)
                self._groups[group.id] = known
            self._found, self._revision = {}, revision
            for _, states in self._groups.values():
                self._found |= states
        return self._found


def _target_states(
    tables: Tables, group: TargetGroup, around: Surroundings
) -> dict[tuple[str, str], str]:
    result = {}
    name = _name(tables, group.vpc_id, group.name)
    for target in group.targets:
        found = health_of(tables, group, target, around)
        state = f"{found.state}: {found.reason}" if found.reason else found.state
        result[name, f"{address_of(tables, target)}:{target.port}"] = state
    return result


def target_counts(region: Region) -> list[TargetCount]:
    """Healthy and unhealthy targets, by load balancer, group and node."""
    tables = region.tables
    result = []
    for group in list(tables.target_groups.values()):
        balancer = balancer_of(tables, group)
        if balancer is None:
            continue
        around = Surroundings.of(tables, group.vpc_id)
        for node in balancer.nodes:
            reached = in_reach(tables, group, balancer, node, around)
            states = Counter(each.state for each in reached)
            result.append(
                TargetCount(
                    _name(tables, balancer.vpc_id, balancer.name),
                    _name(tables, group.vpc_id, group.name),
                    zone_of_node(tables, node),
                    healthy=states[TargetState.HEALTHY],
                    unhealthy=states[TargetState.UNHEALTHY]
                    + states[TargetState.UNHEALTHY_DRAINING],
                )
            )
    return result


def node_figures(region: Region, state_map: MapReader) -> list[NodeFigures]:
    """What each node has counted."""
    tables = region.tables
    return [
        NodeFigures(
            _name(tables, balancer.vpc_id, balancer.name),
            zone_of_node(tables, node),
            dict(state_map.node_counters(tables.interfaces[node.interface_id].number)),
        )
        for balancer in list(tables.load_balancers.values())
        for node in balancer.nodes
    ]


def _name(tables: Tables, vpc_id: str, name: str) -> str:
    return f"{tables.vpcs[vpc_id].name}/{name}"
