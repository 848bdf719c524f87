# SPDX-License-Identifier: Apache-2.0
"""Flow records: what is told of flows that are gone and of packets refused, and what is lost."""

import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from hyperplane_nat.engine import DropReason, StateMapError, SubnetAcl
from hyperplane_nat.engine.readers.flow_deltas import read_lost
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing, read_figures
from hyperplane_nat.engine.state.settings import FlowDelta
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget, deltas_of
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Behaviour, Policy, Ports, Timeouts, packet
from tests.reference.packet import ACK, FIN, RST, SYN

SETUP = scenario.Setup(
    flows_max=64,
    ports=Ports(40000, 40063, 55_000),
    timeouts=Timeouts(udp=1000, hold=500, tcp_reset=500),
)
CAPACITY = 16
ENTRIES_OFFSET = struct.calcsize("<8sIIQ6I3Q")
"""Where the map's header says at which offset the entries begin."""

PACKETS_OFFSET = 32


class Recorded:
    """An engine that writes records, and their reader."""

    def __init__(self, directory: Path, setup: scenario.Setup = SETUP) -> None:
        self.target = EngineTarget(setup)
        self.engine = self.target.engine
        self.ring = FlowRecordRing.create(directory / "records", capacity=CAPACITY, places_max=4)
        self.engine.record_flows(self.ring.memory)
        self.deltas = deltas_of(self.target.map)

    def live(self, now: int = 100_000) -> list[FlowDelta]:
        found = self.deltas.live(self.target.map.memory, 0, SETUP.flows_max, now)
        self.deltas.forget()
        return [delta for delta in found if isinstance(delta, FlowDelta)]

    def ended(self) -> list[FlowDelta]:
        found, unknown = self.deltas.ended(self.ring.memory, 1000)
        assert unknown == set()
        return [delta for delta in found if isinstance(delta, FlowDelta)]

    def close(self) -> None:
        self.engine.record_flows(None)
        self.ring.close()
        assert self.target.problems() == []
        self.target.close()


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    result = Recorded(tmp_path)
    yield result
    result.close()


def test_live_flows_show_what_they_did_since_the_last_look(recorded: Recorded) -> None:
    engine = recorded.engine
    port = traffic.opened(engine, 1, 5000, 10)
    (first,) = recorded.live()
    assert (first.slot, first.interface, first.protocol) == (1, 0, 17)
    assert (first.inside_port, first.remote_port, first.nat_port) == (5000, 7, port)
    assert (first.packets_out, first.bytes_out, first.packets_in) == (1, 28, 0)
    assert (first.created_ms, first.last_seen_ms, first.reason) == (10, 10, 0)
    assert recorded.live() == []
    engine.translate(traffic.answer(port), OUTSIDE, 0, 20)
    (second,) = recorded.live()
    assert (second.packets_out, second.packets_in, second.bytes_in) == (0, 1, 28)
    assert recorded.ended() == []


def test_a_flow_that_ended_leaves_what_was_not_seen(recorded: Recorded) -> None:
    engine = recorded.engine
    port = traffic.opened(engine, 1, 5000)
    recorded.live()
    engine.translate(traffic.answer(port), OUTSIDE, 0, 20)
    engine.expire(5000)
    assert recorded.live() == []
    (delta,) = recorded.ended()
    assert (delta.packets_out, delta.packets_in, delta.bytes_in) == (0, 1, 28)
    assert recorded.ended() == []


def test_a_flow_that_nobody_saw_is_told_whole(recorded: Recorded) -> None:
    traffic.opened(recorded.engine, 1, 5000)
    recorded.engine.expire(5000)
    (delta,) = recorded.ended()
    assert (delta.packets_out, delta.bytes_out) == (1, 28)


def test_an_entry_that_is_used_again_mixes_nothing(recorded: Recorded) -> None:
    engine = recorded.engine
    traffic.opened(engine, 1, 5000)
    recorded.live()
    engine.translate(traffic.datagram(1, 5000), INSIDE, 1, 5)
    engine.expire(5000)
    # The same entry, before the record of the old flow is read.
    traffic.opened(engine, 2, 6000, 5000)
    (new,) = recorded.live()
    assert (new.slot, new.packets_out) == (2, 1)
    (old,) = recorded.ended()
    assert (old.slot, old.packets_out) == (1, 1)


def test_a_reopened_flow_is_another(recorded: Recorded) -> None:
    engine = recorded.engine
    traffic.opened(engine, 1, 5000)
    recorded.live()
    traffic.opened(engine, 1, 5000, 1200)
    engine.translate(traffic.datagram(1, 5000), INSIDE, 1, 1200)
    # The first flow had nothing new.
    assert recorded.ended() == []
    (again,) = recorded.live()
    assert again.packets_out == 2


def test_a_removed_slot_leaves_its_records_at_once_and_only_once(recorded: Recorded) -> None:
    engine = recorded.engine
    traffic.opened(engine, 1, 5000)
    engine.remove_slot(1)
    engine.sweep(10)
    (delta,) = recorded.ended()
    assert (delta.slot, delta.packets_out) == (1, 1)
    engine.expire(5000)
    assert recorded.ended() == []
    assert recorded.live() == []


def test_refused_packets_are_told_with_their_reason(recorded: Recorded) -> None:
    engine = recorded.engine
    engine.translate(traffic.answer(40001), OUTSIDE, 0, 30)
    (delta,) = recorded.ended()
    assert delta.reason == DropReason.NO_FLOW
    assert (delta.slot, delta.remote_port, delta.nat_port) == (65535, 7, 40001)
    assert (delta.packets_out, delta.packets_in, delta.bytes_in) == (0, 1, 28)


# AWS, "Flow log records", tcp-flags: FIN 1, SYN 2, RST 4, SYN-ACK 18; flags that are not supported
# count for nothing, by themselves or beside others.
TOLD = [(ACK, 0), (FIN | ACK, 1), (RST, 4), (RST | ACK, 4), (FIN | ACK | packet.PSH, 1)]


@pytest.mark.parametrize(("flags", "told"), TOLD)
def test_flags_of_a_refused_segment_from_inside(recorded: Recorded, flags: int, told: int) -> None:
    recorded.engine.translate(traffic.segment(1, 5000, flags), INSIDE, 1, 30)
    (delta,) = recorded.ended()
    assert delta.reason == DropReason.TCP_NO_FLOW
    assert (delta.flags_out, delta.flags_in) == (told, 0)


@pytest.mark.parametrize(("flags", "told"), [*TOLD, (SYN, 2), (SYN | 0xC0, 2), (SYN | ACK, 18)])
def test_flags_of_a_refused_segment_from_outside(recorded: Recorded, flags: int, told: int) -> None:
    recorded.engine.translate(traffic.segment_back(40001, flags), OUTSIDE, 0, 30)
    (delta,) = recorded.ended()
    assert delta.reason == DropReason.NO_FLOW
    assert (delta.flags_out, delta.flags_in) == (0, told)


def test_a_record_has_no_flags_of_another(recorded: Recorded) -> None:
    for number in range(2 * CAPACITY):
        syn = traffic.segment_back(40001, SYN)
        other = traffic.answer(40001) if number % 2 else traffic.segment_back(40001, ACK)
        for frame in (syn, other):
            recorded.engine.translate(frame, OUTSIDE, 0, 30)
        assert [delta.flags_in for delta in recorded.ended()] == [2, 0]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (Policy(egress=()), DropReason.SECURITY_GROUP_EGRESS),
        (Policy(guarded={IPv4Address(scenario.WEB): ()}), DropReason.SECURITY_GROUP_INGRESS),
    ],
)
def test_a_syn_that_a_security_group_refuses(
    tmp_path: Path, policy: Policy, reason: DropReason
) -> None:
    recorded = Recorded(tmp_path, replace(SETUP, policies={0: policy}))
    recorded.engine.translate(traffic.segment(1, 5000), INSIDE, 1, 30)
    (delta,) = recorded.ended()
    assert (delta.reason, delta.interface, delta.slot) == (reason, 0, 1)
    assert (delta.inside_port, delta.remote_port, delta.nat_port) == (5000, 80, 0)
    assert (delta.packets_out, delta.bytes_out, delta.flags_out) == (1, 40, 2)
    recorded.close()


@pytest.mark.parametrize("outward", [True, False])
def test_what_a_network_acl_refuses(tmp_path: Path, outward: bool) -> None:
    """Of a flow that there is, too, and whichever way it goes."""
    recorded = Recorded(tmp_path, SETUP)
    port = traffic.opened(recorded.engine, 1, 5000)
    recorded.engine.set_network_acls(0, [SubnetAcl("10.0.1.0/26", (), ())])
    if outward:
        recorded.engine.translate(traffic.datagram(1, 5000), INSIDE, 1, 30)
    else:
        recorded.engine.translate(traffic.answer(port), OUTSIDE, 0, 30)
    (delta,) = recorded.ended()
    reason = DropReason.NETWORK_ACL_EGRESS if outward else DropReason.NETWORK_ACL_INGRESS
    assert (delta.reason, delta.interface) == (reason, 0)
    assert (delta.packets_out, delta.packets_in) == ((1, 0) if outward else (0, 1))
    recorded.close()


def test_a_neighbour_that_is_refused(tmp_path: Path) -> None:
    """What the filter keeps from an environment is told of, whoever sends it."""
    behaviour = Behaviour(endpoint_independent=True, hairpinning=True)
    recorded = Recorded(tmp_path, replace(SETUP, behaviour=behaviour))
    port = traffic.opened(recorded.engine, 2, 6000)
    frame = traffic.datagram(1, 5000, remote=traffic.INTERFACE, remote_port=port)
    verdict = recorded.engine.translate(frame, INSIDE, 1, 0)
    assert verdict.reason is DropReason.FILTERED
    (refusal,) = recorded.ended()
    assert (refusal.interface, refusal.nat_port, refusal.reason) == (0, port, DropReason.FILTERED)
    (sender,) = struct.unpack("=I", IPv4Address(traffic.INTERFACE).packed)
    assert (refusal.remote_address, refusal.packets_in) == (sender, 1)
    recorded.close()


def test_refusals_fill_half_of_the_ring_and_what_is_lost_is_counted(recorded: Recorded) -> None:
    engine = recorded.engine
    for _ in range(CAPACITY):
        engine.translate(traffic.answer(40001, interface=1), OUTSIDE, 1, 30)
    assert engine.counters()["flow_records_lost"] == CAPACITY // 2
    assert read_lost(recorded.ring.memory) == {1: CAPACITY // 2}
    for number in range(CAPACITY):
        traffic.opened(engine, 1, 5000 + number)
    engine.expire(5000)
    assert engine.counters()["flow_records_lost"] == CAPACITY
    assert len(recorded.ended()) == CAPACITY
    # There is room again.
    engine.translate(traffic.answer(40001, interface=1), OUTSIDE, 1, 5000)
    assert len(recorded.ended()) == 1


def test_refusals_are_bounded_in_time(tmp_path: Path) -> None:
    target = EngineTarget(SETUP)
    ring = FlowRecordRing.create(tmp_path / "records", capacity=8192, places_max=4)
    target.engine.record_flows(ring.memory)
    for _ in range(1500):
        target.engine.translate(traffic.answer(40001), OUTSIDE, 0, 30)
    assert ring.figures.recorded == 1000
    target.engine.translate(traffic.answer(40001), OUTSIDE, 0, 130)
    assert ring.figures.recorded == 1001
    target.engine.record_flows(None)
    ring.close()
    target.close()


def test_who_comes_late_counts_old_flows_from_then_on(recorded: Recorded) -> None:
    engine = recorded.engine
    traffic.opened(engine, 1, 5000, 10)
    traffic.opened(engine, 1, 5001, 10)
    late = deltas_of(recorded.target.map)
    late.begin_late(100)
    assert late.live(recorded.target.map.memory, 0, 64, 105) == []
    engine.translate(traffic.datagram(1, 5000), INSIDE, 1, 110)
    (delta,) = late.live(recorded.target.map.memory, 0, 64, 110)
    assert delta.packets_out == 1


def test_who_comes_late_knows_which_interfaces_it_missed(recorded: Recorded) -> None:
    engine = recorded.engine
    traffic.opened(engine, 1, 5000, 10)
    engine.expire(5000)
    late = deltas_of(recorded.target.map)
    late.begin_late(5000)
    assert late.ended(recorded.ring.memory, 10) == ([], {0})


def test_the_ring_outlives_both_ends(tmp_path: Path) -> None:
    ring = FlowRecordRing.create(tmp_path / "records", capacity=CAPACITY, places_max=4)
    assert ring.attach()
    ring.count_lines(5, 2)
    ring.close()
    again = FlowRecordRing.open(tmp_path / "records")
    assert not again.attach()
    assert again.figures == (0, 0, 5, 2)
    assert read_figures(tmp_path / "records") == again.figures
    again.close()


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"x" * 10_000])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "records"
    path.write_bytes(content)
    with pytest.raises(StateMapError, match="records"):
        FlowRecordRing.open(path)
    assert read_figures(path) is None


def test_what_others_put_there_is_not_opened(tmp_path: Path) -> None:
    """The directory of the state map may be everybody's."""
    FlowRecordRing.create(tmp_path / "true", capacity=CAPACITY, places_max=4).close()
    (tmp_path / "link").symlink_to("true")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("link", "pipe", "directory"):
        with pytest.raises(StateMapError, match=name):
            FlowRecordRing.open(tmp_path / name)


def test_a_ring_is_not_made_over_another_file(tmp_path: Path) -> None:
    (tmp_path / "records").write_bytes(b"")
    with pytest.raises(StateMapError, match=r"no room .*choose another"):
        FlowRecordRing.create(tmp_path / "records")


def test_counters_and_times_beyond_32_bits(recorded: Recorded) -> None:
    """In the entry, in what is told of a live flow and in the record of its end."""
    engine, memory = recorded.engine, recorded.target.map.memory
    begun = (1 << 33) - 5
    traffic.opened(engine, 1, 5000, begun)
    recorded.live(begun)
    (entries,) = struct.unpack_from("<Q", memory, ENTRIES_OFFSET)
    at = entries + engine.flows()[0].entry * 64 + PACKETS_OFFSET
    struct.pack_into("<Q", memory, at, (1 << 32) - 1)
    engine.translate(traffic.datagram(1, 5000), INSIDE, 1, begun + 10)
    assert engine.flows()[0].packets_out == 1 << 32
    (delta,) = recorded.live(begun + 30)
    assert delta.packets_out == (1 << 32) - 1
    assert (delta.created_ms, delta.last_seen_ms) == (begun, begun + 10)
    struct.pack_into("<Q", memory, at, 1 << 34)
    engine.expire(begun + 10_000)
    (delta,) = recorded.ended()
    assert delta.packets_out == (1 << 34) - (1 << 32)
    assert delta.created_ms == begun
    assert delta.last_seen_ms >= begun + 10
