# SPDX-License-Identifier: Apache-2.0
"""What readers of the state map tell of flows by gateways."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest

from hyperplane_nat.engine import DropReason, RemotePorts, Side
from hyperplane_nat.engine.readers._flow_reader import FlowScan
from hyperplane_nat.engine.readers._port_reader import PortHolders
from hyperplane_nat.engine.readers.flow_deltas import FlowDeltas
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.engine.state.constants import Position
from hyperplane_nat.engine.state.settings import FlowDelta, Hop, HostDelta, Way
from tests.engine import gateways
from tests.engine.gateways import ELASTIC, FAR, FIRST, LAMBDA, NAT, PUBLIC, SECOND, Scene, ends
from tests.reference import packet

NAMES = {0: "router", 1: "eni-a", 3: "public", 6: "nat-a"}


@pytest.fixture
def scene() -> Iterator[Scene]:
    result = Scene()
    result.set_host(1, SECOND, route_table=gateways.ENVIRONMENTS_TABLE)
    yield result
    result.close()


def rows(scene: Scene, **fields: Any) -> list[dict[str, Any]]:
    scan = FlowScan(NAMES, hosts={0: "web", 1: "db"}, **fields)
    text = scan.read(scene.map.memory, 0, 64, 0) or scan.rest(64)
    found: list[dict[str, Any]] = json.loads(b"[" + text + b"]")
    return found


def test_a_flow_of_an_environment_has_its_hops(scene: Scene) -> None:
    (_, port), _ = ends(scene.from_environment())
    [flow] = scene.map.flows()
    assert (flow.interface, flow.nat_address, flow.nat_port) == (1, ELASTIC, port)
    assert flow.hops == (Hop(1, LAMBDA, port), Hop(6, NAT, port))
    assert scene.map.host_flows() == []


def test_flows_of_hosts(scene: Scene) -> None:
    scene.from_host()
    (_, port), _ = ends(scene.from_host(1))
    scene.from_internet((PUBLIC, 80), (FAR, 6000))
    out, by_nat, came = scene.map.host_flows()
    assert (out.originator_side, out.responder_side, out.responder) == (Side.HOST, Side.OUTSIDE, 3)
    assert (out.nat_address, out.nat_port, out.hops) == (PUBLIC, 5000, ())
    assert (by_nat.nat_address, by_nat.nat_port, by_nat.hops) == (
        ELASTIC,
        port,
        (Hop(6, NAT, port),),
    )
    assert (came.originator_side, came.originator, came.responder_side) == (
        Side.OUTSIDE,
        3,
        Side.HOST,
    )
    assert (came.destination_address, came.nat_address, came.nat_port) == (PUBLIC, FIRST, 80)
    assert scene.map.flows() == []


@pytest.mark.parametrize("fields", [{}, {"sort": "remote", "limit": 9, "reverse": True}])
def test_a_listing_has_hops(scene: Scene, fields: dict[str, Any]) -> None:
    (_, port), _ = ends(scene.from_environment(far=("192.0.2.1", 53)))
    (_, other), _ = ends(scene.from_host(1))
    scene.from_host(far=(FAR, 54))
    by_function, by_host, plain = rows(scene, **fields)
    assert (by_function["environment"], by_function["interface"]) == ("env-1", "eni-a")
    assert (by_function["nat_address"], by_function["nat_port"]) == (ELASTIC, port)
    at_nat = {"interface": "nat-a", "address": NAT}
    assert by_function["hops"] == [
        {"interface": "eni-a", "address": LAMBDA, "port": port},
        {**at_nat, "port": port},
    ]
    assert (by_host["host"], by_host["interface"]) == ("db", "nat-a")
    assert by_host["hops"] == [{**at_nat, "port": other}]
    assert (plain["host"], plain["interface"], plain["nat_address"]) == ("web", "public", PUBLIC)
    assert "hops" not in plain


def test_flows_are_found_by_either_hop(scene: Scene) -> None:
    scene.from_environment()
    scene.from_host(1)
    assert len(rows(scene, interfaces=[1])) == 1
    assert len(rows(scene, interfaces=[6])) == 1
    assert len(rows(scene, slots=[1])) == 1


def test_ports_are_counted_at_each_hop(scene: Scene) -> None:
    for port in range(3):
        scene.from_environment(1 + port % 2, 5000 + port)
    scene.from_host(1)
    found = sorted(scene.map.remotes(0, scene.map.remote_cells))
    assert found == [RemotePorts("udp", 1, FAR, 53, 3, 3), RemotePorts("udp", 6, FAR, 53, 4, 4)]
    endpoints = [("udp", 1, FAR, 53), ("udp", 6, FAR, 53)]
    words = Counter(PortHolders(endpoints, 64).read(scene.map.memory, 0))
    by_number: Counter[int] = Counter()
    for word, times in words.items():
        by_number[word >> 17] += times
    assert by_number == {1: 3, 6: 4, 0x10000: 3, 0x10001: 4}


def test_a_nat_gateway_counts_what_its_public_address_does(scene: Scene) -> None:
    source, _ = ends(scene.from_environment())
    scene.from_host(1)
    scene.from_internet(source)
    near, far = (gateways.ENVIRONMENT, 5001), (FAR, 80)
    place = (gateways.INSIDE, 1)
    begun, _ = ends(scene.tcp(place, near, far, packet.SYN, (100, 0)))
    syn_ack = packet.SYN | packet.ACK
    scene.tcp((gateways.OUTSIDE, 2), far, begun, syn_ack, (500, 101))
    scene.tcp(place, near, far, packet.ACK, (101, 501))
    for number in (1, 6):
        counters = scene.map.interface_counters(number)
        assert counters["packets_out_to_destination"] == (4 if number == 6 else 3)
        assert counters["packets_in_from_destination"] == 2
        assert (counters["tcp_syns_from_source"], counters["flows_established_tcp"]) == (1, 1)


def number_of(address: str) -> int:
    """As the engine keeps it."""
    return int.from_bytes(IPv4Address(address).packed, "little")


def test_flow_logs_are_of_the_interface(scene: Scene) -> None:
    path = scene.path.parent / "records"
    with contextlib.closing(FlowRecordRing.create(path, capacity=16, places_max=20)) as ring:
        scene.engine.record_flows(ring.memory)
        (_, port), _ = ends(scene.from_environment())
        scene.from_host(1)
        scene.from_internet((PUBLIC, 80), (FAR, 6000))
        scene.tcp((gateways.HOST, 1), (SECOND, 5000), (FAR, 80), packet.ACK)
        scene.from_internet((ELASTIC, 1))
        deltas = FlowDeltas(256, 8, 16)
        live, *of_hosts = deltas.live(scene.map.memory, 0, 256, 0)
        scene.from_environment()
        scene.removed([4])
        scene.engine.record_flows(None)
        found, _ = deltas.ended(ring.memory, 16)
        stray, ended = (delta for delta in found if isinstance(delta, FlowDelta))
        assert (stray.slot, stray.reason) == (65535, DropReason.NO_FLOW)
        assert stray.way is not None
        assert (stray.way.hop, stray.way.position) == (6, Position.FAR)
        for delta in (live, ended):
            assert isinstance(delta, FlowDelta)
            own = (delta.interface, delta.nat_address, delta.nat_port)
            assert own == (1, number_of(LAMBDA), port)
            gateway = number_of(NAT)
            assert delta.way == Way(6, gateway, gateway, port, number_of(FAR), 53, internet=True)
        # A host's have its own address, whatever the internet knows it by.
        assert [
            (delta.originator, delta.responder, *delta[3:7])
            for delta in of_hosts
            if isinstance(delta, HostDelta)
        ] == [
            (17, None, number_of(SECOND), 5000, number_of(FAR), 53),
            (None, 16, number_of(FAR), 6000, number_of(FIRST), 80),
        ]
