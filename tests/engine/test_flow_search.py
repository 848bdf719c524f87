# SPDX-License-Identifier: Apache-2.0
"""Finding entries by key, against the table that an engine has made."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from hyperplane_nat.engine import StateMap
from hyperplane_nat.engine.readers.flow_search import SearchKey
from hyperplane_nat.engine.state.constants import Side
from hyperplane_nat.engine.state.settings import Flow
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget
from tests.engine.scenario import HOST, INSIDE, OUTSIDE
from tests.reference import Ports, packet

_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17}


HOSTS = tuple(address for address, _ in scenario.HOSTS)
HOST_FLOWS = {
    (HOST, 0): (HOSTS[0], HOSTS[1]),
    (HOST, 1): (HOSTS[1], scenario.WEB),
    (OUTSIDE, 0): (scenario.FAR, HOSTS[1]),
}
"""Who begins a flow, and from where to where."""


def host_key(owner: int, local: tuple[str, int], remote: tuple[str, int]) -> SearchKey:
    ends = [
        part
        for name, port in (remote, local)
        for part in (socket.inet_aton(name), port.to_bytes(2))
    ]
    return SearchKey(Side.HOST, 17, owner, *ends)


def key_of(flow: Flow, side: Side) -> SearchKey:
    inside = side is Side.INSIDE
    return SearchKey(
        side,
        _PROTOCOLS[flow.protocol],
        flow.slot if inside else flow.interface,
        socket.inet_aton(flow.remote_address),
        flow.remote_port.to_bytes(2, "big"),
        socket.inet_aton(flow.inside_address if inside else flow.nat_address),
        (flow.inside_port if inside else flow.nat_port).to_bytes(2, "big"),
    )


@pytest.fixture(scope="module")
def state() -> Iterator[StateMap]:
    setup = scenario.Setup(flows_max=512, ports=Ports(40000, 40999, 55_000))
    target = EngineTarget(setup)
    for port in range(100):
        for slot in (1, 2, 5):
            traffic.opened(target.engine, slot, 5000 + port, remote_port=7 + port % 3)
        target.engine.translate(traffic.segment(1, 6000 + port), INSIDE, 1, 0)
    for (side, number), ends in HOST_FLOWS.items():
        content = packet.udp(*ends, 5000, 7)
        body = packet.ipv4(*ends, packet.UDP, content)
        target.engine.translate(traffic.frame_in(side, number, body), side, number, 0)
    yield target.map
    target.close()


def test_every_flow_is_found_by_both_keys(state: StateMap) -> None:
    flows = state.flows()
    assert len(flows) == 400
    for side in (Side.INSIDE, Side.OUTSIDE):
        assert state.find([key_of(flow, side) for flow in flows]) == [flow.entry for flow in flows]


def test_a_flow_of_hosts_is_found_from_whichever_end_is_one(state: StateMap) -> None:
    between, outward, inward = (flow.entry for flow in state.host_flows())
    here, there = (HOSTS[0], 5000), (HOSTS[1], 7)
    keys = {
        host_key(0, here, there): between,
        host_key(1, there, here): between,
        host_key(1, (HOSTS[1], 5000), (scenario.WEB, 7)): outward,
        host_key(1, (HOSTS[1], 7), (scenario.FAR, 5000)): inward,
        host_key(2, here, there): None,
        host_key(0, there, here): None,
    }
    assert state.find(list(keys)) == list(keys.values())


def test_what_is_not_there_is_not_found(state: StateMap) -> None:
    key = key_of(state.flows()[0], Side.INSIDE)
    others = [
        key._replace(owner=9),
        key._replace(side=Side.OUTSIDE),
        key._replace(protocol=6),
        key._replace(remote_port=b"\xff\xff"),
        key._replace(local_port=b"\0\1"),
        key._replace(remote_address=bytes(4)),
        key._replace(local_address=bytes(4)),
    ]
    assert state.find([*others, key, key]) == [None] * 7 + [0, 0]
    assert state.find([]) == []


@pytest.mark.parametrize(
    ("address", "remote_port", "local_port"),
    [(b"", b"", b""), (b"123", b"12", b"12"), (b"1234", b"123", b"12")],
)
def test_a_key_has_its_sizes(
    state: StateMap, address: bytes, remote_port: bytes, local_port: bytes
) -> None:
    with pytest.raises(ValueError, match="4 bytes of address"):
        state.find([SearchKey(0, 6, 1, address, remote_port, address, local_port)])
