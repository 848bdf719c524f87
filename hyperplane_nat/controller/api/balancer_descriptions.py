# SPDX-License-Identifier: Apache-2.0
"""Load balancers and what belongs to them as the control API shows them: see `descriptions`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from hyperplane_nat.controller.api.descriptions import DECLARED

Protocol = Literal["TCP", "UDP", "TCP_UDP"]


class GroupName(BaseModel):
    """A security group."""

    GroupId: str
    GroupName: str


class NodeDescription(BaseModel):
    """Elastic Load Balancing API, AvailabilityZone: a node."""

    ZoneName: str
    SubnetId: str
    SubnetName: str
    PrivateIPv4Address: str
    IpAddress: str | None = Field(description="The public one of an internet-facing one's node.")
    AllocationId: str | None
    SecondaryAddresses: list[str]
    NetworkInterfaceId: str


class ListenerDescription(BaseModel):
    """A listener, as DescribeListeners of the Elastic Load Balancing API has it."""

    ListenerId: str = Field(description="What AWS's ARN ends in.")
    LoadBalancerId: str
    LoadBalancerName: str
    Protocol: Protocol
    Port: int
    TargetGroupId: str
    TargetGroupName: str
    Attributes: dict[str, str]
    Declared: bool = Field(description=DECLARED)


class LoadBalancerDescription(BaseModel):
    """A load balancer, as DescribeLoadBalancers of the Elastic Load Balancing API has it."""

    LoadBalancerId: str = Field(description="What AWS's ARN ends in.")
    LoadBalancerName: str
    DNSName: str
    Type: Literal["network"]
    Scheme: Literal["internal", "internet-facing"]
    OwnerId: str
    VpcId: str
    VpcName: str
    State: Literal["provisioning", "active"]
    CreatedTime: float = Field(description="Seconds since the epoch.")
    AvailabilityZones: list[NodeDescription]
    SecurityGroups: list[GroupName]
    Attributes: dict[str, str]
    Listeners: list[ListenerDescription]
    HealthCheckerNumber: int = Field(
        description="Number of the host that the checks of its VPC come from, which is nobody's."
    )
    Declared: bool = Field(description=DECLARED)


class TargetDescription(BaseModel):
    """A target, as DescribeTargetHealth of the Elastic Load Balancing API has it."""

    TargetGroupName: str
    VpcName: str
    LoadBalancerName: str | None
    Id: str = Field(description="Of a host, or an address.")
    Port: int
    Address: str
    HostName: str | None
    AvailabilityZone: str = Field(description="`all`: of an address outside the VPC.")
    HealthCheckPort: str
    State: Literal["initial", "healthy", "unhealthy", "unhealthy.draining", "unused", "draining"]
    Reason: str | None
    Description: str | None


class TargetGroupDescription(BaseModel):
    """A target group, as DescribeTargetGroups of the Elastic Load Balancing API has it."""

    TargetGroupId: str = Field(description="What AWS's ARN ends in.")
    TargetGroupName: str
    Protocol: Protocol
    Port: int
    TargetType: Literal["instance", "ip"]
    VpcId: str
    VpcName: str
    LoadBalancerName: str | None
    HealthCheckProtocol: Literal["TCP", "HTTP", "HTTPS"]
    HealthCheckPort: str
    HealthCheckPath: str | None
    Matcher: str | None
    HealthCheckIntervalSeconds: float
    HealthCheckTimeoutSeconds: float
    HealthyThresholdCount: int
    UnhealthyThresholdCount: int
    Attributes: dict[str, str]
    Targets: list[TargetDescription]
    Declared: bool = Field(description=DECLARED)
