# SPDX-License-Identifier: Apache-2.0
"""The sections for what customers own: accounts, VPCs, security groups, the internet.

Theory of operation
-------------------
Things are named, never numbered; a name is looked up where AWS would look it up: a security group
in its VPC, a function (`config.functions`) in the lab. A subnet's name is unique in the lab, so a
function's subnets tell its VPC. What a section can tell by itself is checked here, references
between sections in `config.resource_checks` and `config.routing_checks`. Quotas and free addresses
depend on what already stands: they are the model's to judge, and so are not looked at here.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Literal

from pydantic import Field

from hyperplane_nat.config.balancing import LoadBalancer, TargetGroup
from hyperplane_nat.config.network_acls import NetworkAcl, NetworkAclQuotas
from hyperplane_nat.config.private_link import (
    Endpoint,
    EndpointService,
    GatewayEndpoint,
    PrivateLinkQuotas,
)
from hyperplane_nat.config.routing import NatGateway, RouteTable
from hyperplane_nat.config.values import (
    AccountId,
    AccountNameOrId,
    Address,
    AvailabilityZone,
    FieldError,
    GroupName,
    LinkName,
    Mtu,
    Network,
    Port,
    PortRange,
    PublicAddress,
    Section,
)

INTERNET = "internet"
"""Name of the network that the internet's hosts are in, beside the customers' VPCs."""

ANYWHERE = "0.0.0.0/0"

POOL_SIZE = 64
"""Size of the pool of a lab with functions that does not say."""

Duration = Annotated[float, Field(ge=0, le=366 * 86400, allow_inf_nan=False)]
Quota = Annotated[int, Field(ge=1, le=1_000_000)]


class Account(Section):
    """An AWS account. VPCs and functions belong to one."""

    name: LinkName = Field(description="Name of the account, unique in the lab.")
    id: AccountId | None = Field(
        default=None,
        description="Its account id, 12 digits in quotes; one is made up if there is none.",
    )


class Subnet(Section):
    """A subnet of a VPC. The first four addresses and the last are reserved, as on AWS."""

    name: LinkName = Field(description="Name of the subnet, unique in the lab.")
    cidr: Network = Field(description="Its network, inside the VPC's; /28 at the smallest (AWS).")
    availability_zone: AvailabilityZone = Field(
        default="a", description="Availability zone that it is in, a letter."
    )

    @property
    def network(self) -> IPv4Network:
        """`cidr` to calculate with."""
        return IPv4Network(self.cidr)

    @property
    def router(self) -> str:
        """Address of the VPC router in this subnet: its first host (AWS)."""
        return str(self.network.network_address + 1)

    def reserved(self, address: IPv4Address) -> bool:
        """Whether AWS keeps this address of the subnet for itself."""
        return (
            address < self.network.network_address + 4 or address == self.network.broadcast_address
        )

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if self.network.prefixlen > 28:
            yield FieldError("cidr", f"{self.cidr} is smaller than a /28", "choose a larger one")


class Rule(Section):
    """An allow rule of a security group: for a protocol, its ports, and the other side."""

    protocol: Literal["tcp", "udp", "icmp", "all"] = Field(
        description="Protocol that it allows; `all` is every one."
    )
    ports: PortRange | None = Field(
        default=None,
        description='Destination port, `"5432"`, or ports, `"1024-2048"`, of `tcp` and `udp`; '
        "every port if there are none.",
    )
    cidr: Network | None = Field(
        default=None,
        description="The other side as a network: who may come (ingress), or what may be reached "
        "(egress).",
    )
    group: GroupName | None = Field(
        default=None,
        description="The other side as a security group of the same VPC: all that carry it.",
    )
    prefix_list: str | None = Field(
        default=None,
        max_length=255,
        description="The other side as one of AWS's services, by the name of its prefix list, "
        '`"com.amazonaws.us-east-1.s3"` with the region of the lab, or `"s3"`; or of `dynamodb`. '
        "A rule has one of `cidr`, `group` and `prefix_list`.",
    )

    @property
    def port_range(self) -> tuple[int, int]:
        """The first and the last port that it allows."""
        first, _, last = (self.ports or "0-65535").partition("-")
        return int(first), int(last or first)

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if self.ports is not None and self.protocol not in ("tcp", "udp"):
            yield FieldError(
                "ports", f"protocol {self.protocol!r} has no ports to choose from", "leave it out"
            )
        sides = {"cidr": self.cidr, "group": self.group, "prefix_list": self.prefix_list}
        given = [name for name, value in sides.items() if value is not None]
        if not given:
            yield FieldError(
                "cidr",
                "the rule names no other side",
                f'add a cidr ("{ANYWHERE}" is all), group or prefix_list',
            )
        for name in given[1:]:
            yield FieldError(
                name, f"the rule has a {given[0]} as well as a {name}", "make it two rules"
            )


def _everything() -> list[Rule]:
    return [Rule(protocol="all", cidr=ANYWHERE)]


class SecurityGroup(Section):
    """
    A security group of a VPC: what it does not allow is refused when a flow begins. Packets of a
    flow that began pass both ways until it ends, whatever becomes of the rules.
    """

    name: GroupName = Field(description="Name of the group, unique in its VPC.")
    description: str = Field(default="", description="What it is for.")
    ingress: list[Rule] = Field(
        default=[],
        description="What may come in. Of use for services and hosts: nothing ever opens a flow to "
        "a function.",
    )
    egress: list[Rule] = Field(
        default_factory=_everything,
        description="What may go out; everything if it is left out, as AWS creates a group, and "
        "nothing if it is `egress = []`.",
    )


class _Server(Section):
    name: LinkName = Field(description="Name of the service, unique in its VPC.")
    kind: Literal["http", "udp-echo", "mailbox"] = Field(
        description="`http` serves a file of known content over TCP, `udp-echo` sends every "
        "datagram back, `mailbox` takes what is PUT for a program of the host."
    )
    port: Port = Field(description="Port it listens on.")
    size_bytes: int = Field(
        default=4 * 1024 * 1024,
        ge=0,
        le=2**40,
        description="Size of the file that an `http` service serves.",
    )

    @property
    def transport(self) -> str:
        """The protocol under it: "tcp" or "udp"."""
        return "udp" if self.kind == "udp-echo" else "tcp"


class Service(_Server):
    """A small server of the lab's own in a VPC: on the VPC's router, or on a host."""

    address: Address | None = Field(
        default=None,
        description="Its address, in one of the VPC's subnets; a service has this or a `host`.",
    )
    host: LinkName | None = Field(
        default=None, description="Host of the VPC that it runs on, whose address it then has."
    )
    security_groups: list[GroupName] = Field(
        default=[],
        description="Security groups of the VPC that it carries: a flow of a function to it must "
        "be allowed by the ingress rules of one of them. Without any, everything is let in. One on "
        "a host has none of its own: those of the host count.",
    )

    @property
    def place(self) -> str:
        """Its address, or the host that has it."""
        return self.address or f"host {self.host}"

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if self.address is None and self.host is None:
            yield FieldError(
                "address", f"service {self.name!r} has no address", "give it one, or a host"
            )
        if self.host is None:
            return
        if self.address is not None:
            yield FieldError(
                "address",
                f"service {self.name!r} is on a host, and has the address of that",
                "leave one of them out",
            )
        if self.security_groups:
            yield FieldError(
                "security_groups",
                f"service {self.name!r} is on a host, whose groups count",
                "give them to the host",
            )


class Host(Section):
    """
    A host in a VPC: a network namespace of its own, in which `exec` runs programs. Its traffic
    passes its security groups both ways, within its subnet too.
    """

    name: LinkName = Field(description="Name of the host, unique in its VPC.")
    subnet: LinkName = Field(description="Subnet of the VPC that it is in.")
    address: Address | None = Field(
        default=None, description="Its address in the subnet; a free one if it is left out."
    )
    security_groups: list[GroupName] = Field(
        default=[],
        description="Security groups of the VPC that it carries. Without any, everything may go in "
        "and out.",
    )
    description: str = Field(default="", description="What it is for.")
    public_address: PublicAddress = Field(
        default=False,
        description="Public address by which it reaches the internet and is reached, if its subnet "
        "has a route to the VPC's internet gateway: `true` for a free one, or one of "
        "198.51.100.0/24 or 203.0.113.0/24 (RFC 5737).",
    )


class InternetHost(_Server):
    """A small server of the lab's own in the internet, for functions outside every VPC."""

    name: LinkName = Field(description="Name of the host, unique in the internet.")
    address: Address = Field(
        description="Its address, in 198.51.100.0/24 or 203.0.113.0/24 (RFC 5737): no host of the "
        "real internet has one of these."
    )
    aws_service: Literal["s3", "dynamodb"] | None = Field(
        default=None,
        description="Which of AWS's services it stands for. The addresses of those that stand for "
        "one are its prefix list, to which gateway endpoints lead.",
    )

    @property
    def place(self) -> str:
        """Its address."""
        return self.address


class Vpc(Section):
    """A customer VPC. VPCs may overlap each other: they never meet."""

    name: LinkName = Field(description="Name of the VPC, unique in the lab.")
    account: AccountNameOrId | None = Field(
        default=None,
        description="Account that owns it, by name or id; the first one if it is left out.",
    )
    cidr: Network = Field(
        description="Its network. An environment attached to the VPC reaches this, and what the "
        "route table of its subnet leads to."
    )
    mtu_bytes: Mtu = Field(default=1500, description="MTU of the links in the VPC.")
    enable_dns_support: bool = Field(
        default=True,
        description="Whether it has a resolver, at base + 2 and 169.254.169.253 (AWS: true).",
    )
    enable_dns_hostnames: bool = Field(
        default=False,
        description="Whether its addresses have AWS's private names as well, "
        "`ip-10-0-1-80.ec2.internal` (AWS: false).",
    )
    subnet: list[Subnet] = Field(default=[])
    security_group: list[SecurityGroup] = Field(default=[])
    host: list[Host] = Field(default=[])
    service: list[Service] = Field(default=[])
    internet_gateway: bool = Field(
        default=False,
        description="Whether it has an internet gateway, to which routes can lead and by which its "
        "public addresses are reached.",
    )
    nat_gateway: list[NatGateway] = Field(default=[])
    target_group: list[TargetGroup] = Field(default=[])
    load_balancer: list[LoadBalancer] = Field(default=[])
    endpoint_service: list[EndpointService] = Field(default=[])
    endpoint: list[Endpoint] = Field(default=[])
    gateway_endpoint: list[GatewayEndpoint] = Field(default=[])
    route_table: list[RouteTable] = Field(default=[])
    network_acl: list[NetworkAcl] = Field(default=[])

    @property
    def network(self) -> IPv4Network:
        """`cidr` to calculate with."""
        return IPv4Network(self.cidr)


class Lambda(Section):
    """What the Lambda service itself is in this lab: where functions with code are invoked."""

    port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="Port of 127.0.0.1 on which functions are invoked as by the Lambda API, in a "
        "lab that has functions; 0 takes a free one.",
    )
    region: str = Field(
        default="us-east-1",
        pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]$",
        description="Name of the region, in ARNs and environment variables.",
    )
    process_uid: int = Field(
        default=65529,
        ge=0,
        le=(1 << 32) - 2,
        description="User and group, by number, of handlers. 0 lets them be root, for containers "
        "that have no such user.",
    )
    blocked_tcp_ports: list[Port] = Field(
        default=[25],
        max_length=60,
        description="TCP ports that functions cannot connect to, wherever they are (AWS: 25); "
        "packets are dropped as `lambda_port`.",
    )
    icmp: bool = Field(
        default=False,
        description="Whether pings of functions are carried; else they are dropped as "
        "`lambda_icmp`. Environments of the lab file always may.",
    )


class Pool(Section):
    """Execution environments made ahead, so that a cold start only has to attach one."""

    size: int = Field(
        default=0,
        ge=0,
        le=16383,
        description="Environments kept ready; 64 if there is a function and it is left out.",
    )
    refill_batch: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="Environments made at a time while the pool is refilled: more are made faster, "
        "but an attach may have to wait for the batch.",
    )


class Lifecycle(PrivateLinkQuotas, NetworkAclQuotas):
    """How long things take on AWS, and the quotas, for everything that functions bring about."""

    time_scale: float = Field(
        default=1.0,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="All durations of this section but `client_token_seconds` are divided by it: "
        "10 makes 90 seconds 9, for tests.",
    )
    interface_creation_seconds: Duration = Field(
        default=90.0,
        description="Until an interface that functions share is available, its function Pending "
        "meanwhile (AWS: up to 90).",
    )
    interface_deletion_seconds: Duration = Field(
        default=1200.0,
        description="From the end of the last user of a shared interface to its deletion (AWS: up "
        "to 20 minutes).",
    )
    per_environment_interface_seconds: Duration = Field(
        default=12.0,
        description="Creating and attaching an environment's own interface, in its cold start (AWS "
        "before 2019: 10 to 15).",
    )
    per_environment_deletion_seconds: Duration = Field(
        default=1200.0,
        description="From the end of an environment to the deletion of its own interface.",
    )
    shared_attach_seconds: Duration = Field(
        default=0.0002,
        description="Attaching an environment to a shared interface (AWS: 200 microseconds).",
    )
    function_idle_seconds: Duration = Field(
        default=14 * 86400.0,
        description="A function not invoked for so long becomes Inactive (AWS: 14 days).",
    )
    warm_idle_seconds: Duration = Field(
        default=600.0,
        description="How long an idle environment is kept warm for the next invocation.",
    )
    interfaces_per_vpc: Quota = Field(
        default=500, description="Network interfaces of functions in a VPC (AWS: 500)."
    )
    subnets_per_function: Quota = Field(default=16, description="Subnets of a function (AWS: 16).")
    groups_per_function: Quota = Field(
        default=5, description="Security groups of a function (AWS: 5)."
    )
    rules_per_direction: Quota = Field(
        default=60,
        description="Rules of a security group, ingress and egress apart (AWS: 60).",
    )
    route_tables_per_vpc: Quota = Field(
        default=200, description="Route tables of a VPC, the main one too (AWS: 200)."
    )
    routes_per_table: Quota = Field(
        default=500, description="Routes of a route table, local ones aside (AWS: 500)."
    )
    elastic_addresses: Quota = Field(
        default=5,
        description="Public addresses that an account may have allocated, without those of files "
        "(AWS: 5).",
    )
    nat_gateways_per_zone: Quota = Field(
        default=5,
        description="NAT gateways of an account in an availability zone that are pending, "
        "available or deleting (AWS: 5).",
    )
    nat_gateway_elastic_addresses: Annotated[int, Field(ge=1, le=8)] = Field(
        default=2, description="Public addresses of a NAT gateway (AWS: 2, up to 8 on request)."
    )
    nat_gateway_creation_seconds: Duration = Field(
        default=60.0,
        description="Until a NAT gateway is available, or failed (AWS does not say).",
    )
    nat_gateway_deletion_seconds: Duration = Field(
        default=60.0,
        description="How long one is deleting, and serves still (AWS does not say).",
    )
    nat_gateway_described_seconds: Duration = Field(
        default=3600.0,
        description="How long one that is failed or deleted is listed (AWS: about an hour).",
    )
    connections_per_interface: Quota = Field(
        default=65_000,
        description="Connections of a shared interface before another one is made beside it (AWS: "
        "65,000).",
    )
    client_token_seconds: Duration = Field(
        default=86400.0,
        description="How long the answer to a request is remembered for its client token.",
    )
    client_tokens_max: Quota = Field(
        default=4096, description="Answers remembered; the oldest is forgotten first."
    )
