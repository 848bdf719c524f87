# SPDX-License-Identifier: Apache-2.0
"""What the forwarder serves: slots, interfaces, NAT gateways, hosts and route tables.

An *attachment* is a slot, an interface, a NAT gateway or a host. What it takes for itself are
*claims*: its numbers in the state map and its link, each with what it means there. No claim is
given to two attachments, and one that is to mean something else must be free of its flows first
(`configuration`). Route tables are no attachments: nothing but their number stands for them, and
what they lead to need not be there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from hyperplane_nat.engine import Listener, Policy, SubnetAcl
from hyperplane_nat.engine.state.constants import Role, RouteTarget

__all__ = [
    "MTU_MAX",
    "Attachment",
    "Claim",
    "EndpointState",
    "HostState",
    "InterfaceState",
    "LoadBalancerNodeState",
    "Meaning",
    "NatGatewayState",
    "NetworkAclsState",
    "Route",
    "RouteTableState",
    "SecondaryAddress",
    "SlotState",
]

MTU_MAX = 65_535
"""An MTU that limits nothing."""

Claim = tuple[str, int]
"""Kind and number; an attachment is known by its own.

Kinds are "slot", "interface", "nat_gateway", "load_balancer_node", "endpoint", "host" and "link";
an address of a NAT gateway, of a node or of an endpoint is an interface number.
"""

Meaning = tuple[Any, ...]


class SecondaryAddress(NamedTuple):
    """A further address of an interface, which is an interface number of its own.

    One of an internet gateway is public, and stands for a host, for an address of a NAT gateway or
    for a load balancer's node, by number; for nobody while that is not there.
    """

    number: int
    address: str
    host: int | None = None
    nat_gateway: int | None = None
    load_balancer_node: int | None = None

    @property
    def served(self) -> list[Claim]:
        """All that is given of whom it stands for: one, if it is right."""
        named = ("host", "nat_gateway", "load_balancer_node")
        return [(kind, getattr(self, kind)) for kind in named if getattr(self, kind) is not None]

    @property
    def serves(self) -> Claim | None:
        """For whom it stands."""
        return next(iter(self.served), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceState:
    """A network interface and the link it uses."""

    number: int
    name: str
    ifindex: int
    address: str
    mac: str
    subnet: str
    router: str
    destinations: tuple[str, ...]
    vpc: int = 0
    """Interfaces with the same number are in one VPC; addresses of other VPCs mean nothing here."""
    policy: Policy | None = None
    """Its security groups; None lets every flow begin."""
    mtu: int = MTU_MAX
    """The largest packet it sends, in bytes."""
    secondary: tuple[SecondaryAddress, ...] = ()
    route_table: int | None = None
    """Where to goes what its environments send to others than the destinations."""
    gateway_of: int | None = None
    """The VPC whose internet gateway it is: its further addresses come and go."""
    gateway_endpoint: bool = False
    """Whether it is that of the VPC's gateway endpoints, though its link leads elsewhere."""

    def __str__(self) -> str:
        return f"interface {self.number} is {self.name} with {self.address}"

    @property
    def addresses(self) -> tuple[SecondaryAddress, ...]:
        """All its addresses, the primary first."""
        return SecondaryAddress(self.number, self.address), *self.secondary

    @property
    def role(self) -> Role:
        """What it is besides."""
        if self.gateway_of is not None:
            return Role.INTERNET_GATEWAY
        return Role.GATEWAY_ENDPOINT if self.gateway_endpoint else Role.NONE

    @property
    def key(self) -> Claim:
        """What it is known by."""
        return "interface", self.number

    @property
    def claims(self) -> dict[Claim, Meaning]:
        """A number stands for an address in a VPC, and that for whom it stands for."""
        claims = _addresses_claimed(self.vpc, self.role, self.addresses)
        claims["link", self.ifindex] = self.key
        return claims

    def continues(self, known: Self) -> bool:
        """Whether what is served is the same interface, whatever else is new."""
        identity = known.name, known.ifindex, known.role, known.address
        if identity != (self.name, self.ifindex, self.role, self.address):
            return False
        return self.gateway_of is not None or known.addresses == self.addresses


@dataclass(frozen=True, slots=True, kw_only=True)
class NatGatewayState:
    """A NAT gateway: addresses in a VPC and no link of its own."""

    number: int
    """The interface number of its first address."""
    name: str
    address: str
    vpc: int
    route_table: int | None = None
    """That of the subnet which it is in."""
    mtu: int = MTU_MAX
    """The largest packet that it takes, in bytes."""
    secondary: tuple[SecondaryAddress, ...] = ()
    draining: frozenset[int] = frozenset()
    """Numbers of addresses that take no new flows."""

    def __str__(self) -> str:
        return f"NAT gateway {self.number} is {self.name} with {self.address}"

    @property
    def addresses(self) -> tuple[SecondaryAddress, ...]:
        """All its addresses, the first one first; the others come and go."""
        return SecondaryAddress(self.number, self.address), *self.secondary

    @property
    def key(self) -> Claim:
        """What it is known by."""
        return "nat_gateway", self.number

    @property
    def claims(self) -> dict[Claim, Meaning]:
        """A number stands for an address in a VPC."""
        return _addresses_claimed(self.vpc, Role.NAT_GATEWAY, self.addresses)

    def continues(self, known: Self) -> bool:
        """Whether what is served is the same gateway, whatever else is new."""
        return (known.name, known.address, known.vpc) == (self.name, self.address, self.vpc)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadBalancerNodeState:
    """A load balancer's node: addresses in a VPC and no link of its own."""

    number: int
    """The interface number of its first address, which has the listeners."""
    name: str
    address: str
    vpc: int
    interface: int
    """The interface of its VPC by whose link the VPC's router is reached."""
    mtu: int = MTU_MAX
    """The largest packet that it takes, in bytes."""
    secondary: tuple[SecondaryAddress, ...] = ()
    """Addresses that flows get ports of, too."""
    policy: Policy | None = None
    """Its security groups, both ways; None lets every flow begin."""
    listeners: tuple[Listener, ...] = ()
    route_table: int | None = None
    """That of the subnet which it is in, by which clients in the internet are answered."""

    def __str__(self) -> str:
        return f"load balancer node {self.number} is {self.name} with {self.address}"

    @property
    def addresses(self) -> tuple[SecondaryAddress, ...]:
        """All its addresses, the first one first; the others come and go."""
        return SecondaryAddress(self.number, self.address), *self.secondary

    @property
    def key(self) -> Claim:
        """What it is known by."""
        return "load_balancer_node", self.number

    @property
    def claims(self) -> dict[Claim, Meaning]:
        """A number stands for an address in a VPC."""
        return _addresses_claimed(self.vpc, Role.LOAD_BALANCER, self.addresses)

    def continues(self, known: Self) -> bool:
        """Whether what is served is the same node, whatever else is new."""
        return (known.name, known.address, known.vpc) == (self.name, self.address, self.vpc)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointState:
    """An endpoint's address in a VPC; it has no link of its own."""

    number: int
    """Its interface number."""
    name: str
    endpoint_id: str
    address: str
    vpc: int
    interface: int
    """The interface of its VPC by whose link the VPC's router is reached."""
    node: int | None = None
    """The load balancer's node, in whatever VPC, that it leads to; None: it leads nowhere."""
    mtu: int = MTU_MAX
    """The largest packet that it takes, in bytes."""
    policy: Policy | None = None
    """Its security groups; None lets everybody in."""
    admission: Policy | None = None
    """Whom the load balancer's let in by it; None: everybody."""

    def __str__(self) -> str:
        return f"endpoint {self.number} is {self.name} with {self.address}"

    @property
    def key(self) -> Claim:
        """What it is known by."""
        return "endpoint", self.number

    @property
    def claims(self) -> dict[Claim, Meaning]:
        """A number stands for an address in a VPC."""
        own = SecondaryAddress(self.number, self.address)
        return _addresses_claimed(self.vpc, Role.ENDPOINT, [own])

    def continues(self, known: Self) -> bool:
        """Whether what is served is the same address, whatever else is new."""
        return (known.name, known.address, known.vpc) == (self.name, self.address, self.vpc)


def _addresses_claimed(
    vpc: int, role: Role, addresses: Iterable[SecondaryAddress]
) -> dict[Claim, Meaning]:
    return {
        ("interface", each.number): (vpc, each.address, role, each.serves) for each in addresses
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotState:
    """An execution environment's slot and the link it uses; in the pool it has no interface."""

    number: int
    ifindex: int
    address: str
    gateway: str
    subnet: str
    environment_mac: str
    gateway_mac: str
    interface: int | None
    mtu: int = MTU_MAX
    """The largest packet that the environment takes, in bytes."""
    silent: bool = False
    """It stands still, and nothing passes its link."""

    def __str__(self) -> str:
        return f"slot {self.number} serves another environment"

    @property
    def key(self) -> Claim:
        """What it is known by."""
        return "slot", self.number

    @property
    def claims(self) -> dict[Claim, Meaning]:
        """A number stands for an environment, known by its link, at an interface."""
        return {self.key: (self.interface, self.ifindex), ("link", self.ifindex): self.key}

    def continues(self, known: Self) -> bool:
        """Whether what is served is the same environment; one of the pool is attached once."""
        return known.ifindex == self.ifindex and known.interface in (None, self.interface)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """A host of a VPC, with an address of its own, and the link it uses."""

    number: int
    name: str
    ifindex: int
    address: str
    host_mac: str
    gateway_mac: str
    router: str
    """The address of the VPC's router in its subnet (base + 1), which is answered on its link."""
    subnet: str
    interface: int
    """The interface of its VPC by whose link the VPC's router is reached."""
    vpc: int
    """As an interface's: its own VPC and that of its interface."""
    policy: Policy | None = None
    """Its security groups, both ways; None lets every flow begin."""
    mtu: int = MTU_MAX
    """The largest packet that the host takes, in bytes."""
    route_table: int | None = None
    """Where to goes what it sends to others than the VPC's addresses."""
    source_check: bool = True
    """Whether it may send from its own address alone."""

    def __str__(self) -> str:
        return f"host {self.number} is {self.name} with {self.address}"

    @property
    def key(self) -> Claim:
        """What it is known by."""
        return "host", self.number

    @property
    def claims(self) -> dict[Claim, Meaning]:
        """A number stands for a host, known by its link, with an address in a VPC."""
        return {
            self.key: (self.vpc, self.ifindex, self.address),
            ("link", self.ifindex): self.key,
        }

    def continues(self, known: Self) -> bool:
        """Whether what is served is the same host, whatever else is new."""
        return known.claims == self.claims


Attachment = (
    InterfaceState | NatGatewayState | LoadBalancerNodeState | EndpointState | SlotState | HostState
)

Route = tuple[str, RouteTarget, int]
"""Destination, and where to: an internet or NAT gateway by interface number, or a host."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkAclsState:
    """The network ACLs of the subnets of a VPC, of those that may refuse something."""

    number: int
    """The VPC's."""
    subnets: tuple[SubnetAcl, ...]
    exempt: tuple[str, ...] = ()
    """Networks that no ACL is asked about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTableState:
    """A VPC's route table, without its local routes."""

    number: int
    vpc: int
    routes: tuple[Route, ...]
