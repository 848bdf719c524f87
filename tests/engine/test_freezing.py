# SPDX-License-Identifier: Apache-2.0
"""An environment that stands still: nothing passes its link, and no flow notices what would."""

from collections.abc import Iterator

import pytest

from hyperplane_nat.engine import Action, DropReason
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget, set_slot
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Timeouts, packet

IDLE = 350_000
SETUP = scenario.Setup(timeouts=Timeouts(tcp_established=IDLE))


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    made = EngineTarget(SETUP)
    yield made
    made.close()


def freeze(target: EngineTarget, silent: bool = True) -> None:
    set_slot(target.engine, 1, 0, mtu=SETUP.slot_mtu, silent=silent)


def connected(target: EngineTarget) -> int:
    """The NAT port of a connection that is established at 0."""
    engine = target.engine
    port = traffic.source_port(engine.translate(traffic.segment(1, 5000), INSIDE, 1, 0))
    answer = traffic.segment_back(port, packet.SYN | packet.ACK, seq=9000, ack=1001)
    assert engine.translate(answer, OUTSIDE, 0, 0).action is Action.FORWARD
    last = traffic.segment(1, 5000, packet.ACK, seq=1001, ack=9001)
    assert engine.translate(last, INSIDE, 1, 0).action is Action.FORWARD
    return port


def test_nothing_passes_either_way(target: EngineTarget) -> None:
    port = connected(target)
    freeze(target)
    before = target.flows()
    frames = [
        (traffic.segment(1, 5000, packet.ACK, seq=1000, ack=9001), INSIDE, 1),
        (traffic.segment(1, 5000, packet.RST, seq=1001), INSIDE, 1),
        (traffic.segment(1, 5001), INSIDE, 1),
        (bytes(3), INSIDE, 1),
        (traffic.segment_back(port, packet.ACK, seq=9001, ack=1001), OUTSIDE, 0),
        (traffic.segment_back(port, packet.RST, seq=9001), OUTSIDE, 0),
    ]
    for frame, side, number in frames:
        verdict = target.engine.translate(frame, side, number, 1000)
        assert (verdict.action, verdict.reason) == (Action.DROP, DropReason.ENVIRONMENT_FROZEN)
    assert target.flows() == before
    assert target.count("drop_environment_frozen") == len(frames)
    # Each is counted at the environment, and what is for it where it has arrived, too.
    assert target.map.slot_counters(1)["drops"] == len(frames)
    assert target.map.interface_counters(0)["drops"] == len(frames)
    freeze(target, silent=False)
    frame, side, number = frames[-2]
    assert target.engine.translate(frame, side, number, 2000).action is Action.FORWARD


def test_an_error_about_its_packet_is_dropped_and_no_translated_one(target: EngineTarget) -> None:
    port = traffic.opened(target.engine, 1, 5000)
    freeze(target)
    sent = packet.udp(traffic.INTERFACE, scenario.WEB, port, 7, checksum_field=0)
    quote = packet.ipv4(traffic.INTERFACE, scenario.WEB, packet.UDP, sent)
    content = packet.icmp(3, 3, bytes(4), quote)
    error = packet.ipv4(scenario.WEB, traffic.INTERFACE, packet.ICMP, content)
    frame = traffic.frame_in(OUTSIDE, 0, error)
    verdict = target.engine.translate(frame, OUTSIDE, 0, 1)
    assert (verdict.action, verdict.reason) == (Action.DROP, DropReason.ENVIRONMENT_FROZEN)
    assert target.count("icmp_errors_translated") == 0
    freeze(target, silent=False)
    assert target.engine.translate(frame, OUTSIDE, 0, 1).action is Action.FORWARD
    assert target.count("icmp_errors_translated") == 1


def test_what_comes_meanwhile_keeps_no_connection(target: EngineTarget) -> None:
    port = connected(target)
    freeze(target)
    probe = traffic.segment_back(port, packet.ACK, seq=9000, ack=1001)
    for now in range(60_000, IDLE, 60_000):
        verdict = target.engine.translate(probe, OUTSIDE, 0, now)
        assert verdict.reason is DropReason.ENVIRONMENT_FROZEN
    freeze(target, silent=False)
    late = traffic.segment(1, 5000, packet.ACK, seq=1001, ack=9001)
    verdict = target.engine.translate(late, INSIDE, 1, IDLE)
    assert verdict.action is Action.REPLY
    assert target.count("drop_tcp_idle_timeout") == 1


def test_others_go_on(target: EngineTarget) -> None:
    freeze(target)
    port = traffic.opened(target.engine, 2, 5000)
    verdict = target.engine.translate(traffic.answer(port), OUTSIDE, 0, 1)
    assert verdict.action is Action.FORWARD
