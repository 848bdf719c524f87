# SPDX-License-Identifier: Apache-2.0
"""Route tables, internet gateways, public addresses and NAT gateways, as the region keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from hyperplane_nat.model.states import NatGatewayAddressStatus, NatGatewayState


@dataclass(frozen=True, slots=True)
class Route:
    """A route (EC2 API, `Route`); exactly one of the targets is given, which may be gone."""

    destination: IPv4Network
    gateway_id: str = ""
    """An internet gateway."""
    instance_id: str = ""
    """A host."""
    nat_gateway_id: str = ""
    endpoint_id: str = ""
    """A gateway endpoint; such a route is derived from that, and in no table."""


@dataclass(frozen=True, slots=True)
class RouteTable:
    """A route table of a VPC (EC2 API, `RouteTable`), without the local route, which all have."""

    id: str
    name: str
    vpc_id: str
    number: int
    """Its number in the forwarder, from 1."""
    main: bool
    """Whether it is that of subnets which have none of their own; one of a VPC is."""
    subnet_ids: tuple[str, ...] = ()
    """Sorted: those that have it of their own."""
    routes: tuple[Route, ...] = ()
    """By destination, the longest prefix first."""
    declared: bool = True
    """As of `Account`. The main one comes and goes with its VPC: whether one has named it."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id


@dataclass(frozen=True, slots=True)
class InternetGateway:
    """An internet gateway (EC2 API, `InternetGateway`).

    What is attached has a network interface of its id in the internet, whose secondary addresses
    are the public ones of the VPC.
    """

    id: str
    name: str
    account_id: str
    vpc_id: str = ""
    """The VPC that it is attached to; empty for one that is detached."""
    declared: bool = True
    """As of `Account`."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id


@dataclass(frozen=True, slots=True)
class ElasticAddress:
    """A public address (EC2 API, `Address`)."""

    id: str
    """Its allocation id."""
    account_id: str
    address: IPv4Address
    internet_id: str
    """Id of the VPC that the internet is."""
    association_id: str = ""
    """Empty for one that is not associated."""
    host_id: str = ""
    """The host that it is associated with."""
    nat_gateway_id: str = ""
    """Or the NAT gateway."""
    interface_id: str = ""
    """Or the network interface of a load balancer's node."""
    kept: bool = True
    """Whether it stays when it is disassociated. One that is assigned to what needs one, as EC2
    does to instances, is released with it and counts for no quota."""

    @property
    def key(self) -> str:
        """Its allocation id."""
        return self.id


@dataclass(frozen=True, slots=True)
class NatGatewayAddress:
    """An address of a NAT gateway (EC2 API, `NatGatewayAddress`)."""

    address: IPv4Address
    """Its private address."""
    status: NatGatewayAddressStatus
    allocation_id: str = ""
    """The public address that it is one to one with; empty in a private gateway."""
    due: float | None = None
    """When it is gone, of one that is given up."""


@dataclass(frozen=True, slots=True)
class NatGateway:
    """A NAT gateway (EC2 API, `NatGateway`)."""

    id: str
    name: str
    vpc_id: str
    subnet_id: str
    public: bool
    state: NatGatewayState
    created: float
    interface_id: str = ""
    """Empty for one that has ended, or will fail."""
    addresses: tuple[NatGatewayAddress, ...] = ()
    """The primary first; none where there is no interface."""
    failure_code: str = ""
    failure_message: str = ""
    deleted: float | None = None
    due: float | None = None
    """When something happens to it: to its state, or to an address that is given up."""
    declared: bool = True
    """As of `Account`."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id

    @property
    def ended(self) -> bool:
        """Whether it has nothing any more, counts for nothing, and is only described."""
        return self.state in (NatGatewayState.FAILED, NatGatewayState.DELETED)

    @property
    def serves(self) -> bool:
        """Whether packets pass it: it has been available, and has its addresses yet."""
        taken = bool(self.addresses) and (
            self.addresses[0].status is NatGatewayAddressStatus.SUCCEEDED
        )
        return taken and not self.ended
