# SPDX-License-Identifier: Apache-2.0
"""Conversations of all kinds through an engine with the flow cache and one without.

The VPCs are those of `endpoints`: environments reach a service by their interface, hosts, the
internet by a NAT gateway and a load balancer; hosts reach each other, the internet with a public
address and by the NAT gateway, and are reached from there and from behind the VPC's router; and in
the other VPC all three reach the load balancer by an endpoint.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hyperplane_nat.engine import Action, Policy, Target, Verdict
from hyperplane_nat.engine.nat.cached_flows import CachedFlows
from tests.engine import endpoints, gateways
from tests.engine.balancers import ACK, CLIENT, NEIGHBOUR, NODE, RST, SERVICE, SYN, SYNACK, listener
from tests.engine.compiled import result_of
from tests.engine.gateways import (
    ENVIRONMENT,
    FAR,
    FIRST,
    HOST,
    INSIDE,
    OUTSIDE,
    PUBLIC,
    SECOND,
)
from tests.engine.kernel import COUNTED, FORWARDED, Kernel
from tests.reference import Result, packet

WHOLE = 0x4000
SLOTS, INTERFACES = 8, 16
FIRST_OF = {INSIDE: 0, OUTSIDE: SLOTS, HOST: SLOTS + INTERFACES}
"""Of the attachments of a side."""
HOSTS = 4
LINKS = [
    *((INSIDE, n) for n in (1, 2, 3)),
    *((OUTSIDE, n) for n in (0, 1, 2, endpoints.ROUTER_LINK, endpoints.OF_LAMBDA)),
    *((HOST, n) for n in range(HOSTS)),
]
TARGETS = ((FIRST, 8080), (SECOND, 8080), (SERVICE, 8080))
IDLE, SHORT = 350_000, 120_000
LISTENERS = [
    listener(*TARGETS, protocol=protocol, port=port, idle_ms=idle, preserve=preserve)
    for protocol, idle in (("tcp", IDLE), ("udp", SHORT))
    for port, preserve in ((80, True), (81, False))
]

Place = tuple[int, int]
End = tuple[str, int]
KINDS: dict[str, tuple[Place, str, str, int]] = {
    "lambda": ((INSIDE, 1), ENVIRONMENT, SERVICE, 7),
    "environment to host": ((INSIDE, 1), ENVIRONMENT, SECOND, 7),
    "environment by NAT gateway": ((INSIDE, 2), ENVIRONMENT, FAR, 7),
    "environment to balancer, preserved": ((INSIDE, 1), ENVIRONMENT, NODE, 80),
    "environment to balancer": ((INSIDE, 2), ENVIRONMENT, NODE, 81),
    "host to host": ((HOST, 0), FIRST, SECOND, 7),
    "host to service": ((HOST, 1), SECOND, SERVICE, 7),
    "router to host": ((OUTSIDE, 0), NEIGHBOUR, FIRST, 7),
    "host to internet": ((HOST, 0), FIRST, FAR, 7),
    "internet to host": ((OUTSIDE, 2), FAR, PUBLIC, 7),
    "host by NAT gateway": ((HOST, 1), SECOND, FAR, 7),
    "host to balancer, preserved": ((HOST, 2), CLIENT, NODE, 80),
    "host to balancer": ((HOST, 2), CLIENT, NODE, 81),
    "router to balancer, preserved": ((OUTSIDE, 0), NEIGHBOUR, NODE, 80),
    "router to balancer": ((OUTSIDE, 0), NEIGHBOUR, NODE, 81),
    "environment to endpoint": (*endpoints.CLIENTS["environment"], NODE, 81),
    "host to endpoint": (*endpoints.CLIENTS["host"], NODE, 80),
    "router to endpoint": (*endpoints.CLIENTS["router"], NODE, 81),
}
"""Who begins a flow of each kind: the link, the address there, and where to."""


class Scene(endpoints.Scene):
    """The VPCs, where the second host leaves by the NAT gateway."""

    mtu = 1500
    cached: CachedFlows | None = None

    def __init__(self, kernel: Kernel | None) -> None:
        self.kernel = kernel
        self.hits = 0
        super().__init__(*LISTENERS)

    def opened(self) -> None:
        if self.kernel is not None:
            self.cached = CachedFlows(
                self.engine, self.kernel.records, self.kernel.links, self.kernel.control
            )

    def serve(self) -> None:
        super().serve()
        if self.cached is not None:
            for place in LINKS:
                number = FIRST_OF[place[0]] + place[1]
                self.cached.link(number, 100 + number)
            self.cached.settle()

    def set_host(self, number: int, address: str, **fields: Any) -> None:
        if number == 1:
            fields["route_table"] = gateways.ENVIRONMENTS_TABLE
        super().set_host(number, address, **fields)

    def starts_again(self) -> None:
        # Gone before its engine is.
        self.cached = None
        super().starts_again()

    def sends(self, place: Place, body: bytes) -> Result:
        """What becomes of a packet on a link, wherever it is forwarded."""
        ours, theirs = (bytes.fromhex(t.replace(":", "")) for t in gateways.macs(*place))
        frame = ours + theirs + b"\x08\x00" + body
        counted = False
        if self.kernel is not None:
            found = self.kernel.arrives(FIRST_OF[place[0]] + place[1], frame, self.now)
            if found.kind == FORWARDED:
                self.hits += 1
                side = max(
                    (s for s in FIRST_OF if FIRST_OF[s] <= found.out), key=FIRST_OF.__getitem__
                )
                return Result("forward", None, side, found.out - FIRST_OF[side], found.frame)
            counted = found.kind == COUNTED
        verdict: Verdict = self.engine.translate(frame, *place, self.now, counted=counted)
        return result_of(verdict)

    def catch_up(self) -> None:
        if self.kernel is not None and self.cached is not None:
            self.kernel.follow(self.cached)
            self.cached.sweep(self.now)
            self.kernel.follow(self.cached)
            self.cached.rest()
            self.kernel.grant()

    def problems(self) -> list[str]:
        found = self.engine.verify()
        return found if self.cached is None else found + self.cached.verify()

    def told(self) -> dict[str, Any]:
        """Everything that is counted and listed."""
        numbers = {"interface": INTERFACES, "host": HOSTS, "slot": SLOTS, "node": INTERFACES}
        told: dict[str, Any] = {
            f"{what} {number}": getattr(self.map, f"{what}_counters")(number)
            for what, count in numbers.items()
            for number in range(count)
        }
        counters = self.engine.counters().items()
        told["lab"] = {n: value for n, value in counters if not n.startswith("flow_cache")}
        told["flows"] = sorted(map(str, [*self.engine.flows(), *self.engine.host_flows()]))
        return told

    def close(self) -> None:
        self.cached = None
        super().close()


@dataclass
class Talk:
    """A conversation, as both ends know it."""

    kind: str
    tcp: bool
    near: Place
    ends: tuple[End, End]
    far: Place | None = None
    far_ends: tuple[End, End] | None = None
    sequences: list[int] = field(default_factory=lambda: [1000, 9000])

    def body(self, side: int, flags: int, payload: bytes, whole: bool = True) -> bytes:
        """The next packet from one end."""
        ends = self.ends if side == 0 else self.far_ends
        assert ends is not None
        (source, first), (destination, second) = ends
        if self.tcp:
            protocol, content = (
                packet.TCP,
                packet.tcp(
                    source,
                    destination,
                    first,
                    second,
                    flags,
                    seq=self.sequences[side],
                    ack=self.sequences[1 - side] if flags & packet.ACK else 0,
                    payload=payload,
                    window=5000,
                ),
            )
            self.sequences[side] += len(payload) + bool(flags & (packet.SYN | packet.FIN))
        else:
            protocol, content = packet.UDP, packet.udp(source, destination, first, second, payload)
        fragment = WHOLE if whole else 0
        return packet.ipv4(source, destination, protocol, content, fragment=fragment)


class Both:
    """The same traffic and the same changes, with the cache and without."""

    def __init__(self, seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.scenes = (Scene(Kernel(flows=64)), Scene(None))
        self.with_cache, self.without = self.scenes
        self.ports = iter(range(5000, 9000))
        self.talks: list[Talk] = []
        self.hits: Counter[str] = Counter()
        self.black = False
        self.begun = 0

    def send(
        self, talk: Talk, side: int, flags: int = ACK, payload: bytes = b"", whole: bool = True
    ) -> Result:
        """A packet through both."""
        place = talk.near if side == 0 else talk.far
        assert place is not None
        body, hits = talk.body(side, flags, payload, whole), self.with_cache.hits
        found, expected = (each.sends(place, body) for each in self.scenes)
        assert found == expected, (talk, side)
        extra = [[*map(str, each.engine.take_extra())] for each in self.scenes]
        assert extra[0] == extra[1]
        self.hits[talk.kind] += self.with_cache.hits - hits
        if side == 0 and found.action == Action.FORWARD.name.lower():
            header, ports = found.frame[26:34], found.frame[34:38]
            source, destination = (".".join(map(str, header[i : i + 4])) for i in (0, 4))
            first, second = (int.from_bytes(ports[i : i + 2]) for i in (0, 2))
            talk.far = (int(found.side or 0), int(found.port or 0))
            talk.far_ends = ((destination, second), (source, first))
        return found

    def begin(self, kind: str | None = None, tcp: bool | None = None) -> Talk:
        kind = kind or self.random.choice(list(KINDS))
        tcp = self.random.random() < 0.5 if tcp is None else tcp
        place, address, far, port = KINDS[kind]
        talk = Talk(kind, tcp, place, ((address, next(self.ports)), (far, port)))
        self.talks = [*self.talks[-9:], talk]
        self.begun += 1
        self.send(talk, 0, SYN, b"" if tcp else b"first")
        if talk.far is not None and tcp:
            self.send(talk, 1, SYNACK)
            self.send(talk, 0)
        return talk

    def talk(self, talk: Talk | None = None, packets: int = 0) -> None:
        talk = talk or self.random.choice(self.talks)
        for _ in range(packets or self.random.randrange(60)):
            side = self.random.randrange(2) if talk.far else 0
            self.send(talk, side, payload=self.random.randbytes(self.random.randrange(100)))
            if self.random.random() < 0.1:
                self.with_cache.catch_up()

    def each(self, change: Callable[[Scene], object]) -> None:
        for scene in self.scenes:
            change(scene)

    def end(self) -> None:
        talk = self.random.choice(self.talks)
        side = self.random.randrange(2) if talk.far else 0
        self.send(talk, side, self.random.choice([packet.FIN | packet.ACK, RST, SYN, ACK]))

    def cut(self) -> None:
        """One that may be fragmented."""
        self.send(self.random.choice(self.talks), 0, payload=b"x", whole=False)

    def wait(self) -> None:
        step = self.random.choice([10, 500, 3000, 60_000, SHORT, IDLE])
        for scene in self.scenes:
            scene.now += step
            scene.engine.expire(scene.now)

    def route(self) -> None:
        """The way to the NAT gateway, or from there, or from hosts, is there or not."""
        self.black = not self.black
        table = self.random.choice([gateways.ENVIRONMENTS_TABLE, gateways.GATEWAY_TABLE])
        leads = {
            gateways.ENVIRONMENTS_TABLE: gateways.TO_NAT,
            gateways.GATEWAY_TABLE: gateways.TO_INTERNET,
        }
        if self.black:
            leads[table] = gateways.NOWHERE
        for scene in self.scenes:
            for number, route in leads.items():
                scene.engine.set_route_table(number, [route])

    def drain(self) -> None:
        """An address of the NAT gateway takes no new flows, or does; or it goes and comes again."""
        if self.random.random() < 0.5:
            draining = self.random.random() < 0.5
            self.each(lambda scene: scene.set_nat(6, gateways.NAT, draining=draining))
            return
        for scene in self.scenes:
            scene.removed([4])
            scene.set_gateway(4, gateways.ELASTIC, nat_gateway=6)

    def deregister(self) -> None:
        """A target goes with its flows, or without, and comes back."""
        target, ends = self.random.choice(TARGETS), self.random.random() < 0.5
        left = [each for each in TARGETS if each != target]
        for scene in self.scenes:
            fewer = [
                listener(
                    *left,
                    protocol=each.protocol,
                    port=each.port,
                    idle_ms=each.idle_ms,
                    preserve=each.preserve_client_ip,
                )
                for each in LISTENERS
            ]
            scene.listen(*fewer)
            for each in LISTENERS if ends else ():
                scene.engine.end_flows(8, each.protocol, each.port, Target(*target), scene.now)
        if self.talks:
            self.talk()
        self.each(lambda scene: scene.listen(*LISTENERS))

    def reject(self) -> None:
        """The endpoint leads nowhere, or is gone with its flows, for a while."""
        stays = self.random.random() < 0.5
        for scene in self.scenes:
            if stays:
                scene.lead_to(None)
            else:
                scene.removed([endpoints.ENDPOINT])
        if self.talks:
            self.talk()
        self.each(lambda scene: scene.lead_to(8))

    def groups(self) -> None:
        """A host's security groups are others: what goes on goes on."""
        policy = self.random.choice([None, Policy(FIRST, egress=None, ingress=[])])
        self.each(lambda scene: scene.set_host(0, FIRST, policy=policy))

    def goes(self) -> None:
        """A host goes, and another one comes in its place."""
        for scene in self.scenes:
            scene.engine.remove_host(0)
            scene.engine.sweep(scene.now)
            scene.set_host(0, FIRST)

    def move(self) -> None:
        """A next hop has another address."""
        mac = f"02:00:00:0b:00:{self.random.randrange(3):02x}"
        interface, address = self.random.choice(
            [(0, SERVICE), (1, SERVICE), (0, NEIGHBOUR), (2, FAR)]
        )
        self.each(lambda scene: scene.engine.set_neighbour(interface, address, mac, scene.now))

    def compare(self) -> None:
        self.with_cache.catch_up()
        found, expected = (each.told() for each in self.scenes)
        assert found == expected
        assert self.with_cache.problems() == []

    def run(self, steps: int) -> None:
        self.begin()
        acts: dict[Callable[[], object], int] = {
            self.begin: 4,
            self.talk: 14,
            self.end: 2,
            self.cut: 1,
            self.wait: 2,
            self.route: 1,
            self.drain: 1,
            self.deregister: 1,
            self.reject: 1,
            self.groups: 1,
            self.goes: 1,
            self.move: 1,
            self.compare: 4,
        }
        for act in self.random.choices(list(acts), list(acts.values()), k=steps):
            act()
        self.compare()

    def close(self) -> None:
        for scene in self.scenes:
            scene.close()
