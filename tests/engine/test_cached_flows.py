# SPDX-License-Identifier: Apache-2.0
"""Promotion, demotion and the sweep: which flows are cached when, and that nothing else differs."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from hyperplane_nat.engine import Engine
from hyperplane_nat.engine.nat.cached_flows import CachedFlows
from tests.engine import scenario
from tests.engine.caching import SLOTS, CachingTarget
from tests.engine.compiled import EngineTarget, configured, set_slot
from tests.engine.kernel import ARMED, RECORD, Kernel
from tests.engine.scenario import ENVIRONMENT, INSIDE, OUTSIDE, WEB
from tests.engine.traffic import frame_in
from tests.reference import Ports, Result, Timeouts, packet

ADDRESS = scenario.INTERFACE_ADDRESSES[0]
WHOLE = 0x4000
"""Don't fragment."""
IDLE = 350_000
SETUP = scenario.Setup(
    ports=Ports(40000, 40200, 55_000), timeouts=Timeouts(udp=IDLE, tcp_established=IDLE)
)
EARNED = 16


@pytest.fixture
def target() -> Iterator[CachingTarget]:
    made = CachingTarget(SETUP)
    yield made
    made.close()


def datagram(
    slot: int = 1, port: int = 5000, payload: bytes = b"question", fragment: int = WHOLE
) -> bytes:
    """What an environment sends to WEB."""
    content = packet.udp(ENVIRONMENT, WEB, port, 7, payload)
    return frame_in(
        INSIDE, slot, packet.ipv4(ENVIRONMENT, WEB, packet.UDP, content, fragment=fragment)
    )


def answer(port: int, payload: bytes = b"an answer", fragment: int = WHOLE) -> bytes:
    """What WEB sends to a NAT port."""
    content = packet.udp(WEB, ADDRESS, 7, port, payload)
    return frame_in(OUTSIDE, 0, packet.ipv4(WEB, ADDRESS, packet.UDP, content, fragment=fragment))


def nat_port(result: Result) -> int:
    assert result.action == "forward", result
    return packet.word(result.frame, 34)


def exchange(target: CachingTarget, now: int, slot: int = 1, port: int = 5000) -> tuple[int, int]:
    """A datagram and its answer; how many of the two were hits, and the NAT port."""
    before = target.hits
    found = nat_port(target.translate(datagram(slot, port), INSIDE, slot, now))
    assert target.translate(answer(found), OUTSIDE, 0, now).action == "forward"
    return target.hits - before, found


def promoted(target: CachingTarget, now: int = 0, slot: int = 1, port: int = 5000) -> int:
    """Have a UDP flow cached; its NAT port."""
    for _ in range(EARNED):
        exchange(target, now, slot, port)
    target.kernel.follow(target.cached)
    exchange(target, now, slot, port)
    hits, found = exchange(target, now, slot, port)
    assert hits == 2
    return found


def test_a_flow_earns_it_by_packets_within_a_second(target: CachingTarget) -> None:
    for number in range(3 * EARNED):
        exchange(target, number * 200)
    assert target.cached.used == 0
    for number in range(EARNED):
        exchange(target, 10_000 + number)
    assert target.cached.used == 1
    assert target.kernel.follow(target.cached) == [(0, True)]
    assert target.problems() == []


def test_questions_without_answers_and_single_ones_do_not(target: CachingTarget) -> None:
    for number in range(200):
        target.translate(datagram(port=6000), INSIDE, 1, number)
        exchange(target, number, port=7000 + number % 40)
        target.translate(datagram(port=6001, fragment=0), INSIDE, 1, number)
    # Each of the forty has four exchanges, half a second apart.
    assert target.count("flow_cache_promotions") == 0


def test_what_the_former_flow_of_an_entry_has_earned_is_not_the_next_ones() -> None:
    short = dataclasses.replace(SETUP, timeouts=Timeouts(udp=100, hold=100))
    target = CachingTarget(short)
    exchange(target, 0)
    # They are counted anew after a second, when more have been sent than of the next flow will be.
    for number in range(1, 13):
        target.translate(datagram(), INSIDE, 1, 90 * number)
    for now in (1200, 1400):
        target.target.engine.expire(now, 1000)
    assert not target.flows()
    for now in (1500, 1501):
        exchange(target, now, slot=2)
    (flow,) = target.flows()
    assert flow[10] == 2
    assert target.cached.used == 0
    target.close()


def test_what_is_armed_passes_and_is_counted_once(target: CachingTarget) -> None:
    for _ in range(EARNED):
        exchange(target, 0)
    target.kernel.follow(target.cached)
    assert [RECORD.unpack_from(target.kernel.records, 64 * line)[1] for line in (0, 1)] == [
        ARMED,
        ARMED,
    ]
    assert exchange(target, 1)[0] == 0
    assert exchange(target, 2)[0] == 2
    target.catch_up(2)
    (flow,) = target.flows()
    assert flow[10:14] == (EARNED + 2, (EARNED + 2) * 36, EARNED + 2, (EARNED + 2) * 37)
    assert flow[15] == 2
    assert target.count("flow_cache_packets") == 2


def test_a_frame_that_waits_keeps_what_is_behind_it_armed(target: CachingTarget) -> None:
    for _ in range(EARNED):
        exchange(target, 0)
    target.kernel.follow(target.cached)
    # The program has counted one that waits in the ring while the next one comes.
    assert target.kernel.arrives(1, datagram(), 1).kind == "counted"
    assert target.kernel.arrives(1, datagram(), 1).kind == "counted"
    engine = target.target.engine
    engine.translate(datagram(), INSIDE, 1, 1, counted=True)
    assert target.kernel.arrives(1, datagram(), 1).kind == "counted"
    engine.translate(datagram(), INSIDE, 1, 1, counted=True)
    assert target.kernel.arrives(1, datagram(), 1).kind == "counted"
    for _ in range(2):
        engine.translate(datagram(), INSIDE, 1, 1, counted=True)
    assert target.kernel.arrives(1, datagram(), 1).kind == "forwarded"


def test_one_that_the_ring_has_lost_is_not_waited_for(target: CachingTarget) -> None:
    for _ in range(EARNED):
        exchange(target, 0)
    target.kernel.follow(target.cached)
    assert target.kernel.arrives(1, datagram(), 1).kind == "counted"
    for second in range(1, 6):
        assert target.cached.used == 1
        target.catch_up(second * 1000)
    assert target.cached.used == 0
    assert target.problems() == []
    promoted(target, 20_000)


def test_idle_is_idle_and_used_is_used(target: CachingTarget) -> None:
    port = promoted(target)
    # Nobody here sees a packet of it.
    for now in range(0, 3 * IDLE, IDLE // 2):
        assert exchange(target, now) == (2, port)
        target.target.engine.expire(now)
    last = 3 * IDLE - IDLE // 2
    target.target.engine.expire(last + IDLE - 1)
    assert target.cached.used == 1
    assert target.translate(answer(port), OUTSIDE, 0, last + IDLE).reason == "flow_held"
    assert target.cached.used == 0
    target.kernel.follow(target.cached)
    assert target.problems() == []


def test_the_wheel_ends_an_idle_flow(target: CachingTarget) -> None:
    promoted(target)
    target.target.engine.expire(IDLE + 100)
    assert (target.cached.used, target.count("flows_ended_udp_timeout")) == (0, 1)
    target.kernel.follow(target.cached)
    assert target.kernel.keys == {}
    assert target.problems() == []


@pytest.mark.parametrize("fragment", [0, 0x2000])
def test_what_the_program_does_not_forward_ends_it_for_a_while(
    target: CachingTarget, fragment: int
) -> None:
    promoted(target)
    if fragment:
        # The first of a datagram in pieces.
        target.translate(datagram(fragment=fragment, payload=b"1" * 16), INSIDE, 1, 10)
    else:
        target.translate(datagram(fragment=0), INSIDE, 1, 10)
    assert target.cached.used == 0
    target.kernel.follow(target.cached)
    for now in range(10, 2000, 20):
        assert exchange(target, now)[0] == 0
    assert target.cached.used == 0
    promoted(target, 4000)


def test_lines_rest_until_a_grace_period_has_passed() -> None:
    target = CachingTarget(SETUP, kernel=Kernel(flows=1))
    try:
        promoted(target)
        target.translate(datagram(fragment=0), INSIDE, 1, 10)
        target.kernel.follow(target.cached)
        for _ in range(3):
            target.cached.rest()
        for _ in range(2 * EARNED):
            exchange(target, 5000, port=6000)
        assert (target.cached.used, target.count("flow_cache_full") > 0) == (0, True)
        target.kernel.grant()
        target.cached.rest()
        promoted(target, 8000, port=6000)
        assert target.problems() == []
    finally:
        target.close()


def test_a_key_that_the_map_has_no_room_for(target: CachingTarget) -> None:
    target.kernel.room = 2
    promoted(target)
    for _ in range(EARNED):
        exchange(target, 1, port=6000)
    assert target.cached.used == 2
    target.kernel.follow(target.cached)
    target.kernel.follow(target.cached)
    assert target.cached.used == 1
    assert target.problems() == []


def freeze(target: CachingTarget) -> None:
    set_slot(target.target.engine, 1, 0, mtu=SETUP.slot_mtu, silent=True)


def remove(target: CachingTarget) -> None:
    target.target.engine.remove_slot(1)


def move_next_hop(target: CachingTarget) -> None:
    target.target.engine.set_neighbour(0, WEB, "02:00:00:0b:0c:0d", 1)


def forget_next_hop(target: CachingTarget) -> None:
    target.target.engine.set_neighbour(0, WEB, None)


def narrow(target: CachingTarget) -> None:
    set_slot(target.target.engine, 1, 0, mtu=1000)


def host_there(target: CachingTarget) -> None:
    engine = target.target.engine
    engine.set_host(
        3,
        address=WEB,
        router=scenario.ROUTERS[0],
        host_mac="02:00:00:03:00:09",
        gateway_mac="02:00:00:04:00:09",
        interface=0,
        vpc=0,
        link=9,
        now_ms=1,
    )


def relink(target: CachingTarget) -> None:
    target.cached.link(1, 4711)


@pytest.mark.parametrize(
    "change", [freeze, remove, move_next_hop, forget_next_hop, narrow, host_there, relink]
)
def test_after_a_change_all_packets_miss(target: CachingTarget, change: object) -> None:
    port = promoted(target)
    assert callable(change)
    change(target)
    assert target.kernel.arrives(1, datagram(), 1).kind == "missed"
    assert target.kernel.arrives(SLOTS, answer(port), 1).kind == "missed"
    target.catch_up(1000)
    assert (target.cached.used, target.kernel.keys) == (0, {})
    if change is remove:
        target.target.engine.sweep(1)
    assert target.problems() == []


def test_what_is_said_again_is_no_change(target: CachingTarget) -> None:
    promoted(target)
    configured(target.target.engine, SETUP, 1)
    set_slot(target.target.engine, 2, None, mtu=1500)
    assert exchange(target, 1)[0] == 2


def successor(target: CachingTarget, now: int) -> None:
    """Another engine on the same map, which is told the same."""
    kernel, former = target.kernel, target.target
    del target.cached
    former.engine = Engine(former.map, seed=bytes(range(16)), now_ms=now)
    target.cached = CachedFlows(former.engine, kernel.records, kernel.links, kernel.control)
    for number in (*scenario.ALL_SLOTS, *(SLOTS + each for each in range(3))):
        target.cached.link(number, 100 + number)
    # Next hops are not in the map.
    setup = dataclasses.replace(SETUP, neighbours_known=False)
    configured(former.engine, setup, now)
    target.cached.settle()


def test_a_successor_goes_on_with_what_is_cached(target: CachingTarget) -> None:
    promoted(target)
    for _ in range(EARNED):
        exchange(target, 0, port=6000)
    target.kernel.follow(target.cached)
    for _ in range(10):
        assert exchange(target, 5)[0] == 2
    successor(target, 10)
    # The second one was armed: what has passed of it is not known.
    assert target.cached.used == 1
    target.catch_up(20)
    assert exchange(target, 30)[0] == 2
    target.catch_up(40)
    flows = {flow[5]: flow[10:14] for flow in target.flows()}
    sent = EARNED + 2 + 10 + 1
    assert flows[5000] == (sent, sent * 36, sent, sent * 37)
    assert target.problems() == []


def test_a_successor_removes_what_has_no_flow(target: CachingTarget) -> None:
    promoted(target)
    target.target.map.clear_derived()
    engine = target.target.engine
    # Dead as far as the kernel knows: the record stays while the flow goes.
    kept = bytes(target.kernel.records)
    engine.expire(10 * IDLE)
    target.kernel.records[:] = kept
    successor(target, 10 * IDLE)
    assert target.cached.used == 0
    target.kernel.follow(target.cached)
    assert target.kernel.keys == {}
    assert target.problems() == []


@dataclass
class Talk:
    """A connection or a conversation by UDP, as its two ends know it."""

    slot: int
    port: int
    tcp: bool
    translated: int = 0
    sequences: list[int] = field(default_factory=lambda: [1000, 9000])

    def frame(self, side: int, flags: int, payload: bytes, whole: bool, stray: int) -> bytes:
        """The next frame from one end."""
        ends = (
            (ENVIRONMENT, WEB, self.port, 80)
            if side == INSIDE
            else (WEB, ADDRESS, 80, self.translated)
        )
        if not self.tcp:
            content, protocol = packet.udp(*ends, payload), packet.UDP
        else:
            protocol = packet.TCP
            content = packet.tcp(
                *ends,
                flags,
                seq=self.sequences[side] + stray,
                ack=self.sequences[1 - side] if flags & packet.ACK else 0,
                payload=payload,
                window=5000,
            )
            if not stray and not flags & packet.RST:
                self.sequences[side] += len(payload) + bool(flags & (packet.SYN | packet.FIN))
        body = packet.ipv4(*ends[:2], protocol, content, fragment=WHOLE if whole else 0)
        return frame_in(side, self.slot if side == INSIDE else 0, body)


class Random:
    """Conversations through an engine with the cache and one without, step by step."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.with_cache = CachingTarget(SETUP)
        self.without = EngineTarget(SETUP, slots_max=SLOTS)
        self.now = 1000
        self.ports = iter(range(5000, 6000))
        self.talks: list[Talk] = []
        self.frames = 0

    def send(
        self, talk: Talk, side: int, flags: int = packet.ACK, payload: bytes = b"", stray: int = 0
    ) -> Result:
        """A frame through both."""
        whole = self.random.random() > 0.005
        frame = talk.frame(side, flags, payload, whole, stray)
        number = talk.slot if side == INSIDE else 0
        expected = self.without.translate(frame, side, number, self.now)
        found = self.with_cache.translate(frame, side, number, self.now)
        assert found == expected
        assert [*map(str, self.with_cache.target.take_extra())] == [
            *map(str, self.without.take_extra())
        ]
        self.frames += 1
        if side == INSIDE and found.action == "forward":
            talk.translated = nat_port(found)
        return found

    def begin(self) -> None:
        tcp = self.random.random() < 0.6
        talk = Talk(self.random.choice([1, 2]), next(self.ports), tcp)
        self.talks = [*self.talks[-5:], talk]
        if tcp:
            self.send(talk, INSIDE, packet.SYN)
            self.send(talk, OUTSIDE, packet.SYN | packet.ACK)
            self.send(talk, INSIDE)
        else:
            self.send(talk, INSIDE, payload=b"first")

    def talk(self) -> None:
        """Some exchanges of one, near to each other."""
        talk = self.random.choice(self.talks)
        for _ in range(self.random.randrange(40)):
            side = self.random.randrange(2)
            if not talk.translated:
                side = INSIDE
            self.send(talk, side, payload=self.random.randbytes(self.random.randrange(200)))
            self.now += self.random.random() < 0.2
            if self.random.random() < 0.05:
                self.with_cache.kernel.follow(self.with_cache.cached)

    def end(self) -> None:
        """A FIN, a reset in the window or out of it, a SYN anew, from either end."""
        talk = self.random.choice(self.talks)
        side = self.random.randrange(2)
        if not talk.translated:
            return
        flags = self.random.choice(
            [packet.FIN | packet.ACK, packet.RST, packet.RST, packet.SYN, packet.ACK | packet.URG]
        )
        stray = self.random.choice([0, 0, 4000, 70000, -3000])
        self.send(talk, side, flags, stray=0 if flags & packet.FIN else stray)

    def wait(self) -> None:
        self.now += self.random.choice([10, 500, 3000, 100_000, IDLE - 1, IDLE])
        for engine in (self.with_cache.target.engine, self.without.engine):
            engine.expire(self.now)

    def freeze(self) -> None:
        silent = self.random.random() < 0.3
        for engine in (self.with_cache.target.engine, self.without.engine):
            set_slot(engine, 1, 0, mtu=SETUP.slot_mtu, silent=silent)

    def move(self) -> None:
        mac = f"02:00:00:0b:00:{self.random.randrange(3):02x}"
        for engine in (self.with_cache.target.engine, self.without.engine):
            engine.set_neighbour(0, WEB, mac, self.now)

    def compare(self) -> None:
        self.with_cache.catch_up(self.now)
        assert self.with_cache.flows() == self.without.flows()
        assert self.with_cache.counters() == {
            name: value
            for name, value in self.without.counters().items()
            if not name.startswith("flow_cache")
        }
        for slot in (1, 2):
            assert self.with_cache.target.map.slot_counters(slot) == (
                self.without.map.slot_counters(slot)
            )
        assert self.with_cache.target.map.interface_counters(0) == (
            self.without.map.interface_counters(0)
        )
        assert self.with_cache.problems() == []

    def run(self, steps: int) -> None:
        self.begin()
        acts = [self.begin, self.talk, self.end, self.wait, self.freeze, self.move, self.compare]
        for act in self.random.choices(acts, [2, 12, 2, 2, 1, 1, 4], k=steps):
            act()
        self.compare()

    def close(self) -> None:
        self.with_cache.close()
        self.without.close()


@pytest.mark.parametrize("first", range(0, 100, 10))
def test_with_and_without_are_the_same(first: int) -> None:
    hits = frames = 0
    for seed in range(first, first + 10):
        both = Random(seed)
        try:
            both.run(60)
            hits += both.with_cache.hits
            frames += both.frames
        finally:
            both.close()
    assert hits > frames // 10
