# SPDX-License-Identifier: Apache-2.0
"""What a region consists of: immutable records, one row each in the store.

Theory of operation
-------------------
An entity never changes; a command replaces it in the `Tables`. What follows from other entities
(who uses an interface, which environments are idle) is not kept in them but in the indexes of the
tables, so that a cold start writes two rows and not a counter shared by all.

Entities refer to each other by id; `key` is what a table knows an entity by. `due` is the time, in
the seconds of the region's clock, at which something happens to it by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network

from hyperplane_nat.model.balancer_entities import (
    HealthChecker,
    Listener,
    LoadBalancer,
    TargetGroup,
)
from hyperplane_nat.model.flow_log_entities import FlowLog
from hyperplane_nat.model.gateway_entities import (
    ElasticAddress,
    InternetGateway,
    NatGateway,
    RouteTable,
)
from hyperplane_nat.model.network_acl_entities import NetworkAcl
from hyperplane_nat.model.private_link_entities import (
    EndpointService,
    GatewayEndpoint,
    VpcEndpoint,
)
from hyperplane_nat.model.resources import AVAILABILITY_ZONE, Code, Networking, Protocol
from hyperplane_nat.model.states import (
    EnvironmentState,
    FunctionState,
    InterfaceStatus,
    UpdateStatus,
)

LAMBDA_ACCOUNT_ID = "999999999999"
"""The account of the Lambda service: requester of every interface, owner of the internet's."""

INTERFACE_TYPE = "lambda"
"""EC2 API, `InterfaceType`."""


@dataclass(frozen=True, slots=True)
class Account:
    """An AWS account."""

    id: str
    name: str
    declared: bool = True
    """Whether it came with a declaration: one deletes what it does not name, but nothing that a
    command of its own has made."""

    @property
    def key(self) -> str:
        """Its twelve digits."""
        return self.id


@dataclass(frozen=True, slots=True)
class Vpc:
    """A VPC; the internet is one too, owned by the Lambda service."""

    id: str
    name: str
    account_id: str
    cidr: IPv4Network
    mtu_bytes: int
    number: int
    """Its number in the forwarder, from 1: addresses are compared within a VPC only."""
    declared: bool = True
    """As of `Account`."""
    enable_dns_support: bool = True
    """Whether it has a resolver (EC2 API, ModifyVpcAttribute)."""
    enable_dns_hostnames: bool = False
    """Whether its addresses have private names (the same)."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id


@dataclass(frozen=True, slots=True)
class Subnet:
    """A subnet of a VPC."""

    id: str
    name: str
    vpc_id: str
    cidr: IPv4Network
    declared: bool = True
    """As of `Account`."""
    availability_zone: str = AVAILABILITY_ZONE

    @property
    def key(self) -> str:
        """Its id."""
        return self.id

    @property
    def router(self) -> IPv4Address:
        """The VPC router's address in it: its first host (AWS, "Subnet CIDR blocks")."""
        return self.cidr.network_address + 1


@dataclass(frozen=True, slots=True)
class Rule:
    """An allow rule: one of `cidr`, `group_id` and `prefix_list` is given."""

    protocol: Protocol
    first: int
    last: int
    cidr: IPv4Network | None = None
    group_id: str | None = None
    prefix_list: str | None = None
    """Whose prefix list is meant: one of `AWS_SERVICES`."""


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """A security group of a VPC."""

    id: str
    name: str
    vpc_id: str
    description: str
    ingress: tuple[Rule, ...]
    egress: tuple[Rule, ...]
    declared: bool = True
    """As of `Account`."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id


@dataclass(frozen=True, slots=True)
class Host:
    """A host in a VPC, with a network namespace to itself (EC2 API, `Instance`)."""

    id: str
    name: str
    vpc_id: str
    subnet_id: str
    address: IPv4Address
    group_ids: tuple[str, ...]
    """Sorted: a set. Without any, everything may go in and out."""
    description: str
    number: int
    """Its number in the forwarder, from 1; its namespace and link are named after it."""
    attached: str = ""
    """File of the namespace that somebody attached; empty for one that the lab makes."""
    declared: bool = True
    """As of `Account`."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id

    @property
    def interface_id(self) -> str:
        """The id of its one interface: it has the digits of the host's own."""
        return f"eni-{self.id.partition('-')[2]}"


@dataclass(frozen=True, slots=True)
class Service:
    """A server in a VPC."""

    id: str
    name: str
    vpc_id: str
    kind: str
    address: IPv4Address
    port: int
    size_bytes: int
    group_ids: tuple[str, ...] = ()
    declared: bool = True
    """As of `Account`."""
    host_id: str = ""
    """The host that it runs on, whose address it then has; empty: the VPC's router."""
    aws_service: str = ""
    """Of a host in the internet: of which of AWS's services it is, one of `AWS_SERVICES`."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id


@dataclass(frozen=True, slots=True)
class Combination:
    """What a shared interface is shared by: an account, a subnet and a set of groups (AWS)."""

    owner_id: str
    subnet_id: str
    group_ids: tuple[str, ...]
    """Sorted: a set."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The network side of a function's configuration (Lambda API, `VpcConfig`)."""

    networking: Networking
    vpc_id: str
    subnet_ids: tuple[str, ...]
    group_ids: tuple[str, ...]
    """Sorted: a set."""
    owner_id: str
    """Owner of its interfaces: the customer, or the Lambda service for the internet."""

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """What it needs shared interfaces for."""
        if self.networking is Networking.INTERFACE_PER_ENVIRONMENT:
            return ()
        return tuple(
            Combination(self.owner_id, subnet_id, self.group_ids) for subnet_id in self.subnet_ids
        )


LATEST = "$LATEST"
"""What is invoked of a function without a qualifier."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A name for a version of a function (Lambda API, `AliasConfiguration`)."""

    name: str
    version: int
    """The number of a published version; 0: $LATEST."""
    declared: bool = True
    """As of `Account`."""
    provisioned_concurrency: int = 0
    """How many environments of the version are kept initialized for it."""
    additional: tuple[tuple[int, float], ...] = ()
    """Another version, one at most, with the share of the invocations that it serves
    (`RoutingConfig`)."""

    @property
    def versions(self) -> tuple[int, ...]:
        """The numbers of all versions that it leads to."""
        return (self.version, *(number for number, _ in self.additional))


@dataclass(frozen=True, slots=True)
class Function:
    """A Lambda function, or a version that was published of one, which is a function to whatever
    serves it. Reasons and codes are those of the Lambda API.
    """

    id: str
    name: str
    """Of a version with its number: `orders:3`."""
    account_id: str
    memory_mb: int
    config: NetworkConfig
    """The one that serves, or will when the function is Pending."""
    update: NetworkConfig | None
    """The one that takes over once its interfaces are available."""
    version: int
    """Counts the configurations that have served; environments keep the one they have."""
    state: FunctionState
    state_reason: str
    state_reason_code: str
    last_update_status: UpdateStatus
    last_update_status_reason: str
    last_update_status_reason_code: str
    last_used: float
    due: float | None = None
    """When it turns Inactive."""
    declared: bool = True
    """As of `Account`."""
    code: Code | None = None
    """None: no handler, only programs that an invocation names."""
    environment: tuple[tuple[str, str], ...] = ()
    """Variables of its handler and of programs."""
    reserved_concurrency: int | None = None
    """Invocations that there may be at a time, versions included (Lambda API,
    PutFunctionConcurrency)."""
    aliases: tuple[Alias, ...] = ()
    """By name; a version has none."""
    published: int = 0
    """The number of this version, or of the last one that was published; none is used twice."""
    function_id: str = ""
    """Of a version: the function that it is one of."""
    provisioning_failure: str = ""
    """Of a version: why its provisioned concurrency is not there and is not tried again."""

    @property
    def key(self) -> str:
        """Its id: a function of the same name made later is another one."""
        return self.id

    @property
    def function_name(self) -> str:
        """Its name without a version."""
        return self.name.partition(":")[0]

    @property
    def qualifier(self) -> str:
        """The version that it is: $LATEST or a number."""
        return self.name.partition(":")[2] or LATEST

    @property
    def target(self) -> NetworkConfig:
        """The configuration it has or is about to have."""
        return self.update or self.config

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """The combinations that it holds interfaces of."""
        held: tuple[Combination, ...] = ()
        if self.state in (FunctionState.PENDING, FunctionState.ACTIVE):
            held = self.config.combinations
        if self.update is not None:
            held += self.update.combinations
        return tuple(dict.fromkeys(held))


class InterfaceKind(StrEnum):
    """Whom an interface serves."""

    HYPERPLANE = "hyperplane"
    PER_ENVIRONMENT = "per-environment"
    INTERNET = "internet"
    STATIC = "static"
    """The environments of the lab file."""
    ROUTER = "router"
    """The hosts of a VPC: it leads from the fabric to the VPC's router, and is in no subnet."""
    INTERNET_GATEWAY = "internet-gateway"
    """A VPC with an internet gateway: it is in the internet, and has its public addresses."""
    GATEWAY_ENDPOINT = "gateway-endpoint"
    """A VPC with gateway endpoints: it is in the internet, and private addresses leave by it."""
    VPC_ENDPOINT = "vpc-endpoint"
    """An endpoint in a subnet. It has no link."""
    NAT_GATEWAY = "nat-gateway"
    """What a NAT gateway serves. It has no link."""
    LOAD_BALANCER = "load-balancer"
    """A node of a load balancer. It has no link."""


WITHOUT_LINK = frozenset(
    {InterfaceKind.NAT_GATEWAY, InterfaceKind.LOAD_BALANCER, InterfaceKind.VPC_ENDPOINT}
)
"""Interfaces that are in the forwarder alone."""

INTERFACE_TYPES = {
    InterfaceKind.NAT_GATEWAY: "natGateway",
    InterfaceKind.LOAD_BALANCER: "network_load_balancer",
    InterfaceKind.VPC_ENDPOINT: "vpc_endpoint",
}
"""Of those that are not Lambda's."""


@dataclass(frozen=True, slots=True)
class NetworkInterface:
    """An elastic network interface (EC2 API, `NetworkInterface`): of Lambda, or of the lab file."""

    id: str
    """That of the lab file has its name for an id."""
    kind: InterfaceKind
    status: InterfaceStatus
    description: str
    number: int
    """Its number in the state map."""
    link: str
    """Name of its link: at most 15 characters."""
    owner_id: str
    vpc_id: str
    subnet_id: str
    group_ids: tuple[str, ...]
    address: IPv4Address
    due: float | None = None
    """When it becomes available (pending), or deleting (available and unused)."""
    requester_id: str = LAMBDA_ACCOUNT_ID
    secondary: tuple[tuple[int, IPv4Address], ...] = ()
    """Its further addresses, each with a number of its own in the state map."""
    mtu_bytes: int | None = None
    """The largest packet that it sends, where that is not AWS's."""

    @property
    def requester_managed(self) -> bool:
        """Whether Lambda made it."""
        return self.requester_id == LAMBDA_ACCOUNT_ID

    @property
    def key(self) -> str:
        """Its id."""
        return self.id

    @property
    def combination(self) -> Combination | None:
        """What functions share it by; None when they do not, or it is being deleted."""
        shared = self.kind in (InterfaceKind.HYPERPLANE, InterfaceKind.INTERNET)
        if not shared or self.status is InterfaceStatus.DELETING:
            return None
        return Combination(self.owner_id, self.subnet_id, self.group_ids)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of all its addresses."""
        return (self.number, *(number for number, _ in self.secondary))

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """All its addresses."""
        return (self.address, *(address for _, address in self.secondary))

    @property
    def serves(self) -> bool:
        """Whether environments can be attached to it."""
        return self.status in (InterfaceStatus.AVAILABLE, InterfaceStatus.IN_USE)


@dataclass(frozen=True, slots=True)
class ExecutionEnvironment:
    """An execution environment, known by its slot number."""

    slot: int
    function_id: str
    """Empty for one of the lab file, whose function nobody lists, invokes or deletes."""
    function_name: str
    version: int
    """The function's `version` that it was started with."""
    interface_id: str
    state: EnvironmentState
    invocations: int
    token: str | None = None
    """Client token of the invocation that it serves."""
    cold: bool = True
    """Whether the invocation that it serves, or served last, started it."""
    due: float | None = None
    """When it is given up, idle as it is."""
    provisioned: bool = False
    """Whether it is kept for provisioned concurrency, and not given up when idle."""

    @property
    def key(self) -> int:
        """Its slot."""
        return self.slot


@dataclass(frozen=True, slots=True)
class RetiredNumber:
    """An interface number that flows may still refer to."""

    number: int

    @property
    def key(self) -> int:
        """The number."""
        return self.number


@dataclass(frozen=True, slots=True)
class RetiredHost:
    """A host's number that flows, or what stands of the host, may still refer to."""

    number: int
    attached: str = ""
    """As of `Host`."""

    @property
    def key(self) -> int:
        """The number."""
        return self.number


@dataclass(frozen=True, slots=True)
class Declaration:
    """The declaration that was applied last."""

    digest: str
    key: int = 0
    """There is one."""


Resource = (
    Account
    | Vpc
    | Subnet
    | SecurityGroup
    | Host
    | Service
    | RouteTable
    | NetworkAcl
    | InternetGateway
    | ElasticAddress
    | NatGateway
    | TargetGroup
    | LoadBalancer
    | Listener
    | EndpointService
    | VpcEndpoint
    | GatewayEndpoint
    | Function
    | FlowLog
)
"""What customers own."""

Entity = (
    Resource
    | NetworkInterface
    | ExecutionEnvironment
    | HealthChecker
    | RetiredNumber
    | RetiredHost
    | Declaration
)

KINDS: dict[str, type[Entity]] = {
    "account": Account,
    "vpc": Vpc,
    "subnet": Subnet,
    "security_group": SecurityGroup,
    "host": Host,
    "service": Service,
    "route_table": RouteTable,
    "network_acl": NetworkAcl,
    "internet_gateway": InternetGateway,
    "elastic_address": ElasticAddress,
    "nat_gateway": NatGateway,
    "target_group": TargetGroup,
    "load_balancer": LoadBalancer,
    "listener": Listener,
    "health_checker": HealthChecker,
    "endpoint_service": EndpointService,
    "vpc_endpoint": VpcEndpoint,
    "gateway_endpoint": GatewayEndpoint,
    "function": Function,
    "interface": NetworkInterface,
    "environment": ExecutionEnvironment,
    "retired_number": RetiredNumber,
    "retired_host": RetiredHost,
    "declaration": Declaration,
    "flow_log": FlowLog,
}
"""By the name of the kind in documents; an entity comes after those it refers to."""

KIND_OF: dict[type[Entity], str] = {kind: name for name, kind in KINDS.items()}
