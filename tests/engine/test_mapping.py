# SPDX-License-Identifier: Apache-2.0
"""Mappings and their flows: kills, retirement, a change of mode, and floods from outside."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.engine import Action, DropReason, Engine, Filtering, StateMap, Verdict
from hyperplane_nat.engine import Behaviour as EngineBehaviour
from hyperplane_nat.engine import Mapping as NatMapping
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget, configured
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Behaviour, Ports, Timeouts

OPEN = Behaviour(endpoint_independent=True, filtering="endpoint_independent")
SETUP = scenario.Setup(
    flows_max=256,
    ports=Ports(40000, 40063),
    timeouts=Timeouts(udp=1000, hold=500),
    behaviour=OPEN,
)


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    result = EngineTarget(SETUP)
    yield result
    assert result.problems() == []
    result.close()


def _reopened(path: Path, now: int, setup: scenario.Setup = SETUP) -> Engine:
    engine = Engine(StateMap.open(path, writable=True), now_ms=now)
    configured(engine, setup, now)
    return engine


def _answers(engine: Engine, nat_port: int, now: int = 0, remote_port: int = 7) -> Verdict:
    return engine.translate(traffic.answer(nat_port, remote_port=remote_port), OUTSIDE, 0, now)


@pytest.mark.requirement("RFC4787-1", profile="rfc")
def test_one_port_towards_everybody(target: EngineTarget) -> None:
    remotes = [(remote, port) for remote in (scenario.WEB, scenario.FAR) for port in (7, 8, 9)]
    ports = {
        traffic.opened(target.engine, 1, 5000, remote=remote, remote_port=port)
        for remote, port in remotes
    }
    assert len(ports) == 1
    (mapping,) = target.mappings()
    assert (mapping[1], mapping[9], mapping[10]) == ("MAPPING", ports.pop(), len(remotes))
    assert target.count("mappings_active") == 1
    assert target.count("flows_active_udp") == len(remotes)
    assert target.count("flows_entries_used") == len(remotes) + 1


@pytest.mark.requirement("RFC4787-3", profile="rfc")
def test_no_port_is_shared(target: EngineTarget) -> None:
    ports = [traffic.opened(target.engine, slot, 5000 + n) for slot in (1, 2) for n in range(32)]
    assert sorted(ports) == list(range(40000, 40064))
    refused = target.engine.translate(traffic.datagram(5, 1, remote_port=99), INSIDE, 5, 0)
    assert refused.reason is DropReason.PORT_ALLOCATION
    (exhaustion,) = target.map.exhaustions()
    assert (exhaustion.remote_address, exhaustion.remote_port) == ("0.0.0.0", 0)


@pytest.mark.requirement("RFC6888-7", profile="rfc")
@pytest.mark.requirement("RFC4787-8", profile="rfc")
@pytest.mark.requirement("RFC4787-6", profile="rfc")
def test_a_flood_from_outside_makes_and_refreshes_nothing(target: EngineTarget) -> None:
    engine = target.engine
    port = traffic.opened(engine, 1, 5000)
    before, mappings = target.flows(), target.mappings()
    for remote_port in range(1, 2000):
        if remote_port != 7:
            verdict = _answers(engine, port, 900, remote_port=remote_port)
            assert (verdict.action, verdict.side, verdict.port) == (Action.FORWARD, INSIDE, 1)
    assert (target.flows(), target.mappings()) == (before, mappings)
    engine.expire(1000)
    assert target.flows() == set()
    assert _answers(engine, port, 1000, remote_port=8).reason is DropReason.FLOW_HELD


def test_the_hold_time_counts_from_the_last_end(target: EngineTarget) -> None:
    """In whatever order ends are noticed."""
    engine = target.engine
    port = traffic.opened(engine, 1, 5000)
    for now, remote_port in ((200, 8), (100, 9)):
        traffic.opened(engine, 1, 5000, now, remote_port=remote_port)
    engine.expire(1450)
    assert [each[1] for each in target.mappings()] == ["HELD"]
    engine.expire(1699)
    assert len(target.mappings()) == 1
    assert traffic.opened(engine, 1, 5000, 1699) == port
    engine.expire(3198)
    assert len(target.mappings()) == 1
    engine.expire(3199)
    assert target.mappings() == set()
    assert target.count("flows_entries_used") == 0


def test_everything_late_is_settled_at_once(target: EngineTarget) -> None:
    traffic.opened(target.engine, 1, 5000)
    traffic.opened(target.engine, 1, 5000, 300, remote_port=8)
    target.engine.expire(100_000)
    assert (target.flows(), target.mappings()) == (set(), set())


def test_a_kill_loses_nothing(target: EngineTarget) -> None:
    engine = target.engine
    ports = {
        inside: traffic.opened(engine, 1, inside, remote_port=remote_port)
        for inside in (5000, 5001)
        for remote_port in (7, 8)
    }
    traffic.opened(engine, 2, 5000, 600)
    engine.expire(1000)
    mappings = target.mappings()
    assert sorted(each[1] for each in mappings) == ["HELD", "HELD", "MAPPING"]
    del engine
    again = _reopened(target.path, 1100)
    assert again.verify() == []
    assert {tuple(each)[1:] for each in again.mappings()} == {
        tuple(each)[1:] for each in target.engine.mappings()
    }
    assert again.counters()["mappings_active"] == 1
    for inside, port in ports.items():
        assert traffic.opened(again, 1, inside, 1100, remote_port=9) == port
    # The books of the engine that was killed are of no interest.
    target.engine = again


@pytest.mark.parametrize("damage", ["flow", "mapping"])
def test_half_of_a_pair_survives_a_kill(target: EngineTarget, damage: str) -> None:
    """A mapping without flows is held; a flow without its mapping goes on with its port."""
    engine = target.engine
    port = traffic.opened(engine, 1, 5000)
    victim = engine.flows()[0] if damage == "flow" else engine.mappings()[0]
    (entries,) = struct.unpack_from("<Q", target.map.memory, _entries_offset(target.map))
    target.map.memory[entries + victim.entry * 64 + 15] = 0
    again = _reopened(target.path, 100)
    assert again.verify() == []
    if damage == "flow":
        assert [each.state for each in again.mappings()] == ["HELD"]
        assert traffic.opened(again, 1, 5000, 100, remote_port=8) == port
        again.expire(1100)
        again.expire(1600)
    else:
        assert again.mappings() == []
        assert _answers(again, port, 100).action is Action.FORWARD
        # No mapping may take its port while it is in use towards the same remote.
        outcomes = [
            again.translate(traffic.datagram(2, 6000 + n), INSIDE, 2, 100) for n in range(60)
        ]
        others = {traffic.source_port(each) for each in outcomes if each.action is Action.FORWARD}
        assert len(others) > 50
        assert port not in others
        again.expire(1100)
        again.expire(2100)
    assert again.verify() == []
    assert again.mappings() == []
    assert again.flows() == []
    target.engine = again


def _entries_offset(state_map: StateMap) -> int:
    """Where the header says at which offset the entries begin."""
    return 8 + 4 + 4 + 8 + 6 * 4 + 3 * 8


def test_a_slot_goes_with_its_mappings(target: EngineTarget) -> None:
    engine = target.engine
    ports = {
        traffic.opened(engine, 1, 5000 + n, remote_port=remote_port)
        for n in range(3)
        for remote_port in (7, 8)
    }
    other = traffic.opened(engine, 2, 5000)
    engine.remove_slot(1)
    budget = 0
    while engine.sweep(100, 3):
        assert engine.verify() == []
        budget += 1
    assert budget > 3
    assert engine.retiring() == ([], [])
    assert {flow[2] for flow in target.flows()} == {2}
    for port in ports:
        assert _answers(engine, port, 100).reason is DropReason.FLOW_HELD
    assert traffic.opened(engine, 2, 5000, 100) == other
    # Nobody's until the hold time is over, also for whoever has the slot next.
    configured(engine, SETUP, 100)
    assert traffic.opened(engine, 1, 5000, 599) not in ports
    engine.expire(600)
    assert target.count("mappings_active") == 2
    assert engine.verify() == []


def test_an_interface_goes_with_its_mappings(target: EngineTarget) -> None:
    engine = target.engine
    for number in range(3):
        for remote_port in (7, 8):
            traffic.opened(engine, 1, 5000 + number, remote_port=remote_port)
    engine.remove_interface(0)
    while engine.sweep(0, 2):
        assert engine.verify() == []
    assert (target.flows(), target.mappings()) == (set(), set())
    assert engine.retiring() == ([], [])


def test_a_change_of_mode_keeps_flows_apart(target: EngineTarget) -> None:
    """Flows go on as they are; nobody gets the port of another's flow towards its remote."""
    engine = target.engine
    mapped = {5000 + n: traffic.opened(engine, 1, 5000 + n) for n in range(30)}
    engine.configure(behaviour=EngineBehaviour(), now_ms=0)
    assert engine.verify() == []
    own = {6000 + n: traffic.opened(engine, 2, 6000 + n) for n in range(30)}
    assert not set(mapped.values()) & set(own.values())
    engine.configure(behaviour=EngineBehaviour(mapping=NatMapping.ENDPOINT_INDEPENDENT), now_ms=0)
    assert engine.verify() == []
    for inside, port in mapped.items():
        assert traffic.opened(engine, 1, inside, 10) == port
    for inside, port in own.items():
        assert traffic.opened(engine, 2, inside, 10) == port
    # Towards that remote four ports are left, towards others more.
    outcomes = [engine.translate(traffic.datagram(5, 1 + n), INSIDE, 5, 20) for n in range(60)]
    taken = [traffic.source_port(each) for each in outcomes if each.action is Action.FORWARD]
    assert not set(taken) & (set(mapped.values()) | set(own.values()))
    assert engine.verify() == []
    engine.expire(3000)
    engine.expire(9000)


@pytest.mark.slow
def test_permissions_do_not_overflow() -> None:
    """One inside port to every port of one address: the last is refused, nothing wraps."""
    target = EngineTarget(scenario.Setup(flows_max=70_000, behaviour=OPEN))
    engine = target.engine
    outcomes = [
        engine.translate(traffic.datagram(1, 5000, remote_port=port), INSIDE, 1, 0).reason
        for port in range(65_536)
    ]
    assert outcomes.count(DropReason.PORT_ALLOCATION) == 1
    assert target.problems() == []
    target.close()


@pytest.mark.requirement("RFC4787-8", profile="rfc")
def test_filtering_follows_the_flows(target: EngineTarget) -> None:
    """An address may send as long as a flow to it lives, whichever of several."""
    address_dependent = EngineBehaviour(
        mapping=NatMapping.ENDPOINT_INDEPENDENT, filtering=Filtering.ADDRESS_DEPENDENT
    )
    target.engine.configure(behaviour=address_dependent, now_ms=0)
    engine = target.engine
    port = traffic.opened(engine, 1, 5000, remote_port=7)
    traffic.opened(engine, 1, 5000, 500, remote_port=8)
    traffic.opened(engine, 1, 5000, 800, remote=scenario.FAR)
    engine.expire(1000)
    assert _answers(engine, port, 1000, remote_port=99).action is Action.FORWARD
    engine.expire(1500)
    assert _answers(engine, port, 1500, remote_port=99).reason is DropReason.FILTERED
