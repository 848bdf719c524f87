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
    """Rules of an interface, and of the destinations that have security groups themselves."""

    egress: tuple[Rule, ...] | None = None
    guarded: Mapping[IPv4Address, tuple[Rule, ...]] = field(default_factory=dict)

    def refusal(
        self, own: IPv4Address, protocol: int, destination: IPv4Address, port: int
    ) -> str | None:
        """Why an interface with the address `own` may not begin a flow, or None."""
        if self.egress is not None and not _any(self.egress, protocol, destination, port):
            return "security_group_egress"
        guard = self.guarded.get(destination)
        if guard is not None and not _any(guard, protocol, own, port):
            return "security_group_ingress"
        return None


def _any(rules: Iterable[Rule], protocol: int, far: IPv4Address, port: int) -> bool:
    return any(rule.matches(protocol, far, port) for rule in rules)
