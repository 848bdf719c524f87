# SPDX-License-Identifier: Apache-2.0
"""Security groups as the forwarder evaluates them: plain allow rules for each interface.

Theory of operation
-------------------
What an interface may send is the union of the egress rules of its groups. A rule that names a group
means the group's members: the addresses, as /32, of the interfaces, hosts and services of the VPC
that carry it; one that names a prefix list of AWS's means its entries, which follow the hosts of
the internet that stand for the service. A service that carries groups is guarded: a new flow
towards its address must also match a rule of the service's groups that admits this interface, by
its address or because it carries the group that the rule names. So an ingress rule is resolved for
one interface here and says only protocol and ports to the forwarder. All rules allow, and a flow
once made is tracked (AWS, "Security groups", "Security group connection tracking"): rules are
looked at when a flow is made and never again.

Hosts are judged at their own links, both ways: `HostPolicy` has, besides what an interface has, the
union of the ingress rules of their groups, in which a group is its members again. So nobody has a
guard for a host.

A service without groups is open to its whole VPC. The internet has no groups at all, and the
environments of the lab file are restricted by none.

What the Lambda service itself carries for no function (`withheld`) counts before all groups, at
every interface of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from hyperplane_nat.model.entities import (
    Host,
    InterfaceKind,
    NetworkInterface,
    Rule,
    SecurityGroup,
    Service,
)
from hyperplane_nat.model.gateway_endpoints import entries_of
from hyperplane_nat.model.resources import ANYWHERE, Protocol
from hyperplane_nat.model.settings import LifecycleSettings
from hyperplane_nat.model.states import InterfaceStatus
from hyperplane_nat.model.tables import Tables


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """One allow rule; ports mean nothing for icmp and all."""

    protocol: str
    cidr: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Guard:
    """A destination with security groups of its own."""

    address: str
    ingress: tuple[PolicyRule, ...]
    """What this interface may send to it; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What the forwarder lets an interface send."""

    egress: tuple[PolicyRule, ...] | None
    """None: everything."""
    guarded: tuple[Guard, ...] = ()
    withheld: tuple[PolicyRule, ...] = ()
    """What Lambda carries for nobody."""

    def document(self) -> dict[str, Any]:
        """The `egress`, `guarded` and `withheld` of an interface item of the forwarder's
        commands.
        """
        plain = asdict(self)
        plain["egress"] = None if self.egress is None else list(plain["egress"])
        plain["guarded"] = [
            {"address": guard["address"], "ingress": list(guard["ingress"])}
            for guard in plain["guarded"]
        ]
        if withheld := plain.pop("withheld"):
            plain["withheld"] = list(withheld)
        return plain


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """What the forwarder lets a host send and receive; a CIDR is the other side's."""

    outward: Policy
    ingress: tuple[PolicyRule, ...] | None
    """None: everything."""

    def document(self) -> dict[str, Any]:
        """The `egress`, `guarded` and `ingress` of a host item of the forwarder's commands."""
        ingress = None if self.ingress is None else [asdict(rule) for rule in self.ingress]
        return {**self.outward.document(), "ingress": ingress}


@dataclass(frozen=True, slots=True)
class Grant:
    """A rule of a security group, and what the forwarder is told for it."""

    group: SecurityGroup
    rule: Rule
    rules: tuple[PolicyRule, ...]
    """None for a rule that names a group without members, or a prefix list without entries."""


ALLOW_ALL = Policy(None)


class Compiler:
    """Makes the policies of interfaces, remembering what many of them share."""

    def __init__(self, tables: Tables, settings: LifecycleSettings) -> None:
        self._tables = tables
        self._withheld = _withheld(settings)
        self._members: dict[str, dict[str, tuple[IPv4Address, ...]]] = {}
        self._services: dict[str, dict[IPv4Address, list[Service]]] = {}
        self._egress: dict[tuple[str, tuple[str, ...]], tuple[PolicyRule, ...]] = {}
        for service in tables.services.values():
            if service.group_ids:
                by_address = self._services.setdefault(service.vpc_id, {})
                by_address.setdefault(service.address, []).append(service)

    def policy(self, interface: NetworkInterface) -> Policy:
        """The policy of one interface."""
        if interface.kind is InterfaceKind.INTERNET:
            return Policy(None, withheld=self._withheld)
        if interface.kind not in (InterfaceKind.HYPERPLANE, InterfaceKind.PER_ENVIRONMENT):
            return ALLOW_ALL
        egress = self._all_egress(interface.vpc_id, interface.group_ids)
        return Policy(egress, self._guarded(interface), self._withheld)

    def host_policy(self, host: Host) -> HostPolicy:
        """The policy of one host."""
        return self._both_ways(host)

    def _both_ways(self, host: Host | NetworkInterface) -> HostPolicy:
        guarded = self._guarded(host)
        if not host.group_ids:
            return HostPolicy(Policy(None, guarded), None)
        ingress = tuple(
            dict.fromkeys(each for grant in self.ingress_grants(host) for each in grant.rules)
        )
        outward = Policy(self._all_egress(host.vpc_id, host.group_ids), guarded)
        return HostPolicy(outward, ingress)

    def node_policy(self, node: NetworkInterface) -> HostPolicy:
        """The policy of a load balancer's node; nothing is in the way of one without groups."""
        return self._both_ways(node)

    def admitted(
        self, interface: NetworkInterface, *, elsewhere: bool = False
    ) -> tuple[PolicyRule, ...] | None:
        """Who may come to an endpoint, or by one to a node (`elsewhere`); None: everybody.

        Who comes from elsewhere is in no group, whatever the address.
        """
        if not interface.group_ids:
            return None
        return tuple(
            dict.fromkeys(
                each
                for grant in self.ingress_grants(interface)
                for each in grant.rules
                if not (elsewhere and grant.rule.group_id is not None)
            )
        )

    def _guarded(self, member: NetworkInterface | Host) -> tuple[Guard, ...]:
        return tuple(
            Guard(
                str(address),
                tuple(
                    dict.fromkeys(
                        each for grant in self._admitting(member, services) for each in grant.rules
                    )
                ),
            )
            for address, services in sorted(self._services.get(member.vpc_id, {}).items())
        )

    def _all_egress(self, vpc_id: str, group_ids: tuple[str, ...]) -> tuple[PolicyRule, ...]:
        egress = self._egress.get((vpc_id, group_ids))
        if egress is None:
            grants = self._grants(vpc_id, group_ids, ingress=False)
            egress = self._egress[vpc_id, group_ids] = tuple(
                dict.fromkeys(each for grant in grants for each in grant.rules)
            )
        return egress

    def egress_grants(self, member: NetworkInterface | Host) -> Iterable[Grant]:
        """What each egress rule of the groups of an interface or a host comes to."""
        return self._grants(member.vpc_id, member.group_ids, ingress=False)

    def ingress_grants(self, member: NetworkInterface | Host) -> Iterable[Grant]:
        """What each ingress rule of the groups of a host or a node comes to."""
        return self._grants(member.vpc_id, member.group_ids, ingress=True)

    def guard_grants(
        self, member: NetworkInterface | Host, address: IPv4Address
    ) -> Iterable[Grant]:
        """What each ingress rule of a guarded address that admits this member comes to."""
        services = self._services.get(member.vpc_id, {}).get(address, [])
        return self._admitting(member, services)

    def _grants(self, vpc_id: str, group_ids: tuple[str, ...], *, ingress: bool) -> Iterable[Grant]:
        for group_id in group_ids:
            group = self._tables.groups[group_id]
            for rule in group.ingress if ingress else group.egress:
                yield Grant(group, rule, tuple(self._towards(vpc_id, rule)))

    def _towards(self, vpc_id: str, rule: Rule) -> Iterable[PolicyRule]:
        if rule.group_id is not None:
            for address in self._members_of(vpc_id).get(rule.group_id, ()):
                yield _compiled(rule, IPv4Network(address))
        for network in self._networks(rule):
            yield _compiled(rule, network)

    def _networks(self, rule: Rule) -> tuple[IPv4Network, ...]:
        """What a rule names that names no group."""
        if rule.prefix_list is not None:
            return entries_of(self._tables, rule.prefix_list)
        return () if rule.cidr is None else (rule.cidr,)

    def _admitting(
        self, member: NetworkInterface | Host, services: list[Service]
    ) -> Iterable[Grant]:
        for service in services:
            for group_id in service.group_ids:
                group = self._tables.groups[group_id]
                for rule in group.ingress:
                    if rule.group_id in member.group_ids or any(
                        member.address in network for network in self._networks(rule)
                    ):
                        yield Grant(group, rule, (_compiled(rule, ANYWHERE),))

    def _members_of(self, vpc_id: str) -> dict[str, tuple[IPv4Address, ...]]:
        members = self._members.get(vpc_id)
        if members is None:
            found: dict[str, set[IPv4Address]] = defaultdict(set)
            for interface in self._tables.in_vpc(vpc_id):
                if interface.status is not InterfaceStatus.DELETING:
                    for group_id in interface.group_ids:
                        found[group_id].update(interface.addresses)
            for host in self._tables.hosts_in(vpc_id):
                for group_id in host.group_ids:
                    found[group_id].add(host.address)
            for services in self._services.get(vpc_id, {}).values():
                for service in services:
                    for group_id in service.group_ids:
                        found[group_id].add(service.address)
            members = self._members[vpc_id] = {
                group_id: tuple(sorted(addresses)) for group_id, addresses in found.items()
            }
        return members


def _withheld(settings: LifecycleSettings) -> tuple[PolicyRule, ...]:
    ports = tuple(
        PolicyRule(Protocol.TCP.value, str(ANYWHERE), port, port)
        for port in sorted(set(settings.blocked_tcp_ports))
    )
    icmp = () if settings.icmp else (PolicyRule(Protocol.ICMP.value, str(ANYWHERE), 0, 65535),)
    return ports + icmp


def _compiled(rule: Rule, cidr: IPv4Network) -> PolicyRule:
    return PolicyRule(rule.protocol.value, str(cidr), rule.first, rule.last)
