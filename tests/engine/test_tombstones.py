# SPDX-License-Identifier: Apache-2.0
"""How many idle connections are remembered, by whom, and until when: see vectors/tcp_idle.toml."""

import pytest

from hyperplane_nat.engine import Action, Behaviour, DropReason, Engine
from tests.engine import scenario, traffic
from tests.engine.compiled import SEED, EngineTarget, configured, set_interface
from tests.engine.scenario import INSIDE
from tests.reference import Behaviour as ModelBehaviour
from tests.reference import Ports, Timeouts, packet

IDLE = 1000
HOLD = 500
FLOWS = 2000


def setup_of(tombstones: int) -> scenario.Setup:
    return scenario.Setup(
        flows_max=FLOWS,
        ports=Ports(40000, 65535, FLOWS),
        timeouts=Timeouts(tcp_opening=IDLE, hold=HOLD),
        behaviour=ModelBehaviour(tombstones=tombstones),
    )


def segment(flags: int, port: int, slot: int = 1) -> bytes:
    ends = (scenario.ENVIRONMENT, scenario.WEB)
    content = packet.tcp(*ends, port, 80, flags, seq=1, ack=77)
    return traffic.frame_in(INSIDE, slot, packet.ipv4(*ends, packet.TCP, content))


def idled(target: EngineTarget, count: int) -> None:
    """Connections of `count` ports begin at 0 and are free at IDLE + HOLD."""
    for port in range(1024, 1024 + count):
        target.engine.translate(segment(packet.SYN, port), INSIDE, 1, 0)
    assert len(target.engine.flows()) == count
    target.engine.expire(IDLE + HOLD)
    assert target.engine.flows() == []


def answered(engine: Engine, count: int, slot: int = 1, now: int = IDLE + HOLD) -> int:
    """How many of the connections' late segments get a reset; the others are strays."""
    verdicts = [
        engine.translate(segment(packet.ACK, port, slot), INSIDE, slot, now)
        for port in range(1024, 1024 + count)
    ]
    assert {verdict.reason for verdict in verdicts if verdict.action is Action.DROP} <= {
        DropReason.TCP_NO_FLOW
    }
    return sum(verdict.action is Action.REPLY for verdict in verdicts)


@pytest.mark.parametrize("room", [1, 3, 100])
def test_a_full_table_forgets_the_oldest(room: int) -> None:
    """As many are remembered as there is room for, nearly; more only write over older ones."""
    target = EngineTarget(setup_of(room))
    idled(target, FLOWS)
    assert room * 0.9 <= answered(target.engine, FLOWS) <= room
    target.close()


def test_a_sparse_table_forgets_few() -> None:
    target = EngineTarget(setup_of(1 << 22))
    idled(target, FLOWS)
    assert answered(target.engine, FLOWS) >= FLOWS - 20
    assert target.count("replies_tcp") == target.count("drop_tcp_idle_timeout")
    target.close()


def test_the_room_can_be_changed() -> None:
    """The same number keeps what is remembered, another one forgets it."""
    target = EngineTarget(setup_of(1 << 16))
    engine = target.engine
    idled(target, 1)
    engine.configure(behaviour=Behaviour(tombstones=1 << 16, idle_reset=False))
    verdict = engine.translate(segment(packet.ACK, 1024), INSIDE, 1, 5000)
    assert verdict.reason is DropReason.TCP_IDLE_TIMEOUT
    engine.configure(behaviour=Behaviour(tombstones=1 << 10))
    assert answered(engine, 1) == 0
    engine.configure(behaviour=Behaviour(tombstones=0))
    assert answered(engine, 1) == 0
    target.close()


def test_a_successor_of_the_environment_inherits_nothing() -> None:
    target = EngineTarget(setup_of(1 << 16))
    engine = target.engine
    idled(target, 10)
    assert answered(engine, 10) == 10
    engine.remove_slot(1)
    engine.set_slot(
        1,
        address=scenario.ENVIRONMENT,
        gateway=scenario.GATEWAY,
        environment_mac=scenario.environment_mac(1),
        gateway_mac=scenario.gateway_mac(1),
        interface=0,
        link=7,
    )
    assert answered(engine, 10) == 0
    target.close()


def test_a_removed_interface_leaves_nothing_to_answer() -> None:
    """What ended by removal was not idle: nobody gets a reset for it."""
    target = EngineTarget(setup_of(1 << 16))
    engine = target.engine
    engine.translate(segment(packet.SYN, 1024), INSIDE, 1, 0)
    engine.remove_interface(0)
    engine.sweep(0)
    set_interface(engine, 0)
    assert answered(engine, 1, now=1) == 0
    target.close()


def test_what_a_successor_of_the_engine_knows() -> None:
    """The map keeps connections whose port is held; tombstones go with the process."""
    target = EngineTarget(setup_of(1 << 16))
    idled(target, 1)
    target.engine.translate(segment(packet.SYN, 1024 + 1), INSIDE, 1, 2000)
    target.engine.expire(2000 + IDLE)
    del target.engine
    target.engine = Engine(target.map, seed=SEED, now_ms=2000 + IDLE)
    configured(target.engine, setup_of(1 << 16), 2000 + IDLE)
    assert answered(target.engine, 2, now=2000 + IDLE) == 1
    target.engine.expire(2000 + IDLE + HOLD)
    assert target.engine.flows() == []
    assert answered(target.engine, 2, now=2000 + IDLE + HOLD) == 1
    target.close()
