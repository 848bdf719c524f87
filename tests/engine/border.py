# SPDX-License-Identifier: Apache-2.0
"""Conversations across the borders of subnets: what is sent, and the legs of its way.

The VPC is that of `balancers`. Who is in which subnet is for a test to say: subnets are whatever
prefixes it gives ACLs to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from hyperplane_nat.engine import Action, NetworkAclEntry, SubnetAcl, Verdict
from tests.engine.balancers import LISTENS, NEIGHBOUR, NODE, PLACES, SERVICE, WEB, Scene
from tests.engine.balancers import listener as listens
from tests.engine.gateways import (
    ENVIRONMENT,
    FAR,
    FIRST,
    HOST,
    INSIDE,
    LAMBDA,
    NAT,
    OUTSIDE,
    PUBLIC,
    SECOND,
    VPC,
    ends,
)
from tests.reference import packet
from tests.reference.network_acl import Acl, Asked, Entry, Leg

End = tuple[str, int]

APART = tuple(
    IPv4Network(text)
    for text in (
        "10.0.1.0/28",
        "10.0.1.16/28",
        "10.0.1.50/32",
        "10.0.1.51/32",
        "10.0.1.52/32",
        "10.0.1.80/28",
        "10.0.1.96/28",
        "10.0.9.0/24",
    )
)
"""A subnet each: interface, node, hosts, service and neighbour behind the router, NAT gateway."""
TOGETHER = (IPv4Network("10.0.1.0/24"), IPv4Network("10.0.9.0/24"))
"""All but the NAT gateway in one subnet."""


@dataclass(frozen=True)
class Sent:
    """What became of a packet, and the legs of its way if it goes all of it."""

    verdict: Verdict
    legs: tuple[Leg, ...]

    @property
    def reason(self) -> str | None:
        reason = self.verdict.reason.name.lower()
        return None if self.verdict.action is Action.FORWARD else reason


def leg(leaves: str | None, enters: str | None, source: str, destination: End) -> Leg:
    """One of a UDP datagram."""
    places = (None if each is None else IPv4Address(each) for each in (leaves, enters))
    asked = Asked(packet.UDP, IPv4Address(source), IPv4Address(destination[0]), destination[1])
    return *places, asked  # type: ignore[return-value]


class Conversation:
    """A datagram and its answer, from one to the other."""

    def __init__(self, scene: Scene, port: int) -> None:
        self.scene = scene
        self.port = port
        self.seen: End = ("", 0)
        """The source that the answer goes to."""

    def begins(self) -> Sent:
        raise NotImplementedError

    def answers(self) -> Sent:
        raise NotImplementedError

    def _noted(self, verdict: Verdict) -> Verdict:
        if verdict.action is Action.FORWARD:
            self.seen = ends(verdict)[0]
        return verdict


class Straight(Conversation):
    """Between two in the VPC: `own` is what the first has as its address there."""

    place: tuple[int, int]
    sends_as: str
    own: str
    far: str
    far_place: tuple[int, int]

    def begins(self) -> Sent:
        to = (self.far, self.port)
        verdict = self.scene.udp(self.place, (self.sends_as, 5000), to)
        return Sent(self._noted(verdict), (leg(self.own, self.far, self.own, to),))

    def answers(self) -> Sent:
        verdict = self.scene.udp(self.far_place, (self.far, self.port), self.seen)
        return Sent(verdict, (leg(self.far, self.own, self.far, self.seen),))


def straight(
    place: tuple[int, int], sends_as: str, own: str, far: str, far_place: tuple[int, int]
) -> Callable[[Scene, int], Conversation]:
    fields = {
        "place": place,
        "sends_as": sends_as,
        "own": own,
        "far": far,
        "far_place": far_place,
    }
    return type("Straight", (Straight,), fields)


class ByNatGateway(Conversation):
    """Of an environment: its interface's address, then that of the gateway."""

    def begins(self) -> Sent:
        to = (FAR, self.port)
        verdict = self.scene.from_environment(far=to)
        return Sent(self._noted(verdict), (leg(LAMBDA, NAT, LAMBDA, to), leg(NAT, None, NAT, to)))

    def answers(self) -> Sent:
        verdict = self.scene.from_internet(self.seen, (FAR, self.port))
        port = self.seen[1]
        return Sent(
            verdict, (leg(None, NAT, FAR, (NAT, port)), leg(NAT, LAMBDA, FAR, (LAMBDA, port)))
        )


class ByInternetGateway(Conversation):
    """Of a host with a public address."""

    def begins(self) -> Sent:
        verdict = self.scene.from_host(far=(FAR, self.port))
        return Sent(self._noted(verdict), (leg(FIRST, None, FIRST, (FAR, self.port)),))

    def answers(self) -> Sent:
        verdict = self.scene.from_internet((PUBLIC, 5000), (FAR, self.port))
        return Sent(verdict, (leg(None, FIRST, FAR, (FIRST, 5000)),))


class FromInternet(Conversation):
    """To a host's public address."""

    def begins(self) -> Sent:
        verdict = self.scene.from_internet((PUBLIC, self.port), (FAR, 6000))
        return Sent(verdict, (leg(None, FIRST, FAR, (FIRST, self.port)),))

    def answers(self) -> Sent:
        verdict = self.scene.from_host(port=self.port, far=(FAR, 6000))
        return Sent(verdict, (leg(FIRST, None, FIRST, (FAR, 6000)),))


class ByNode(Conversation):
    """Of a client by a load balancer's node to a host."""

    client: str
    preserve: bool

    def begins(self) -> Sent:
        self.scene.listen(listens(WEB, protocol="udp", preserve=self.preserve))
        verdict = self._noted(self.scene.datagram(self.client))
        seen = self._own if self.preserve else NODE
        return Sent(
            verdict, (leg(self._own, NODE, self._own, LISTENS), leg(NODE, FIRST, seen, WEB))
        )

    def answers(self) -> Sent:
        verdict = self.scene.udp((HOST, 0), WEB, self.seen)
        port = 5000 if self.client != "environment" else self.seen[1]
        back = leg(NODE, self._own, NODE, (self._own, port))
        return Sent(verdict, (leg(FIRST, NODE, FIRST, self.seen), back))

    @property
    def _own(self) -> str:
        return LAMBDA if self.client == "environment" else PLACES[self.client][1]


def by_node(client: str, *, preserve: bool) -> Callable[[Scene, int], Conversation]:
    return type("ByNode", (ByNode,), {"client": client, "preserve": preserve})


CONVERSATIONS: Mapping[str, Callable[[Scene, int], Conversation]] = {
    "environment to service": straight((INSIDE, 1), ENVIRONMENT, LAMBDA, SERVICE, (OUTSIDE, 1)),
    "environment to host": straight((INSIDE, 1), ENVIRONMENT, LAMBDA, FIRST, (HOST, 0)),
    "host to host": straight((HOST, 0), FIRST, FIRST, SECOND, (HOST, 1)),
    "host to service": straight((HOST, 0), FIRST, FIRST, SERVICE, (OUTSIDE, 0)),
    "router to host": straight((OUTSIDE, 0), NEIGHBOUR, NEIGHBOUR, FIRST, (HOST, 0)),
    "NAT gateway": ByNatGateway,
    "internet gateway": ByInternetGateway,
    "from the internet": FromInternet,
    **{
        f"{client} by node{' with its source' if preserve else ''}": by_node(
            client, preserve=preserve
        )
        for client in PLACES
        for preserve in (False, True)
    },
}


def told(scene: Scene, subnets: Mapping[IPv4Network, Acl], exempt: tuple[str, ...] = ()) -> None:
    """Give subnets their ACLs."""
    scene.engine.set_network_acls(
        VPC,
        [
            SubnetAcl(str(cidr), *(tuple(map(_entry, side)) for side in (acl.ingress, acl.egress)))
            for cidr, acl in subnets.items()
        ],
        exempt,
    )


def _entry(entry: Entry) -> NetworkAclEntry:
    kind, code = (-1 if each is None else each for each in entry.icmp)
    return NetworkAclEntry(
        entry.allow, entry.protocol, str(entry.cidr), entry.first, entry.last, kind, code
    )
