# SPDX-License-Identifier: Apache-2.0
"""Fragments in numbers: quotas, floods, time, and numbers that are given to somebody else."""

import functools
import itertools
import random
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.engine import Action, Behaviour, DropReason, Engine, NeighbourSettings
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget, configured
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Behaviour as ReferenceBehaviour
from tests.reference import Ports, checksum, packet

SENDER_BUFFERS = 128
SENDER_CONTEXTS = 64
BUFFERS = 4096
SIZE = 64

SHARED_BYTES = 1_572_864
PIECE_BYTES = 1024
HOST_BYTES = 4 << 20
"""What Linux keeps of unfinished datagrams (net.ipv4.ipfrag_high_thresh)."""
WINDOW_MS = 30_000
"""For how long (net.ipv4.ipfrag_time)."""

SETUP = scenario.Setup(flows_max=4096, ports=Ports(1024, 65535, 55_000))


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    result = EngineTarget(SETUP)
    yield result
    result.close()


def piece(
    identification: int,
    start: int,
    size: int,
    *,
    slot: int = 1,
    total: int = 2 * SIZE,
    source: str | None = None,
    nat_port: int = 40000,
) -> bytes:
    """Part of a datagram to WEB, or with `source` of one to the first interface."""
    ends = (scenario.ENVIRONMENT, scenario.WEB) if source is None else (source, traffic.INTERFACE)
    ports = (5000, 7) if source is None else (7, nat_port)
    payload = bytes(number & 255 for number in range(total - 8))
    content = packet.udp(*ends, *ports, payload)
    more = 0x2000 if start + size < total else 0
    body = packet.ipv4(
        *ends,
        packet.UDP,
        content[start : start + size],
        identification=identification,
        fragment=more | start // 8,
    )
    side, port = (INSIDE, slot) if source is None else (OUTSIDE, 0)
    return traffic.frame_in(side, port, body)


def head(identification: int, **where: object) -> bytes:
    """The first half of a datagram."""
    return piece(identification, 0, SIZE, **where)  # type: ignore[arg-type]


def last(identification: int, **where: object) -> bytes:
    """The second half of a datagram."""
    return piece(identification, SIZE, SIZE, **where)  # type: ignore[arg-type]


def send(target: EngineTarget, frame: bytes, side: int, port: int, now: int = 0) -> str:
    """What becomes of a frame: its action, or the reason of its drop."""
    verdict = target.engine.translate(frame, side, port, now)
    return (verdict.reason if verdict.action is Action.DROP else verdict.action).name.lower()


def passes(target: EngineTarget, identification: int, slot: int) -> bool:
    """Whether a datagram of a slot passes whose second half comes first."""
    waits = send(target, last(identification, slot=slot), INSIDE, slot)
    goes = send(target, piece(identification, 0, SIZE, slot=slot), INSIDE, slot)
    return (waits, goes, len(target.engine.take_extra())) == ("wait", "forward", 1)


def test_a_flood_is_its_senders_own_loss(target: EngineTarget) -> None:
    """The sender's own oldest fragments make room, and another sender's are not touched."""
    assert send(target, last(1, slot=2), INSIDE, 2) == "wait"
    for number in range(10_000):
        assert send(target, last(number), INSIDE, 1) == "wait"
    assert target.count("fragments_waiting") == SENDER_CONTEXTS + 1
    assert target.count("drop_fragment_quota") == 10_000 - SENDER_CONTEXTS
    assert passes(target, 9_999, 1) is False, "it had come already"
    assert send(target, piece(1, 0, SIZE, slot=2), INSIDE, 2) == "forward"
    assert len(target.engine.take_extra()) == 1
    assert passes(target, 2, 3)


def test_waiting_fragments_of_one_datagram_are_bounded(target: EngineTarget) -> None:
    total = 8 * (SENDER_BUFFERS + 10)
    outcomes = [
        send(target, piece(1, start, 8, total=total), INSIDE, 1) for start in range(8, total, 8)
    ]
    assert outcomes.count("wait") == SENDER_BUFFERS
    assert outcomes.count("fragment_quota") == len(outcomes) - SENDER_BUFFERS
    assert target.count("fragments_waiting") == SENDER_BUFFERS
    # What waited of it is given up with it when another datagram of the sender needs the room.
    assert send(target, last(2), INSIDE, 1) == "wait"
    assert target.count("fragments_waiting") == 1


def test_a_large_fragment_does_not_wait(target: EngineTarget) -> None:
    assert send(target, piece(1, 64, 9_216, total=9_280), INSIDE, 1) == "fragment_quota"


def test_forged_sources_hurt_only_what_waits_behind_the_same_interface(
    target: EngineTarget,
) -> None:
    nat_port = traffic.opened(target.engine, 1, 5000)
    assert send(target, last(1, slot=1), INSIDE, 1) == "wait"
    for number in range(20_000):
        source = f"10.0.{3 + (number >> 8)}.{number & 255}"
        assert send(target, last(7, source=source), OUTSIDE, 0) == "wait"
    assert target.count("fragments_waiting") == BUFFERS
    # In order nothing waits, and so nothing is lost.
    first = piece(9, 0, SIZE, source=scenario.WEB, nat_port=nat_port)
    assert send(target, first, OUTSIDE, 0) == "forward"
    assert send(target, last(9, source=scenario.WEB, nat_port=nat_port), OUTSIDE, 0) == "forward"
    assert send(target, piece(1, 0, SIZE, slot=1), INSIDE, 1) == "forward"
    assert len(target.engine.take_extra()) == 1


@pytest.fixture
def crowd() -> Iterator[EngineTarget]:
    """Slots 100 to 299 beside those of the scenario, in the VPC of interface 0."""
    result = EngineTarget(SETUP, slots_max=300)
    for number in CROWD:
        result.engine.set_slot(
            number,
            address=scenario.ENVIRONMENT,
            gateway=scenario.GATEWAY,
            subnet=scenario.ENVIRONMENT_SUBNET,
            environment_mac=f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}",
            gateway_mac=f"02:00:00:02:{number >> 8:02x}:{number & 255:02x}",
            interface=0,
        )
    yield result
    result.close()


CROWD = range(100, 300)
TENANT = 4
"""A slot of the other VPC."""


def from_crowd(frame: bytes, slot: int) -> bytes:
    """A frame of slot 1 as one of a slot of the crowd."""
    tail = slot.to_bytes(2)
    return b"\2\0\0\2" + tail + b"\2\0\0\1" + tail + frame[12:]


def in_order(target: EngineTarget, identification: int, slot: int, now: int = 0) -> list[str]:
    """What becomes of both halves of a datagram."""
    first, second = piece(identification, 0, SIZE, slot=slot), last(identification, slot=slot)
    return [send(target, each, INSIDE, slot, now) for each in (first, second)]


def test_many_that_finish_nothing_refuse_nobody(crowd: EngineTarget) -> None:
    """200 environments, each with as many unfinished datagrams as it can have."""
    for identification in range(SENDER_CONTEXTS):
        first = piece(identification, 0, SIZE)
        for slot in CROWD:
            crowd.engine.translate(from_crowd(first, slot), INSIDE, slot, 0)
    assert in_order(crowd, 1, TENANT) == ["forward", "forward"]
    assert passes(crowd, 2, TENANT)
    assert in_order(crowd, 3, 3) == ["forward", "forward"], "the same VPC by another interface"
    assert send(crowd, last(9, slot=TENANT), INSIDE, TENANT) == "wait"
    for slot in CROWD:
        crowd.engine.translate(from_crowd(piece(99, 0, SIZE), slot), INSIDE, slot, 0)
    assert send(crowd, piece(9, 0, SIZE, slot=TENANT), INSIDE, TENANT) == "forward"
    assert len(crowd.engine.take_extra()) == 1, "what waited is there still"
    assert crowd.engine.verify() == []


def test_many_that_only_wait_keep_nobody_from_waiting(crowd: EngineTarget) -> None:
    for identification in range(SENDER_CONTEXTS):
        waits = last(identification)
        for slot in CROWD[:100]:
            crowd.engine.translate(from_crowd(waits, slot), INSIDE, slot, 0)
    assert crowd.count("fragments_waiting") == BUFFERS
    assert passes(crowd, 1, TENANT)
    # Each of them has a share, and whoever sends the most gives up first.
    assert passes(crowd, 2, 1)
    assert crowd.engine.verify() == []


@pytest.mark.parametrize("seed", range(3))
def test_the_lists_agree_whatever_comes(crowd: EngineTarget, seed: int) -> None:
    """Pieces of many senders on both sides in any order, with all memory in use, and time."""
    chance = random.Random(seed)
    nat_port = traffic.opened(crowd.engine, 1, 5000)
    inside = [[piece(each, 0, SIZE), last(each)] for each in range(80)]
    outside = [
        [part(each % 80, source=f"10.0.3.{each % 200}", nat_port=nat_port) for part in (head, last)]
        for each in range(400)
    ]
    for round_number in range(5):
        for _ in range(6000):
            half = chance.choice((0, 1, 1, 1))
            if chance.random() < 0.7:
                slot = chance.choice(CROWD)
                frame = from_crowd(chance.choice(inside)[half], slot)
                crowd.engine.translate(frame, INSIDE, slot, round_number)
            else:
                frame = chance.choice(outside)[half]
                crowd.engine.translate(frame, OUTSIDE, 0, round_number)
        assert crowd.engine.verify() == []
        assert in_order(crowd, 5000 + round_number, TENANT, round_number) == ["forward", "forward"]
    assert crowd.count("drop_fragment_quota") > 0
    crowd.engine.expire(WINDOW_MS // 2)
    crowd.engine.remove_slot(CROWD[0])
    assert crowd.engine.verify() == []
    crowd.engine.expire(2 * WINDOW_MS)
    assert crowd.engine.verify() == []
    assert crowd.count("fragments_waiting") == 0


@functools.cache
def orphan(identification: int) -> bytes:
    """A first piece of 1,500 bytes without a second."""
    return piece(identification, 0, 1480, total=2960)


ORPHANS = 400
"""More than may be outstanding."""


def test_first_pieces_of_one_environment_leave_a_host_its_memory(target: EngineTarget) -> None:
    """At any time the host keeps less than half, at whatever rate they come."""
    went: list[int] = []
    number = 0
    for now in range(0, 4 * WINDOW_MS, 200):
        for _ in range(20):
            number += 1
            if send(target, orphan(number % ORPHANS), INSIDE, 1, now) == "forward":
                went.append(now)
        if now % 5000 == 0:
            assert in_order(target, number, 2, now) == ["forward", "forward"]
            assert in_order(target, number, TENANT, now) == ["forward", "forward"]
    cost = 1500 + PIECE_BYTES
    kept = max(
        sum(start <= each < start + WINDOW_MS for each in went)
        for start in range(0, 3 * WINDOW_MS, 1000)
    )
    assert SHARED_BYTES // 4 < kept * cost < HOST_BYTES // 2 + SHARED_BYTES // 4
    assert target.count("drop_fragment_quota") > number // 2


def test_of_several_each_leaves_a_newcomer_a_share(crowd: EngineTarget) -> None:
    """Also when the first has taken all that it may before the next one comes."""
    cost = 1500 + PIECE_BYTES
    went = 0
    for slot in CROWD[:8]:
        for number in range(ORPHANS):
            verdict = crowd.engine.translate(from_crowd(orphan(number), slot), INSIDE, slot, 0)
            went += verdict.action is Action.FORWARD
    assert went * cost < SHARED_BYTES
    newcomer = [(start, min(1480, 5008 - start)) for start in range(0, 5008, 1480)]
    for now in (WINDOW_MS // 2, WINDOW_MS):
        for number in range(ORPHANS):
            for slot in CROWD[:8]:
                crowd.engine.translate(from_crowd(orphan(number), slot), INSIDE, slot, now)
        for start, size in newcomer:
            frame = piece(now // 1000, start, size, total=5008, slot=2)
            assert send(crowd, frame, INSIDE, 2, now) == "forward"


def long_piece(identification: int, number: int) -> bytes:
    """One of the 44 pieces of a datagram of 64 KiB; nobody checks its checksum."""
    head = struct.pack("!HHHH", 5000, 7, LONG_PIECES * 1480, 0)
    body = packet.ipv4(
        scenario.ENVIRONMENT,
        scenario.WEB,
        packet.UDP,
        (head if number == 0 else bytes(8)) + bytes(1472),
        identification=identification,
        fragment=(0x2000 if number < LONG_PIECES - 1 else 0) | number * 185,
    )
    return traffic.frame_in(INSIDE, 1, body)


LONG_PIECES = 44


def test_what_time_has_made_up_for_is_not_given_back_again(target: EngineTarget) -> None:
    """Who completes datagrams just before they are given up, and begins others, has no more."""
    cost = (LONG_PIECES - 1) * (1500 + PIECE_BYTES)
    begun: dict[int, int] = {}
    number = most = 0

    def begin(now: int, budget: int) -> None:
        """As many as are admitted, and no piece in vain: that would cost a datagram of its own."""
        nonlocal number
        for _ in range(budget):
            number += 1
            for each in range(LONG_PIECES - 1):
                if send(target, long_piece(number, each), INSIDE, 1, now) != "forward":
                    return
            begun[number] = now

    for cycle in range(5):
        start = cycle * (WINDOW_MS - 500)
        begin(start, 6)
        for now in range(start + 2500, start + WINDOW_MS - 500, 2500):
            begin(now, 1)
        now = start + WINDOW_MS - 500
        for old in sorted(begun):
            if send(target, long_piece(old, LONG_PIECES - 1), INSIDE, 1, now) == "forward":
                del begun[old]
                begin(now, 1)
        for old in [each for each, then in begun.items() if now - then >= WINDOW_MS]:
            del begun[old]
        most = max(most, len(begun))
    assert SHARED_BYTES // 2 < most * cost < SHARED_BYTES * 3 // 2


def test_whoever_completes_what_it_begins_is_not_limited(target: EngineTarget) -> None:
    """A thousand datagrams of 8 KB in no time, in order or not."""
    frames = [
        piece(1, start, min(1480, 8000 - start), total=8000) for start in range(0, 8000, 1480)
    ]
    for number in range(1000):
        for frame in frames if number & 1 else frames[::-1]:
            assert target.engine.translate(frame, INSIDE, 1, 0).action is not Action.DROP
    assert target.count("fragments_forwarded") == 6000


def test_what_does_not_leave_is_not_charged(target: EngineTarget) -> None:
    """Datagrams whose first piece is refused, or never comes, take nobody's memory."""
    target.engine.configure(neighbours=NeighbourSettings(queue_frames=0))
    target.engine.set_neighbour(0, scenario.WEB, None)
    for number in range(2 * ORPHANS):
        assert send(target, orphan(number), INSIDE, 1) == "neighbour_queue_full"
        waits = piece(1000 + number, 1480, 1480, total=2960)
        assert send(target, waits, INSIDE, 1) == "wait"
    mac = scenario.neighbour_mac(0, scenario.WEB)
    target.engine.set_neighbour(0, scenario.WEB, mac)
    assert in_order(target, 5000, 1) == ["forward", "forward"]


def test_what_waited_is_charged_when_it_goes(target: EngineTarget) -> None:
    """Orphans that come from the wrong end are no cheaper."""
    parts = [(start, 1480) for start in (2960, 1480, 0)]
    went = 0
    for number in range(ORPHANS):
        for start, size in parts:
            outcome = send(target, piece(number, start, size, total=5920), INSIDE, 1)
            went += (outcome == "forward") + len(target.engine.take_extra())
    assert went % 3 == 0
    datagram = 3 * (1500 + PIECE_BYTES)
    assert abs(went // 3 * datagram - SHARED_BYTES // 2) < datagram


def test_the_next_environment_of_a_slot_owes_nothing(target: EngineTarget) -> None:
    numbers = itertools.count()
    while send(target, orphan(next(numbers)), INSIDE, 1) == "forward":
        pass
    assert in_order(target, 60_000, 1) == ["fragment_quota", "fragment_quota"]
    target.engine.remove_slot(1)
    target.engine.sweep(0)
    configured(target.engine, SETUP, 0)
    assert in_order(target, 60_000, 1) == ["forward", "forward"]


def test_strangers_make_no_flow_and_keep_no_memory(target: EngineTarget) -> None:
    for number in range(5_000):
        frame = piece(number & 0xFFFF, 0, SIZE, source=f"10.0.3.{number & 255}")
        assert send(target, frame, OUTSIDE, 0) == "no_flow"
    assert target.flows() == set()
    assert target.count("fragments_waiting") == 0


def test_waiting_ends(target: EngineTarget) -> None:
    """Time is told to `expire`, which knows when it will have something to do."""
    engine = target.engine
    engine.configure(behaviour=Behaviour(fragment_ms=500))
    for slot in (1, 2):
        assert send(target, last(1, slot=slot), INSIDE, slot, slot * 100) == "wait"
    assert engine.next_deadline() == 600
    engine.expire(599)
    assert target.count("fragments_waiting") == 2
    engine.expire(600)
    assert (target.count("fragments_waiting"), target.count("drop_fragment_timeout")) == (1, 1)
    assert engine.next_deadline() == 700
    engine.expire(10_000)
    assert target.count("drop_fragment_timeout") == 2
    assert engine.next_deadline() is None


@pytest.mark.parametrize("removed", ["slot", "interface"])
def test_a_number_that_is_another_ones_now(target: EngineTarget, removed: str) -> None:
    """What is on its way for a slot or an interface does not reach the next one of its number."""
    engine = target.engine
    nat_port = traffic.opened(engine, 1, 5000)
    first = piece(9, 0, SIZE, source=scenario.WEB, nat_port=nat_port)
    second = last(9, source=scenario.WEB, nat_port=nat_port)
    assert send(target, first, OUTSIDE, 0) == "forward"
    assert send(target, piece(5, 0, SIZE), INSIDE, 1) == "forward"
    if removed == "slot":
        engine.remove_slot(1)
    else:
        engine.remove_interface(0)
    engine.sweep(0)
    configured(engine, SETUP, 0)
    assert send(target, second, OUTSIDE, 0) == "wait"
    assert send(target, last(5), INSIDE, 1) == "wait"


HAIRPIN = scenario.Setup(
    behaviour=ReferenceBehaviour(
        endpoint_independent=True, filtering="endpoint_independent", hairpinning=True
    ),
    ports=Ports(40000, 40099, 55_000),
    secondary=((0, "10.0.1.11"),),
)


def to_neighbour(engine: Engine, nat: tuple[str, int], half: int, identification: int = 9) -> str:
    """Send half of a datagram of slot 1 to where a neighbour's mapping is."""
    ends = (scenario.ENVIRONMENT, nat[0])
    content = packet.udp(*ends, 5000, nat[1], bytes(2 * SIZE - 8))
    body = packet.ipv4(
        *ends,
        packet.UDP,
        content[half * SIZE : (half + 1) * SIZE],
        identification=identification,
        fragment=half * SIZE // 8 if half else 0x2000,
    )
    verdict = engine.translate(traffic.frame_in(INSIDE, 1, body), INSIDE, 1, 0)
    return (verdict.reason if verdict.action is Action.DROP else verdict.action).name.lower()


def neighbour(engine: Engine) -> tuple[str, int]:
    """Address and port of a new mapping of slot 2."""
    verdict = engine.translate(traffic.datagram(2, 6000), INSIDE, 2, 0)
    return str(IPv4Address(verdict.frame[26:30])), traffic.source_port(verdict)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_both_flows_of_a_hairpin_count_its_fragments(order: tuple[int, int]) -> None:
    """The receiver's flow is one that it began; before that its mapping lets in and counts none."""
    target = EngineTarget(HAIRPIN)
    engine = target.engine
    there = neighbour(engine)
    for half in order:
        to_neighbour(engine, there, half, 1)
    [out] = [flow for flow in engine.flows() if flow.remote_address == there[0]]
    answer = traffic.datagram(2, 6000, remote=out.nat_address, remote_port=out.nat_port)
    engine.translate(answer, INSIDE, 2, 0)
    for half in order:
        to_neighbour(engine, there, half, 2)
    flows = {flow.slot: flow for flow in engine.flows() if flow.remote_port >= 40000}
    sent = 2 * (2 * 20 + 2 * SIZE)
    assert (flows[1].packets_out, flows[1].bytes_out, flows[1].packets_in) == (4, sent, 1)
    assert (flows[2].packets_out, flows[2].packets_in, flows[2].bytes_in) == (1, 2, sent // 2)
    assert target.count("packets_hairpinned") == 5
    assert target.count("fragments_forwarded") == 4
    assert target.count("fragments_waiting") == 0
    assert engine.verify() == []
    target.close()


def test_what_waits_for_a_neighbour_goes_the_way_of_the_first() -> None:
    target = EngineTarget(HAIRPIN)
    nobody = (traffic.INTERFACE, 40000)
    assert to_neighbour(target.engine, nobody, 1) == "wait"
    assert to_neighbour(target.engine, nobody, 0) == "hairpin_no_mapping"
    assert target.engine.take_extra() == []
    assert target.count("drop_hairpin_no_mapping") == 2
    assert (target.count("fragments_waiting"), target.flows()) == (0, set())
    target.close()


@pytest.mark.parametrize("removed", ["sender", "receiver", "address"])
def test_a_hairpin_to_a_number_that_is_another_ones_now(removed: str) -> None:
    target = EngineTarget(HAIRPIN)
    engine = target.engine
    there = neighbour(engine)
    assert to_neighbour(engine, there, 0) == "forward"
    if removed == "address":
        [number] = [each for each, _, address in HAIRPIN.interfaces() if address == there[0]][:1]
        engine.remove_interface(number)
    else:
        engine.remove_slot(1 if removed == "sender" else 2)
    engine.sweep(0)
    configured(engine, HAIRPIN, 0)
    assert to_neighbour(engine, there, 1) == "wait"
    target.close()


@given(
    st.integers(20, 400).flatmap(
        lambda size: st.tuples(
            st.just(size),
            st.lists(st.integers(1, size // 8), max_size=6, unique=True),
            st.randoms(use_true_random=False),
        )
    )
)
def test_any_cut_in_any_order(case: tuple[int, list[int], object]) -> None:
    """The datagram that arrives is the datagram that was sent, checksum included."""
    size, cuts, random = case
    target = EngineTarget(SETUP)
    total = 8 + size
    edges = [0, *(8 * cut for cut in sorted(cuts) if 8 * cut < total), total]
    spans = [(start, end - start) for start, end in itertools.pairwise(edges)]
    if len(spans) == 1:
        spans = [(0, 8), (8, size)]
    random.shuffle(spans)  # type: ignore[attr-defined]
    came: dict[int, bytes] = {}
    for start, length in spans:
        verdict = target.engine.translate(piece(3, start, length, total=total), INSIDE, 1, 0)
        sent = [verdict] if verdict.action is Action.FORWARD else []
        for each in (*sent, *target.engine.take_extra()):
            assert checksum.is_right(each.frame[14:34])
            came[(packet.word(each.frame, 20) & 0x1FFF) * 8] = each.frame[34:]
    whole = b"".join(came[start] for start in sorted(came))
    assert len(whole) == total
    pseudo = checksum.pseudo_header(
        packet.octets(traffic.INTERFACE), packet.octets(scenario.WEB), packet.UDP, total
    )
    assert checksum.is_right(pseudo + whole)
    assert target.count("fragments_waiting") == 0
    assert target.engine.translate(last(3), INSIDE, 1, 0).reason is DropReason.NONE
    target.close()
