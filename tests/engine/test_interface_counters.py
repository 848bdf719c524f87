# SPDX-License-Identifier: Apache-2.0
"""What is counted for each network interface, as CloudWatch has it of a NAT gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hyperplane_nat.engine import Action, Engine
from hyperplane_nat.engine.state.constants import ATTACHMENT_COUNTER_NAMES
from tests.engine import scenario, traffic
from tests.engine.compiled import SEED, EngineTarget, configured
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Ports, packet

SETUP = scenario.Setup(ports=Ports(40000, 40009, 5))


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    found = EngineTarget(SETUP)
    yield found
    found.close()


def counted(target: EngineTarget, number: int) -> dict[str, int]:
    """The counters of an interface that are not 0."""
    found = target.map.interface_counters(number)
    assert set(found) == set(ATTACHMENT_COUNTER_NAMES)
    return {name: value for name, value in found.items() if value}


def test_traffic_by_interface(target: EngineTarget) -> None:
    port = traffic.opened(target.engine, 1, 5000)
    traffic.opened(target.engine, 3, 5000, remote="10.0.2.80")
    verdict = target.engine.translate(traffic.answer(port), OUTSIDE, 0, 1)
    assert verdict.action is Action.FORWARD
    assert counted(target, 0) == {
        "packets_in_from_source": 1,
        "bytes_in_from_source": 28,
        "packets_out_to_destination": 1,
        "bytes_out_to_destination": 28,
        "packets_in_from_destination": 1,
        "bytes_in_from_destination": 28,
        "packets_out_to_source": 1,
        "bytes_out_to_source": 28,
    }
    assert counted(target, 1)["packets_out_to_destination"] == 1
    assert counted(target, 2) == {}


def test_the_interfaces_together_have_what_the_gateway_has(target: EngineTarget) -> None:
    for slot in (1, 2, 3, 4, 5):
        for port in range(4):
            target.engine.translate(traffic.datagram(slot, 5000 + port), INSIDE, slot, 0)
    target.engine.translate(traffic.answer(39999), OUTSIDE, 0, 0)
    for name in ATTACHMENT_COUNTER_NAMES[:8]:
        total = sum(target.map.interface_counters(number)[name] for number in range(3))
        assert total == target.count(name), name


def test_drops_of_both_sides(target: EngineTarget) -> None:
    target.engine.translate(traffic.answer(40000), OUTSIDE, 0, 0)
    target.engine.translate(traffic.datagram(1, 5000, remote="192.0.2.1"), INSIDE, 1, 0)
    assert counted(target, 0)["drops"] == 2


def test_an_environment_of_the_pool_has_no_interface(target: EngineTarget) -> None:
    slot = scenario.POOLED
    verdict = target.engine.translate(traffic.datagram(slot, 5000), INSIDE, slot, 0)
    assert verdict.action is Action.DROP
    assert [counted(target, number) for number in range(3)] == [{}, {}, {}]


def test_errors_of_port_allocation(target: EngineTarget) -> None:
    for port in range(7):
        target.engine.translate(traffic.datagram(1, 5000 + port), INSIDE, 1, 0)
    assert counted(target, 0)["port_allocation_errors"] == 2


def test_connections_and_idle_ones(target: EngineTarget) -> None:
    engine = target.engine
    port = traffic.source_port(engine.translate(traffic.segment(1, 5000), INSIDE, 1, 0))
    engine.translate(traffic.segment_back(port, packet.SYN | packet.ACK, ack=1001), OUTSIDE, 0, 0)
    engine.translate(traffic.segment(1, 5000, packet.ACK, seq=1001, ack=9001), INSIDE, 1, 0)
    engine.translate(traffic.segment(2, 5000), INSIDE, 2, 0)
    engine.expire(70_000)
    found = counted(target, 0)
    assert found["tcp_syns_from_source"] == 2 == target.count("tcp_syns_from_source")
    assert found["flows_established_tcp"] == 1 == target.count("flows_established_tcp")
    assert found["flows_timed_out"] == 1


def test_active_connections_are_counted_apart_from_other_flows(target: EngineTarget) -> None:
    engine = target.engine

    def active() -> tuple[int, int]:
        found = target.map.slot_counters(1)
        return found["flows"], found["tcp_flows"]

    traffic.opened(engine, 1, 5000)
    engine.translate(traffic.segment(1, 5000), INSIDE, 1, 0)
    assert active() == (2, 1)
    # A successor counts anew what it finds.
    target.engine = Engine(target.map, seed=SEED, now_ms=0)
    configured(target.engine, SETUP, 0)
    assert active() == (2, 1)
    target.engine.expire(70_000)
    assert active() == (1, 0)


def test_another_address_begins_at_zero(target: EngineTarget) -> None:
    target.engine.translate(traffic.answer(40000), OUTSIDE, 2, 0)
    before = counted(target, 2)
    assert before
    setting: dict[str, Any] = {
        "mac": scenario.interface_mac(2),
        "subnet": scenario.SUBNETS[2],
        "router": scenario.ROUTERS[2],
        "destinations": scenario.DESTINATIONS,
        "vpc": 1,
    }
    target.engine.set_interface(2, address=scenario.INTERFACE_ADDRESSES[2], **setting)
    assert counted(target, 2) == before
    target.engine.set_interface(2, address="10.0.1.11", **setting)
    assert counted(target, 2) == {}


def test_numbers_the_map_has_not(target: EngineTarget) -> None:
    with pytest.raises(IndexError, match="the map has"):
        target.map.interface_counters(99)
