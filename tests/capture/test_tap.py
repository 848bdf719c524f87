# SPDX-License-Identifier: Apache-2.0
"""What a tap makes of frames as they cross a link; what it sees of links is in the live test."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from hyperplane_nat.capture.tap import finished
from tests.reference.checksum import checksum


def vnet(start: int, offset: int, flags: int = 1, kind: int = 0, size: int = 0) -> bytes:
    return struct.pack("=BBHHHH", flags, kind, 0, size, start, offset)


@given(st.binary(max_size=3000), st.booleans())
def test_a_partial_checksum_becomes_the_one_of_the_wire(payload: bytes, tcp: bool) -> None:
    header = IP(src="10.0.1.10", dst="10.0.1.80")
    layer, offset = (TCP(flags="A"), 16) if tcp else (UDP(), 6)
    complete = bytes(Ether() / header / layer / payload)
    length = len(complete) - 34
    pseudo = complete[26:34] + struct.pack("!HH", 6 if tcp else 17, length)
    partial = ~checksum(pseudo) & 0xFFFF
    field = 34 + offset
    frame = complete[:field] + partial.to_bytes(2, "big") + complete[field + 2 :]
    assert finished(memoryview(bytearray(vnet(34, offset) + frame))) == [complete]


@pytest.mark.parametrize(
    "header", [vnet(34, 6, flags=0), vnet(60_000, 6), vnet(42, 0), vnet(43, 0)]
)
def test_what_needs_nothing_or_cannot_be_finished_stays(header: bytes) -> None:
    frame = bytes(Ether() / IP() / UDP() / b"x")
    assert len(frame) == 43
    assert finished(memoryview(bytearray(header + frame))) == [frame]


@given(st.binary(max_size=200), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_any_header_is_taken(frame: bytes, start: int, offset: int) -> None:
    (found,) = finished(memoryview(bytearray(vnet(start, offset) + frame)))
    assert len(found) == len(frame)


@pytest.mark.parametrize(("offset", "expected"), [(6, b"\xff\xff"), (16, b"\0\0")])
def test_a_udp_checksum_is_never_zero(offset: int, expected: bytes) -> None:
    frame = b"\xff\xff" + bytes(30)
    (found,) = finished(memoryview(bytearray(vnet(0, offset) + frame)))
    assert found[offset : offset + 2] == expected


@given(st.binary(min_size=1, max_size=3000), st.integers(1, 1472), st.integers(0, 0xFFFF))
def test_datagrams_that_crossed_as_one_frame_are_told_apart(
    payload: bytes, size: int, identification: int
) -> None:
    def whole(number: int, part: bytes) -> bytes:
        number = (identification + number) & 0xFFFF
        header = IP(src="10.0.1.10", dst="10.0.1.80", id=number, flags="DF")
        return bytes(Ether() / header / UDP(sport=1024, dport=53) / part)

    parts = [payload[start : start + size] for start in range(0, len(payload), size)]
    frame = bytearray(whole(0, payload))
    pseudo = bytes(frame[26:34]) + struct.pack("!HH", 17, len(frame) - 34)
    frame[40:42] = (~checksum(pseudo) & 0xFFFF).to_bytes(2, "big")
    found = finished(memoryview(bytearray(vnet(34, 6, kind=5, size=size)) + frame))
    assert found == [whole(number, part) for number, part in enumerate(parts)]


@given(st.binary(max_size=200), st.integers(0, 0xFFFF))
def test_what_only_says_to_be_several_datagrams_stays_whole_or_keeps_its_payload(
    frame: bytes, size: int
) -> None:
    found = finished(memoryview(bytearray(vnet(34, 6, kind=5, size=size) + frame)))
    assert found == [frame] or b"".join(each[42:] for each in found) == frame[42:]
