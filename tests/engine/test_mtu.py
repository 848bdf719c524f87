# SPDX-License-Identifier: Apache-2.0
"""Frames that are yet to be segmented: as large as their segments will be."""

from collections.abc import Iterator

import pytest

from hyperplane_nat.engine import Action, Verdict
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget
from tests.engine.scenario import INSIDE
from tests.reference import packet

MTU = 1400
HEADERS = 40
DONT_FRAGMENT = 0x4000


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    result = EngineTarget(scenario.Setup(interface_mtu=MTU))
    result.engine.translate(traffic.segment(1, 5000), INSIDE, 1, 0)
    yield result
    result.close()


def super_frame(target: EngineTarget, protocol: int, gso_size: int, fragment: int) -> Verdict:
    """What becomes of 20,000 bytes in segments of this size."""
    ends = (scenario.ENVIRONMENT, scenario.WEB)
    payload = bytes(20_000)
    if protocol == packet.TCP:
        content = packet.tcp(*ends, 5000, 80, packet.ACK, seq=1001, payload=payload, partial=True)
    else:
        content = packet.udp(*ends, 5000, 7, payload, partial=True)
    frame = traffic.frame_in(INSIDE, 1, packet.ipv4(*ends, protocol, content, fragment=fragment))
    return target.engine.translate(frame, INSIDE, 1, 0, partial=True, gso_size=gso_size)


@pytest.mark.parametrize("fragment", [0, DONT_FRAGMENT])
def test_segments_that_fit(target: EngineTarget, fragment: int) -> None:
    verdict = super_frame(target, packet.TCP, MTU - HEADERS, fragment)
    assert (verdict.action, verdict.gso_size) == (Action.FORWARD, MTU - HEADERS)
    assert len(verdict.frame) == 14 + HEADERS + 20_000
    assert target.engine.take_extra() == []


def test_segments_of_tcp_are_made_smaller(target: EngineTarget) -> None:
    verdict = super_frame(target, packet.TCP, MTU - HEADERS + 1, 0)
    assert (verdict.action, verdict.gso_size) == (Action.FORWARD, MTU - HEADERS)


@pytest.mark.parametrize("protocol", [packet.TCP, packet.UDP])
def test_the_sender_of_segments_is_told(target: EngineTarget, protocol: int) -> None:
    verdict = super_frame(target, protocol, MTU - 27, DONT_FRAGMENT)
    assert verdict.action is Action.REPLY
    assert verdict.frame[34:42] == b"\x03\x04" + verdict.frame[36:40] + MTU.to_bytes(2)
    assert target.count("drop_mtu_exceeded") == 15
    assert target.count("replies_icmp") == 1


def test_the_option_of_what_goes_no_further_is_left_alone() -> None:
    """Only a SYN that leaves is counted as clamped."""
    target = EngineTarget(scenario.Setup(interface_mtu=68))
    ends = (scenario.ENVIRONMENT, scenario.WEB)
    content = packet.tcp(*ends, 5000, 80, packet.SYN, options=b"\x02\x04\x05\xb4")
    options = bytes([7, 39, 4]) + bytes(37)
    for size, action, clamped in ((1, Action.DROP, 0), (0, Action.FORWARD, 1)):
        frame = traffic.frame_in(
            INSIDE, 1, packet.ipv4(*ends, packet.TCP, content, options=options)
        )
        verdict = target.engine.translate(frame, INSIDE, 1, 0, gso_size=size)
        assert verdict.action is action
        assert target.count("mss_clamped") == clamped
    assert target.count("drop_mtu_exceeded") == 1
    target.close()
