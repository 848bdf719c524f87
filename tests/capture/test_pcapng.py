# SPDX-License-Identifier: Apache-2.0
"""What is written, read by scapy and, in the live test, by tshark."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapNgReader

from hyperplane_nat.capture import pcapng
from hyperplane_nat.capture.pcapng import Writer

TIME = 1_700_000_000_123_456_789


def blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and body of each block; its two lengths agree and are multiples of 4."""
    while data:
        kind, length = struct.unpack_from("=II", data)
        assert length % 4 == 0
        assert struct.unpack_from("=I", data, length - 4) == (length,)
        yield kind, data[8 : length - 4]
        data = data[length:]


def options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while data:
        code, length = struct.unpack_from("=HH", data)
        if code == 0:
            assert data == bytes(4)
            return found
        found[code] = data[4 : 4 + length]
        data = data[4 + (length + 3) // 4 * 4 :]
    return found


def test_blocks_of_a_file() -> None:
    file = io.BytesIO()
    writer = Writer(file, "test 1.0")
    assert writer.interface("env1", "inside", "tcp") == 0
    assert writer.interface("eni-a", "outside") == 1
    writer.packet(1, TIME, b"x" * 61, outbound=True, comment="env-1: täst")
    writer.statistics(1, TIME - 1, TIME + 1, received=1 << 33, dropped=7)
    assert writer.bytes == len(file.getvalue())
    section, first, second, packet, statistics = blocks(file.getvalue())
    assert section[0] == 0x0A0D0D0A
    assert struct.unpack_from("=IHHq", section[1]) == (0x1A2B3C4D, 1, 0, -1)
    assert options(section[1][16:]) == {4: b"test 1.0"}
    assert first == (1, first[1])
    assert struct.unpack_from("=HHI", first[1]) == (1, 0, 0)
    assert options(first[1][8:]) == {2: b"env1", 3: b"inside", 9: b"\x09", 11: b"\0tcp"}
    assert options(second[1][8:]) == {2: b"eni-a", 3: b"outside", 9: b"\x09"}
    interface, high, low, captured, original = struct.unpack_from("=IIIII", packet[1])
    assert (packet[0], interface, captured, original) == (6, 1, 61, 61)
    assert high << 32 | low == TIME
    assert packet[1][20:84] == b"x" * 61 + bytes(3)
    assert options(packet[1][84:]) == {
        1: "env-1: täst".encode(),
        2: struct.pack("=I", 2),
    }
    found = options(statistics[1][12:])
    assert statistics[0] == 5
    assert [struct.unpack("=Q", found[code]) for code in (4, 5)] == [(1 << 33,), (7,)]
    assert [struct.unpack("=II", found[code]) for code in (2, 3)] == [
        ((TIME + each) >> 32, (TIME + each) & 0xFFFFFFFF) for each in (-1, 1)
    ]


def test_an_inbound_frame_without_comment() -> None:
    file = io.BytesIO()
    writer = Writer(file, "test")
    writer.interface("env1", "")
    writer.packet(0, 0, b"abcd", outbound=False, comment="")
    body = list(blocks(file.getvalue()))[-1][1]
    assert options(body[24:]) == {2: struct.pack("=I", 1)}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.integers(0, 1 << 62),
            st.binary(min_size=14, max_size=200),
            st.booleans(),
            st.text(max_size=40),
        ),
        max_size=8,
    )
)
def test_another_reader_gets_the_frames_back(
    frames: list[tuple[int, int, bytes, bool, str]],
) -> None:
    file = io.BytesIO()
    writer = Writer(file, "test")
    for name in ("env1", "eni-a"):
        writer.interface(name, "")
    for interface, time, data, outbound, comment in frames:
        writer.packet(interface, time, data, outbound=outbound, comment=comment)
    writer.statistics(0, 0, 1, received=1, dropped=0)
    file.seek(0)
    # scapy's types know of files by name only, and nothing of what this reader returns.
    reader: Any = RawPcapNgReader
    found = list(reader(file))
    assert [data for data, _ in found] == [data for _, _, data, _, _ in frames]
    assert [(each.tshigh << 32) | each.tslow for _, each in found] == [
        time for _, time, _, _, _ in frames
    ]
    assert [each.ifname for _, each in found] == [
        (b"env1", b"eni-a")[interface] for interface, *_ in frames
    ]
    assert all(Ether(data) is not None for data, _ in found)


def test_a_comment_is_cut_at_the_length_of_an_option() -> None:
    file = io.BytesIO()
    writer = Writer(file, "test")
    writer.interface("env1", "")
    writer.packet(0, 0, b"abcd", outbound=False, comment="x" * 100_000)
    assert [kind for kind, _ in blocks(file.getvalue())] == [
        pcapng.SECTION_HEADER,
        pcapng.INTERFACE_DESCRIPTION,
        pcapng.ENHANCED_PACKET,
    ]
