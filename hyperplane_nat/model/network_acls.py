# SPDX-License-Identifier: Apache-2.0
"""Network ACLs: how they come, change and go, and what of them the forwarder is to know.

Theory of operation
-------------------
Every VPC has a default network ACL, which lets everything pass until somebody changes it. It is in
the tables only when it was changed; until then it follows from its VPC (`default_network_acl`). A
subnet that no other ACL names has the default one, so associations are kept for the others alone.

Source: VPC user guide, "Network ACLs".
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from ipaddress import IPv4Network

from hyperplane_nat.model.entities import Subnet, Vpc
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.identifiers import resource_id
from hyperplane_nat.model.lifecycle import Lifecycle
from hyperplane_nat.model.network_acl_entities import ANY, CARRIED, NetworkAcl, NetworkAclEntry
from hyperplane_nat.model.resources import ANYWHERE, DEFAULT_NETWORK_ACL
from hyperplane_nat.model.tables import Tables

ALLOW_ALL = (NetworkAclEntry(100, True, ANY, ANYWHERE),)
"""The entry that a default network ACL has in both directions."""

LINK_LOCAL = IPv4Network("169.254.0.0/16")


class NetworkAcls:
    """Changes of network ACLs, inside a transaction of the caller's."""

    def __init__(self, lifecycle: Lifecycle, *, declared: bool) -> None:
        """`declared`: whether what is made comes with a declaration."""
        self._lifecycle = lifecycle
        self._tables = lifecycle.tables
        self._declared = declared

    def make(self, vpc: Vpc, name: str) -> NetworkAcl:
        """A network ACL that refuses everything. NetworkAclLimitExceeded."""
        quota = self._lifecycle.settings.network_acls_per_vpc
        others = sum(
            each.vpc_id == vpc.id and not each.default
            for each in self._tables.network_acls.values()
        )
        if others + 1 >= quota:
            raise ModelError(
                "NetworkAclLimitExceeded",
                f"VPC {vpc.name} has {quota} network ACLs, as many as it may",
                "share them, or raise lifecycle.network_acls_per_vpc",
            )
        acl = NetworkAcl(
            resource_id("acl", self._lifecycle.random_hex), name, vpc.id, declared=self._declared
        )
        self._tables.put(acl)
        return acl

    def associate(self, acl: NetworkAcl, subnet_ids: tuple[str, ...]) -> NetworkAcl:
        """Give subnets this ACL: they are then no other's, and with the default one nobody's."""
        for other in list(self._tables.network_acls.values()):
            kept = tuple(each for each in other.subnet_ids if each not in subnet_ids)
            if other.id != acl.id and kept != other.subnet_ids:
                self._tables.put(replace(other, subnet_ids=kept))
        if acl.default:
            return acl
        changed = replace(acl, subnet_ids=tuple(sorted(subnet_ids)))
        if changed != self._tables.network_acls.get(acl.id):
            self._tables.put(changed)
        return changed

    def forget_subnet(self, subnet: Subnet) -> None:
        """A subnet goes, and its association."""
        for acl in list(self._tables.network_acls.values()):
            if subnet.id in acl.subnet_ids:
                kept = tuple(each for each in acl.subnet_ids if each != subnet.id)
                self._tables.put(replace(acl, subnet_ids=kept))

    def forget_vpc(self, vpc: Vpc) -> None:
        """A VPC goes, and its default ACL."""
        if (acl := self._tables.network_acls.get(default_id(vpc))) is not None:
            self._tables.remove(acl)


def default_id(vpc: Vpc) -> str:
    """The id of a VPC's default network ACL, which follows from the VPC's."""
    return f"acl-{hashlib.sha256(vpc.id.encode()).hexdigest()[:17]}"


def default_network_acl(tables: Tables, vpc: Vpc) -> NetworkAcl:
    """The default network ACL of a VPC, as it is or as it came with the VPC."""
    found = tables.network_acls.get(default_id(vpc))
    return found or NetworkAcl(
        default_id(vpc), DEFAULT_NETWORK_ACL, vpc.id, True, ALLOW_ALL, ALLOW_ALL, declared=False
    )


def network_acls_in(tables: Tables, vpc: Vpc) -> list[NetworkAcl]:
    """All of a VPC, the default one first."""
    others = [
        each for each in tables.network_acls.values() if each.vpc_id == vpc.id and not each.default
    ]
    return [
        default_network_acl(tables, vpc),
        *sorted(others, key=lambda each: (each.name, each.id)),
    ]


def network_acl_of(tables: Tables, subnet: Subnet) -> NetworkAcl:
    """That of a subnet: its own, or the default one of its VPC."""
    for acl in tables.network_acls.values():
        if subnet.id in acl.subnet_ids:
            return acl
    return default_network_acl(tables, tables.vpcs[subnet.vpc_id])


def subnets_of(tables: Tables, acl: NetworkAcl) -> list[Subnet]:
    """The subnets that have an ACL, by name."""
    found = [
        each
        for each in tables.subnets.values()
        if each.vpc_id == acl.vpc_id and network_acl_of(tables, each).id == acl.id
    ]
    return sorted(found, key=lambda each: (each.name, each.id))


# -- for the forwarder


@dataclass(frozen=True, slots=True)
class WantedAclEntry:
    """An entry, of what the gateway carries."""

    allow: bool
    protocol: str
    """tcp, udp, icmp or all."""
    cidr: str
    first: int
    last: int
    icmp_type: int
    icmp_code: int


@dataclass(frozen=True, slots=True)
class WantedSubnetAcl:
    """A subnet whose network ACL may refuse something."""

    cidr: str
    ingress: tuple[WantedAclEntry, ...]
    """In the order in which they are asked."""
    egress: tuple[WantedAclEntry, ...]


@dataclass(frozen=True, slots=True)
class WantedNetworkAcls:
    """Those of a VPC."""

    vpc_number: int
    subnets: tuple[WantedSubnetAcl, ...]
    exempt: tuple[str, ...]
    """Networks that no ACL is asked about: the VPC's router, its resolver, what is link-local."""


def wanted_network_acls(tables: Tables) -> tuple[WantedNetworkAcls, ...]:
    """Of the VPCs in which some packet may be refused."""
    wanted = (_wanted(tables, vpc) for vpc in tables.vpcs.values())
    return tuple(each for each in wanted if each.subnets)


def _wanted(tables: Tables, vpc: Vpc) -> WantedNetworkAcls:
    subnets = [each for each in tables.subnets.values() if each.vpc_id == vpc.id]
    acls = [(subnet, network_acl_of(tables, subnet)) for subnet in subnets]
    routers = sorted({vpc.cidr.network_address + 1, *(each.router for each in subnets)})
    exempt = (*routers, vpc.cidr.network_address + 2)
    return WantedNetworkAcls(
        vpc.number,
        tuple(
            WantedSubnetAcl(str(subnet.cidr), told(acl.ingress), told(acl.egress))
            for subnet, acl in acls
            if not acl.lets_all_pass
        ),
        (*dict.fromkeys(f"{each}/32" for each in exempt), str(LINK_LOCAL)),
    )


def told(entries: tuple[NetworkAclEntry, ...]) -> tuple[WantedAclEntry, ...]:
    """Entries as the forwarder is told them."""
    return tuple(
        WantedAclEntry(
            each.allow,
            CARRIED.get(each.protocol, "all"),
            str(each.cidr),
            each.first,
            each.last,
            each.icmp_type,
            each.icmp_code,
        )
        for each in entries
        if each.protocol == ANY or each.protocol in CARRIED
    )
