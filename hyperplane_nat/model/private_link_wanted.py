# SPDX-License-Identifier: Apache-2.0
"""What endpoints ask of the world: addresses that lead to nodes of load balancers: see `wanted`."""

from __future__ import annotations

from dataclasses import dataclass

from hyperplane_nat.model.private_link_checks import node_behind
from hyperplane_nat.model.private_link_entities import EndpointNode, VpcEndpoint
from hyperplane_nat.model.security_group import Compiler, PolicyRule
from hyperplane_nat.model.tables import Tables


@dataclass(frozen=True, slots=True)
class WantedEndpoint:
    """An address of an endpoint."""

    number: int
    name: str
    """At most 15 characters, unique in the lab."""
    endpoint_id: str
    address: str
    vpc: str
    """Name of its VPC."""
    vpc_number: int
    interface: int
    """Number of the interface that leads to the VPC's router."""
    link: str
    """Name of the link of that."""
    node: int | None
    """Number of the load balancer's node that it leads to; None: it leads nowhere."""
    ingress: tuple[PolicyRule, ...] | None
    """Who may come, by the endpoint's groups; None: everybody."""
    admission: tuple[PolicyRule, ...] | None
    """The same by the load balancer's."""


def endpoints_of(tables: Tables, compiler: Compiler) -> tuple[WantedEndpoint, ...]:
    """All addresses of all endpoints."""
    return tuple(
        _endpoint(tables, compiler, endpoint, node)
        for endpoint in tables.endpoints.values()
        for node in endpoint.nodes
    )


def _endpoint(
    tables: Tables, compiler: Compiler, endpoint: VpcEndpoint, node: EndpointNode
) -> WantedEndpoint:
    interface, vpc = tables.interfaces[node.interface_id], tables.vpcs[endpoint.vpc_id]
    router, behind = tables.router_interface(vpc.id), node_behind(tables, endpoint, node.subnet_id)
    assert router is not None
    own = None if behind is None else tables.interfaces[behind.interface_id]
    return WantedEndpoint(
        number=interface.number,
        name=interface.link,
        endpoint_id=endpoint.id,
        address=str(interface.address),
        vpc=vpc.name,
        vpc_number=vpc.number,
        interface=router.number,
        link=router.link,
        node=None if own is None else own.number,
        ingress=compiler.admitted(interface),
        admission=None if own is None else compiler.admitted(own, elsewhere=True),
    )
