# SPDX-License-Identifier: Apache-2.0
"""The first packet of a flow on an engine of its own, which is told what the forwarder is told.

Theory of operation
-------------------
What becomes of a packet is decided in the engine, in one place. So it is asked: one with an empty
flow table, in a state map that lasts for the question, is configured as the forwarder's (the same
items, reader and code) with what there is in the sender's VPC, and in the one that an endpoint
leads to, and is given one packet on the sender's link. It drops the packet, and says why, or it
says by which link the packet leaves, and from which address.

What leaves to a public address of an internet gateway is given to the engine again, on the link of
that gateway, as the internet forwards it.

Links are not in question, and so their indexes and hardware addresses are made up. The environment
that sends is the only one, in slot 1. What depends on flows that there are, such as the ports that
are taken, is not known here.
"""

from __future__ import annotations

import secrets
import struct
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.forwarder import desired
from hyperplane_nat.engine import Action, DropReason, Engine, Policy, Side, StateMap, Verdict
from hyperplane_nat.forwarder.configuration import Configuration
from hyperplane_nat.model.balancer_wanted import WantedNode
from hyperplane_nat.model.private_link_wanted import WantedEndpoint
from hyperplane_nat.model.validation import INTERNET
from hyperplane_nat.model.wanted import Wanted, WantedInterface
from netns.sockets import checksum, echo_request
from netns.topology import Host, Interface, Slot

PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17}

SOURCE_PORT = 49152
"""Of the first packet."""

_FLOWS = 64
_SLOT = 1
_SYN, _ACK = 0x02, 0x10


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a flow; the port of ICMP is 0, its source port the identifier."""

    protocol: str
    source: str
    destination: str
    port: int
    source_port: int = SOURCE_PORT


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a packet. Who leaves by no link has been dropped."""

    reason: DropReason
    interface: int | None = None
    """Number of the interface by whose link it leaves,"""
    host: int | None = None
    """or of the host."""
    source: str = ""
    """Its source address there,"""
    port: int = 0
    """and its source port; of ICMP the identifier."""
    answer: DropReason = DropReason.NONE
    """Why an answer to it is dropped."""
    answered: bool = False
    """Whether an answer comes back to where it was sent from, from where it was sent to."""
    outside: tuple[str, int] | None = None
    """Its source in the internet, address and port, where it has gone through that to a public
    address; all else is so behind it.
    """


@dataclass(frozen=True, slots=True)
class Internet:
    """The internet, which forwards between those that have an address there."""

    gateways: Mapping[str, int]
    """By public address the internet gateway that has it, by number."""
    links: Mapping[str, int]
    """By any address the interface."""

    def leads_from(self, left: Verdict) -> bool:
        """Whether a packet has left to it."""
        return left.side is Side.OUTSIDE and left.port in self.links.values()


class Rehearsal:
    """An engine, and what it was told of the VPCs on the way."""

    def __init__(
        self,
        state_map: StateMap,
        room: Mapping[str, int],
        items: desired.Item,
        internet: Internet,
    ) -> None:
        self.state_map = state_map
        """Where its flows are; in memory alone, for as long as it is there."""
        self._internet = internet
        self._engine = Engine(state_map)
        self._configuration = Configuration(self._engine, _NoLinks(), **room)
        deque(self._configuration.configure(items, 0), maxlen=0)

    def aim(self, node: desired.Item) -> None:
        """Have a load balancer's node be as this item says."""
        deque(self._configuration.configure({"load_balancer_nodes": [node]}, 0), maxlen=0)

    def policy(
        self, *, interface: int | None = None, host: int | None = None, node: int | None = None
    ) -> Policy | None:
        """The security groups of a network interface, a host or a load balancer's node; None lets
        everything pass.
        """
        if node is not None:
            return self._configuration.nodes[node].policy
        if host is not None:
            return self._configuration.hosts[host].policy
        return None if interface is None else self._configuration.interfaces[interface].policy

    def send(self, packet: Packet, *, host: int | None = None) -> Outcome:
        """A packet on the link of a host, or of the environment."""
        side, number = (Side.INSIDE, _SLOT) if host is None else (Side.HOST, host)
        ours, theirs = _gateway_mac(side, number), _other_mac(side, number)
        frame = bytes.fromhex((ours + theirs).replace(":", "")) + b"\x08\x00" + _datagram(packet)
        verdict = self._engine.translate(frame, side, number, 0)
        # Nobody answers for a next hop: the packet waits for it at the link by which it leaves.
        if verdict.action not in (Action.FORWARD, Action.HOLD):
            return Outcome(verdict.reason)
        seen, outside = _seen(packet, verdict.frame), None
        gateway = self._internet.gateways.get(seen.destination)
        if gateway is not None and self._internet.leads_from(verdict):
            outside = seen.source, seen.source_port
            verdict = self._forward(verdict, gateway)
            if verdict.action not in (Action.FORWARD, Action.HOLD):
                return Outcome(verdict.reason, outside=outside)
            seen = _seen(packet, verdict.frame)
        answer, answered = self._answer(packet, seen, verdict.side, verdict.port)
        to_host = verdict.side is Side.HOST
        return Outcome(
            DropReason.NONE,
            interface=None if to_host else verdict.port,
            host=verdict.port if to_host else None,
            source=seen.source,
            port=seen.source_port,
            answer=answer,
            answered=answered,
            outside=outside,
        )

    def _forward(self, left: Verdict, number: int) -> Verdict:
        """What has left to the internet arrives on the link of another interface there."""
        ours, theirs = (each(Side.OUTSIDE, number) for each in (_gateway_mac, _other_mac))
        frame = bytes.fromhex((ours + theirs).replace(":", "")) + left.frame[12:]
        return self._engine.translate(frame, Side.OUTSIDE, number, 0)

    def _answer(
        self, sent: Packet, seen: Packet, side: Side, number: int
    ) -> tuple[DropReason, bool]:
        """What becomes of the answer to a packet that has left by this link: why it is dropped, and
        whether it comes to its sender as one.
        """
        ours, theirs = _gateway_mac(side, number), _other_mac(side, number)
        back = Packet(seen.protocol, seen.destination, seen.source, seen.source_port, seen.port)
        content = _datagram(back, answers=True)
        frame = bytes.fromhex((ours + theirs).replace(":", "")) + b"\x08\x00" + content
        verdict = self._engine.translate(frame, side, number, 0)
        if verdict.action in (Action.FORWARD, Action.HOLD) and self._internet.leads_from(verdict):
            place = self._internet.links.get(_seen(back, verdict.frame).destination)
            if place is not None:
                verdict = self._forward(verdict, place)
        if verdict.action not in (Action.FORWARD, Action.HOLD):
            return verdict.reason, False
        came = _seen(back, verdict.frame)
        ports = (came.source_port, came.port)
        # An echo reply has the identifier of its request.
        wanted = (sent.source_port, 0) if sent.protocol == "icmp" else (sent.port, sent.source_port)
        ends = (came.source, came.destination) == (sent.destination, sent.source)
        return DropReason.NONE, ends and ports == wanted


def rehearsal(
    config: Config,
    wanted: Wanted,
    vpcs: Collection[int],
    directory: Path,
    *,
    interface: int | None,
    endpoint: WantedEndpoint | None = None,
) -> Rehearsal:
    """An engine for VPCs by their numbers, an environment at `interface` and an endpoint's address;
    `directory` is on a tmpfs.

    Errors: StateMapError when that is full or nothing can be made in it.
    """
    told = [
        each
        for each in wanted.interfaces
        if {each.vpc_number, each.gateway_of, each.endpoints_of}.intersection(vpcs)
    ]
    endpoints = [] if endpoint is None else [endpoint]
    hosts = [each for each in wanted.hosts if each.vpc_number in vpcs]
    gateways = [each for each in wanted.nat_gateways if each.vpc_number in vpcs]
    nodes = [each for each in wanted.load_balancer_nodes if each.vpc_number in vpcs]
    items = desired.everything(
        config,
        [desired.interface(each, _link(each.vpc, each.number)) for each in told],
        [desired.slot(config, _slot(), interface)],
        [desired.host(each, _host(each.number)) for each in hosts],
        route_tables=[
            desired.route_table(each) for each in wanted.route_tables if each.vpc_number in vpcs
        ],
        network_acls=[
            desired.network_acls(each) for each in wanted.network_acls if each.vpc_number in vpcs
        ],
        nat_gateways=[desired.nat_gateway(each) for each in gateways],
        load_balancer_nodes=[node_item(config, each) for each in nodes],
        endpoints=[desired.endpoint(each) for each in endpoints],
    )
    # Addresses of internet gateways name hosts, NAT gateways and nodes of other VPCs, too.
    numbers = [0, *(each.number for each in wanted.interfaces)]
    numbers += [number for each in wanted.interfaces for number in each.balanced.values()]
    numbers += [each.number for each in wanted.nat_gateways]
    numbers += [each.number for each in nodes]
    numbers += [each.number for each in endpoints]
    for secondary in (
        *(each.secondary for each in nodes),
        *(each.secondary for each in wanted.interfaces),
        *(each.secondary for each in wanted.nat_gateways),
    ):
        numbers += [number for number, _ in secondary]
    room = {
        "slots_max": _SLOT + 1,
        "interfaces_max": max(numbers) + 1,
        "hosts_max": max([0, *(each.number for each in wanted.hosts)]) + 1,
    }
    path = directory / f"hyperplane-nat-trace-{secrets.token_hex(8)}"
    try:
        state_map = StateMap.create(path, flows_max=_FLOWS, **room)
    finally:
        path.unlink(missing_ok=True)
    return Rehearsal(state_map, room, items, _internet(told))


def _internet(told: Iterable[WantedInterface]) -> Internet:
    there = [each for each in told if each.vpc == INTERNET]
    return Internet(
        gateways={
            address: each.number
            for each in there
            if each.gateway_of is not None
            for _, address in each.secondary
        },
        links={
            address: each.number
            for each in there
            for address in (each.address, *(address for _, address in each.secondary))
        },
    )


def node_item(config: Config, node: WantedNode) -> desired.Item:
    """A load balancer's node as the forwarder is told it."""
    return desired.load_balancer_node(node, config.timeouts.time_scale)


class _NoLinks:
    """No packet path."""

    def link_slot(self, number: int, interface_index: int) -> None: ...
    def link_interface(self, number: int, interface_index: int) -> None: ...
    def link_host(self, number: int, interface_index: int) -> None: ...
    def unlink(self, interface_index: int) -> None: ...
    def send_outside(self, interface: int, frame: bytes) -> None: ...


def _gateway_mac(side: Side, number: int) -> str:
    return f"02:{side:02x}:00:01:{number >> 8:02x}:{number & 255:02x}"


def _other_mac(side: Side, number: int) -> str:
    return f"02:{side:02x}:00:02:{number >> 8:02x}:{number & 255:02x}"


def _index(side: Side, number: int) -> int:
    return (side + 1) << 17 | number


def _link(vpc: str, number: int) -> Interface:
    side = Side.OUTSIDE
    index, own, other = _index(side, number), _gateway_mac(side, number), _other_mac(side, number)
    return Interface("", vpc, index, own, other)


def _slot() -> Slot:
    side = Side.INSIDE
    macs = _other_mac(side, _SLOT), _gateway_mac(side, _SLOT)
    return Slot(_SLOT, _index(side, _SLOT), "", *macs)


def _host(number: int) -> Host:
    side = Side.HOST
    return Host(number, _index(side, number), _other_mac(side, number), _gateway_mac(side, number))


def _seen(packet: Packet, frame: bytes) -> Packet:
    """A packet as it is in a frame that has left."""
    place = 14 + (frame[14] & 15) * 4
    source, target = (str(IPv4Address(frame[at : at + 4])) for at in (26, 30))
    if packet.protocol == "icmp":
        (number,) = struct.unpack_from("!H", frame, place + 4)
        return Packet(packet.protocol, source, target, 0, number)
    number, port = struct.unpack_from("!HH", frame, place)
    return Packet(packet.protocol, source, target, port, number)


def _datagram(packet: Packet, *, answers: bool = False) -> bytes:
    source, destination = IPv4Address(packet.source).packed, IPv4Address(packet.destination).packed
    number = PROTOCOLS[packet.protocol]
    if packet.protocol == "icmp":
        content = echo_request(packet.port if answers else packet.source_port, 1)
        if answers:
            content = _sealed(bytes(4) + content[4:], 2)
    else:
        is_tcp = packet.protocol == "tcp"
        rest = struct.pack("!HH", 8, 0)
        if is_tcp:
            flags = _SYN | _ACK if answers else _SYN
            rest = struct.pack("!IIBBHHH", 1, 2 if answers else 0, 5 << 4, flags, 1024, 0, 0)
        content = struct.pack("!HH", packet.source_port, packet.port) + rest
        pseudo = source + destination + struct.pack("!HH", number, len(content))
        content = _sealed(content, 16 if is_tcp else 6, pseudo)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(content), 1, 0x4000, 64, number, 0)
    return _sealed(header + source + destination, 10) + content


def _sealed(data: bytes, place: int, pseudo: bytes = b"") -> bytes:
    """With its checksum at its place."""
    return data[:place] + struct.pack("!H", checksum(pseudo + data)) + data[place + 2 :]
