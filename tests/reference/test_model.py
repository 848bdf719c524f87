# SPDX-License-Identifier: Apache-2.0
"""The model against scapy and against itself: an oracle has to be right first."""

from ipaddress import IPv4Address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.utils import checksum as scapy_checksum

from tests.engine import scenario, traffic
from tests.reference import IllegalChoiceError, Ports, Timeouts, checksum, packet

addresses = st.integers(0, 0xFFFFFFFF).map(lambda number: str(IPv4Address(number)))
words = st.integers(0, 0xFFFF)
options = st.sampled_from((b"", b"\x01\x01\x01\x01", b"\x94\x04\x00\x00"))


@given(st.binary(max_size=200))
def test_checksum_is_scapys(data: bytes) -> None:
    assert checksum.checksum(data) == scapy_checksum(data)


@given(
    st.binary(min_size=4, max_size=60).filter(lambda data: len(data) % 2 == 0),
    st.binary(min_size=2, max_size=2),
)
def test_exchange_is_the_whole_sum(data: bytes, new: bytes) -> None:
    """Arithmetic on a checksum gives what computing it anew gives, zero's face included."""
    changed = new + data[2:]
    if any(data[2:]):
        value = checksum.exchanged(checksum.checksum(data), data[:2], new)
        assert value == checksum.checksum(changed)


@given(words, addresses, addresses, addresses)
def test_partial_exchange_is_the_pseudo_header(length: int, a: str, b: str, c: str) -> None:
    old = checksum.pseudo_header(packet.octets(a), packet.octets(c), packet.UDP, length)
    new = checksum.pseudo_header(packet.octets(b), packet.octets(c), packet.UDP, length)
    value = checksum.exchanged_partial(checksum.ones_sum(old), old[:8], new[:8])
    assert value == checksum.ones_sum(new)


@given(addresses, addresses, words, words, st.binary(max_size=50), options)
def test_udp_is_scapys(a: str, b: str, sport: int, dport: int, payload: bytes, ip: bytes) -> None:
    ours = packet.ipv4(a, b, packet.UDP, packet.udp(a, b, sport, dport, payload), options=ip)
    parsed = IP(ours)
    del parsed.chksum, parsed[UDP].chksum, parsed[UDP].len, parsed.len
    assert bytes(parsed) == ours


@given(addresses, addresses, words, words, st.integers(0, 0xFFFFFFFF), st.binary(max_size=50))
def test_tcp_is_scapys(a: str, b: str, sport: int, dport: int, seq: int, payload: bytes) -> None:
    segment = packet.tcp(
        a, b, sport, dport, packet.ACK, seq=seq, ack=7, options=b"\x02\x04\x05\xb4", payload=payload
    )
    ours = packet.ipv4(a, b, packet.TCP, segment)
    parsed = IP(ours)
    assert parsed[TCP].seq == seq
    del parsed.chksum, parsed[TCP].chksum, parsed[TCP].dataofs, parsed.len
    assert bytes(parsed) == ours


@given(words, words, st.binary(max_size=50))
def test_echo_is_scapys(identifier: int, sequence: int, payload: bytes) -> None:
    ours = packet.echo(8, identifier, sequence, payload)
    assert bytes(ICMP(type=8, id=identifier, seq=sequence) / payload) == ours


def test_arp_is_scapys() -> None:
    ours = packet.arp(
        operation=1, sender_mac="02:00:00:00:00:01", sender="1.2.3.4", target="5.6.7.8"
    )
    theirs = ARP(op=1, hwsrc="02:00:00:00:00:01", psrc="1.2.3.4", pdst="5.6.7.8")
    theirs.hwdst = "00:00:00:00:00:00"
    assert bytes(theirs) == ours


@pytest.mark.parametrize(
    ("data", "scale"),
    [
        (b"", None),
        (b"\x03\x03\x07", 7),
        (b"\x01\x01\x03\x03\x0e", 14),
        (b"\x03\x03\xff", 14),
        (b"\x02\x04\x05\xb4\x03\x03\x00", 0),
        (b"\x00\x03\x03\x07", None),
        (b"\x02\x00\x03\x03\x07", None),
        (b"\x02\x09\x03\x03\x07", None),
        (b"\x03\x04\x07\x07", None),
        (b"\x01\x01\x03", None),
    ],
)
def test_window_scale(data: bytes, scale: int | None) -> None:
    segment = packet.tcp("1.1.1.1", "2.2.2.2", 1, 2, packet.SYN, options=data)
    assert packet.parse_segment(segment).window_scale == scale


def test_translated_packets_are_right_to_scapy() -> None:
    """What the model sends has the checksums scapy would give it."""
    source = Random(4)
    nat = scenario.reference_nat(scenario.Setup(ports=Ports(1024, 65535)))
    for number in range(50):
        frame = traffic.datagram(1, number + 1)
        content = packet.udp(
            scenario.ENVIRONMENT, scenario.WEB, number, 7, source.randbytes(number)
        )
        body = packet.ipv4(scenario.ENVIRONMENT, scenario.WEB, packet.UDP, content)
        frame = traffic.frame_in(scenario.INSIDE, 1, body)
        out = nat.translate(frame, scenario.INSIDE, 1, 0).frame
        parsed = Ether(out)
        assert parsed[IP].src == traffic.INTERFACE
        del parsed[IP].chksum, parsed[UDP].chksum
        assert bytes(parsed) == out


def test_illegal_choices_are_noticed() -> None:
    nat = scenario.reference_nat(
        scenario.Setup(ports=Ports(40000, 40003), timeouts=Timeouts(udp=1000))
    )
    nat.translate(traffic.datagram(1, 5000), 0, 1, 0, nat_port=40001)
    for port in (39999, 40004, 40001):
        with pytest.raises(IllegalChoiceError):
            nat.translate(traffic.datagram(1, 5001), 0, 1, 0, nat_port=port)
    (key,) = nat.inside
    with pytest.raises(IllegalChoiceError):
        nat.expire(999, 10, [key])
    with pytest.raises(IllegalChoiceError):
        nat.expire(1000, 0, [key])
    assert nat.expire(1000, 1, [key]) == 1
