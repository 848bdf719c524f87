# SPDX-License-Identifier: Apache-2.0
"""Two accounts with the same network, of which one has an endpoint of the other's service."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hyperplane_nat.model.balancer_resources import NodeResource
from hyperplane_nat.model.private_link_entities import EndpointService, VpcEndpoint
from hyperplane_nat.model.private_link_resources import EndpointResource, EndpointServiceResource
from hyperplane_nat.model.private_link_wanted import WantedEndpoint
from hyperplane_nat.model.resources import Resources, VpcResource
from tests.model import balancing
from tests.model.support import Scene, lab

SHOP, BANK = "123456789012", "210987654321"


def service(**fields: Any) -> EndpointServiceResource:
    return EndpointServiceResource("orders", "front", **{"principals": ("bank",), **fields})


def endpoint(**fields: Any) -> EndpointResource:
    given = {"nodes": (NodeResource("a"), NodeResource("b")), **fields}
    return EndpointResource("orders", given.pop("service", "customer/orders"), **given)


def provider(*services: EndpointServiceResource, **fields: Any) -> VpcResource:
    made = balancing.place(balancing.balancer(**fields), groups=[balancing.group()])
    return replace(made, endpoint_services=services)


def consumer(*endpoints: EndpointResource, **fields: Any) -> VpcResource:
    """The same subnets, in the VPC and account `bank`, without hosts."""
    made = replace(balancing.place(), name="bank", account="bank", hosts=(), endpoints=endpoints)
    return replace(made, **fields)


def declared(
    offered: EndpointServiceResource | None = None,
    asked: EndpointResource | None = None,
    **fields: Any,
) -> Resources:
    """One service with one endpoint; `fields` are those of the consumer's VPC."""
    return lab(
        vpcs=[
            provider(service() if offered is None else offered),
            consumer(endpoint() if asked is None else asked, **fields),
        ]
    )


def the_service(scene: Scene) -> EndpointService:
    (found,) = scene.region.tables.endpoint_services.values()
    return found


def the_endpoint(scene: Scene) -> VpcEndpoint:
    (found,) = scene.region.tables.endpoints.values()
    return found


def addresses(scene: Scene) -> tuple[WantedEndpoint, ...]:
    return scene.region.wanted().endpoints


def accepted(scene: Scene) -> None:
    """It is available, and the load balancer active."""
    balancing.do(scene, "accept_endpoints", "customer/orders", ["bank/orders"])
    balancing.active(scene)
    scene.pass_seconds(scene.settings.endpoint_creation_seconds)
