# SPDX-License-Identifier: Apache-2.0
"""VXLAN (RFC 7348) from an environment: the checksum still to be completed is the inner one.

Linux computes the outer one in advance, so that it is right when the inner one is ("local checksum
offload", Documentation/networking/checksum-offloads.rst), or leaves it 0.
"""

import struct
from collections.abc import Iterator

import pytest

from tests.engine import scenario, traffic
from tests.engine.pair import Pair
from tests.engine.scenario import INSIDE, OUTSIDE
from tests.reference import checksum, packet

VXLAN_PORT = 4789
INNER = ("192.168.3.1", "192.168.3.2")
# Ethernet, IPv4, UDP, VXLAN, Ethernet, IPv4.
INNER_START = 14 + 20 + 8 + 8 + 14 + 20
FIELDS = {packet.TCP: 16, packet.UDP: 6}


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair(scenario.Setup())
    yield made
    made.compare_counters()
    made.close()


def tunnelled(protocol: int, payload: bytes) -> bytes:
    """What the outer UDP header stands before; the inner checksum is partial."""
    if protocol == packet.TCP:
        content = packet.tcp(*INNER, 4000, 80, packet.ACK, seq=1, payload=payload, partial=True)
    else:
        content = packet.udp(*INNER, 4000, 53, payload, partial=True)
    inner = packet.ipv4(*INNER, protocol, content)
    macs = ("02:00:00:00:77:01", "02:00:00:00:77:02")
    return b"\x08\0\0\0\0\0\5\0" + packet.ethernet(*macs, packet.ETHERTYPE_IPV4, inner)


def finished(datagram: bytes, protocol: int) -> bytes:
    """A UDP datagram with the inner checksum computed, which is about the rest of it."""
    start = INNER_START - 34
    value = checksum.checksum(datagram[start:])
    return packet.with_word(datagram, start + FIELDS[protocol], value)


def is_right(datagram: bytes, source: str, destination: str) -> bool:
    ends = packet.octets(source), packet.octets(destination)
    return checksum.is_right(checksum.pseudo_header(*ends, packet.UDP, len(datagram)) + datagram)


def outer(
    ends: tuple[str, str], port: int, protocol: int, payload: bytes, *, summed: bool
) -> bytes:
    content = tunnelled(protocol, payload)
    blank = packet.udp(*ends, port, VXLAN_PORT, content, checksum_field=0)
    if not summed:
        return blank
    whole = packet.udp(*ends, port, VXLAN_PORT, finished(blank, protocol)[8:])
    return packet.with_word(blank, 6, packet.word(whole, 6))


@pytest.mark.parametrize("protocol", FIELDS)
@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("payload", [b"", b"odd", bytes(range(200))])
def test_both_ways(pair: Pair, protocol: int, summed: bool, payload: bytes) -> None:
    ends = (scenario.ENVIRONMENT, scenario.WEB)
    where = (INNER_START, FIELDS[protocol])
    sent = outer(ends, 5000, protocol, payload, summed=summed)
    frame = traffic.frame_in(INSIDE, 1, packet.ipv4(*ends, packet.UDP, sent))
    result = pair.translate(frame, INSIDE, 1, checksum_at=where)
    assert (result.action, result.side) == ("forward", OUTSIDE)
    got = result.frame[34:]
    assert got[8:] == sent[8:]
    assert got[:2] != sent[:2]
    port = packet.word(got, 0)
    if summed:
        assert is_right(finished(got, protocol), traffic.INTERFACE, scenario.WEB)
    else:
        assert got[6:8] == b"\0\0"

    back = (scenario.WEB, traffic.INTERFACE)
    sent = outer(back, VXLAN_PORT, protocol, payload, summed=summed)
    sent = sent[:2] + struct.pack("!H", port) + sent[4:]
    if summed:
        value = checksum.exchanged(
            packet.word(sent, 6), struct.pack("!H", VXLAN_PORT), struct.pack("!H", port)
        )
        sent = packet.with_word(sent, 6, value)
        assert is_right(finished(sent, protocol), *back)
    frame = traffic.frame_in(OUTSIDE, 0, packet.ipv4(*back, packet.UDP, sent))
    result = pair.translate(frame, OUTSIDE, 0, checksum_at=where)
    assert (result.action, result.side) == ("forward", INSIDE)
    got = result.frame[34:]
    assert got[8:] == sent[8:]
    if summed:
        assert is_right(finished(got, protocol), scenario.WEB, scenario.ENVIRONMENT)
    else:
        assert got[6:8] == b"\0\0"


@pytest.mark.parametrize("protocol", FIELDS)
@pytest.mark.parametrize("summed", [False, True])
def test_pieces_have_the_inner_checksum(protocol: int, summed: bool) -> None:
    """Nobody could complete it in a fragment."""
    pair = Pair(scenario.Setup(interface_mtu=600))
    ends = (scenario.ENVIRONMENT, scenario.WEB)
    sent = outer(ends, 5000, protocol, bytes(range(250)) * 4, summed=summed)
    frame = traffic.frame_in(INSIDE, 1, packet.ipv4(*ends, packet.UDP, sent))
    engine = pair.engine
    checksum_at = (INNER_START, FIELDS[protocol])
    verdict = engine.translate(frame, INSIDE, 1, 0, checksum_at=checksum_at)
    frames = [verdict.frame, *(each.frame for each in engine.take_extra())]
    assert len(frames) == 2
    got = b"".join(each[34:] for each in frames)
    assert got[8:] == finished(sent, protocol)[8:]
    assert not summed or is_right(got, traffic.INTERFACE, scenario.WEB)
    pair.close()


def test_pieces_are_as_the_model_cuts_them() -> None:
    pair = Pair(scenario.Setup(interface_mtu=600))
    ends = (scenario.ENVIRONMENT, scenario.WEB)
    sent = outer(ends, 5000, packet.TCP, bytes(1000), summed=True)
    frame = traffic.frame_in(INSIDE, 1, packet.ipv4(*ends, packet.UDP, sent))
    pair.translate(frame, INSIDE, 1, checksum_at=(INNER_START, FIELDS[packet.TCP]))
    pair.compare_counters()
    pair.close()
