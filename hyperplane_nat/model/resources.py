# SPDX-License-Identifier: Apache-2.0
"""What somebody wants a region to hold, by names: the input of `Region.plan`.

Plain data, neither checked nor numbered. Ids, states and whatever else AWS would add belong to the
region; checking references, ranges and quotas does too, so that every way in (a file, the control
API) is refused with the same words.

Names of accounts, VPCs and functions are unique in a lab; those of subnets, security groups and
services in their VPC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from hyperplane_nat.model.balancer_resources import LoadBalancerResource, TargetGroupResource
from hyperplane_nat.model.network_acl_entities import NetworkAclEntry
from hyperplane_nat.model.private_link_resources import (
    EndpointResource,
    EndpointServiceResource,
    GatewayEndpointResource,
)

DEFAULT_ACCOUNT = "default"
DEFAULT_ACCOUNT_ID = "111122223333"
ANYWHERE = IPv4Network("0.0.0.0/0")
PUBLIC_NETWORKS = (IPv4Network("203.0.113.0/24"), IPv4Network("198.51.100.0/24"))
"""Where public addresses are: TEST-NET-3 and TEST-NET-2 of RFC 5737."""

DEFAULT_NETWORK_ACL = "default"
"""What the default network ACL of a VPC is called until somebody names it."""

MAIN_ROUTE_TABLE = "main"
"""What the main route table of a VPC is called until somebody names it."""

AWS_SERVICES = ("s3", "dynamodb")
"""AWS's own services that have gateway endpoints ("Gateway endpoints")."""

AVAILABILITY_ZONE = "a"
"""Of a subnet that names none."""
MEMORY_MB = 128
"""Memory of a function that names none (AWS: 128 MB)."""


TIMEOUT_SECONDS = 3
"""Of an invocation, where a function names none (AWS: 3 seconds)."""

EPHEMERAL_STORAGE_MB = 512
"""Of an environment's `/tmp`, where a function names none (AWS: 512 MB)."""


class Networking(StrEnum):
    """How the environments of a function reach a network."""

    NONE = "none"
    """No VPC configuration: the internet through the service's own NAT, nothing private."""
    HYPERPLANE = "hyperplane"
    """One interface per subnet and set of security groups, shared (AWS since 2019)."""
    INTERFACE_PER_ENVIRONMENT = "interface-per-environment"
    """An interface for each environment, made during its cold start (AWS before 2019)."""


class Protocol(StrEnum):
    """What a security group rule allows."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class AccountResource:
    """An AWS account: who owns VPCs and functions."""

    name: str
    id: str | None = None
    """Twelve digits; generated when absent."""


@dataclass(frozen=True, slots=True)
class RuleResource:
    """
    One allow rule of a security group; exactly one of `cidr`, `group` and `prefix_list` is given.
    """

    protocol: Protocol = Protocol.ALL
    first: int = 0
    """First port; without meaning for icmp and all."""
    last: int = 65535
    cidr: IPv4Network | None = None
    group: str | None = None
    """Name of a security group of the same VPC: its members are meant."""
    prefix_list: str | None = None
    """A prefix list of AWS's by its name, the last part of that, or its id."""


ALLOW_ALL = (RuleResource(Protocol.ALL, cidr=ANYWHERE),)
"""The egress rule that AWS gives a new security group."""


@dataclass(frozen=True, slots=True)
class SecurityGroupResource:
    """A security group of a VPC."""

    name: str
    description: str = ""
    ingress: tuple[RuleResource, ...] = ()
    egress: tuple[RuleResource, ...] = ALLOW_ALL


@dataclass(frozen=True, slots=True)
class SubnetResource:
    """A subnet of a VPC."""

    name: str
    cidr: IPv4Network
    availability_zone: str = AVAILABILITY_ZONE


@dataclass(frozen=True, slots=True)
class RouteResource:
    """A route; exactly one target is given."""

    destination: IPv4Network
    internet_gateway: bool = False
    """That of the VPC."""
    host: str | None = None
    """Name of a host of the VPC."""
    nat_gateway: str | None = None
    """Name of a NAT gateway of the VPC."""


@dataclass(frozen=True, slots=True)
class NatGatewayResource:
    """A NAT gateway of a VPC."""

    name: str
    subnet: str
    public: bool = True
    addresses: int = 1
    """How many it has."""
    elastic_addresses: tuple[IPv4Address, ...] = ()
    """Its public addresses, the primary first; free ones when there are none."""


@dataclass(frozen=True, slots=True)
class RouteTableResource:
    """A route table of a VPC."""

    name: str
    main: bool = False
    subnets: tuple[str, ...] = ()
    routes: tuple[RouteResource, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkAclResource:
    """A network ACL of a VPC."""

    name: str
    default: bool = False
    subnets: tuple[str, ...] = ()
    ingress: tuple[NetworkAclEntry, ...] = ()
    """In any order."""
    egress: tuple[NetworkAclEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class HostResource:
    """A host in a VPC."""

    name: str
    subnet: str
    address: IPv4Address | None = None
    """A free one of the subnet when absent."""
    security_groups: tuple[str, ...] = ()
    """Without any everything may go in and out."""
    description: str = ""
    public: bool = False
    """Whether it has a public address."""
    public_address: IPv4Address | None = None
    """That one; a free one when absent."""


@dataclass(frozen=True, slots=True)
class ServiceResource:
    """A server in a VPC or in the internet."""

    name: str
    kind: str
    """What it speaks: "http", "udp-echo" or "mailbox"."""
    address: IPv4Address | None
    """None exactly when it runs on a host, and has the address of that."""
    port: int
    size_bytes: int = 4 * 1024 * 1024
    security_groups: tuple[str, ...] = ()
    """Without any everybody in the VPC reaches it. Hosts in the internet have none, and on a host
    of the VPC it is the host that has them."""
    host: str | None = None
    """Name of the host of its VPC that it runs on; None: the VPC's router."""
    aws_service: str = ""
    """Of a host in the internet: of which of `AWS_SERVICES` it is."""


@dataclass(frozen=True, slots=True)
class VpcResource:
    """A customer's VPC with all that is in it."""

    name: str
    cidr: IPv4Network
    account: str = DEFAULT_ACCOUNT
    mtu_bytes: int = 1500
    subnets: tuple[SubnetResource, ...] = ()
    security_groups: tuple[SecurityGroupResource, ...] = ()
    services: tuple[ServiceResource, ...] = ()
    hosts: tuple[HostResource, ...] = ()
    internet_gateway: bool = False
    nat_gateways: tuple[NatGatewayResource, ...] = ()
    target_groups: tuple[TargetGroupResource, ...] = ()
    load_balancers: tuple[LoadBalancerResource, ...] = ()
    endpoint_services: tuple[EndpointServiceResource, ...] = ()
    endpoints: tuple[EndpointResource, ...] = ()
    gateway_endpoints: tuple[GatewayEndpointResource, ...] = ()
    route_tables: tuple[RouteTableResource, ...] = ()
    network_acls: tuple[NetworkAclResource, ...] = ()
    enable_dns_support: bool = True
    enable_dns_hostnames: bool = False


@dataclass(frozen=True, slots=True)
class InterfaceResource:
    """A network interface of the lab file, for the environments that it provides."""

    name: str
    vpc: str
    subnet: str
    addresses: tuple[IPv4Address, ...]
    """The primary first."""
    mtu_bytes: int | None = None
    """The largest packet that it sends, where that is not AWS's."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a function (Lambda API, `Layer`)."""

    path: str
    """A directory or a zip archive; absolute."""
    sha256: str
    """As of `Code`."""


@dataclass(frozen=True, slots=True)
class Code:
    """What a function runs, and how (Lambda API, `CreateFunction`)."""

    path: str
    """A directory, a zip archive or a `.py` file; absolute."""
    sha256: str
    """Of what is there (`code_sha256`), so that a change of it is one of the function; may be
    empty."""
    handler: str
    runtime: str
    """`python3.11`, `nodejs20.x` and the like, or `provided`."""
    timeout_seconds: int = TIMEOUT_SECONDS
    ephemeral_storage_mb: int = EPHEMERAL_STORAGE_MB
    """Size of the `/tmp` of its environments (`EphemeralStorage`)."""
    freeze: bool = True
    """Whether its environments stand still between invocations, as Lambda's do."""
    layers: tuple[Layer, ...] = ()
    """What is in its `/opt`, the uppermost last."""


@dataclass(frozen=True, slots=True)
class AliasResource:
    """A name for a version of a function."""

    name: str
    version: int | None = None
    """None: the one that is published whenever the function has changed."""
    provisioned_concurrency: int = 0
    """How many environments of that version are kept initialized."""
    additional: tuple[tuple[int, float], ...] = ()
    """As of `entities.Alias`."""


@dataclass(frozen=True, slots=True)
class FunctionResource:
    """A Lambda function."""

    name: str
    networking: Networking = Networking.HYPERPLANE
    account: str = DEFAULT_ACCOUNT
    vpc: str | None = None
    """Name of its VPC; None exactly when networking is `none`."""
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    memory_mb: int = MEMORY_MB
    code: Code | None = None
    """None: it has no handler, and runs the programs that `invoke` names."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables of its handler and of programs, sorted by their names."""
    reserved_concurrency: int | None = None
    """How many invocations there may be at a time; None: as many as there are environments."""
    aliases: tuple[AliasResource, ...] = ()


@dataclass(frozen=True, slots=True)
class Resources:
    """All that is wanted. What a region holds and this does not name is to be deleted."""

    accounts: tuple[AccountResource, ...] = field(
        default=(AccountResource(DEFAULT_ACCOUNT, DEFAULT_ACCOUNT_ID),)
    )
    vpcs: tuple[VpcResource, ...] = ()
    internet: tuple[ServiceResource, ...] = ()
    """Public hosts that functions without VPC configuration reach."""
    functions: tuple[FunctionResource, ...] = ()
    interfaces: tuple[InterfaceResource, ...] = ()
    """Those that `environments` share. Their numbers follow from their places."""
    environments: int = 0
    """How many are provided from the beginning, spread over `interfaces` in turn."""
