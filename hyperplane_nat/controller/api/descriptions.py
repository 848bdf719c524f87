# SPDX-License-Identifier: Apache-2.0
"""Resources as the control API describes them, as models: `answers` says what that means."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DECLARED = "Whether a declaration named it: only then one that does not name it deletes it."


class _Description(BaseModel):
    # Only the OpenAPI document is made of them: nothing before somebody asks for it.
    model_config = ConfigDict(defer_build=True)


class VpcConfig(_Description):
    """Lambda API, VpcConfig."""

    VpcId: str
    VpcName: str
    SubnetIds: list[str]
    SecurityGroupIds: list[str]


class EnvironmentVariables(_Description):
    """Lambda API, EnvironmentResponse."""

    Variables: dict[str, str]


class LayerDescription(_Description):
    """A layer of a function's code."""

    Path: str = Field(description="A directory or a zip archive.")
    CodeSha256: str


class CodeDescription(_Description):
    """What a function runs, with the names of the Lambda API's FunctionConfiguration."""

    Path: str = Field(description="A directory, a zip archive or a `.py` file.")
    CodeSha256: str
    Handler: str
    Runtime: str
    Timeout: int = Field(description="In seconds.")
    EphemeralStorage: int = Field(description="Size of `/tmp` in MB.")
    Layers: list[LayerDescription] = Field(description="The uppermost last.")


class ProvisionedDescription(_Description):
    """As GetProvisionedConcurrencyConfig of the Lambda API; of all aliases of a version."""

    RequestedProvisionedConcurrentExecutions: int
    AllocatedProvisionedConcurrentExecutions: int
    AvailableProvisionedConcurrentExecutions: int
    Status: Literal["IN_PROGRESS", "READY", "FAILED"]
    StatusReason: str


class RoutingDescription(_Description):
    """As AliasRoutingConfiguration of the Lambda API."""

    AdditionalVersionWeights: dict[str, float] = Field(
        description="The share of the invocations that another version serves."
    )


class AliasDescription(_Description):
    """An alias, as AliasConfiguration of the Lambda API."""

    Name: str
    FunctionVersion: str
    RoutingConfig: RoutingDescription
    ProvisionedConcurrency: ProvisionedDescription | None


class FunctionDescription(_Description):
    """A function or a version, as GetFunctionConfiguration of the Lambda API has it."""

    FunctionName: str
    Version: str = Field(description="$LATEST, or the number of a version.")
    Aliases: list[AliasDescription] = Field(description="Those of a function, by name.")
    Account: str
    Networking: Literal["none", "hyperplane", "interface-per-environment"]
    MemorySize: int
    Code: CodeDescription | None = Field(description="Null: it has no handler.")
    Environment: EnvironmentVariables
    ReservedConcurrentExecutions: int | None
    State: Literal["Pending", "Active", "Inactive", "Failed"]
    StateReason: str
    StateReasonCode: str
    LastUpdateStatus: Literal["Successful", "InProgress", "Failed"]
    LastUpdateStatusReason: str
    LastUpdateStatusReasonCode: str
    VpcConfig: VpcConfig | None
    NetworkInterfaceIds: list[str]
    Environments: int
    LastUsed: float = Field(description="Seconds since the epoch.")


class IpRange(_Description):
    """EC2 API, IpRange."""

    CidrIp: str


class GroupPair(_Description):
    """EC2 API, UserIdGroupPair."""

    GroupId: str


class PrefixListPeer(_Description):
    """EC2 API, PrefixListId, with its name."""

    PrefixListId: str
    PrefixListName: str


class Permission(_Description):
    """
    A rule (EC2 API, IpPermission); it has one of IpRanges, UserIdGroupPairs and PrefixListIds.
    """

    IpProtocol: str = Field(description="tcp, udp, icmp, or -1 for all.")
    FromPort: int | None = None
    ToPort: int | None = None
    IpRanges: list[IpRange] | None = None
    UserIdGroupPairs: list[GroupPair] | None = None
    PrefixListIds: list[PrefixListPeer] | None = None


class SecurityGroupDescription(_Description):
    """A security group, as DescribeSecurityGroups of the EC2 API has it."""

    GroupId: str
    GroupName: str
    Description: str
    OwnerId: str
    VpcId: str
    VpcName: str
    IpPermissions: list[Permission]
    IpPermissionsEgress: list[Permission]
    NetworkInterfaceIds: list[str]


class AccountDescription(_Description):
    """An account."""

    Id: str
    Name: str
    Declared: bool = Field(description=DECLARED)


class VpcDescription(_Description):
    """A VPC, as DescribeVpcs of the EC2 API has it."""

    VpcId: str
    VpcName: str
    OwnerId: str
    CidrBlock: str
    MtuBytes: int
    EnableDnsSupport: bool
    EnableDnsHostnames: bool
    Declared: bool = Field(description=DECLARED)


class SubnetDescription(_Description):
    """A subnet, as DescribeSubnets of the EC2 API has it."""

    SubnetId: str
    SubnetName: str
    OwnerId: str
    VpcId: str
    VpcName: str
    CidrBlock: str
    AvailabilityZone: str
    AvailableIpAddressCount: int = Field(description="Addresses that nobody has.")
    Declared: bool = Field(description=DECLARED)


class GroupIdentifier(_Description):
    """EC2 API, GroupIdentifier."""

    GroupId: str
    GroupName: str


class HostDescription(_Description):
    """A host of a VPC, as DescribeInstances of the EC2 API has it where that has a word for it."""

    InstanceId: str
    NetworkInterfaceId: str = Field(description="Of its one interface, as flow logs have it.")
    HostName: str
    Description: str
    OwnerId: str
    VpcId: str
    VpcName: str
    SubnetId: str
    SubnetName: str
    PrivateIpAddress: str
    PublicIpAddress: str | None
    Groups: list[GroupIdentifier] = Field(description="None: everything may go in and out.")
    Services: list[str] = Field(description="Names of the lab's servers that run on it.")
    Number: int = Field(description="What its namespace is named after: hp-LAB-host-NUMBER.")
    Attached: str | None = Field(
        description="File of the namespace that was attached; null for one of the lab's own."
    )
    Declared: bool = Field(description=DECLARED)


class HostRow(HostDescription):
    """A host with its traffic."""

    packets_out: int = Field(description="From the host.")
    bytes_out: int
    packets_in: int = Field(description="To the host.")
    bytes_in: int
    drops: int
    flows: int


class ServiceDescription(_Description):
    """A server of the lab's own, in a VPC or in the internet."""

    ServiceId: str
    ServiceName: str
    VpcId: str
    VpcName: str
    Kind: Literal["http", "udp-echo", "mailbox"]
    PrivateIpAddress: str
    Port: int
    HostName: str | None = Field(description="Host that it runs on; null: the VPC's router.")
    SizeBytes: int
    AwsService: Literal["s3", "dynamodb"] | None = Field(
        description="Of one in the internet: which of AWS's services it stands for."
    )
    Groups: list[GroupIdentifier]
    Declared: bool = Field(description=DECLARED)


class AssociationDescription(_Description):
    """A subnet of a route table or network ACL (EC2 API, RouteTableAssociation)."""

    SubnetId: str
    SubnetName: str


class RouteDescription(_Description):
    """A route, with one destination and one target (EC2 API, Route)."""

    DestinationCidrBlock: str | None = None
    DestinationPrefixListId: str | None = Field(
        default=None, description="Of a route to a gateway endpoint, which comes and goes with it."
    )
    DestinationPrefixListName: str | None = None
    GatewayId: str | None = Field(
        default=None,
        description='An internet gateway, a gateway endpoint, or "local": what is in the VPC.',
    )
    NatGatewayId: str | None = None
    InstanceId: str | None = None
    State: Literal["active", "blackhole"] = Field(
        description="`blackhole`: what it leads to is gone, and packets are dropped."
    )


class RouteTableDescription(_Description):
    """A route table, as DescribeRouteTables of the EC2 API has it."""

    RouteTableId: str
    RouteTableName: str
    OwnerId: str
    VpcId: str
    VpcName: str
    Main: bool = Field(description="Of all subnets of the VPC that no table names.")
    Associations: list[AssociationDescription]
    Routes: list[RouteDescription]
    Declared: bool = Field(description=DECLARED)


class PortRangeDescription(_Description):
    """EC2 API, PortRange."""

    From: int
    To: int


class IcmpTypeCodeDescription(_Description):
    """EC2 API, IcmpTypeCode; -1 is any."""

    Type: int
    Code: int


class NetworkAclEntryDescription(_Description):
    """A rule of a network ACL (EC2 API, NetworkAclEntry)."""

    RuleNumber: int = Field(description="In whose order they are asked; 32767 is the last, `*`.")
    Egress: bool
    RuleAction: Literal["allow", "deny"]
    Protocol: str = Field(description="Its number, -1 for all.")
    CidrBlock: str
    PortRange: PortRangeDescription | None = None
    IcmpTypeCode: IcmpTypeCodeDescription | None = None


class NetworkAclDescription(_Description):
    """A network ACL, as DescribeNetworkAcls of the EC2 API has it."""

    NetworkAclId: str
    NetworkAclName: str
    OwnerId: str
    VpcId: str
    VpcName: str
    IsDefault: bool = Field(description="Of all subnets of the VPC that no other ACL names.")
    Associations: list[AssociationDescription]
    Entries: list[NetworkAclEntryDescription]
    Declared: bool = Field(description=DECLARED)


class FlowLogDescription(_Description):
    """A flow log that was asked for, as DescribeFlowLogs of the EC2 API has it."""

    FlowLogId: str
    OwnerId: str
    ResourceId: str
    ResourceType: Literal["VPC", "Subnet", "NetworkInterface"]
    VpcName: str
    SubnetName: str | None
    NetworkInterfaceId: str | None
    TrafficType: Literal["ACCEPT", "REJECT", "ALL"]
    Fields: list[str]
    MaxAggregationInterval: Literal[60, 600]
    LogGroupName: str
    CreationTime: float = Field(description="In seconds since the epoch, by the lab's clock.")


class AttachmentDescription(_Description):
    """EC2 API, InternetGatewayAttachment."""

    VpcId: str
    VpcName: str
    State: Literal["available"]


class InternetGatewayDescription(_Description):
    """An internet gateway, as DescribeInternetGateways of the EC2 API has it."""

    InternetGatewayId: str
    InternetGatewayName: str
    OwnerId: str
    Attachments: list[AttachmentDescription]
    Declared: bool = Field(description=DECLARED)


class AddressDescription(_Description):
    """A public address, as DescribeAddresses of the EC2 API has it."""

    AllocationId: str
    PublicIp: str
    OwnerId: str
    AssociationId: str | None
    InstanceId: str | None
    HostName: str | None = Field(description="VPC/name of the host that has it.")
    NatGatewayId: str | None
    NetworkInterfaceId: str | None = Field(description="Of the load balancer's node that has it.")
    LoadBalancerName: str | None = Field(description="VPC/name of that load balancer.")
    PrivateIpAddress: str | None
    Kept: bool = Field(
        description="Whether it was allocated, and stays when it is disassociated; what was given "
        "to a host, a NAT gateway or a load balancer without that is released then."
    )


class NatGatewayAddressDescription(_Description):
    """EC2 API, NatGatewayAddress."""

    PrivateIp: str
    PublicIp: str | None
    AllocationId: str | None
    AssociationId: str | None
    IsPrimary: bool
    Status: Literal["assigning", "associating", "succeeded", "unassigning", "disassociating"]


class NatGatewayDescription(_Description):
    """A NAT gateway, as DescribeNatGateways of the EC2 API has it."""

    NatGatewayId: str
    NatGatewayName: str
    OwnerId: str
    VpcId: str
    VpcName: str
    SubnetId: str
    SubnetName: str
    AvailabilityZone: str
    ConnectivityType: Literal["public", "private"]
    State: Literal["pending", "failed", "available", "deleting", "deleted"]
    FailureCode: str | None = Field(description="Of one that is failed, or will be.")
    FailureMessage: str | None
    CreateTime: float = Field(description="Seconds since the epoch.")
    DeleteTime: float | None
    NetworkInterfaceId: str | None = Field(description="Null for one that has ended.")
    NatGatewayAddresses: list[NatGatewayAddressDescription]
    Declared: bool = Field(description=DECLARED)
