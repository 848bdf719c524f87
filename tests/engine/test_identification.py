# SPDX-License-Identifier: Apache-2.0
"""Identifications of what leaves: one for each datagram, whoever sent it."""

import dataclasses
import itertools
from collections.abc import Iterator

import pytest

from hyperplane_nat.engine import Action, Verdict
from tests.engine import scenario, traffic
from tests.engine.compiled import EngineTarget
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import Behaviour as ReferenceBehaviour
from tests.reference import Ports, checksum, packet

ROUND = 65536
DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000
SIZE = 64

SETUP = scenario.Setup(flows_max=4096, ports=Ports(1024, 65535, 55_000))


@pytest.fixture
def target() -> Iterator[EngineTarget]:
    result = EngineTarget(SETUP)
    yield result
    result.close()


def frame(
    slot: int = 1,
    *,
    remote: str = scenario.WEB,
    identification: int = 7,
    fragment: int = 0,
    payload: bytes = b"",
) -> bytes:
    """A UDP datagram of a slot without checksum."""
    ends = (scenario.ENVIRONMENT, remote)
    content = packet.udp(*ends, 5000, 7, payload, checksum_field=0)
    body = packet.ipv4(*ends, packet.UDP, content, identification=identification, fragment=fragment)
    return traffic.frame_in(INSIDE, slot, body)


def half(slot: int, which: int, identification: int) -> bytes:
    """Half of a datagram to WEB."""
    ends = (scenario.ENVIRONMENT, scenario.WEB)
    content = packet.udp(*ends, 5000, 7, bytes(2 * SIZE - 8), checksum_field=0)
    part = content[which * SIZE : (which + 1) * SIZE]
    field = which * SIZE // 8 if which else MORE_FRAGMENTS
    body = packet.ipv4(*ends, packet.UDP, part, identification=identification, fragment=field)
    return traffic.frame_in(INSIDE, slot, body)


def sent(target: EngineTarget, body: bytes, slot: int = 1) -> Verdict:
    """What leaves; its header checksum is right."""
    verdict = target.engine.translate(body, INSIDE, slot, 0)
    assert verdict.action is Action.FORWARD, verdict
    assert checksum.is_right(verdict.frame[14:34])
    return verdict


def number_in(verdict: Verdict) -> int:
    return packet.word(verdict.frame, 18)


def numbers_of(target: EngineTarget, count: int, slots: tuple[int, ...] = (1,)) -> list[int]:
    """Those of so many datagrams, of slots in turn."""
    frames = [(frame(slot), slot) for slot in slots]
    turns = itertools.islice(itertools.cycle(frames), count)
    return [number_in(target.engine.translate(body, INSIDE, slot, 0)) for body, slot in turns]


def test_all_environments_count_together(target: EngineTarget) -> None:
    """Each datagram gets the next, whatever its sender wrote, and all are used before any again."""
    numbers = numbers_of(target, ROUND, (1, 2, 5))
    assert numbers == [(numbers[0] + number) % ROUND for number in range(ROUND)]
    assert number_in(sent(target, frame())) == numbers[0]


def test_each_destination_and_protocol_begins_elsewhere(target: EngineTarget) -> None:
    """Nobody learns from his own packets how many others send."""
    firsts = {number_in(sent(target, frame(remote=f"10.0.9.{number}"))) for number in range(1, 101)}
    assert len(firsts) > 90
    echo = packet.echo(packet.ECHO_REQUEST, 77, 1)
    ping = packet.ipv4(scenario.ENVIRONMENT, "10.0.9.1", packet.ICMP, echo)
    other = number_in(sent(target, traffic.frame_in(INSIDE, 1, ping)))
    assert abs(other - number_in(sent(target, frame(remote="10.0.9.1")))) > 1


def test_atomic_datagrams_keep_theirs(target: EngineTarget) -> None:
    """Not to be fragmented and no fragment (RFC 6864 section 4.1); they take none either."""
    before = number_in(sent(target, frame()))
    for number in (0, 7, 0xFFFF):
        atomic = frame(identification=number, fragment=DONT_FRAGMENT)
        assert number_in(sent(target, atomic)) == number
    assert number_in(sent(target, frame())) == (before + 1) % ROUND


@pytest.mark.parametrize(
    ("protocol", "size", "segments"),
    [
        (packet.TCP, 1000, 21),
        (packet.TCP, 20_001, 1),
        (packet.TCP, 1, 20_001),
        (packet.UDP, 1000, 21),
        (packet.UDP, 20_001, 1),
        (packet.UDP, 157, 128),
    ],
)
def test_a_super_frame_takes_one_for_each_segment(
    target: EngineTarget, protocol: int, size: int, segments: int
) -> None:
    ends = (scenario.ENVIRONMENT, scenario.WEB)
    target.engine.translate(traffic.segment(1, 5000), INSIDE, 1, 0)
    payload = bytes(20_001)
    if protocol == packet.TCP:
        content = packet.tcp(*ends, 5000, 80, packet.ACK, seq=1001, payload=payload, partial=True)
    else:
        content = packet.udp(*ends, 5000, 7, payload, partial=True)
    body = traffic.frame_in(INSIDE, 1, packet.ipv4(*ends, protocol, content))

    def number() -> int:
        verdict = target.engine.translate(body, INSIDE, 1, 0, partial=True, gso_size=size)
        assert verdict.action is Action.FORWARD
        return number_in(verdict)

    assert (number() + segments) % ROUND == number()


def test_an_unfinished_datagram_keeps_its_own(target: EngineTarget) -> None:
    """Two rounds of the counter meet it twice; its second half has it still."""
    held = number_in(sent(target, half(1, 0, 3)))
    following = number_in(sent(target, half(2, 0, 3), 2))
    assert following == (held + 1) % ROUND
    numbers = numbers_of(target, 2 * ROUND)
    assert numbers.count(held) == numbers.count(following) == 0
    assert set(numbers) == set(range(ROUND)) - {held, following}
    assert number_in(sent(target, half(1, 1, 3))) == held
    numbers = numbers_of(target, ROUND)
    assert numbers.count(held) == 1, "it is whole"
    assert numbers.count(following) == 0
    target.engine.expire(30_000)
    numbers = numbers_of(target, ROUND)
    assert numbers.count(following) == 1, "it was given up"


def test_no_segment_has_that_of_an_unfinished_datagram(target: EngineTarget) -> None:
    held = {number_in(sent(target, half(1, 0, number))) for number in range(20)}
    ends = (scenario.ENVIRONMENT, scenario.WEB)
    content = packet.udp(*ends, 5000, 7, bytes(50_000), partial=True)
    body = traffic.frame_in(INSIDE, 1, packet.ipv4(*ends, packet.UDP, content))
    given: list[int] = []
    for _ in range(2000):
        verdict = target.engine.translate(body, INSIDE, 1, 0, partial=True, gso_size=1000)
        given += ((number_in(verdict) + each) % ROUND for each in range(50))
    assert held.isdisjoint(given)
    assert len(set(given)) > ROUND - 200


def test_more_segments_than_there_are_numbers_in_a_row() -> None:
    """Whoever asks for that gets some, in no time."""
    behaviour = ReferenceBehaviour(tcp_fragments=True)
    target = EngineTarget(dataclasses.replace(SETUP, behaviour=behaviour))
    ends = (scenario.ENVIRONMENT, scenario.WEB)
    begun = packet.tcp(*ends, 5000, 80, packet.SYN, seq=1000, payload=bytes(SIZE))[:SIZE]
    for number in range(64):
        body = packet.ipv4(*ends, packet.TCP, begun, identification=number, fragment=MORE_FRAGMENTS)
        sent(target, traffic.frame_in(INSIDE, 1, body))
        for _ in range(100):
            sent(target, traffic.segment(1, 5000))
    content = packet.tcp(*ends, 5000, 80, packet.ACK, seq=1001, payload=bytes(65_000), partial=True)
    body = traffic.frame_in(INSIDE, 1, packet.ipv4(*ends, packet.TCP, content))
    for _ in range(100):
        verdict = target.engine.translate(body, INSIDE, 1, 0, partial=True, gso_size=1)
        assert verdict.action is Action.FORWARD
    target.close()


def test_what_a_neighbour_gets_is_numbered_as_what_leaves() -> None:
    """It has an address of ours as its source, like what others send to the same mapping."""
    behaviour = ReferenceBehaviour(
        endpoint_independent=True, filtering="endpoint_independent", hairpinning=True
    )
    target = EngineTarget(
        scenario.Setup(behaviour=behaviour, ports=Ports(40000, 40099, 55_000), flows_max=64)
    )
    there = traffic.opened(target.engine, 2, 6000)
    numbers = []
    for slot in (1, 5, 1):
        ends = (scenario.ENVIRONMENT, traffic.INTERFACE)
        content = packet.udp(*ends, 5000, there, checksum_field=0)
        body = packet.ipv4(*ends, packet.UDP, content, identification=7)
        verdict = sent(target, traffic.frame_in(INSIDE, slot, body), slot)
        assert (verdict.side, verdict.port) == (INSIDE, 2)
        numbers.append(number_in(verdict))
    assert numbers == [(numbers[0] + each) % ROUND for each in range(3)]
    target.close()


def test_icmp_errors_are_numbered(target: EngineTarget) -> None:
    """Those of environments and those of our own count together."""
    engine = target.engine
    nat_port = traffic.opened(engine, 1, 5000)
    ends = (scenario.WEB, scenario.ENVIRONMENT)
    quoted = packet.ipv4(*ends, packet.UDP, packet.udp(*ends, 7, 5000))
    message = packet.icmp(3, 3, bytes(4), quoted)
    error = packet.ipv4(scenario.ENVIRONMENT, scenario.WEB, packet.ICMP, message, identification=9)
    first = number_in(sent(target, traffic.frame_in(INSIDE, 1, error)))
    assert number_in(sent(target, traffic.frame_in(INSIDE, 1, error))) == (first + 1) % ROUND
    engine.set_slot(
        1,
        address=scenario.ENVIRONMENT,
        gateway=scenario.GATEWAY,
        subnet=scenario.ENVIRONMENT_SUBNET,
        environment_mac=scenario.environment_mac(1),
        gateway_mac=scenario.gateway_mac(1),
        interface=0,
        mtu=576,
    )
    content = packet.udp(scenario.WEB, traffic.INTERFACE, 7, nat_port, bytes(600), checksum_field=0)
    whole = packet.ipv4(
        scenario.WEB, traffic.INTERFACE, packet.UDP, content, fragment=DONT_FRAGMENT
    )
    verdict = engine.translate(traffic.frame_in(OUTSIDE, 0, whole), OUTSIDE, 0, 0)
    assert verdict.action is Action.REPLY
    assert checksum.is_right(verdict.frame[14:34])
    assert number_in(verdict) == (first + 2) % ROUND
