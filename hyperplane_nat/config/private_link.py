# SPDX-License-Identifier: Apache-2.0
"""The sections for PrivateLink: endpoint services of a VPC's load balancers, and endpoints."""

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
        default_factory=list,
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
        default_factory=list,
        description="Security groups of the VPC: who may come. Without any everybody may.",
    )
    private_dns: bool = Field(
        default=False,
        description="Whether the VPC has the service's private DNS name for it; both DNS "
        "attributes of the VPC must be on.",
    )
    node: list[Node] = Field(default_factory=list)

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if not self.node:
            yield FieldError("node", "the endpoint is in no subnet", "add a node")


class PrivateLinkQuotas(BalancerQuotas):
    """What there may be of endpoints as well, and how long they take."""

    endpoints_per_vpc: Count = Field(
        default=50, description="Interface endpoints of a VPC (AWS: 50)."
    )
    endpoint_creation_seconds: Annotated[
        float, Field(ge=0, le=366 * 86400, allow_inf_nan=False)
    ] = Field(
        default=60.0, description="Until an accepted endpoint is available (AWS does not say)."
    )
