# SPDX-License-Identifier: Apache-2.0
"""The sections for PrivateLink: endpoint services of a VPC's load balancers, interface endpoints,
and gateway endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from hyperplane_nat.config.balancing import BalancerQuotas, Count, Node
from hyperplane_nat.config.values import FieldError, GroupName, LinkName, Section

ServiceName = Annotated[str, Field(pattern=r"^[ -~]{1,128}$")]


class EndpointService(Section):
    """A load balancer of a VPC that others reach by endpoints."""

    name: LinkName = Field(description="Name of the service, unique in its VPC.")
    load_balancer: LinkName = Field(description="Load balancer of the VPC.")
    acceptance_required: bool = Field(
        default=True,
        description="Whether its owner accepts each endpoint, with `endpoint-services --accept` "
        "(AWS: true).",
    )
    principals: list[str] = Field(
        default=[],
        description="Accounts that may make endpoints besides its own, by name or id; `*` are all.",
    )
    private_dns_name: str = Field(
        default="",
        description='Name that VPCs may have for it, like "orders.example.com".',
    )


class Endpoint(Section):
    """An interface endpoint of a VPC, by which it reaches an endpoint service."""

    name: LinkName = Field(description="Name of the endpoint, unique in its VPC.")
    service: ServiceName = Field(
        description="The service: VPC/NAME of one in the file, or the name that AWS gives it, "
        "`com.amazonaws.vpce.us-east-1.vpce-svc-...`."
    )
    security_groups: list[GroupName] = Field(
        default=[],
        description="Security groups of the VPC: who may come. Without any everybody may.",
    )
    private_dns: bool = Field(
        default=False,
        description="Whether the VPC has the service's private DNS name for it; both DNS "
        "attributes of the VPC must be on.",
    )
    node: list[Node] = Field(default=[])

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if not self.node:
            yield FieldError("node", "the endpoint is in no subnet", "add a node")


class GatewayEndpoint(Section):
    """
    A gateway endpoint of a VPC: route tables lead by it to one of AWS's services, for which the
    `[[internet]]` hosts stand that say so (`aws_service`). Private addresses stay on the way.
    """

    name: LinkName = Field(description="Name of the endpoint, unique among those of its VPC.")
    service: ServiceName = Field(
        description='The service, `"com.amazonaws.us-east-1.s3"` with the region of the lab, or '
        '`"s3"`; or `dynamodb`.'
    )
    route_tables: list[LinkName] = Field(
        default=[],
        description="Route tables of the VPC that lead to it, and with them their subnets.",
    )
    policy: str = Field(
        default="",
        description="Its policy, JSON. It is kept and shown; nothing asks for it.",
    )


class PrivateLinkQuotas(BalancerQuotas):
    """What there may be of endpoints as well, and how long they take."""

    endpoints_per_vpc: Count = Field(
        default=50, description="Interface endpoints of a VPC (AWS: 50)."
    )
    gateway_endpoints: Count = Field(
        default=20, description="Gateway endpoints of the region (AWS: 20)."
    )
    endpoint_creation_seconds: Annotated[
        float, Field(ge=0, le=366 * 86400, allow_inf_nan=False)
    ] = Field(
        default=60.0, description="Until an accepted endpoint is available (AWS does not say)."
    )
