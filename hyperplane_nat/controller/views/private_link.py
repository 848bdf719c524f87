# SPDX-License-Identifier: Apache-2.0
"""What the controller tells of PrivateLink: states for events, figures for metrics."""

from __future__ import annotations

from hyperplane_nat.controller.views.lab import MapReader
from hyperplane_nat.metrics.private_link import EndpointFigures
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.states import EndpointState
from hyperplane_nat.model.tables import Tables


def endpoint_states(region: Region) -> dict[str, str]:
    """What each endpoint is, by VPC/name and id."""
    tables = region.tables
    return {
        f"{_name(tables, each.vpc_id, each.name)} ({each.id})": each.state.value
        for each in list(tables.endpoints.values())
    } | {
        # It is from the beginning to its end.
        f"{_name(tables, each.vpc_id, each.name)} ({each.id})": EndpointState.AVAILABLE.value
        for each in list(tables.gateway_endpoints.values())
    }


def endpoint_figures(region: Region, state_map: MapReader) -> list[EndpointFigures]:
    """What each address of an endpoint has counted."""
    tables = region.tables
    return [
        EndpointFigures(
            _name(tables, endpoint.vpc_id, endpoint.name),
            _service(tables, endpoint.service_id),
            tables.subnets[node.subnet_id].availability_zone,
            dict(state_map.node_counters(tables.interfaces[node.interface_id].number)),
        )
        for endpoint in list(tables.endpoints.values())
        for node in endpoint.nodes
    ]


def _service(tables: Tables, service_id: str) -> str:
    service = tables.endpoint_services.get(service_id)
    return "" if service is None else _name(tables, service.vpc_id, service.name)


def _name(tables: Tables, vpc_id: str, name: str) -> str:
    return f"{tables.vpcs[vpc_id].name}/{name}"
