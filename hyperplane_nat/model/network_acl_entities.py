# SPDX-License-Identifier: Apache-2.0
"""Network ACLs, as the region keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network

ANY = -1
"""EC2 API: every protocol, every ICMP type or code."""

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "all": ANY}
"""Numbers of the protocols that have a name."""

CARRIED = {1: "icmp", 6: "tcp", 17: "udp"}
"""What the gateway carries; entries about others are never asked."""


@dataclass(frozen=True, slots=True)
class NetworkAclEntry:
    """An entry of one direction (EC2 API, `NetworkAclEntry`)."""

    rule_number: int
    """From 1 to 32766, in whose order entries are asked."""
    allow: bool
    protocol: int
    """Its number; `ANY`."""
    cidr: IPv4Network
    """The far end: of an outbound entry the destination, of an inbound one the source."""
    first: int = 0
    """First port of the destination; without meaning where there are none."""
    last: int = 65535
    icmp_type: int = ANY
    icmp_code: int = ANY

    @property
    def is_everything(self) -> bool:
        """Whether every packet matches."""
        return self.protocol == ANY and self.cidr.prefixlen == 0


@dataclass(frozen=True, slots=True)
class NetworkAcl:
    """A network ACL of a VPC (EC2 API, `NetworkAcl`), without the last entry `*`, which denies."""

    id: str
    name: str
    vpc_id: str
    default: bool = False
    """Whether it is that of the subnets which have none of their own; one of a VPC is."""
    ingress: tuple[NetworkAclEntry, ...] = ()
    """By rule number."""
    egress: tuple[NetworkAclEntry, ...] = ()
    subnet_ids: tuple[str, ...] = ()
    """Sorted: those that have it of their own; of the default one none."""
    declared: bool = True
    """As of `Account`. The default one is there with its VPC: whether a declaration names it."""

    @property
    def key(self) -> str:
        """Its id."""
        return self.id

    @property
    def lets_all_pass(self) -> bool:
        """Whether nothing is ever refused by it."""
        return all(
            bool(entries) and entries[0].allow and entries[0].is_everything
            for entries in (self.ingress, self.egress)
        )
