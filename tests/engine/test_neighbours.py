# SPDX-License-Identifier: Apache-2.0
"""Next hops: asked for once, believed only when asked, given up and forgotten in time; and whoever
looks for many takes nothing from others.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hyperplane_nat.engine import Action, DropReason, NeighbourState, Verdict
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget
from tests.engine.scenario import INSIDE, OUTSIDE, WEB
from tests.reference import Ports, packet
from tests.reference.settings import NeighbourSettings

EVERYBODY = "ff:ff:ff:ff:ff:ff"
THEIRS = scenario.neighbour_mac(0, WEB)
OTHER = "02:00:00:0b:00:99"
WIDE = "10.0.0.0/8"
LIVING = "10.9.9.9"


def mac_of(frame: bytes) -> str:
    return frame[:6].hex(":")


class Gateway:
    """An engine whose interfaces have no neighbours yet, and what left it."""

    def __init__(self, **settings: int) -> None:
        setup = scenario.Setup(
            flows_max=40_000,
            ports=Ports(40000, 40000, 1),
            neighbours_known=False,
            neighbours=NeighbourSettings(**{"queue_frames": 256, **settings}),
        )
        self.target = EngineTarget(setup)
        self.engine = self.target.engine
        self.now = 0
        self.sent: list[bytes] = []

    def send(self, slot: int = 1, remote: str = WEB, payload: bytes = b"") -> Verdict:
        verdict = self.engine.translate(
            traffic.datagram(slot, 5000, remote=remote, payload=payload), INSIDE, slot, self.now
        )
        self.sent += [each.frame for each in self.engine.take_extra()]
        return verdict

    def arp(
        self, sender: str = WEB, mac: str = THEIRS, operation: int = 2, interface: int = 0
    ) -> Verdict:
        """A host of the VPC answers, or with operation 1 announces itself."""
        target = scenario.INTERFACE_ADDRESSES[interface] if operation == 2 else sender
        body = packet.arp(operation=operation, sender_mac=mac, sender=sender, target=target)
        frame = packet.ethernet(scenario.interface_mac(interface), mac, packet.ETHERTYPE_ARP, body)
        verdict = self.engine.translate(frame, OUTSIDE, interface, self.now)
        self.sent += [each.frame for each in self.engine.take_extra()]
        return verdict

    def at(self, now: int) -> int | None:
        """Let what is due happen; when something will be."""
        self.now = now
        due = self.engine.resolve(now)
        self.sent += [each.frame for each in self.engine.take_extra()]
        return due

    def questions(self) -> list[tuple[str, str]]:
        """(to whom, about whom) of what was asked since the last call."""
        asked = [
            (mac_of(frame), ".".join(str(octet) for octet in frame[38:42]))
            for frame in self.sent
            if frame[12:14] == b"\x08\x06"
        ]
        self.sent = [frame for frame in self.sent if frame[12:14] != b"\x08\x06"]
        return asked

    def state(self, address: str = WEB) -> NeighbourState | None:
        return next((h.state for h in self.engine.next_hops() if h.address == address), None)

    def widen(self, interface: int) -> None:
        """Give an interface a subnet with many addresses."""
        self.engine.set_interface(
            interface,
            address=scenario.INTERFACE_ADDRESSES[interface],
            mac=scenario.interface_mac(interface),
            subnet=WIDE,
            router="10.0.0.1",
            destinations=[WIDE],
            vpc=scenario.INTERFACE_VPCS[interface],
        )

    def scan(self, slot: int, count: int, payload: bytes = b"") -> list[DropReason]:
        """Send to addresses at which nobody is; why that was dropped, where it was."""
        return [
            self.send(slot, f"10.{slot + 16}.{number >> 8}.{number & 255}", payload).reason
            for number in range(count)
        ]

    def resolved(self) -> None:
        """Get to know one next hop."""
        self.send()
        self.arp()
        self.sent.clear()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    result = Gateway()
    yield result
    assert result.target.problems() == []
    result.target.close()


def test_first_frame_asks_and_waits(gateway: Gateway) -> None:
    verdict = gateway.send()
    assert verdict.action is Action.HOLD
    assert mac_of(verdict.frame) == "00:00:00:00:00:00"
    assert gateway.questions() == [(EVERYBODY, WEB)]
    assert gateway.send().action is Action.HOLD
    assert gateway.questions() == [], "one question serves every frame that waits"


def test_beyond_the_subnet_the_router_is_asked(gateway: Gateway) -> None:
    gateway.send(remote=scenario.FAR)
    assert gateway.questions() == [(EVERYBODY, "10.0.1.1")]


@pytest.mark.requirement("RFC1122-2.3.2.2", profile="both")
def test_frames_behind_the_answer_are_sent_at_once(gateway: Gateway) -> None:
    """And behind those that waited: a next hop gets its frames in the order in which they came."""
    gateway.send(payload=b"one")
    gateway.send(payload=b"two")
    gateway.questions()
    assert gateway.arp().action is Action.LEARN
    assert [(frame[-3:], mac_of(frame)) for frame in gateway.sent] == [
        (b"one", THEIRS),
        (b"two", THEIRS),
    ]
    assert gateway.send(payload=b"three").action is Action.FORWARD


@pytest.mark.parametrize("size", [0, 1, 1400, 9000, 60_000])
def test_everything_that_waited_leaves_whole(gateway: Gateway, size: int) -> None:
    """However much that is: more than there is room for at a time."""
    frames = [gateway.send(payload=bytes([n]) * size) for n in range(16 if size > 9000 else 200)]
    held = [frame.frame[6:] for frame in frames if frame.action is Action.HOLD]
    assert len(held) > 15
    assert len(held) + gateway.target.count("drop_neighbour_queue_full") == len(frames)
    gateway.questions()
    gateway.arp()
    assert [frame[6:] for frame in gateway.sent] == held
    assert sum(hop.waiting_frames for hop in gateway.engine.next_hops()) == 0


@pytest.mark.requirement("RFC1122-2.3.2.1-flood", profile="both")
def test_silence_is_asked_three_times_then_failed_then_forgotten(gateway: Gateway) -> None:
    gateway.send()
    for now in (1_000, 2_000):
        assert gateway.at(now) == now + 1_000
    assert gateway.questions() == [(EVERYBODY, WEB)] * 3
    gateway.at(3_000)
    assert gateway.state() is NeighbourState.FAILED
    assert gateway.target.count("drop_neighbour_failed") == 1
    assert gateway.target.count("neighbour_failures") == 1
    assert gateway.send().reason is DropReason.NEIGHBOUR_FAILED
    assert gateway.target.count("drop_neighbour_failed") == 2
    gateway.at(5_999)
    assert gateway.state() is NeighbourState.FAILED
    assert gateway.at(6_000) is None
    assert gateway.state() is None
    assert gateway.send().action is Action.HOLD


@pytest.mark.requirement("RFC1122-2.3.2.1-flush", profile="both")
def test_a_used_neighbour_is_asked_again_by_unicast(gateway: Gateway) -> None:
    gateway.resolved()
    gateway.send()
    gateway.at(29_999)
    assert gateway.questions() == []
    gateway.at(30_000)
    assert gateway.questions() == [(THEIRS, WEB)]
    assert gateway.send().action is Action.FORWARD, "traffic goes on while it is asked"
    gateway.now = 30_001
    assert gateway.arp(mac=OTHER).action is Action.LEARN
    assert mac_of(gateway.send().frame) == OTHER


@pytest.mark.requirement("RFC1122-2.3.2.1-flush", profile="both")
def test_a_neighbour_that_does_not_answer_again_is_forgotten(gateway: Gateway) -> None:
    gateway.resolved()
    gateway.send()
    for now in (30_000, 31_000, 32_000, 33_000):
        gateway.at(now)
    assert gateway.state() is None


def test_an_unused_neighbour_is_forgotten_without_a_question(gateway: Gateway) -> None:
    gateway.resolved()
    gateway.at(30_000)
    assert gateway.questions() == []
    assert gateway.state() is None


@pytest.mark.parametrize("operation", [1, 2])
def test_an_unknown_host_teaches_nothing(gateway: Gateway, operation: int) -> None:
    gateway.arp(operation=operation)
    assert gateway.engine.next_hops() == []
    assert gateway.questions() == []


@pytest.mark.parametrize("operation", [1, 2])
def test_a_failed_neighbour_that_announces_itself_is_asked(
    gateway: Gateway, operation: int
) -> None:
    """It teaches nothing by that, but need not wait until it would be asked again."""
    gateway.send()
    for now in (1_000, 2_000, 3_000):
        gateway.at(now)
    gateway.questions()
    assert gateway.arp(operation=operation).action is Action.DROP
    assert gateway.state() is NeighbourState.INCOMPLETE
    assert gateway.questions() == [(EVERYBODY, WEB)]
    assert gateway.arp().action is Action.LEARN


def test_an_announcement_is_a_reason_to_ask_everybody(gateway: Gateway) -> None:
    """Frames go to the old MAC address until somebody answers; nobody is believed unasked."""
    gateway.resolved()
    gateway.now = 5_000
    gateway.arp(operation=1, mac=OTHER)
    assert gateway.questions() == [(EVERYBODY, WEB)]
    assert mac_of(gateway.send().frame) == THEIRS
    gateway.arp(mac=OTHER)
    assert mac_of(gateway.send().frame) == OTHER


def test_an_announcement_right_after_an_answer_is_heard_in_time(gateway: Gateway) -> None:
    gateway.resolved()
    gateway.arp(operation=1, mac=OTHER)
    assert gateway.questions() == []
    gateway.at(1_000)
    assert gateway.questions() == [(EVERYBODY, WEB)]


@pytest.mark.parametrize("first", [THEIRS, OTHER], ids=["the old one first", "the new one first"])
def test_of_two_that_answer_the_new_one_wins_once(gateway: Gateway, first: str) -> None:
    gateway.resolved()
    gateway.now = 5_000
    gateway.arp(operation=1, mac=OTHER)
    for mac in (first, THEIRS if first == OTHER else OTHER, THEIRS, OTHER, THEIRS):
        gateway.arp(mac=mac)
    assert mac_of(gateway.send().frame) == OTHER


def test_a_flood_of_announcements_asks_little(gateway: Gateway) -> None:
    """A neighbour is asked about once per retry, and a link 64 times a second, whoever is named."""
    gateway.widen(0)
    hosts = [f"10.0.3.{number}" for number in range(200)]
    for host in hosts:
        gateway.send(remote=host)
        gateway.arp(sender=host)
    gateway.questions()
    for now in range(10_000, 11_000, 100):
        gateway.at(now)
        for number in range(20):
            gateway.arp(sender=hosts[0], operation=1, mac=f"02:00:00:0c:00:{number:02x}")
    assert len(gateway.questions()) == 1
    for now in range(20_000, 21_000, 100):
        gateway.at(now)
        for host in hosts:
            gateway.arp(sender=host, operation=1, mac=OTHER)
    assert len(gateway.questions()) <= 64 + 1


# Shares


def test_a_scan_leaves_another_vpc_its_next_hops(gateway: Gateway) -> None:
    for interface in (0, 2):
        gateway.widen(interface)
    gateway.scan(1, 5_000)
    assert gateway.send(4, LIVING).action is Action.HOLD


def test_a_scan_leaves_others_of_the_interface_their_next_hops(gateway: Gateway) -> None:
    gateway.widen(0)
    gateway.resolved()
    gateway.scan(1, 5_000)
    assert gateway.send(2, LIVING).action is Action.HOLD
    gateway.scan(1, 5_000)
    assert gateway.arp(LIVING).action is Action.LEARN
    assert gateway.send(1).action is Action.FORWARD


def test_a_scan_asks_no_faster_than_its_questions_end(gateway: Gateway) -> None:
    """Nor does it keep the environment itself from a new next hop for longer than a retry."""
    gateway.widen(0)
    reasons = gateway.scan(1, 1_000)
    assert reasons.count(DropReason.NEIGHBOUR_TABLE_FULL) == 1_000 - 256
    assert gateway.target.count("drop_neighbour_table_full") == 1_000 - 256
    assert len(gateway.questions()) == 256
    assert gateway.send(1, LIVING).reason is DropReason.NEIGHBOUR_TABLE_FULL
    gateway.at(1_000)
    assert gateway.send(1, LIVING).action is Action.HOLD
    assert gateway.arp(LIVING).action is Action.LEARN


def test_what_made_room_is_counted(gateway: Gateway) -> None:
    gateway.widen(0)
    gateway.scan(1, 256)
    gateway.at(1_000)
    gateway.send(1, LIVING)
    assert gateway.target.count("drop_neighbour_table_full") == 1
    assert len(gateway.engine.next_hops()) == 256


def test_many_scans_leave_room_for_who_has_nothing() -> None:
    """A link that is full of what does not answer: the oldest of who has most goes."""
    gateway = Gateway()
    gateway.widen(0)
    everybody = range(5, 60)
    for slot in everybody:
        gateway.engine.set_slot(
            slot,
            address=scenario.ENVIRONMENT,
            gateway=scenario.GATEWAY,
            subnet=scenario.ENVIRONMENT_SUBNET,
            environment_mac=scenario.environment_mac(slot),
            gateway_mac=scenario.gateway_mac(slot),
            interface=0,
        )
    for slot in everybody:
        gateway.scan(slot, 300)
    before = len(gateway.engine.next_hops())
    assert before < 16_384 / 2 + 100
    assert gateway.send(2, LIVING).action is Action.HOLD
    assert len(gateway.engine.next_hops()) == before
    gateway.widen(2)
    assert gateway.send(4, LIVING).action is Action.HOLD
    assert gateway.target.problems() == []
    gateway.target.close()


def test_waiting_frames_leave_room_for_others(gateway: Gateway) -> None:
    for interface in (0, 2):
        gateway.widen(interface)
    reasons = gateway.scan(1, 250, bytes(60_000))
    assert DropReason.NEIGHBOUR_QUEUE_FULL in reasons
    assert len(gateway.questions()) == 250, "who cannot wait is asked for"
    assert gateway.send(2, LIVING, bytes(1400)).action is Action.HOLD
    assert gateway.send(4, LIVING, bytes(1400)).action is Action.HOLD
    for now in (1_000, 2_000, 3_000):
        gateway.at(now)
    assert gateway.send(1, "10.8.8.8", bytes(60_000)).action is Action.HOLD, "room is given back"


def test_the_table_is_bounded_and_what_answered_stays(gateway: Gateway) -> None:
    gateway.widen(0)
    for number in range(16_384):
        gateway.engine.set_neighbour(0, f"10.77.{number >> 8}.{number & 255}", OTHER)
    with pytest.raises(MemoryError):
        gateway.engine.set_neighbour(0, "10.78.0.0", OTHER)
    assert gateway.send(1, "10.77.0.0").action is Action.FORWARD
    assert gateway.send(1, LIVING).reason is DropReason.NEIGHBOUR_TABLE_FULL
    gateway.engine.set_neighbour(0, "10.77.0.0", None)
    assert gateway.send(1, "10.77.0.1").action is Action.FORWARD


def test_a_removed_interface_takes_its_neighbours_along(gateway: Gateway) -> None:
    gateway.resolved()
    gateway.send(remote=scenario.ECHO)
    gateway.send(4)
    gateway.engine.remove_interface(0)
    assert [hop.interface for hop in gateway.engine.next_hops()] == [2]
    assert gateway.target.count("drop_neighbour_failed") == 1


def test_a_changed_subnet_forgets_and_a_changed_policy_does_not(gateway: Gateway) -> None:
    gateway.widen(0)
    gateway.resolved()
    gateway.widen(0)
    assert gateway.state() is NeighbourState.REACHABLE
    gateway.engine.set_interface(
        0,
        address=scenario.INTERFACE_ADDRESSES[0],
        mac=scenario.interface_mac(0),
        subnet="10.0.0.0/16",
        router="10.0.0.1",
        destinations=[WIDE],
    )
    assert gateway.state() is None
