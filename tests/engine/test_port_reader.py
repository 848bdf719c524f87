# SPDX-License-Identifier: Apache-2.0
"""Whose ports are taken, as a state map tells it to those who only read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from hyperplane_nat.engine import RemotePorts
from hyperplane_nat.engine.readers._port_reader import PortHolders
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget
from tests.reference import Ports

SETUP = scenario.Setup(flows_max=2000, ports=Ports(40000, 41999, 2000))
SLICE = 7


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    found = EngineTarget(SETUP)
    yield found
    found.close()


def remotes(target: EngineTarget, **wanted: object) -> list[RemotePorts]:
    state_map = target.map
    return sorted(
        remote
        for start in range(0, state_map.remote_cells, 1000)
        for remote in state_map.remotes(start, 1000, **wanted)  # type: ignore[arg-type]
    )


def holders(target: EngineTarget, *endpoints: tuple[str, int, str, int]) -> Counter[int]:
    reader = PortHolders(endpoints, SLICE)
    found: Counter[int] = Counter()
    for start in range(0, target.map.entries_watermark, SLICE):
        found.update(reader.read(target.map.memory, start))
    return found


def word(number: int, slot: int, held: bool = False) -> int:
    return number << 17 | slot << 1 | held


def test_remote_endpoints_with_their_ports(target: EngineTarget) -> None:
    for port in range(30):
        traffic.opened(target.engine, 1, 5000 + port)
    traffic.opened(target.engine, 2, 5000, remote_port=9)
    traffic.opened(target.engine, 3, 5000, remote=scenario.ECHO)
    many = RemotePorts("udp", 0, scenario.WEB, 7, 30, 30)
    few = RemotePorts("udp", 0, scenario.WEB, 9, 1, 1)
    other = RemotePorts("udp", 1, scenario.ECHO, 7, 1, 1)
    assert remotes(target) == sorted([few, many, other])
    assert remotes(target, least=2) == [many]
    assert remotes(target, address=scenario.ECHO) == [other]
    assert remotes(target, port=9) == [few]
    assert remotes(target, address=scenario.ECHO, port=9) == []


def test_high_water_outlives_the_ports(target: EngineTarget) -> None:
    for port in range(5):
        traffic.opened(target.engine, 1, 5000 + port, now=port * 100_000)
    target.engine.expire(430_000)
    (found,) = remotes(target)
    assert (found.ports, found.high_water) == (4, 5)


def test_holders_of_a_remote_endpoint(target: EngineTarget) -> None:
    for port in range(20):
        traffic.opened(target.engine, 1, 5000 + port)
    for port in range(10):
        traffic.opened(target.engine, 2, 5000 + port, now=100_000)
    traffic.opened(target.engine, 2, 6000, remote_port=9, now=100_000)
    target.engine.expire(360_000)
    endpoint = ("udp", 0, scenario.WEB, 7)
    assert holders(target, endpoint, ("tcp", 0, scenario.WEB, 7)) == {
        word(0, 1, held=True): 20,
        word(0, 2): 11,
        word(65_536, 1, held=True): 20,
        word(65_536, 2): 10,
    }


def test_the_owner_of_a_held_port_may_be_gone(target: EngineTarget) -> None:
    traffic.opened(target.engine, 1, 5000)
    target.engine.remove_slot(1)
    target.engine.sweep(10)
    assert holders(target) == {word(0, 0xFFFF, held=True): 1}


def test_many_endpoints_are_told_apart(target: EngineTarget) -> None:
    endpoints = [("udp", 0, scenario.WEB, port) for port in range(1, 500)]
    for protocol, _interface, remote, port in endpoints:
        assert protocol == "udp"
        traffic.opened(target.engine, 5, 5000, remote=remote, remote_port=port)
    found = holders(target, *endpoints)
    assert found == {word(65_536 + n, 5): 1 for n in range(499)} | {word(0, 5): 499}


def test_addresses_of_interfaces(target: EngineTarget) -> None:
    addresses = [target.map.interface_address(number) for number in range(3)]
    assert addresses == list(scenario.INTERFACE_ADDRESSES)[:3]
    with pytest.raises(IndexError, match="the map has"):
        target.map.interface_address(99)
