# SPDX-License-Identifier: Apache-2.0
"""Endpoint services and endpoints as the control API shows them: see `descriptions`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from hyperplane_nat.controller.api.balancer_descriptions import GroupName
from hyperplane_nat.controller.api.descriptions import DECLARED

State = Literal["PendingAcceptance", "Pending", "Available", "Rejected"]


class ConnectionDescription(BaseModel):
    """EC2 API, VpcEndpointConnection: an endpoint of a service."""

    VpcEndpointId: str
    VpcEndpointName: str
    VpcEndpointOwner: str
    VpcEndpointState: State
    VpcName: str


class EndpointServiceDescription(BaseModel):
    """EC2 API, ServiceConfiguration, with permissions and connections."""

    ServiceId: str
    ServiceName: str
    Name: str
    ServiceType: Literal["Interface"]
    ServiceState: Literal["Available"]
    OwnerId: str
    VpcId: str
    VpcName: str
    AvailabilityZones: list[str]
    AcceptanceRequired: bool
    LoadBalancerId: str
    LoadBalancerName: str | None
    BaseEndpointDnsName: str
    PrivateDnsName: str | None
    AllowedPrincipals: list[str] = Field(description="Accounts by id; `*` are all.")
    Connections: list[ConnectionDescription]
    Declared: bool = Field(description=DECLARED)


class EndpointSubnet(BaseModel):
    """An address of an endpoint."""

    ZoneName: str
    SubnetId: str
    SubnetName: str
    PrivateIPv4Address: str
    NetworkInterfaceId: str


class EndpointDescription(BaseModel):
    """EC2 API, VpcEndpoint."""

    VpcEndpointId: str
    Name: str
    VpcEndpointType: Literal["Interface"]
    VpcId: str
    VpcName: str
    OwnerId: str
    ServiceName: str
    EndpointService: str | None = Field(description="VPC/name; null when the service is gone.")
    State: State
    CreationTimestamp: float = Field(description="Seconds since the epoch.")
    Subnets: list[EndpointSubnet]
    Groups: list[GroupName]
    PrivateDnsEnabled: bool
    PrivateDnsName: str | None
    DnsEntries: list[str]
    Declared: bool = Field(description=DECLARED)


class EndpointRouteTable(BaseModel):
    """A route table that has a route to an endpoint."""

    RouteTableId: str
    RouteTableName: str


class GatewayEndpointDescription(BaseModel):
    """EC2 API, VpcEndpoint of type Gateway."""

    VpcEndpointId: str
    Name: str
    VpcEndpointType: Literal["Gateway"]
    VpcId: str
    VpcName: str
    OwnerId: str
    ServiceName: str
    PrefixListId: str
    State: Literal["Available"]
    CreationTimestamp: float = Field(description="Seconds since the epoch.")
    RouteTables: list[EndpointRouteTable]
    PolicyDocument: str | None = Field(description="As it was given; nothing asks for it.")
    Declared: bool = Field(description=DECLARED)


class PrefixListDescription(BaseModel):
    """EC2 API, ManagedPrefixList with its entries."""

    PrefixListId: str
    PrefixListName: str
    AddressFamily: Literal["IPv4"]
    OwnerId: Literal["AWS"]
    Entries: list[str] = Field(description="Networks.")
