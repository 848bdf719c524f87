# SPDX-License-Identifier: Apache-2.0
"""What readers of the state map tell of balanced flows."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import Any

import pytest

from hyperplane_nat.engine import RemotePorts, Side, Target
from hyperplane_nat.engine.readers._flow_reader import FlowScan
from hyperplane_nat.engine.readers._port_reader import PortHolders
from hyperplane_nat.engine.readers.flow_deltas import FlowDeltas
from hyperplane_nat.engine.readers.flow_record_ring import FlowRecordRing
from hyperplane_nat.engine.state.settings import FlowDelta, Hop, HostDelta
from tests.engine.balancers import CLIENT, NODE, SYN, WEB, Scene, listener
from tests.engine.gateways import LAMBDA, ends
from tests.engine.test_gateway_readers import number_of

NAMES = {0: "router", 1: "eni-a", 8: "node-a"}


@pytest.fixture(params=[True, False], ids=["preserved", "translated"])
def preserve(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def rows(scene: Scene, **fields: Any) -> list[dict[str, Any]]:
    scan = FlowScan(NAMES, hosts={2: "client"}, **fields)
    text = scan.read(scene.map.memory, 0, 64, 0) or scan.rest(64)
    found: list[dict[str, Any]] = json.loads(b"[" + text + b"]")
    return found


def test_a_flow_of_an_environment(preserve: bool) -> None:
    scene = Scene(listener(WEB, preserve=preserve))
    (address, port), _ = ends(scene.client_sends("environment", SYN))
    [flow] = scene.map.flows()
    assert (flow.interface, flow.remote_address, flow.remote_port) == (1, NODE, 80)
    assert (flow.nat_address, flow.nat_port, flow.target) == (address, port, Target(*WEB))
    assert flow.hops == (Hop(1, LAMBDA, port), Hop(8, NODE, 0 if preserve else port))
    [row] = rows(scene)
    assert (row["interface"], row["environment"]) == ("eni-a", "env-1")
    assert row["target"] == {"address": WEB[0], "port": WEB[1]}
    assert [hop["interface"] for hop in row["hops"]] == ["eni-a", "node-a"]
    scene.close()


@pytest.mark.parametrize("fields", [{}, {"sort": "remote", "limit": 9}])
def test_a_flow_of_a_host(preserve: bool, fields: dict[str, Any]) -> None:
    scene = Scene(listener(WEB, preserve=preserve))
    (address, port), _ = ends(scene.client_sends("host", SYN))
    [flow] = scene.map.host_flows()
    assert (flow.originator_side, flow.originator, flow.target) == (Side.HOST, 2, Target(*WEB))
    assert (flow.nat_address, flow.nat_port) == (address, port)
    assert flow.hops == (Hop(8, NODE, 0 if preserve else port),)
    [row] = rows(scene, **fields)
    assert (row["host"], row["interface"], row["remote_address"]) == ("client", "node-a", NODE)
    assert row["target"] == {"address": WEB[0], "port": WEB[1]}
    assert (row["nat_address"], row["nat_port"]) == (address, port)
    scene.close()


def test_ports_are_counted_where_they_are_taken() -> None:
    scene = Scene(listener(WEB, preserve=False))
    for port in range(3):
        scene.client_sends("environment", SYN, port=5000 + port)
    scene.client_sends("host", SYN)
    found = sorted(scene.map.remotes(0, scene.map.remote_cells))
    assert found == [
        RemotePorts("tcp", 1, NODE, 80, 3, 3),
        RemotePorts("tcp", 8, WEB[0], WEB[1], 4, 4),
    ]
    endpoints = [("tcp", 1, NODE, 80), ("tcp", 8, *WEB)]
    words = Counter(PortHolders(endpoints, 64).read(scene.map.memory, 0))
    by_number: Counter[int] = Counter()
    for word, times in words.items():
        by_number[word >> 17] += times
    assert by_number == {1: 3, 8: 4, 0x10000: 3, 0x10001: 4}
    scene.close()


def test_flow_logs_are_of_the_client(preserve: bool) -> None:
    scene = Scene(listener(WEB, preserve=preserve))
    path = scene.path.parent / "records"
    with contextlib.closing(FlowRecordRing.create(path, capacity=16, places_max=20)) as ring:
        scene.engine.record_flows(ring.memory)
        (_, port), _ = ends(scene.client_sends("environment", SYN))
        scene.client_sends("host", SYN)
        deltas = FlowDeltas(256, 8, 16)
        live = deltas.live(scene.map.memory, 0, 256, 0)
        scene.client_sends("environment", SYN)
        scene.client_sends("host", SYN)
        scene.removed([8])
        scene.engine.record_flows(None)
        ended, _ = deltas.ended(ring.memory, 16)
    for found in (live, ended):
        [of_environment] = [each for each in found if isinstance(each, FlowDelta)]
        own = (of_environment.interface, of_environment.nat_address, of_environment.nat_port)
        assert own == (1, number_of(LAMBDA), port)
        [of_host] = [each for each in found if isinstance(each, HostDelta)]
        assert (of_host.originator, of_host.responder) == (18, None)
        far = (number_of(CLIENT), 5000, number_of(NODE), 80)
        assert of_host[3:7] == far
    scene.close()
