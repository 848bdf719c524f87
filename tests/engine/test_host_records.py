# SPDX-License-Identifier: Apache-2.0
"""What flow logs are told of hosts: their flows, what is refused between them, what is lost."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeGuard

import pytest

from hyperplane_nat.engine import DropReason
from hyperplane_nat.engine.readers.flow_deltas import read_lost
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.engine.state.settings import FlowDelta, HostDelta
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget, deltas_of
from tests.engine.scenario import HOST, INSIDE, OUTSIDE
from tests.reference import Policy, Ports, Rule, Timeouts, packet

SETUP = scenario.Setup(
    flows_max=64, ports=Ports(40000, 40007), timeouts=Timeouts(udp=1000, hold=500)
)
FIRST, SECOND = (address for address, _ in scenario.HOSTS[:2])
INTERFACES = 14
"""Of the map: places of hosts are behind them."""

ONE, OTHER = INTERFACES, INTERFACES + 1
CAPACITY = 16


def number(address: str) -> int:
    return int.from_bytes(socket.inet_aton(address), "little")


def plain(delta: FlowDelta | HostDelta) -> TypeGuard[HostDelta]:
    return isinstance(delta, HostDelta)


class Scene:
    """An engine whose first two hosts send, and the reader of what it tells."""

    def __init__(self, directory: Path, setup: scenario.Setup = SETUP) -> None:
        self.target = EngineTarget(setup)
        self.engine = self.target.engine
        self.ring = FlowRecordRing.create(directory / "records", capacity=CAPACITY, places_max=16)
        self.engine.record_flows(self.ring.memory)
        self.deltas = deltas_of(self.target.map)
        self.now = 0

    def send(
        self,
        place: tuple[int, int],
        source: str,
        destination: str,
        ports: tuple[int, int] = (5000, 7),
        *,
        flags: int | None = None,
    ) -> DropReason:
        if flags is None:
            protocol, content = packet.UDP, packet.udp(source, destination, *ports)
        else:
            protocol, content = packet.TCP, packet.tcp(source, destination, *ports, flags, seq=1)
        body = packet.ipv4(source, destination, protocol, content)
        frame = traffic.frame_in(*place, body)
        return self.engine.translate(frame, *place, self.now).reason

    def live(self) -> list[FlowDelta | HostDelta]:
        return self.deltas.live(self.target.map.memory, 0, 64, self.now)

    def ended(self) -> list[FlowDelta | HostDelta]:
        found, unknown = self.deltas.ended(self.ring.memory, 100)
        assert unknown == set()
        return found

    def refused(self) -> HostDelta:
        (found,) = self.ended()
        assert isinstance(found, HostDelta)
        return found

    def close(self) -> None:
        self.engine.record_flows(None)
        self.ring.close()
        assert self.engine.verify() == []
        self.target.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    result = Scene(tmp_path)
    yield result
    result.close()


def test_both_ends_are_told_and_what_went_each_way(scene: Scene) -> None:
    scene.now = 30
    scene.send((HOST, 0), FIRST, SECOND)
    scene.send((HOST, 0), FIRST, SECOND)
    scene.send((HOST, 1), SECOND, FIRST, (7, 5000))
    (found,) = scene.live()
    assert found == HostDelta(
        originator=ONE,
        responder=OTHER,
        protocol=17,
        source_address=number(FIRST),
        source_port=5000,
        destination_address=number(SECOND),
        destination_port=7,
        packets_out=2,
        bytes_out=56,
        packets_in=1,
        bytes_in=28,
        created_ms=30,
        last_seen_ms=30,
        flags_out=0,
        flags_in=0,
        reason=0,
    )
    assert scene.live() == []
    scene.send((HOST, 1), SECOND, FIRST, (7, 5000))
    scene.engine.expire(5000)
    (rest,) = scene.ended()
    assert (rest.packets_out, rest.packets_in) == (0, 1)
    assert scene.live() == []


def test_the_router_is_no_place(scene: Scene) -> None:
    scene.send((HOST, 0), FIRST, scenario.WEB)
    scene.send((OUTSIDE, 0), scenario.FAR, SECOND)
    ends = [(each.originator, each.responder) for each in scene.live() if plain(each)]
    assert ends == [(ONE, None), (None, OTHER)]


def test_a_function_s_flow_to_a_host_is_told_as_its_own(scene: Scene) -> None:
    scene.send((INSIDE, 1), scenario.ENVIRONMENT, FIRST)
    (found,) = scene.live()
    assert isinstance(found, FlowDelta)
    assert (found.slot, found.interface) == (1, 0)
    assert found.remote_address == number(FIRST)


def test_flags_of_a_connection_between_hosts(scene: Scene) -> None:
    scene.send((HOST, 0), FIRST, SECOND, (5000, 80), flags=packet.SYN)
    scene.send((HOST, 1), SECOND, FIRST, (80, 5000), flags=packet.SYN | packet.ACK)
    (found,) = scene.live()
    assert (found.flags_out, found.flags_in) == (packet.SYN, 0)
    scene.send((HOST, 0), FIRST, SECOND, (5000, 80), flags=packet.RST)
    scene.engine.remove_host(1)
    scene.engine.sweep(0)
    (rest,) = scene.ended()
    assert (rest.packets_out, rest.packets_in) == (1, 0)


CLOSED = Policy(ingress=(Rule("udp", IPv4Network("10.0.0.0/16"), 9, 9),))
MUTE = Policy(egress=())
EGRESS, INGRESS = DropReason.SECURITY_GROUP_EGRESS, DropReason.SECURITY_GROUP_INGRESS


@pytest.mark.parametrize(
    ("closed", "place", "ends", "told", "reason"),
    [
        ((1, CLOSED), (HOST, 0), (FIRST, SECOND), (ONE, OTHER), INGRESS),
        ((0, MUTE), (HOST, 0), (FIRST, SECOND), (ONE, OTHER), EGRESS),
        (
            (0, MUTE),
            (HOST, 0),
            (FIRST, scenario.WEB),
            (ONE, None),
            DropReason.SECURITY_GROUP_EGRESS,
        ),
        (
            (1, CLOSED),
            (OUTSIDE, 0),
            (scenario.FAR, SECOND),
            (None, OTHER),
            INGRESS,
        ),
    ],
)
def test_what_groups_refuse_is_told_with_both_ends(
    tmp_path: Path,
    closed: tuple[int, Policy],
    place: tuple[int, int],
    ends: tuple[str, str],
    told: tuple[int | None, int | None],
    reason: DropReason,
) -> None:
    scene = Scene(tmp_path, replace(SETUP, host_policies=dict([closed])))
    assert scene.send(place, *ends) is reason
    found = scene.refused()
    assert (found.originator, found.responder, found.reason) == (*told, reason)
    assert (found.source_address, found.source_port) == (number(ends[0]), 5000)
    assert (found.destination_address, found.destination_port) == (number(ends[1]), 7)
    assert (found.packets_out, found.bytes_out, found.packets_in) == (1, 28, 0)
    assert scene.live() == []
    scene.close()


def test_a_segment_without_its_connection_is_told_of_who_sent_it(scene: Scene) -> None:
    scene.send((HOST, 1), SECOND, FIRST, (80, 5000), flags=packet.RST)
    found = scene.refused()
    assert (found.originator, found.responder) == (OTHER, ONE)
    assert (found.reason, found.flags_out) == (DropReason.TCP_NO_FLOW, packet.RST)


def test_a_packet_for_a_function_s_interface_is_refused_there(scene: Scene) -> None:
    """As if it had come by the interface's link."""
    assert scene.send((HOST, 0), FIRST, "10.0.1.10") is DropReason.NO_FLOW
    (found,) = scene.ended()
    assert isinstance(found, FlowDelta)
    assert (found.slot, found.interface, found.packets_in) == (65535, 0, 1)
    assert found.remote_address == number(FIRST)


def test_a_lost_record_is_counted_once_and_at_both_ends(scene: Scene) -> None:
    for port in range(CAPACITY + 3):
        scene.send((HOST, 0), FIRST, SECOND, (5000, port + 1))
    scene.send((HOST, 0), FIRST, scenario.WEB)
    scene.engine.remove_host(0)
    scene.engine.sweep(0)
    assert scene.engine.counters()["flow_records_lost"] == 4
    # The last one was the router's, by interface 0.
    assert read_lost(scene.ring.memory) == {0: 1, ONE: 4, OTHER: 3}


def test_who_comes_late_knows_which_hosts_it_missed(scene: Scene) -> None:
    scene.send((HOST, 0), FIRST, SECOND)
    scene.engine.expire(5000)
    late = deltas_of(scene.target.map)
    late.begin_late(5000)
    assert late.ended(scene.ring.memory, 10) == ([], {ONE, OTHER})
