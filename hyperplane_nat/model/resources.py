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

DEFAULT_ACCOUNT = "default"
DEFAULT_ACCOUNT_ID = "111122223333"
ANYWHERE = IPv4Network("0.0.0.0/0")
MEMORY_MB = 128
"""Memory of a function that names none (AWS: 128 MB)."""


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
    """One allow rule of a security group; exactly one of `cidr` and `group` is given."""

    protocol: Protocol = Protocol.ALL
    first: int = 0
    """First port; without meaning for icmp and all."""
    last: int = 65535
    cidr: IPv4Network | None = None
    group: str | None = None
    """Name of a security group of the same VPC: its members are meant."""


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


@dataclass(frozen=True, slots=True)
class ServiceResource:
    """A server in a VPC or in the internet."""

    name: str
    kind: str
    """What it speaks: "http" or "udp-echo"."""
    address: IPv4Address
    port: int
    size_bytes: int = 4 * 1024 * 1024
    security_groups: tuple[str, ...] = ()
    """Without any everybody in the VPC reaches it. Hosts in the internet have none."""


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
class Code:
    """What a function runs, and how (Lambda API, `CreateFunction`)."""

    path: str
    """A directory, a zip archive or a `.py` file; absolute."""
    sha256: str
    """Of what is there (`code_sha256`), so that a change of it is one of the function; may be
    empty."""
    handler: str
    runtime: str
    """`python3.11` and the like, or `provided`."""
    timeout_seconds: int = 3


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
