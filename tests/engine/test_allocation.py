# SPDX-License-Identifier: Apache-2.0
"""Limits, several addresses, and what is remembered of those who got no port."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from hyperplane_nat.engine import Action, DropReason, EventKind, StateMap
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget
from tests.engine.pair import Pair
from tests.engine.scenario import INSIDE
from tests.reference import Behaviour, Ports, Timeouts

Make = Callable[..., EngineTarget]
SECONDARY = tuple((0, f"10.0.1.{11 + number}") for number in range(3))


@pytest.fixture
def make() -> Iterator[Make]:
    targets = []

    def build(**fields: object) -> EngineTarget:
        fields.setdefault("flows_max", 4096)
        target = EngineTarget(scenario.Setup(**fields))  # type: ignore[arg-type]
        targets.append(target)
        return target

    yield build
    for target in targets:
        target.close()


def _refused(
    target: EngineTarget, slot: int, port: int, now: int = 0, remote_port: int = 7
) -> DropReason:
    frame = traffic.datagram(slot, port, remote_port=remote_port)
    return target.engine.translate(frame, INSIDE, slot, now).reason


# Several addresses


@pytest.mark.requirement("AWS-8-addresses", profile="aws")
def test_each_address_has_all_ports(make: Make) -> None:
    target = make(ports=Ports(40000, 40003), secondary=SECONDARY)
    for number in range(16):
        traffic.opened(target.engine, 1, 1000 + number)
    taken = Counter(flow[8] for flow in target.flows())
    assert taken == {f"10.0.1.{10 + number}": 4 for number in range(4)}
    assert _refused(target, 1, 999) is DropReason.PORT_ALLOCATION
    # Interfaces without a second address are not concerned.
    assert traffic.opened(target.engine, 3, 1000) in range(40000, 40004)
    assert target.problems() == []


@pytest.mark.requirement("RFC4787-2", profile="aws")
@pytest.mark.requirement("RFC6888-2", profile="aws")
def test_the_address_is_random(make: Make) -> None:
    target = make(ports=Ports(40000, 49999), secondary=SECONDARY)
    for number in range(2000):
        traffic.opened(target.engine, 1, 1000 + number)
    taken = Counter(flow[8] for flow in target.flows())
    assert len(taken) == 4
    assert all(400 < count < 600 for count in taken.values()), taken


@pytest.mark.requirement("AWS-8-addresses", profile="rfc")
@pytest.mark.requirement("RFC4787-2", profile="rfc")
@pytest.mark.requirement("RFC6888-2", profile="rfc")
def test_paired_pooling_keeps_the_address(make: Make) -> None:
    behaviour = Behaviour(paired_pooling=True)
    target = make(ports=Ports(40000, 40003), secondary=SECONDARY, behaviour=behaviour)
    addresses: dict[int, set[str]] = {}
    for slot in (1, 2, 5):
        for remote_port in (7, 8, 9):
            traffic.opened(target.engine, slot, 1000, remote_port=remote_port)
    for flow in target.flows():
        addresses.setdefault(flow[2], set()).add(flow[8])
    assert all(len(each) == 1 for each in addresses.values())
    # There is no other address when that has nothing left.
    for number in range(2):
        traffic.opened(target.engine, 2, 2000 + number)
        traffic.opened(target.engine, 2, 3000 + number, remote_port=8)
    traffic.opened(target.engine, 2, 4000)
    assert _refused(target, 2, 5000) is DropReason.PORT_ALLOCATION


# Limits


@pytest.mark.requirement("AWS-lambda-65000", profile="aws")
def test_lambda_s_limit_of_an_interface(make: Make) -> None:
    """65,000 connections of one address, to however many destinations."""
    ports = Ports(limit_per_interface=65_000)
    target = make(flows_max=70_000, ports=ports)
    for number in range(65_000):
        remote = f"10.0.{1 + number % 4}.80"
        frame = traffic.datagram(
            1, 1 + number % 60_000, remote=remote, remote_port=number // 60_000
        )
        target.engine.translate(frame, INSIDE, 1, 0)
    assert target.count("flows_active_udp") == 65_000
    assert _refused(target, 2, 1) is DropReason.PORT_LIMIT_INTERFACE
    assert target.count("port_allocation_errors") == 1
    assert traffic.opened(target.engine, 3, 1) in range(1024, 65536)


@pytest.mark.requirement("RFC6888-4", profile="rfc")
@pytest.mark.requirement("RFC6888-5", profile="rfc")
def test_an_environment_s_limit_counts_what_is_held(make: Make) -> None:
    target = make(
        ports=Ports(40000, 40255, limit_per_environment=3),
        timeouts=Timeouts(udp=1000, hold=500),
    )
    for number in range(3):
        traffic.opened(target.engine, 1, 1000 + number)
    assert _refused(target, 1, 999) is DropReason.PORT_LIMIT_ENVIRONMENT
    target.engine.expire(1000)
    assert _refused(target, 1, 999, 1000) is DropReason.PORT_LIMIT_ENVIRONMENT
    # Its own held entries it may use.
    traffic.opened(target.engine, 1, 1000, 1000)
    traffic.opened(target.engine, 2, 999, 1000)
    target.engine.expire(1500)
    traffic.opened(target.engine, 1, 999, 1500)
    assert target.problems() == []


def test_a_mapping_counts_for_its_environment(make: Make) -> None:
    target = make(
        ports=Ports(40000, 40255, limit_per_environment=3),
        behaviour=Behaviour(endpoint_independent=True),
    )
    traffic.opened(target.engine, 1, 1000)
    assert _refused(target, 1, 1001) is DropReason.PORT_LIMIT_ENVIRONMENT
    traffic.opened(target.engine, 1, 1000, remote_port=8)
    assert _refused(target, 1, 1000, remote_port=9) is DropReason.PORT_LIMIT_ENVIRONMENT
    assert target.problems() == []


# What is told


@pytest.mark.requirement("AWS-error-port-allocation", profile="aws")
def test_exhaustions_are_remembered(make: Make) -> None:
    target = make(ports=Ports(40000, 40000, limit_per_environment=2))
    traffic.opened(target.engine, 1, 1000)
    for now in (5, 9):
        assert _refused(target, 2, 1000, now) is DropReason.PORT_ALLOCATION
    assert _refused(target, 5, 1000, 12) is DropReason.PORT_ALLOCATION
    traffic.opened(target.engine, 1, 1000, remote_port=8)
    assert _refused(target, 1, 1000, 20, remote_port=9) is DropReason.PORT_LIMIT_ENVIRONMENT
    found = sorted(target.map.exhaustions())
    assert [tuple(each) for each in found] == [
        ("udp", 0, "0.0.0.0", 0, 1, DropReason.PORT_LIMIT_ENVIRONMENT, 1, 20),
        ("udp", 0, scenario.WEB, 7, 5, DropReason.PORT_ALLOCATION, 3, 12),
    ]
    assert target.count("port_allocation_errors") == 4
    kinds = {event.kind for event in target.engine.drain_events()}
    assert kinds == {EventKind.PORT_ALLOCATION}
    # A reader sees the same, and so does the next forwarder.
    reader = StateMap.open(target.path)
    assert sorted(reader.exhaustions()) == found
    reader.close()


def test_the_oldest_exhaustion_makes_room(make: Make) -> None:
    """However many endpoints there are: the table is full of recent ones, and one stays in use."""
    target = make(flows_max=8, ports=Ports(40000, 40000, limit_per_interface=0))
    engine = target.engine
    engine.configure(timeouts_ms=None, now_ms=0)
    now = 0
    busy = traffic.datagram(2, 9, remote_port=7)
    traffic.opened(engine, 1, 1000)
    for number in range(5000):
        now += 500_000
        remote_port = 100 + number
        traffic.opened(engine, 1, 1000, now, remote_port=remote_port)
        assert _refused(target, 2, 1, now, remote_port=remote_port) is DropReason.PORT_ALLOCATION
        traffic.opened(engine, 1, 1000, now)
        engine.translate(busy, INSIDE, 2, now)
        engine.expire(now)
    found = {each.remote_port: each for each in target.map.exhaustions()}
    assert 800 < len(found) <= 1024
    assert found[7].errors == 5000
    assert found[5099].last_ms == now
    recent = [port for port in found if port > 100 + 5000 - 300]
    assert len(recent) > 250


# The answer


@pytest.mark.requirement("RFC6888-11", profile="rfc")
@pytest.mark.parametrize(
    "setup",
    [
        scenario.Setup(behaviour=Behaviour(exhaustion_icmp=True)),
        scenario.Setup(flows_max=1, behaviour=Behaviour(exhaustion_icmp=True)),
        scenario.Setup(
            ports=Ports(limit_per_interface=1), behaviour=Behaviour(exhaustion_icmp=True)
        ),
        scenario.Setup(
            ports=Ports(limit_per_environment=1), behaviour=Behaviour(exhaustion_icmp=True)
        ),
    ],
    ids=["port", "table", "interface", "environment"],
)
def test_who_is_refused_is_told(setup: scenario.Setup) -> None:
    """ICMP 3/13 with the refused packet quoted; live flows are left alone."""
    pair = Pair(setup)
    first = traffic.datagram(1, 1000)
    assert pair.translate(first, INSIDE, 1).action == "forward"
    result = pair.translate(traffic.datagram(1, 1001), INSIDE, 1)
    assert result.action == "reply"
    assert (result.side, result.port) == (INSIDE, 1)
    assert tuple(result.frame[34:36]) == (3, 13)
    assert result.frame[42:62] == traffic.datagram(1, 1001)[14:34]
    assert pair.translate(first, INSIDE, 1).action == "forward"
    pair.compare_counters()
    assert pair.engine.counters()["replies_icmp"] == 1
    pair.close()


def test_nobody_is_told_by_default() -> None:
    pair = Pair(scenario.Setup())
    pair.translate(traffic.datagram(1, 1000), INSIDE, 1)
    verdict = pair.engine.translate(traffic.datagram(1, 1001), INSIDE, 1, 0)
    assert (verdict.action, verdict.reason) == (Action.DROP, DropReason.PORT_ALLOCATION)
    pair.close()
