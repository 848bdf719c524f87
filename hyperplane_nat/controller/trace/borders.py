# SPDX-License-Identifier: Apache-2.0
"""Network ACLs in a trace: which entry decides at each border, there and back.

Theory of operation
-------------------
Whether the packet and an answer to it pass is the engine's to say. Here the legs of the way are
written down, and the entry of an ACL is named that is the first to match at each border: the one
that has refused it is the first that denies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from hyperplane_nat.controller.trace.journey import Journey
from hyperplane_nat.controller.trace.question import Step
from hyperplane_nat.controller.trace.rehearsal import SOURCE_PORT
from hyperplane_nat.engine import DropReason
from hyperplane_nat.model.balancer_wanted import WantedNode
from hyperplane_nat.model.entities import Subnet, Vpc
from hyperplane_nat.model.network_acl_entities import ANY, CARRIED, NetworkAcl, NetworkAclEntry
from hyperplane_nat.model.network_acls import network_acl_of
from hyperplane_nat.model.validation import INTERNET

REFUSED = (DropReason.NETWORK_ACL_EGRESS, DropReason.NETWORK_ACL_INGRESS)

_NUMBERS = {name: number for number, name in CARRIED.items()}
_ECHO_REQUEST, _ECHO_REPLY = 8, 0


@dataclass(frozen=True, slots=True)
class _Leg:
    """From one place in a VPC to the next, by an address there; None: outside."""

    leaves: IPv4Address | None
    enters: IPv4Address | None
    source: IPv4Address
    destination: IPv4Address
    port: int
    """The destination's; of an echo its type."""
    behind: bool = False
    """Whether it is in the VPC that an endpoint leads to, and not in the sender's."""


@dataclass(frozen=True, slots=True)
class _Border:
    """Where a network ACL is asked."""

    verb: str
    subnet: Subnet
    acl: NetworkAcl
    entry: NetworkAclEntry | None
    """The first that matches; None: the last one, which denies."""

    @property
    def passes(self) -> bool:
        return self.entry is not None and self.entry.allow

    @property
    def rule(self) -> str:
        text = "*" if self.entry is None else _words(self.entry)
        return f"{self.acl.name} ({self.acl.id}): {text}"


def there(journey: Journey) -> Step | None:
    """Whether the packet passes the borders on its way."""
    sent = journey.sent
    if sent is None or sent.reason not in (DropReason.NONE, *REFUSED):
        return None
    return _step(journey, "network ACL", sent.reason, _way(journey))


def back(journey: Journey) -> Step | None:
    """Whether an answer passes those on its own."""
    sent = journey.sent
    if sent is None or sent.reason is not DropReason.NONE:
        return None
    reason = sent.answer if sent.answer in REFUSED else DropReason.NONE
    return _step(journey, "answer", reason, _way_back(journey))


def _step(journey: Journey, name: str, reason: DropReason, legs: Iterator[_Leg]) -> Step | None:
    borders = [border for leg in legs for border in _borders(journey, leg)]
    if reason is DropReason.NONE:
        if not borders:
            return None
        text = ", ".join(f"{each.verb} subnet {each.subnet.name}" for each in borders)
        return Step(name, True, "; ".join(each.rule for each in borders), text)
    found = next((each for each in borders if not each.passes), None)
    if found is None:
        return Step(name, False, reason.name.lower(), "a network ACL refuses it")
    text = f"it {found.verb} subnet {found.subnet.name}, whose network ACL refuses it"
    return Step(name, False, found.rule, text)


def _own(journey: Journey) -> IPv4Address:
    """The sender's address in its VPC."""
    member, sent = journey.sender.member, journey.sent
    assert member is not None
    assert sent is not None
    seen = IPv4Address(sent.source) if sent.source else member.address
    interface = journey.sender.interface
    return seen if interface is not None and seen in interface.addresses else member.address


def _way(journey: Journey) -> Iterator[_Leg]:
    own, address, sent = _own(journey), journey.address, journey.sent
    assert address is not None
    assert sent is not None
    port = _ECHO_REQUEST if journey.question.protocol == "icmp" else journey.port
    if sent.outside is not None:
        yield from _way_out(journey, own, address, port)
        yield from _way_in(journey, address, port, IPv4Address(sent.outside[0]))
        return
    if (node := journey.node) is not None:
        (far, far_port), at = journey.end, IPv4Address(node.address)
        assert far is not None
        kept = own if keeps_source(journey) else at
        yield _Leg(own, _near(journey, node), own, address, port)
        yield _Leg(at, far, kept, far, far_port, behind=True)
        return
    if _middle(journey) is not None:
        yield from _way_out(journey, own, address, port)
        return
    yield _Leg(own, _target(journey), own, address, port)


def _way_out(journey: Journey, own: IPv4Address, address: IPv4Address, port: int) -> Iterator[_Leg]:
    """To the internet gateway; who is in the internet is beyond it."""
    if journey.sender.vpc is None or journey.sender.vpc.name == INTERNET:
        return
    if (middle := _middle(journey)) is None:
        yield _Leg(own, None, own, address, port)
        return
    yield _Leg(own, middle, own, address, port)
    yield _Leg(middle, None, middle, address, port)


def _way_in(
    journey: Journey, address: IPv4Address, port: int, client: IPv4Address
) -> Iterator[_Leg]:
    """From the internet gateway of a public address to whom it stands for, and on."""
    far, far_port = journey.end
    if (node := journey.node) is None:
        yield _Leg(None, far, client, address, port, behind=True)
        return
    assert far is not None
    at = IPv4Address(node.address)
    yield _Leg(None, at, client, address, port, behind=True)
    kept = client if keeps_source(journey) else at
    yield _Leg(at, far, kept, far, far_port, behind=True)


def _way_home(
    journey: Journey, own: IPv4Address, address: IPv4Address, client: tuple[str, int]
) -> Iterator[_Leg]:
    """From there back to a client in the internet, and on."""
    (far, _), (source, port), sent = journey.end, client, journey.sent
    assert far is not None
    assert sent is not None
    outside = IPv4Address(source)
    echo = journey.question.protocol == "icmp"
    port = _ECHO_REPLY if echo else port
    if (node := journey.node) is not None:
        at = IPv4Address(node.address)
        yield _Leg(far, at, far, IPv4Address(sent.source), sent.port, behind=True)
        yield _Leg(at, None, at, outside, port, behind=True)
    else:
        yield _Leg(far, None, far, outside, port, behind=True)
    if journey.sender.vpc is None or journey.sender.vpc.name == INTERNET:
        return
    if (middle := _middle(journey)) is not None:
        yield _Leg(None, middle, address, middle, port)
        yield _Leg(middle, own, address, own, port)
    else:
        yield _Leg(None, own, address, own, port)


def _way_back(journey: Journey) -> Iterator[_Leg]:
    own, address, sent = _own(journey), journey.address, journey.sent
    assert address is not None
    assert sent is not None
    port = _ECHO_REPLY if journey.question.protocol == "icmp" else sent.port
    if sent.outside is not None:
        yield from _way_home(journey, own, address, sent.outside)
        return
    if (node := journey.node) is not None:
        (far, _), at = journey.end, IPv4Address(node.address)
        assert far is not None
        mine = SOURCE_PORT if journey.sender.interface is None else port
        yield _Leg(far, at, far, IPv4Address(sent.source), port, behind=True)
        yield _Leg(_near(journey, node), own, address, own, mine)
        return
    if (middle := _middle(journey)) is not None:
        yield _Leg(None, middle, address, middle, port)
        yield _Leg(middle, own, address, own, port)
        return
    yield _Leg(_target(journey), own, address, own, port)


def keeps_source(journey: Journey) -> bool:
    """Whether the node's listener preserves the client's address, as by no endpoint."""
    node = journey.node
    return (
        node is not None
        and journey.endpoint is None
        and any(
            each.preserve_client_ip
            for each in node.listeners
            if (each.protocol, each.port) == (journey.question.protocol, journey.port)
        )
    )


def _near(journey: Journey, node: WantedNode) -> IPv4Address:
    """Where in its own VPC the sender's packet goes."""
    return IPv4Address(node.address if journey.endpoint is None else journey.endpoint.address)


def _middle(journey: Journey) -> IPv4Address | None:
    """The private address of the NAT gateway on the way."""
    gateway = journey.nat_gateway
    return gateway.addresses[0].address if gateway is not None and gateway.addresses else None


def _target(journey: Journey) -> IPv4Address | None:
    """Where the packet comes out: a route may lead to a host."""
    host = journey.target_host
    if host is not None:
        return host.address
    return journey.address if journey.is_local else None


def _borders(journey: Journey, leg: _Leg) -> Iterator[_Border]:
    vpc = journey.behind if leg.behind else journey.sender.vpc
    assert vpc is not None
    out, into = _subnet(journey, vpc, leg.leaves), _subnet(journey, vpc, leg.enters)
    exempt = _exempt(journey, vpc)
    if out == into or any(
        each in network for each in (leg.source, leg.destination) for network in exempt
    ):
        return
    for verb, subnet, far in (("leaves", out, leg.destination), ("enters", into, leg.source)):
        if subnet is None:
            continue
        acl = network_acl_of(journey.tables, subnet)
        if not acl.lets_all_pass:
            entries = acl.egress if verb == "leaves" else acl.ingress
            yield _Border(verb, subnet, acl, _deciding(journey, entries, far, leg.port))


def _subnet(journey: Journey, vpc: Vpc, address: IPv4Address | None) -> Subnet | None:
    found = (each for each in journey.tables.subnets.values() if each.vpc_id == vpc.id)
    return next((each for each in found if address is not None and address in each.cidr), None)


def _exempt(journey: Journey, vpc: Vpc) -> list[IPv4Network]:
    found = (each for each in journey.wanted.network_acls if each.vpc_number == vpc.number)
    return [IPv4Network(network) for each in found for network in each.exempt]


def _deciding(
    journey: Journey, entries: tuple[NetworkAclEntry, ...], far: IPv4Address, port: int
) -> NetworkAclEntry | None:
    """The first entry that matches. `port` is an echo's type."""
    number = _NUMBERS[journey.question.protocol]
    for entry in entries:
        if far not in entry.cidr or entry.protocol not in (ANY, number):
            continue
        if entry.protocol == ANY:
            return entry
        if number == _NUMBERS["icmp"]:
            if entry.icmp_type in (ANY, port) and entry.icmp_code in (ANY, 0):
                return entry
        elif entry.first <= port <= entry.last:
            return entry
    return None


def _words(entry: NetworkAclEntry) -> str:
    protocol = CARRIED.get(entry.protocol, "all")
    detail = ""
    if protocol in ("tcp", "udp"):
        first, last = entry.first, entry.last
        detail = f" {first}" if first == last else f" {first}-{last}"
    elif protocol == "icmp" and entry.icmp_type != ANY:
        detail = f" type {entry.icmp_type}"
    action = "allow" if entry.allow else "deny"
    return f"rule {entry.rule_number} {action} {protocol}{detail} {entry.cidr}"
