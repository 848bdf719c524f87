# SPDX-License-Identifier: Apache-2.0
"""Security groups as they are explained: a flow may begin when one of the rules says so."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

ANYWHERE = IPv4Network("0.0.0.0/0")
ICMP = 1
PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": ICMP}


@dataclass(frozen=True)
class Rule:
    """An allow rule; `cidr` is the far end, the ports are the destination's."""

    protocol: str
    cidr: IPv4Network = ANYWHERE
    first: int = 0
    last: int = 65535

    def matches(self, protocol: int, far: IPv4Address, port: int) -> bool:
        if self.protocol != "all" and PROTOCOLS[self.protocol] != protocol:
            return False
        return far in self.cidr and (protocol == ICMP or self.first <= port <= self.last)


@dataclass(frozen=True)
class Policy:
    """Rules of an interface or a host, and of destinations with security groups of their own.

    What is withheld nobody may begin, whatever the others say.
    """

    egress: tuple[Rule, ...] | None = None
    guarded: Mapping[IPv4Address, tuple[Rule, ...]] = field(default_factory=dict)
    ingress: tuple[Rule, ...] | None = None
    withheld: tuple[Rule, ...] = ()

    def admits(self, protocol: int, source: IPv4Address, port: int) -> bool:
        """Whether a flow from this address may reach the host."""
        return self.ingress is None or _any(self.ingress, protocol, source, port)

    def refusal(
        self, own: IPv4Address, protocol: int, destination: IPv4Address, port: int
    ) -> str | None:
        """Why an interface with the address `own` may not begin a flow, or None."""
        if _any(self.withheld, protocol, destination, port):
            return "lambda_icmp" if protocol == ICMP else "lambda_port"
        if self.egress is not None and not _any(self.egress, protocol, destination, port):
            return "security_group_egress"
        guard = self.guarded.get(destination)
        if guard is not None and not _any(guard, protocol, own, port):
            return "security_group_ingress"
        return None


def _any(rules: Iterable[Rule], protocol: int, far: IPv4Address, port: int) -> bool:
    return any(rule.matches(protocol, far, port) for rule in rules)
