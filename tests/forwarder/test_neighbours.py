# SPDX-License-Identifier: Apache-2.0
"""Next hops: asked for once, believed only when asked, given up and forgotten in time."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable

import pytest

from hyperplane_nat.forwarder import arp
from hyperplane_nat.forwarder.neighbours import (
    WAITING_BYTES_MAX,
    Neighbours,
    NeighbourSettings,
    NeighbourState,
    Uplink,
)

OURS = bytes.fromhex("020000000101")
THEIRS = bytes.fromhex("020000000180")
OTHER = bytes.fromhex("020000000199")
UPLINK = Uplink(
    number=0,
    address="10.0.1.10",
    mac=OURS,
    subnet=ipaddress.IPv4Network("10.0.1.0/24"),
    router="10.0.1.1",
)
SETTINGS = NeighbourSettings(
    reachable_ms=30_000, retry_ms=1_000, attempts=3, failed_ms=3_000, queue_frames=8
)


class Table:
    """What the engine would have been told."""

    def __init__(self) -> None:
        self.macs: dict[tuple[int, str], str] = {}
        self.failed: set[tuple[int, str]] = set()
        self.used = True
        self.queue_frames = 0
        self.counters: Counter[str] = Counter()

    def set_neighbour(self, interface: int, address: str, mac: str | None) -> None:
        self.failed.discard((interface, address))
        if mac is None:
            self.macs.pop((interface, address), None)
        else:
            self.macs[interface, address] = mac

    def fail_neighbour(self, interface: int, address: str) -> None:
        self.failed.add((interface, address))

    def probe_neighbour(self, interface: int, address: str) -> bool:
        return self.used

    def set_neighbour_queue(self, frames: int) -> None:
        self.queue_frames = frames

    def add_to_counter(self, name: str, amount: int = 1) -> None:
        self.counters[name] += amount


class Bench:
    """A neighbour module with a table and a wire that can be looked at."""

    def __init__(self) -> None:
        self.table = Table()
        self.sent: list[tuple[int, bytes]] = []
        self.neighbours = Neighbours(
            self.table, lambda port, frame: self.sent.append((port, frame))
        )
        self.neighbours.configure(SETTINGS, {0: UPLINK})
        self.sent.clear()

    def questions(self) -> list[str]:
        return [
            ".".join(str(byte) for byte in frame[-4:])
            for _, frame in self.sent
            if frame[22:24] == b"\x08\x06"
        ]

    def state(self, address: str) -> NeighbourState | None:
        found = [n.state for n in self.neighbours.entries() if n.address == address]
        return found[0] if found else None


def frame_to(destination: str, marker: int = 0) -> bytes:
    """A translated frame as the engine punts it: header zero, destination MAC not known yet."""
    header = bytes(12) + bytes(4) + ipaddress.IPv4Address(destination).packed
    return bytes(arp.VNET_BYTES) + bytes(6) + OURS + b"\x08\x00" + header + bytes([marker])


def reply_from(address: str, mac: bytes = THEIRS) -> bytes:
    body = bytes.fromhex("0001080006040002") + mac + ipaddress.IPv4Address(address).packed
    body += OURS + ipaddress.IPv4Address("10.0.1.10").packed
    return bytes(arp.VNET_BYTES) + OURS + mac + b"\x08\x06" + body


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_first_frame_asks_and_waits(bench: Bench) -> None:
    bench.neighbours.frame(0, frame_to("10.0.1.80"), 0)
    assert bench.questions() == ["10.0.1.80"]
    assert bench.sent[0][1][arp.VNET_BYTES : arp.VNET_BYTES + 6] == b"\xff" * 6
    bench.neighbours.frame(0, frame_to("10.0.1.80"), 1)
    assert len(bench.sent) == 1, "one question serves every frame that waits"


def test_answer_releases_the_queue_in_order(bench: Bench) -> None:
    for marker in range(3):
        bench.neighbours.frame(0, frame_to("10.0.1.80", marker), 0)
    bench.sent.clear()
    bench.neighbours.reply(0, reply_from("10.0.1.80"), 5)
    assert [frame[-1] for _, frame in bench.sent] == [0, 1, 2]
    assert all(frame[10:16] == THEIRS for _, frame in bench.sent)
    assert bench.table.macs == {(0, "10.0.1.80"): THEIRS.hex(":")}


def test_beyond_the_subnet_the_router_is_asked(bench: Bench) -> None:
    bench.neighbours.frame(0, frame_to("10.0.2.5"), 0)
    assert bench.questions() == ["10.0.1.1"]


def test_silence_is_asked_three_times_then_failed_then_forgotten(bench: Bench) -> None:
    bench.neighbours.frame(0, frame_to("10.0.1.99"), 0)
    for now in (1_000, 2_000):
        assert bench.neighbours.tick(now) == now + 1_000
    assert bench.questions() == ["10.0.1.99"] * 3
    bench.neighbours.tick(3_000)
    assert bench.table.failed == {(0, "10.0.1.99")}
    assert bench.table.counters["drop_neighbour_failed"] == 1
    assert bench.table.counters["neighbour_failures"] == 1
    bench.neighbours.tick(5_999)
    assert bench.state("10.0.1.99") is NeighbourState.FAILED
    assert bench.neighbours.tick(6_000) is None
    assert bench.state("10.0.1.99") is None
    assert bench.table.failed == set()


def resolved(bench: Bench) -> None:
    bench.neighbours.frame(0, frame_to("10.0.1.80"), 0)
    bench.neighbours.reply(0, reply_from("10.0.1.80"), 0)
    bench.sent.clear()


def test_a_used_neighbour_is_asked_again_by_unicast(bench: Bench) -> None:
    resolved(bench)
    bench.neighbours.tick(29_999)
    assert bench.sent == []
    bench.neighbours.tick(30_000)
    assert bench.questions() == ["10.0.1.80"]
    assert bench.sent[0][1][10:16] == THEIRS
    assert bench.table.macs, "traffic goes on while it is asked"
    bench.neighbours.reply(0, reply_from("10.0.1.80", OTHER), 30_001)
    assert bench.table.macs == {(0, "10.0.1.80"): OTHER.hex(":")}
    assert bench.state("10.0.1.80") is NeighbourState.REACHABLE


def test_a_neighbour_that_no_longer_answers_is_forgotten(bench: Bench) -> None:
    resolved(bench)
    for now in (30_000, 31_000, 32_000, 33_000):
        bench.neighbours.tick(now)
    assert bench.state("10.0.1.80") is None
    assert bench.table.macs == {}


def test_an_unused_neighbour_is_forgotten_without_a_question(bench: Bench) -> None:
    resolved(bench)
    bench.table.used = False
    bench.neighbours.tick(30_000)
    assert bench.sent == []
    assert bench.table.macs == {}


@pytest.mark.parametrize(
    "prepare",
    [lambda bench: None, resolved],
    ids=["never asked", "already answered"],
)
def test_an_answer_to_no_question_changes_nothing(
    bench: Bench, prepare: Callable[[Bench], None]
) -> None:
    prepare(bench)
    before = dict(bench.table.macs)
    bench.neighbours.reply(0, reply_from("10.0.1.80", OTHER), 10)
    assert bench.table.macs == before


def test_the_queues_together_are_bounded(bench: Bench) -> None:
    large = bytes(1 << 16)
    for number in range(200):
        bench.neighbours.frame(0, frame_to(f"10.0.1.{number + 20}") + large, 0)
    waiting = [len(frame) for n in bench.neighbours.entries() for frame in n.waiting]
    assert sum(waiting) <= WAITING_BYTES_MAX
    assert len(waiting) + bench.table.counters["drop_neighbour_queue_full"] == 200
    assert len(bench.questions()) == 200
    for now in (1_000, 2_000, 3_000):
        bench.neighbours.tick(now)
    bench.neighbours.frame(0, frame_to("10.0.1.250") + large, 3_000)
    assert sum(len(n.waiting) for n in bench.neighbours.entries()) == 1, "room is given back"


def test_a_new_interface_announces_itself_once(bench: Bench) -> None:
    bench.neighbours.configure(SETTINGS, {0: UPLINK})
    assert bench.sent == []
    second = Uplink(
        number=1,
        address="10.0.2.10",
        mac=OTHER,
        subnet=ipaddress.IPv4Network("10.0.2.0/24"),
        router="10.0.2.1",
    )
    bench.neighbours.configure(SETTINGS, {0: UPLINK, 1: second})
    assert [(port, frame[10:16]) for port, frame in bench.sent] == [(1, b"\xff" * 6)]
    assert bench.questions() == ["10.0.2.10"]


def test_a_removed_interface_takes_its_neighbours_along(bench: Bench) -> None:
    resolved(bench)
    bench.neighbours.frame(0, frame_to("10.0.1.81"), 0)
    bench.neighbours.configure(SETTINGS, {})
    assert bench.neighbours.entries() == []
    assert bench.table.macs == {}
    assert bench.table.counters["drop_neighbour_failed"] == 1
    bench.neighbours.frame(0, frame_to("10.0.1.80"), 0)
    assert bench.table.counters["drop_neighbour_failed"] == 2
