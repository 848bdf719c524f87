# SPDX-License-Identifier: Apache-2.0
"""The sections for the ways out of a VPC: route tables with their routes, NAT gateways."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network
from typing import Literal

from pydantic import Field

from hyperplane_nat.config.values import Address, FieldError, LinkName, Network, Section


class Route(Section):
    """A route: packets for `destination` go to its one target, those of the longest prefix."""

    destination: Network = Field(
        description='Where it leads, such as `"0.0.0.0/0"`; nothing inside the VPC, which the '
        "local route of every table reaches."
    )
    internet_gateway: bool = Field(
        default=False, description="To the internet gateway of the VPC (`internet_gateway`)."
    )
    nat_gateway: LinkName | None = Field(
        default=None, description="To that NAT gateway of the VPC."
    )
    host: LinkName | None = Field(default=None, description="To that host of the VPC.")

    @property
    def network(self) -> IPv4Network:
        """`destination` to calculate with."""
        return IPv4Network(self.destination)

    @property
    def targets(self) -> list[str]:
        """The fields of its targets."""
        named = {
            "internet_gateway": self.internet_gateway,
            "nat_gateway": self.nat_gateway is not None,
            "host": self.host is not None,
        }
        return [field for field, given in named.items() if given]

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if not self.targets:
            yield FieldError(
                "destination",
                f"the route to {self.destination} leads nowhere",
                "add internet_gateway = true, a nat_gateway or a host",
            )
        for field in self.targets[1:]:
            yield FieldError(
                field,
                f"the route to {self.destination} has {self.targets[0]} as well",
                "leave one of them out",
            )


class RouteTable(Section):
    """
    A route table of a VPC. Every table has the local route, to all that is in the VPC; a VPC that
    names no table has one with nothing else.
    """

    name: LinkName = Field(description="Name of the table, unique in its VPC.")
    main: bool = Field(
        default=False,
        description="Whether it is the one of the subnets that no table names; one of a VPC is.",
    )
    subnets: list[LinkName] = Field(
        default=[], description="Subnets of the VPC that have it; a subnet has one table."
    )
    routes: list[Route] = Field(default=[], description="Its routes.")


class NatGateway(Section):
    """
    A NAT gateway of a VPC, to which routes lead: what it sends has one of its addresses, and a port
    towards each destination.
    """

    name: LinkName = Field(description="Name of the gateway, unique in its VPC.")
    subnet: LinkName = Field(
        description="Subnet of the VPC that its addresses are in, and whose route table says where "
        "it sends to: not one whose route leads to itself."
    )
    connectivity: Literal["public", "private"] = Field(
        default="public",
        description="`public`: each address is one to one with a public one of the internet "
        "gateway. `private`: it has none, and the internet gateway drops what it sends.",
    )
    addresses: int = Field(
        default=1,
        ge=1,
        le=8,
        description="How many addresses it has (AWS: 8; public ones 2, "
        "`lifecycle.nat_gateway_elastic_addresses`).",
    )
    elastic_addresses: list[Address] = Field(
        default=[],
        max_length=8,
        description="Its public addresses, in place of `addresses` free ones: of 198.51.100.0/24 "
        "or 203.0.113.0/24 (RFC 5737).",
    )

    @property
    def count(self) -> int:
        """How many addresses it has."""
        return len(self.elastic_addresses) or self.addresses

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if self.elastic_addresses and self.connectivity == "private":
            yield FieldError(
                "elastic_addresses", "a private NAT gateway has no public address", "leave it out"
            )
        if self.elastic_addresses and self.addresses not in (1, len(self.elastic_addresses)):
            yield FieldError(
                "addresses",
                f"{self.addresses} is not how many elastic_addresses there are",
                "leave one of them out",
            )
