# SPDX-License-Identifier: Apache-2.0
"""Virtual private clouds and their subnets.

VPCs may overlap each other, also within one lab: a VPC is known by its name, never by its
addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network


@dataclass(frozen=True, slots=True)
class Subnet:
    """A part of a VPC's network."""

    name: str
    cidr: IPv4Network

    @property
    def router(self) -> IPv4Address:
        """The VPC router's address in this subnet: its first host (AWS, "Subnet CIDR blocks")."""
        return self.cidr.network_address + 1


@dataclass(frozen=True, slots=True)
class Vpc:
    """A customer's network."""

    name: str
    cidr: IPv4Network
    mtu_bytes: int
    subnets: tuple[Subnet, ...]
