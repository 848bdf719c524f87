# SPDX-License-Identifier: Apache-2.0
"""Network interfaces: where the traffic of many environments enters a customer's subnet."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from hyperplane_nat.model.vpc import Subnet, Vpc


@dataclass(frozen=True, slots=True)
class NetworkInterface:
    """An interface in a subnet, shared by every environment attached to it."""

    number: int
    """Its number in the state map, from 0; never reused while a flow may refer to it."""
    name: str
    vpc: Vpc
    subnet: Subnet
    address: IPv4Address
    secondary: tuple[tuple[int, IPv4Address], ...] = ()
    """Its further addresses, each with a number of its own in the state map."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers of all its addresses."""
        return (self.number, *(number for number, _ in self.secondary))

    @property
    def destinations(self) -> tuple[IPv4Network, ...]:
        """What is reached through it: its own VPC and nothing else."""
        return (self.vpc.cidr,)
