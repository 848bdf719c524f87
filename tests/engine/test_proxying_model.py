# SPDX-License-Identifier: Apache-2.0
"""Flows with the PROXY protocol's header, of engine and model, in random conversations."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from tests.engine import scenario
from tests.engine.pair import Pair
from tests.engine.test_balancer_model import CLIENTS, NODE, TARGETS, Conversation
from tests.reference import Ports, packet
from tests.reference.settings import Listener

LISTENERS = tuple(
    Listener(packet.TCP, port, 60_000, sticky=True, preserves=keeps, targets=TARGETS, proxies=True)
    for port, keeps in ((80, True), (81, False))
)
HEADER_BYTES = 28
FIRST = 0xFFFF_FFF0
"""The number of a client's first byte: what follows the header is behind the wrap."""
NUMBERS = (FIRST - 1, FIRST, FIRST, FIRST, FIRST + 1, FIRST + 700, FIRST + 1 + (1 << 31))
ACKNOWLEDGED = tuple(
    FIRST + more for more in (-1, 0, 0, 1, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 700)
)
FLAGS = (packet.ACK,) * 6 + (packet.FIN | packet.ACK, packet.RST, packet.RST | packet.ACK)
MAXIMA, SCALE = b"\x02\x04\x05\xb4", b"\x03\x03\x07\x00"


class Proxied(Conversation):
    """Clients and targets that have a flow, whose numbers are near the header."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.pair.close()
        self.pair = Pair(
            scenario.Setup(
                flows_max=64,
                ports=Ports(40_000, 40_007),
                balancer=LISTENERS,
                # The longer is a packet's length before there is a header in it.
                host_mtu=self.random.choice((65535, 960)),
            ),
            seed=self.random.randbytes(16),
        )
        self.client = self.random.choice(CLIENTS)
        self.listener = self.random.choice((80, 81))

    def step(self) -> None:
        draw = self.random.random()
        if draw < 0.5 or not self.seen:
            self.segment(self.client[0], (self.client[1], 5000), (NODE, self.listener), 0)
        elif draw < 0.94:
            self.answers()
        else:
            self.tells()

    def answers(self) -> None:
        place, body = self.random.choice(self.seen)
        if body[9] != packet.TCP:
            return
        source, destination = (str(IPv4Address(body[at : at + 4])) for at in (12, 16))
        ports = packet.word(body, 20), packet.word(body, 22)
        side = 0 if place == self.client[0] and ports[0] == self.listener else 1
        self.segment(place, (destination, ports[1]), (source, ports[0]), side)

    def segment(
        self, place: tuple[int, int], source: tuple[str, int], far: tuple[str, int], side: int
    ) -> None:
        draw = self.random.choice
        opens = self.random.random() < 0.2
        flags, options = draw(FLAGS), b""
        if opens:
            flags = packet.SYN | (packet.ACK if side else 0)
            options = draw((b"", MAXIMA, MAXIMA + SCALE, b"\x01" + MAXIMA))
        elif side and draw((False, True)):
            edges = [number % (1 << 32) for number in self.random.choices(ACKNOWLEDGED, k=4)]
            blocks = b"".join(number.to_bytes(4) for number in edges)
            options = draw((b"", b"\x01", b"\x01\x01")) + b"\x05\x12" + blocks
        sequence = 500 if side else (FIRST - 1 if opens else draw(NUMBERS))
        acknowledged = draw(ACKNOWLEDGED) if side else 501
        if opens and side:
            acknowledged = FIRST
        partial = draw((False, True))
        gso_size = 0 if opens else draw((0, 0, 0, 500))
        content = packet.tcp(
            source[0],
            far[0],
            source[1],
            far[1],
            flags,
            seq=sequence,
            ack=acknowledged % (1 << 32),
            window=draw((0, 20, 3_000, 65_535)),
            options=options,
            payload=self.random.randbytes(draw((0, 0, 1, 30, 700, 65_400 if gso_size else 900))),
            partial=partial,
        )
        body = packet.ipv4(source[0], far[0], packet.TCP, content, fragment=draw((0, 0x4000)))
        ours, theirs = scenario.ethernet_addresses(*place)
        frame = packet.ethernet(ours, theirs, packet.ETHERTYPE_IPV4, body)
        result = self.pair.translate(frame, *place, partial=partial, gso_size=gso_size)
        if result.action == "forward":
            self.seen.append(((result.side, result.port), result.frame[14:]))
            del self.seen[:-10]


@pytest.mark.parametrize("seed", range(60))
def test_engine_and_model_agree(seed: int) -> None:
    conversation = Proxied(seed)
    try:
        for _ in range(120):
            conversation.step()
        conversation.pair.expire(1_000_000)
        conversation.pair.compare_counters()
    finally:
        conversation.pair.close()
