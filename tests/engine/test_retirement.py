# SPDX-License-Identifier: Apache-2.0
"""Slots and interfaces that go: their flows are dead at once, and nobody inherits them."""

import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperplane_nat.engine import Action, DropReason, Engine, StateMap
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget, configured
from tests.engine.connection import Connection
from tests.engine.pair import Pair
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Ports, Timeouts, packet

SETUP = scenario.Setup(
    flows_max=512,
    ports=Ports(40000, 40063, 55_000),
    timeouts=Timeouts(udp=1000, hold=500, tcp_reset=500),
)


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    result = EngineTarget(SETUP)
    yield result
    assert result.problems() == []
    result.close()


def set_slot(engine: Engine, number: int, interface: int | None = 0, link: int = 0) -> None:
    engine.set_slot(
        number,
        address=scenario.ENVIRONMENT,
        gateway=scenario.GATEWAY,
        environment_mac=scenario.environment_mac(number),
        gateway_mac=scenario.gateway_mac(number),
        interface=interface,
        link=link,
    )


def set_interface(engine: Engine, number: int, address: str) -> None:
    engine.set_interface(
        number,
        address=address,
        mac=scenario.interface_mac(number),
        subnet=scenario.SUBNETS[number],
        router=scenario.ROUTERS[number],
        destinations=scenario.DESTINATIONS,
    )


def test_a_slot_without_flows_goes_at_once(target: EngineTarget) -> None:
    target.engine.remove_slot(1)
    assert target.engine.retiring() == ([], [])
    set_slot(target.engine, 1, link=7)
    traffic.opened(target.engine, 1, 5000)


def test_flows_of_a_removed_slot_are_dead_at_once(target: EngineTarget) -> None:
    engine = target.engine
    port = traffic.opened(engine, 1, 5000)
    engine.remove_slot(1)
    assert engine.retiring() == ([1], [])
    assert target.problems() == []
    out = engine.translate(traffic.datagram(1, 5000), INSIDE, 1, 1)
    assert out.reason is DropReason.UNKNOWN_LINK
    back = engine.translate(traffic.answer(port), OUTSIDE, 0, 1)
    assert back.reason is DropReason.UNKNOWN_LINK
    # Until the sweep has passed the number cannot be used.
    assert not engine.admits_slot(1, 0, 7)
    with pytest.raises(ValueError, match="slot 1 still has flows of another environment"):
        set_slot(engine, 1, link=7)


@pytest.mark.parametrize("kind", ["udp", "tcp", "held", "time-wait"])
def test_the_next_environment_does_not_meet_old_flows(target: EngineTarget, kind: str) -> None:
    """Not by the same addresses and ports, not by a late answer; the port is held as ever."""
    engine = target.engine
    if kind in ("udp", "held"):
        old = traffic.opened(engine, 1, 5000)
        frame, late = traffic.datagram(1, 5000), traffic.answer(old)
        now = 1000 if kind == "held" else 0
        engine.expire(now)
    else:
        now = 0
        frame = traffic.segment(1, 5000)
        old = traffic.source_port(engine.translate(frame, INSIDE, 1, 0))
        if kind == "time-wait":
            engine.translate(traffic.segment(1, 5000, packet.RST, seq=1001), INSIDE, 1, 0)
        late = traffic.segment_back(old, packet.SYN | packet.ACK, ack=1001)
    engine.remove_slot(1)
    assert engine.sweep(now) > 0
    assert engine.retiring() == ([], [])
    assert engine.flows() == []
    assert target.problems() == []
    set_slot(engine, 1, link=7)
    assert engine.translate(late, OUTSIDE, 0, now).reason is DropReason.FLOW_HELD
    new = traffic.source_port(engine.translate(frame, INSIDE, 1, now))
    assert new != old
    assert len(engine.flows()) == 1
    assert target.problems() == []
    # Held for its time, and no longer.
    assert target.count("flows_entries_used") == 2
    engine.expire(now + 500)
    assert target.count("flows_entries_used") == 1
    assert engine.translate(late, OUTSIDE, 0, now + 500).reason is DropReason.NO_FLOW


def test_only_what_goes_is_swept(target: EngineTarget) -> None:
    engine = target.engine
    kept = {(slot, traffic.opened(engine, slot, 5000)) for slot in (2, 5)}
    for number in range(5):
        traffic.opened(engine, 1, 5000 + number, remote_port=9)
    engine.remove_slot(1)
    engine.sweep(0)
    assert {(flow.slot, flow.nat_port) for flow in engine.flows()} == kept
    assert target.count("flows_ended_udp_removed") == 5
    assert target.count("flows_active_udp") == 2


def test_a_sweep_keeps_to_its_budget(target: EngineTarget) -> None:
    """Small steps for everything at once, with traffic in between, end with all numbers free."""
    engine = target.engine
    for slot in (1, 2, 3, 5):
        for number in range(20):
            traffic.opened(engine, slot, 5000 + number, remote=scenario.FAR)
    for slot in (1, 2):
        engine.remove_slot(slot)
    steps = 0
    while engine.retiring() != ([], []):
        assert 0 < engine.sweep(0, 10) <= 10 + 16
        steps += 1
        if steps == 3:
            engine.remove_slot(3)
        traffic.opened(engine, 5, 6000 + steps % 8)
        assert target.problems() == []
    assert steps > 5
    assert engine.sweep(0, 10) == 0
    assert {flow.slot for flow in engine.flows()} == {5}


def test_expiry_frees_a_number_as_well(target: EngineTarget) -> None:
    engine = target.engine
    traffic.opened(engine, 1, 5000)
    engine.remove_slot(1)
    engine.expire(1500)
    assert engine.retiring() == ([], [])


@pytest.mark.parametrize("state", ["ESTABLISHED", "FIN_BOTH", "TIME_WAIT", "RESET"])
def test_a_remembered_syn_holds_no_port_of_a_slot_that_is_gone(state: str) -> None:
    """While it is remembered the flow has the time of an opening; what is left has the hold's."""
    timeouts = Timeouts(
        tcp_opening=60_000, tcp_established=500, tcp_closing=500, tcp_reset=500, hold=500
    )
    pair = Pair(scenario.Setup(timeouts=timeouts))
    connection = Connection(pair)
    connection.bring_to(state)
    connection.send(INSIDE, packet.SYN, seq=70_000)
    assert connection.state == state
    pair.now += 1000
    pair.expire(1000)
    assert connection.state == state
    pair.engine.remove_slot(1)
    pair.engine.sweep(pair.now)
    assert pair.engine.retiring() == ([], [])
    pair.engine.expire(pair.now + 600)
    assert pair.target.count("flows_entries_used") == 0
    assert pair.target.problems() == []
    pair.target.close()


def test_a_removed_interface_takes_its_ports_along(target: EngineTarget) -> None:
    """Its number may be given to another address, for which all ports are free."""
    engine = target.engine
    for number in range(64):
        traffic.opened(engine, 1, 5000 + number)
    port = engine.flows()[0].nat_port
    engine.remove_interface(0)
    assert engine.retiring() == ([], [0])
    assert engine.translate(traffic.answer(port), OUTSIDE, 0, 0).reason is DropReason.UNKNOWN_LINK
    assert engine.translate(traffic.datagram(1, 1), INSIDE, 1, 0).reason is DropReason.NO_ROUTE
    assert not engine.admits_interface(0, "10.0.1.10")
    with pytest.raises(ValueError, match="interface 0 still has flows of another"):
        set_interface(engine, 0, "10.0.1.99")
    engine.sweep(0)
    assert engine.retiring() == ([], [])
    assert target.count("flows_entries_used") == 0
    set_interface(engine, 0, "10.0.1.99")
    assert engine.translate(traffic.datagram(1, 1), INSIDE, 1, 0).action is Action.HOLD


def test_interface_and_slot_go_together(target: EngineTarget) -> None:
    engine = target.engine
    traffic.opened(engine, 1, 5000)
    traffic.opened(engine, 3, 5000, remote=scenario.FAR)
    engine.remove_slot(1)
    engine.sweep(0)
    engine.remove_slot(3)
    # The held entry of slot 1 is nobody's, and belongs to the interface all the same.
    for number in (0, 1):
        engine.remove_interface(number)
    assert engine.retiring() == ([3], [0, 1])
    engine.sweep(0)
    assert engine.retiring() == ([], [])
    assert target.count("flows_entries_used") == 0


def test_leaving_the_pool_needs_no_sweep(target: EngineTarget) -> None:
    engine = target.engine
    number = scenario.POOLED
    pooled = engine.translate(traffic.datagram(number, 5000), INSIDE, number, 0)
    assert pooled.reason is DropReason.ENVIRONMENT_UNATTACHED
    assert target.map.slot_counters(number)["drops"] == 1
    set_slot(engine, number, 0)
    traffic.opened(engine, number, 5000)
    # Nor does going on with the same interface; another one does.
    set_slot(engine, number, 0)
    assert len(engine.flows()) == 1
    assert not engine.admits_slot(number, 1)
    assert not engine.admits_slot(number, None)


def test_counters_of_a_slot_begin_with_its_environment(target: EngineTarget) -> None:
    set_slot(target.engine, scenario.POOLED, None, link=3)
    set_slot(target.engine, scenario.POOLED, 0, link=3)
    traffic.opened(target.engine, scenario.POOLED, 5000)
    assert target.map.slot_counters(scenario.POOLED)["packets_out"] == 1
    target.engine.remove_slot(scenario.POOLED)
    target.engine.sweep(0)
    set_slot(target.engine, scenario.POOLED, None, link=4)
    assert target.map.slot_counters(scenario.POOLED)["packets_out"] == 0


def reopened(target: EngineTarget, now: int) -> Engine:
    """The engine of a forwarder that takes over, before it is told anything."""
    del target.engine
    target.map = StateMap.open(Path(target.path), writable=True)
    target.engine = Engine(target.map, now_ms=now)
    return target.engine


def test_flows_of_slots_that_a_successor_is_not_told_are_swept(target: EngineTarget) -> None:
    for slot in (1, 2):
        traffic.opened(target.engine, slot, 5000)
    traffic.opened(target.engine, 3, 5000, remote=scenario.FAR)
    target.engine.remove_slot(5)
    engine = reopened(target, 10)
    assert engine.retiring() == ([], [])
    for number in (0, 2):
        set_interface(engine, number, scenario.INTERFACE_ADDRESSES[number])
    for slot in (1, 4):
        set_slot(engine, slot, 0 if slot == 1 else 2)
    engine.remove_strangers()
    assert engine.retiring() == ([2, 3], [1])
    assert target.problems() == []
    engine.sweep(10)
    assert [flow.slot for flow in engine.flows()] == [1]


def take_over(engine: Engine) -> None:
    """Tell a successor what concerns slot 1."""
    set_interface(engine, 0, scenario.INTERFACE_ADDRESSES[0])
    engine.set_neighbour(0, scenario.WEB, scenario.neighbour_mac(0, scenario.WEB))
    set_slot(engine, 1, 0, link=7)


def test_a_successor_knows_another_environment_by_its_link(target: EngineTarget) -> None:
    set_slot(target.engine, 1, 0, link=7)
    port = traffic.opened(target.engine, 1, 5000)
    engine = reopened(target, 10)
    assert engine.admits_slot(1, 0, 7)
    assert not engine.admits_slot(1, 0, 8)
    assert not engine.admits_slot(1, 1, 7)
    assert not engine.admits_slot(1, None, 7)
    assert not engine.admits_interface(0, "10.0.1.11")
    take_over(engine)
    assert traffic.opened(engine, 1, 5000, 10) == port


def test_a_kill_in_the_middle_of_a_sweep(target: EngineTarget) -> None:
    """What was swept stays nobody's, what was not is swept by the successor."""
    for number in range(40):
        traffic.opened(target.engine, 1, 5000 + number)
    kept = traffic.opened(target.engine, 2, 5000, remote_port=9)
    target.engine.remove_slot(1)
    target.engine.sweep(0, 200)
    assert 1 in target.engine.retiring()[0]
    engine = reopened(target, 10)
    assert target.problems() == []
    engine.remove_slot(1)
    engine.sweep(10)
    assert engine.retiring() == ([], [])
    assert target.problems() == []
    assert [flow.nat_port for flow in engine.flows()] == [kept]
    assert target.count("flows_entries_used") == 41
    # A second start finds the same.
    engine = reopened(target, 20)
    assert target.problems() == []
    assert target.count("flows_entries_used") == 41
    configured(engine, SETUP, 20)
    engine.expire(600)
    assert target.count("flows_entries_used") == 1


@pytest.mark.parametrize("seed", range(5))
def test_environments_come_and_go(seed: int) -> None:
    """At any moment a flow belongs to the environment that has the slot, or to nobody."""
    target = EngineTarget(SETUP)
    engine, source = target.engine, random.Random(seed)
    links = dict.fromkeys((1, 2, 5), 1)
    latest = 1
    for slot in links:
        set_slot(engine, slot, 0, link=1)
    now = 0
    for _ in range(1500):
        slot = source.choice(list(links))
        match source.randrange(12):
            case 0:
                engine.remove_slot(slot)
                links[slot] = 0
            case 1 | 2:
                if not links[slot] and engine.admits_slot(slot, 0, latest + 1):
                    latest += 1
                    links[slot] = latest
                    set_slot(engine, slot, 0, link=links[slot])
            case 3:
                engine.sweep(now, source.choice((1, 5, 50)))
            case 4:
                now += source.choice((1, 100, 600))
                engine.expire(now, 100)
            case 5 | 6:
                back = engine.translate(
                    traffic.answer(40000 + source.randrange(64)), OUTSIDE, 0, now
                )
                if back.action is Action.FORWARD:
                    assert links[back.port]
            case _:
                port = 5000 + source.randrange(8)
                out = engine.translate(traffic.datagram(slot, port), INSIDE, slot, now)
                assert (out.action is Action.FORWARD) <= bool(links[slot])
        assert target.problems() == []
    engine.expire(now + 5000)
    assert target.count("flows_entries_used") == 0
    assert engine.retiring() == ([], [])
    target.close()


KILLS = 10
DEADLINE_SECONDS = 120.0


def come_and_go(engine: Engine, now: int, seed: int) -> None:
    """Environments with flows, one after the other in slot 1, for ever."""
    source = random.Random(seed)
    for link in itertools.count(1):
        set_slot(engine, 1, 0, link=link)
        for _ in range(source.randrange(30)):
            engine.translate(traffic.datagram(1, 5000 + source.randrange(64)), INSIDE, 1, now)
        engine.remove_slot(1)
        while engine.sweep(now, source.choice((1, 7, 100))):
            engine.translate(traffic.datagram(2, 5000 + source.randrange(8)), INSIDE, 2, now)
        now += source.randrange(200)
        engine.expire(now, 50)


def test_killed_while_environments_come_and_go(target: EngineTarget) -> None:
    """SIGKILL again and again: the books agree, and whoever comes next gets a number of its own."""
    source = random.Random(3)
    now = 0
    for kill in range(KILLS):
        engine = reopened(target, now)
        configured(engine, SETUP, now)
        wanted = target.count("flows_created_udp") + source.randrange(1, 3000)
        child = os.fork()
        if child == 0:
            try:
                come_and_go(engine, now, kill)
            finally:
                os._exit(1)
        try:
            end = time.monotonic() + DEADLINE_SECONDS
            while target.map.counters()["flows_created_udp"] < wanted:
                assert time.monotonic() < end, "the child makes no progress"
                assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child ended by itself"
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        now = max([now, *(flow.last_seen_ms for flow in target.map.flows())])
        del engine
        engine = reopened(target, now)
        assert target.problems() == [], f"after kill {kill}"
        assert {flow.slot for flow in engine.flows()} <= {1, 2}
        engine.remove_slot(1)
        engine.sweep(now)
        assert engine.retiring() == ([], [])
        assert target.problems() == [], f"after kill {kill}"
        set_slot(engine, 1, 0, link=0)
        assert {flow.slot for flow in engine.flows()} <= {2}
        del engine
    configured(target.engine, SETUP, now)
    target.engine.expire(now + 5000)
    assert target.count("flows_entries_used") == 0
