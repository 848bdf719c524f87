# SPDX-License-Identifier: Apache-2.0
"""Which flow a frame belongs to, told by its headers."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet import fragment as scapy_fragment
from scapy.layers.l2 import ARP, Ether

from hyperplane_nat.capture import identity
from hyperplane_nat.capture.identity import Identifier
from hyperplane_nat.engine.readers.flow_search import SearchKey
from hyperplane_nat.engine.state.constants import Side

INSIDE, NAT, REMOTE = "169.254.100.2", "10.0.1.10", "10.0.1.80"
SLOT, INTERFACE = 7, 3
cut: Any = scapy_fragment

SIDES = (Side.INSIDE, Side.OUTSIDE)
"""Whose links have translated flows alone."""

HOST, OTHER = "10.0.1.20", "10.0.1.54"


def inside() -> Identifier:
    return Identifier(slot=SLOT, interfaces={})


def outside() -> Identifier:
    return Identifier(interfaces={socket.inet_aton(NAT): INTERFACE})


def at_host() -> Identifier:
    """On a host's link."""
    return Identifier(
        interfaces={socket.inet_aton(NAT): INTERFACE}, hosts={socket.inet_aton(HOST): 9}
    )


def host_key(protocol: int, local: int, remote: int, far: str = OTHER) -> SearchKey:
    ends = ((far, remote), (HOST, local))
    packed = [part for each in ends for part in (socket.inet_aton(each[0]), each[1].to_bytes(2))]
    return SearchKey(Side.HOST, protocol, 9, *packed)


def key(side: Side, protocol: int, local: int, remote: int) -> SearchKey:
    return SearchKey(
        side,
        protocol,
        SLOT if side is Side.INSIDE else INTERFACE,
        socket.inet_aton(REMOTE),
        remote.to_bytes(2, "big"),
        socket.inet_aton(INSIDE if side is Side.INSIDE else NAT),
        local.to_bytes(2, "big"),
    )


def ends(side: Side, outgoing: bool) -> IP:
    """The header of a packet on a link, which the gateway sent or received."""
    local = INSIDE if side is Side.INSIDE else NAT
    to_remote = (side is Side.INSIDE) is not outgoing
    return IP(src=local, dst=REMOTE) if to_remote else IP(src=REMOTE, dst=local)


def to_remote(packet: IP) -> bool:
    return bool(packet.dst == REMOTE)


def note(side: Side, packet: Any, outgoing: bool) -> object:
    identifier = inside() if side is Side.INSIDE else outside()
    return identifier.note(bytes(Ether(src="02::1", dst="02::2") / packet), outgoing)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("outgoing", [False, True])
@pytest.mark.parametrize("layer", [TCP, UDP])
def test_ports(side: Side, outgoing: bool, layer: Any) -> None:
    header = ends(side, outgoing)
    ports = (40000, 443) if to_remote(header) else (443, 40000)
    packet = header / layer(sport=ports[0], dport=ports[1])
    assert note(side, packet, outgoing) == key(side, 6 if layer is TCP else 17, 40000, 443)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("outgoing", [False, True])
def test_echo_by_its_identifier(side: Side, outgoing: bool) -> None:
    header = ends(side, outgoing)
    packet = header / ICMP(type=8 if to_remote(header) else 0, id=1234)
    assert note(side, packet, outgoing) == key(side, 1, 1234, 0)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("outgoing", [False, True])
def test_an_error_belongs_to_what_it_quotes(side: Side, outgoing: bool) -> None:
    header = ends(side, outgoing)
    quoted = IP(src=header.dst, dst=header.src)
    ports = (443, 40000) if to_remote(header) else (40000, 443)
    # A router between may send it: its own address says nothing.
    packet = (
        (IP(src="10.0.9.9", dst=header.dst) if not to_remote(header) else header)
        / ICMP(type=3, code=4)
        / bytes(quoted / UDP(sport=ports[0], dport=ports[1]))
    )
    assert note(side, packet, outgoing) == key(side, 17, 40000, 443)


def test_an_error_about_an_error_is_nobodys() -> None:
    inner = IP(src=INSIDE, dst=REMOTE) / ICMP(type=3) / bytes(IP() / UDP())
    assert note(Side.INSIDE, IP(src=REMOTE, dst=INSIDE) / ICMP(type=3) / bytes(inner), True) is None


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        bytes(Ether() / ARP()),
        bytes(Ether() / IP(src=INSIDE, dst=REMOTE, proto=47) / (b"x" * 40)),
        bytes(Ether() / IP(src=INSIDE, dst=REMOTE, proto=6)),
        bytes(Ether() / IP(src=INSIDE, dst=REMOTE) / ICMP(type=13)),
    ],
)
def test_others_have_no_flow(frame: bytes) -> None:
    assert inside().note(frame, False) is None


def test_an_address_that_is_not_the_interfaces() -> None:
    assert note(Side.OUTSIDE, IP(src=REMOTE, dst="10.0.1.11") / UDP(), False) is None


def test_later_fragments_have_the_key_of_the_first_in_any_order() -> None:
    identifier = inside()
    datagram = IP(src=INSIDE, dst=REMOTE, id=77) / UDP(sport=40000, dport=443) / (b"x" * 3000)
    first, *others = [bytes(Ether() / piece) for piece in cut(datagram, 1400)]
    last = identifier.note(others[-1], False)
    assert last is not None
    assert not isinstance(last, SearchKey)
    assert identifier.fragment(last) is None
    found = identifier.note(first, False)
    assert found == key(Side.INSIDE, 17, 40000, 443)
    assert identifier.fragment(last) == found


def test_remembered_fragments_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "FRAGMENTS_MAX", 16)
    kept = inside()
    for number in range(50):
        packet = IP(src=INSIDE, dst=REMOTE, id=number, flags="MF") / UDP() / b"12345678"
        kept.note(bytes(Ether() / packet), False)
    assert len(kept._fragments) == 16


@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_are_noted(data: bytes, outgoing: bool) -> None:
    for identifier in (inside(), outside(), at_host()):
        identifier.note(bytes(12) + b"\x08\x00" + data, outgoing)
        identifier.note(bytes(12) + b"\x08\x00\x45" + data, outgoing)


def noted(packet: Any, outgoing: bool) -> object:
    return at_host().note(bytes(Ether(src="02::1", dst="02::2") / packet), outgoing)


@pytest.mark.parametrize("outgoing", [False, True])
def test_a_host_s_frames_have_one_key_whoever_sends(outgoing: bool) -> None:
    packet = IP(src=HOST, dst=OTHER) / UDP(sport=5000, dport=7)
    back = IP(src=OTHER, dst=HOST) / UDP(sport=7, dport=5000)
    # Of two hosts one is on the other's link, and the router's has what either sends.
    assert noted(packet, outgoing) == noted(back, outgoing) == host_key(17, 5000, 7)
    strange = IP(src=OTHER, dst=REMOTE) / UDP()
    assert noted(strange, outgoing) is None


def test_an_echo_s_identifier_is_of_who_asked() -> None:
    asked = host_key(1, 77, 0)
    assert noted(IP(src=HOST, dst=OTHER) / ICMP(type=8, id=77), False) == asked
    assert noted(IP(src=OTHER, dst=HOST) / ICMP(type=0, id=77), True) == asked
    other = host_key(1, 0, 77)
    assert noted(IP(src=OTHER, dst=HOST) / ICMP(type=8, id=77), True) == other
    assert noted(IP(src=HOST, dst=OTHER) / ICMP(type=0, id=77), False) == other
    quoted = IP(src=OTHER, dst=HOST) / ICMP(type=8, id=77)
    assert noted(IP(src=HOST, dst=OTHER) / ICMP(type=3, code=1) / bytes(quoted), False) == other


def test_what_a_host_has_with_a_function_is_the_interface_s() -> None:
    sent = IP(src=NAT, dst=HOST) / TCP(sport=40000, dport=443)
    back = IP(src=HOST, dst=NAT) / TCP(sport=443, dport=40000)
    expected = key(Side.OUTSIDE, 6, 40000, 443)._replace(remote_address=socket.inet_aton(HOST))
    assert noted(sent, True) == noted(back, False) == expected
    error = IP(src=HOST, dst=NAT) / ICMP(type=3, code=3) / bytes(sent)
    assert noted(error, False) == expected
