# SPDX-License-Identifier: Apache-2.0
"""What leaves as one frame, against what the kernel makes of it again.

The oracle is segmentation as Linux does it (net/ipv4/udp_offload.c, `__udp_gso_segment`): cut up,
a frame must be the datagrams that went in, each in its place and with a right checksum.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperplane_nat.forwarder.coalescing import CoalescingQueue
from tests.reference.checksum import ones_sum, pseudo_header

VNET: Final = struct.Struct("=BBHHHH")
PARTIAL, UDP_L4 = 1, 5
HEADERS: Final = 42
BATCH: Final = 512


def pseudo_header_of(ip: bytes, length: int) -> bytes:
    return pseudo_header(ip[12:16], ip[16:20], ip[9], length)


@dataclass(frozen=True)
class Datagram:
    """A UDP datagram as a frame of the receive ring; all but the payload says which flow it is."""

    payload: bytes
    interface: int = 3
    source_port: int = 1000
    destination: str = "0a000150"
    tos: int = 0
    ttl: int = 63
    identification: int = 7
    flags: int = 0x4000
    protocol: int = 17
    options: bytes = b""
    trailer: bytes = b""
    ethertype: int = 0x0800
    partial: bool = True
    gso_type: int = 0

    def ip(self, payload_bytes: int) -> bytes:
        head = struct.pack(
            "!BBHHHBBH4s4s",
            0x45 + len(self.options) // 4,
            self.tos,
            28 + len(self.options) + payload_bytes,
            self.identification,
            self.flags,
            self.ttl,
            self.protocol,
            0,
            bytes.fromhex("0a00010a"),
            bytes.fromhex(self.destination),
        )
        checksum = ones_sum(head + self.options) ^ 0xFFFF
        return head[:10] + struct.pack("!H", checksum) + head[12:] + self.options

    def frame(self) -> bytes:
        """With its virtio-net header."""
        ip = self.ip(len(self.payload))
        length = 8 + len(self.payload)
        udp = struct.pack("!HHH", self.source_port, 53, length)
        partial = ones_sum(pseudo_header_of(ip, length))
        whole = ones_sum(pseudo_header_of(ip, length) + udp + self.payload) ^ 0xFFFF
        udp += struct.pack("!H", partial if self.partial else whole)
        start = 14 + len(ip)
        header = (
            VNET.pack(PARTIAL, self.gso_type, 0, 0, start, 6)
            if self.partial
            else VNET.pack(0, self.gso_type, 0, 0, 0, 0)
        )
        ethernet = bytes.fromhex("020000000002020000000001") + struct.pack("!H", self.ethertype)
        return header + ethernet + ip + udp + self.payload + self.trailer


def segments(message: bytes) -> list[bytes]:
    """The frames that Linux cuts a message into; a checksum that is left open stays so."""
    flags, gso_type, header_bytes, gso_size, start, offset = VNET.unpack_from(message)
    frame = message[VNET.size :]
    if gso_type != UDP_L4:
        return [message]
    assert (flags, header_bytes, start, offset) == (PARTIAL, HEADERS, 34, 6)
    ip, udp, payload = frame[14:34], frame[34:42], frame[42:]
    assert ones_sum(ip) == 0xFFFF
    assert struct.unpack_from("!H", ip, 2)[0] == len(frame) - 14
    total, check = struct.unpack_from("!HH", udp, 4)
    assert total == len(frame) - 34
    result = []
    identification = struct.unpack_from("!H", ip, 4)[0]
    for number, first in enumerate(range(0, len(payload), gso_size)):
        part = payload[first : first + gso_size]
        length = 8 + len(part)
        adjusted = ones_sum(struct.pack("!HHH", check, total ^ 0xFFFF, length))
        head = bytearray(ip)
        struct.pack_into("!HHH", head, 2, 20 + length, identification + number & 0xFFFF, 0x4000)
        struct.pack_into("!H", head, 10, 0)
        struct.pack_into("!H", head, 10, ones_sum(bytes(head)) ^ 0xFFFF)
        result.append(
            VNET.pack(PARTIAL, 0, 0, 0, 34, 6)
            + frame[:14]
            + bytes(head)
            + udp[:4]
            + struct.pack("!HH", length, adjusted)
            + part
        )
    return result


def without_identification(frame: bytes) -> bytes:
    """An atomic datagram's identification says nothing (RFC 6864 section 4.1), nor what sums it."""
    ip = VNET.size + 14
    return frame[: ip + 4] + bytes(2) + frame[ip + 6 : ip + 10] + bytes(2) + frame[ip + 12 :]


def sent(datagrams: list[Datagram], *, enabled: bool = True) -> list[tuple[int, bytes]]:
    queue = CoalescingQueue(enabled=enabled)
    for datagram in datagrams:
        queue.send(datagram.frame(), datagram.interface)
    return queue.take()


def lengths(datagrams: list[Datagram]) -> list[int]:
    """How many datagrams each message stands for."""
    return [len(segments(message)) for _interface, message in sent(datagrams)]


flows = st.builds(
    Datagram,
    payload=st.just(b""),
    interface=st.sampled_from([3, 4]),
    source_port=st.sampled_from([1000, 1001]),
    destination=st.sampled_from(["0a000150", "0a000151"]),
    tos=st.sampled_from([0, 0, 0, 2]),
    ttl=st.sampled_from([63, 63, 63, 64]),
    partial=st.sampled_from([True, True, True, False]),
    flags=st.sampled_from([0x4000, 0x4000, 0x4000, 0, 0x2000]),
    trailer=st.sampled_from([b"", b"", b"", b"\0\0"]),
)


@st.composite
def arrivals(draw: st.DrawFn) -> list[Datagram]:
    """Runs of datagrams of one flow, most of them equally long."""
    result: list[Datagram] = []
    for flow in draw(st.lists(flows, max_size=6)):
        size = draw(st.sampled_from([1, 2, 22, 999, 1472]))
        count = draw(st.integers(1, 70))
        odd = draw(st.sampled_from([0, size, size + 1]))
        for number in range(count):
            last = odd if number == count - 1 else size
            payload = bytes([number]) * last
            result.append(replace(flow, payload=payload, identification=number))
    return result[:BATCH]


@given(arrivals())
def test_cut_up_again_it_is_what_went_in(datagrams: list[Datagram]) -> None:
    messages = sent(datagrams)
    found = [
        (interface, without_identification(frame))
        for interface, message in messages
        for frame in segments(message)
    ]
    expected = [(each.interface, without_identification(each.frame())) for each in datagrams]
    assert found == expected


@given(arrivals())
def test_no_frame_is_longer_than_ip_allows_or_has_more_segments_than_linux(
    datagrams: list[Datagram],
) -> None:
    for _interface, message in sent(datagrams):
        assert len(message) - VNET.size - 14 <= 65535
        assert len(segments(message)) <= 64


@given(arrivals())
def test_turned_off_every_frame_leaves_as_it_came(datagrams: list[Datagram]) -> None:
    expected = [(each.interface, each.frame()) for each in datagrams]
    assert sent(datagrams, enabled=False) == expected


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param([22, 22, 22], [3], id="equally long"),
        pytest.param([22, 22, 5], [3], id="the last one shorter"),
        pytest.param([22, 5, 22], [2, 1], id="nothing after a shorter one"),
        pytest.param([22, 23], [1, 1], id="a longer one begins anew"),
        pytest.param([22] * 65, [64, 1], id="at most 64"),
        pytest.param([1472] * 45, [44, 1], id="at most 65,535 bytes"),
        pytest.param([0, 0], [1, 1], id="an empty datagram has no segments"),
    ],
)
def test_how_many_are_joined(sizes: list[int], expected: list[int]) -> None:
    assert lengths([Datagram(bytes(size)) for size in sizes]) == expected


DIFFERENT = [
    pytest.param({"interface": 4}, id="another interface"),
    pytest.param({"source_port": 1001}, id="another port"),
    pytest.param({"destination": "0a000151"}, id="another address"),
    pytest.param({"tos": 1}, id="another class or ECN mark"),
    pytest.param({"ttl": 62}, id="another TTL"),
    pytest.param({"flags": 0}, id="may be fragmented"),
    pytest.param({"flags": 0x2000}, id="a fragment"),
    pytest.param({"partial": False}, id="a complete checksum"),
    pytest.param({"options": b"\x01\x01\x01\x00"}, id="IP options"),
    pytest.param({"trailer": b"\0"}, id="something behind the datagram"),
    pytest.param({"protocol": 6}, id="not UDP"),
    pytest.param({"ethertype": 0x86DD}, id="not IPv4"),
    pytest.param({"gso_type": UDP_L4}, id="several datagrams already"),
]


@pytest.mark.parametrize("change", DIFFERENT)
def test_what_is_different_leaves_by_itself(change: dict[str, object]) -> None:
    same = Datagram(b"x" * 22)
    other = replace(same, **change)  # type: ignore[arg-type]
    for pair in ([same, other], [other, same]):
        messages = sent(pair)
        assert messages == [(each.interface, each.frame()) for each in pair]


@pytest.mark.parametrize("change", DIFFERENT[5:])
def test_what_cannot_be_joined_is_not_joined_to_its_like_either(change: dict[str, object]) -> None:
    pair = [replace(Datagram(b"x" * 22), **change)] * 2  # type: ignore[arg-type]
    assert sent(pair) == [(each.interface, each.frame()) for each in pair]


def test_the_identification_is_no_difference() -> None:
    assert lengths([Datagram(b"x" * 22, identification=number) for number in (1, 2, 9)]) == [3]


@pytest.mark.parametrize("cut", range(VNET.size + 14, VNET.size + HEADERS + 1))
def test_a_truncated_frame_is_passed_on_as_it_is(cut: int) -> None:
    queue = CoalescingQueue()
    frame = Datagram(b"x" * 22).frame()[:cut]
    queue.send(frame, 3)
    queue.send(frame, 3)
    assert queue.take() == [(3, frame)] * 2


def test_runs_of_several_flows_make_a_frame_each() -> None:
    order = [1000] * 5 + [1001] * 3 + [1000] * 2
    datagrams = [Datagram(b"x" * 22, source_port=port) for port in order]
    assert lengths(datagrams) == [len(list(run)) for _port, run in groupby(order)]


def test_a_queue_holds_one_batch() -> None:
    queue = CoalescingQueue()
    for _ in range(BATCH):
        queue.send(Datagram(b"").frame(), 3)
    with pytest.raises(ValueError, match="too many"):
        queue.send(Datagram(b"").frame(), 3)
    assert len(queue.take()) == BATCH
    assert queue.take() == []
