# SPDX-License-Identifier: Apache-2.0
"""Balanced flows of the engine and of the model, side by side, in random conversations."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.engine import scenario
from tests.engine.pair import Pair
from tests.reference import Policy, Ports, Rule, Timeouts, packet
from tests.reference.settings import Listener

NODE = scenario.NODES[scenario.NODE_NUMBER]
TARGETS = tuple(
    (IPv4Address(address), port)
    for address, port in (("10.0.1.50", 8080), ("10.0.1.51", 8080), (scenario.WEB, 8080))
)
TCP_LISTENERS = (
    Listener(packet.TCP, 80, 60_000, sticky=False, preserves=True, targets=TARGETS),
    Listener(packet.TCP, 81, 900_000, sticky=True, preserves=False, targets=TARGETS),
    Listener(packet.TCP, 83, 60_000, sticky=False, preserves=True, targets=TARGETS, proxies=True),
    Listener(packet.TCP, 84, 60_000, sticky=True, preserves=False, targets=TARGETS, proxies=True),
)
UDP_LISTENERS = (
    Listener(packet.UDP, 80, 20_000, sticky=False, preserves=False, targets=TARGETS[:2]),
    Listener(packet.UDP, 81, 120_000, sticky=True, preserves=True, targets=TARGETS),
)
CLIENTS = (
    ((scenario.INSIDE, 1), scenario.ENVIRONMENT),
    ((scenario.INSIDE, 2), scenario.ENVIRONMENT),
    ((scenario.INSIDE, 3), scenario.ENVIRONMENT),
    ((scenario.HOST, 0), "10.0.1.50"),
    ((scenario.HOST, 1), "10.0.1.51"),
    ((scenario.OUTSIDE, 0), scenario.ECHO),
)
BY_ENDPOINT = (
    *CLIENTS,
    ((scenario.INSIDE, 4), scenario.ENVIRONMENT),
    ((scenario.HOST, 2), "10.0.1.50"),
    ((scenario.OUTSIDE, 2), scenario.ECHO),
)
"""With those who reach the node by an endpoint at its address in their VPC."""
IN_THE_INTERNET = ((scenario.OUTSIDE, scenario.INTERNET_GATEWAY), scenario.REMOTE)
FLAGS = (
    packet.SYN,
    packet.SYN | packet.ACK,
    packet.ACK,
    packet.ACK,
    packet.FIN | packet.ACK,
    packet.RST,
)
POLICIES = (
    None,
    Policy(ingress=(Rule("tcp", IPv4Network("10.0.1.0/26")), Rule("udp"))),
    Policy(egress=(Rule("all", IPv4Network("10.0.1.50/32")),)),
)
HOST_POLICIES: tuple[dict[int, Policy], ...] = (
    {},
    {0: Policy(ingress=(Rule("all", IPv4Network("10.0.1.20/32")),))},
    {1: Policy(egress=(Rule("tcp"),), ingress=(Rule("all", IPv4Network("10.0.1.50/31")),))},
)


class Conversation:
    """Packets of clients and targets that know of each other what crossed the gateway."""

    def __init__(self, seed: int, *, endpoint: bool = False, internet_facing: bool = False) -> None:
        self.random = random.Random(seed)
        self.clients = [*(BY_ENDPOINT if endpoint else CLIENTS)]
        if internet_facing:
            self.clients += [IN_THE_INTERNET] * 4
        draw = self.random.choice
        self.pair = Pair(
            scenario.Setup(
                flows_max=256,
                ports=Ports(40_000, draw((40_001, 40_007))),
                timeouts=Timeouts(hold=draw((10_000, 60_000))),
                balancer=TCP_LISTENERS + UDP_LISTENERS,
                node_addresses=draw((1, 2)),
                node_policy=draw(POLICIES),
                host_policies=draw(HOST_POLICIES),
                endpoint=endpoint,
                gateways=internet_facing,
                internet_facing=internet_facing,
                endpoint_policies=(draw(POLICIES), draw(POLICIES)),
            ),
            seed=self.random.randbytes(16),
        )
        self.seen: list[tuple[tuple[int, int], bytes]] = []
        """What left, with the link on which answers come."""

    def step(self) -> None:
        draw = self.random.random()
        if self.pair.setup.internet_facing and self.random.random() < 0.04:
            self.pair.set_way_back(black=self.random.random() < 0.3)
        if draw < 0.45 or not self.seen:
            self.client_sends()
        elif draw < 0.8:
            self.answers()
        elif draw < 0.88:
            self.tells()
        elif draw < 0.92:
            self.speaks_directly()
        else:
            self.pair.now += self.random.choice((1_000, 15_000, 61_000, 130_000))
            if self.random.random() < 0.7:
                self.pair.expire(1_000_000)

    def transport(
        self, source: tuple[str, int], destination: tuple[str, int], protocol: int
    ) -> bytes:
        ends = (source[0], destination[0], source[1], destination[1])
        if protocol == packet.UDP:
            return packet.udp(*ends, self.random.randbytes(self.random.choice((0, 3))))
        flags = self.random.choice(FLAGS)
        sequence, acknowledged = self.random.choice((100, 101, 900, 901)), 501
        return packet.tcp(*ends, flags, seq=sequence, ack=acknowledged)

    def sends(
        self,
        place: tuple[int, int],
        source: tuple[str, int],
        destination: tuple[str, int],
        protocol: int,
    ) -> None:
        content = self.transport(source, destination, protocol)
        self.arrives(place, packet.ipv4(source[0], destination[0], protocol, content))

    def arrives(self, place: tuple[int, int], body: bytes) -> None:
        ours, theirs = scenario.ethernet_addresses(*place)
        frame = packet.ethernet(ours, theirs, packet.ETHERTYPE_IPV4, body)
        result = self.pair.translate(frame, *place)
        if result.action == "forward":
            self.seen.append(((result.side, result.port), result.frame[14:]))
            del self.seen[:-40]

    def client_sends(self) -> None:
        place, address = self.random.choice(self.clients)
        port = self.random.choice((5000, 5001))
        protocol = self.random.choice((packet.TCP, packet.TCP, packet.UDP))
        listener = self.random.choice((80, 80, 81, 81, 82))
        public = place == IN_THE_INTERNET[0]
        node = scenario.PUBLIC_NODE if public else NODE
        self.sends(place, (address, port), (node, listener), protocol)

    def answers(self) -> None:
        place, body = self.random.choice(self.seen)
        protocol = body[9]
        if protocol not in (packet.TCP, packet.UDP):
            return
        source, destination = (str(IPv4Address(body[at : at + 4])) for at in (12, 16))
        ports = packet.word(body, 20), packet.word(body, 22)
        self.sends(place, (destination, ports[1]), (source, ports[0]), protocol)

    def tells(self) -> None:
        """An ICMP error about something that arrived."""
        place, body = self.random.choice(self.seen)
        if body[9] == packet.ICMP:
            return
        source, destination = (str(IPv4Address(body[at : at + 4])) for at in (12, 16))
        message = packet.icmp(self.random.choice((3, 3, 11)), 1, bytes(4), body[:28])
        self.arrives(place, packet.ipv4(destination, source, packet.ICMP, message))

    def speaks_directly(self) -> None:
        """A host to a target, without the node."""
        number = self.random.choice((0, 1))
        own, far = (scenario.HOSTS[each][0] for each in (number, 1 - number))
        ports = self.random.choice(((5000, 8080), (8080, 5000)))
        protocol = self.random.choice((packet.TCP, packet.UDP))
        self.sends((scenario.HOST, number), (own, ports[0]), (far, ports[1]), protocol)


@pytest.fixture
def conversation(request: pytest.FixtureRequest) -> Iterator[Conversation]:
    it = Conversation(request.param)
    yield it
    it.pair.close()


def agree(conversation: Conversation) -> None:
    for _ in range(150):
        conversation.step()
    conversation.pair.expire(1_000_000)
    conversation.pair.compare_counters()


@pytest.mark.parametrize("conversation", range(40), indirect=True)
def test_engine_and_model_agree(conversation: Conversation) -> None:
    agree(conversation)


@pytest.mark.parametrize("seed", range(40))
def test_they_agree_about_endpoints(seed: int) -> None:
    conversation = Conversation(seed, endpoint=True)
    agree(conversation)
    counted = conversation.pair.target.map.node_counters(scenario.ENDPOINT_NUMBER)
    assert counted["drops"] + counted["processed_packets"] > 0
    conversation.pair.close()


@pytest.mark.parametrize("seed", range(40))
def test_they_agree_about_clients_in_the_internet(seed: int) -> None:
    conversation = Conversation(seed, internet_facing=True)
    agree(conversation)
    counters = conversation.pair.engine.counters()
    assert counters["packets_out_to_destination"] > 0
    conversation.pair.close()
