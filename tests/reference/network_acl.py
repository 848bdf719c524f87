# SPDX-License-Identifier: Apache-2.0
"""Network ACLs as they are explained: at a subnet's border, entry by entry, for every packet."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

ANYWHERE = IPv4Network("0.0.0.0/0")
NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1}


@dataclass(frozen=True)
class Entry:
    """An entry; `icmp` is type and code, None: any."""

    allow: bool
    protocol: str = "all"
    cidr: IPv4Network = ANYWHERE
    first: int = 0
    last: int = 65535
    icmp: tuple[int | None, int | None] = (None, None)


@dataclass(frozen=True)
class Asked:
    """What of a packet an ACL sees; `port` is the destination's, `icmp` type and code."""

    protocol: int
    source: IPv4Address
    destination: IPv4Address
    port: int = 0
    icmp: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Acl:
    """The entries in the order of their numbers."""

    ingress: tuple[Entry, ...]
    egress: tuple[Entry, ...]


Leg = tuple[IPv4Address | None, IPv4Address | None, Asked]
"""Where a packet leaves and where it arrives, by an address there; None: outside the VPC."""


def refusal(subnets: dict[IPv4Network, Acl], legs: Iterable[Leg]) -> str | None:
    """Why a packet does not get through all the legs of its way."""
    for leaves, enters, asked in legs:
        out, into = _subnet(subnets, leaves), _subnet(subnets, enters)
        if out == into:
            continue
        if out is not None and not _passes(subnets[out].egress, asked, asked.destination):
            return "network_acl_egress"
        if into is not None and not _passes(subnets[into].ingress, asked, asked.source):
            return "network_acl_ingress"
    return None


def _subnet(subnets: Iterable[IPv4Network], address: IPv4Address | None) -> IPv4Network | None:
    return next((each for each in subnets if address is not None and address in each), None)


def _passes(entries: Iterable[Entry], asked: Asked, far: IPv4Address) -> bool:
    return next((entry.allow for entry in entries if _matches(entry, asked, far)), False)


def _matches(entry: Entry, asked: Asked, far: IPv4Address) -> bool:
    if far not in entry.cidr:
        return False
    if entry.protocol == "all":
        return True
    if NUMBERS[entry.protocol] != asked.protocol:
        return False
    if entry.protocol == "icmp":
        pairs = zip(entry.icmp, asked.icmp, strict=True)
        return all(wanted in (None, got) for wanted, got in pairs)
    return entry.first <= asked.port <= entry.last
