# SPDX-License-Identifier: Apache-2.0
"""The punt link: what arrives at its far end of what the program does not forward, and how."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from hyperplane_nat.flow_cache.program import FlowCache
from netns import topology
from netns.interior import route_socket
from netns.names import PUNT_LINK
from tests.flow_cache.scene import (
    ARMED,
    GATEWAY,
    INSIDE,
    INTERFACE,
    INTERFACE_ATTACHMENT,
    LIMITS,
    SERVICE,
    TRANSLATED,
    Scene,
)
from tests.flow_cache.test_hits import IP_MTU_DISCOVER, PMTUDISC_DO, UDP_SEGMENT, statistics
from tests.live import wire
from tests.live.lab import udp_socket

pytestmark = pytest.mark.live

PACKET_AUXDATA = 8
STATUS_VLAN_VALID = 0x10
VNET_BYTES = 10
ETH_P_8021Q, ETH_P_8021AD = 0x8100, 0x88A8
VNET_GSO_UDP_L4 = 5
# struct tpacket_auxdata.
AUXDATA = struct.Struct("=IIIHHHH")


@dataclass(frozen=True)
class Punted:
    """A frame at the far end."""

    tag: int | None
    header: bytes
    """Of virtio-net."""
    frame: bytes
    kind: int = ETH_P_8021Q
    """Of the tag."""


class FarEnd:
    """A packet socket as the forwarder's."""

    def __init__(self, lab: str) -> None:
        self.socket = wire._packet_socket(topology.punt_namespace(lab), PUNT_LINK, wire.ETH_P_ALL)
        self.socket.setsockopt(wire.SOL_PACKET, wire.PACKET_VNET_HDR, 1)
        self.socket.setsockopt(wire.SOL_PACKET, PACKET_AUXDATA, 1)
        self.socket.settimeout(30)

    def next(self) -> Punted:
        """The next frame; fails when none comes."""
        data, control, _, _ = self.socket.recvmsg(1 << 17, 256)
        ((_, _, value),) = control
        status, _, _, _, _, tag, kind = AUXDATA.unpack_from(value)
        found = tag if status & STATUS_VLAN_VALID else None
        return Punted(found, data[:VNET_BYTES], data[VNET_BYTES:], kind)

    def nothing(self) -> bool:
        """Whether none has come."""
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            return not self.socket.recv(1)
        self.socket.settimeout(30)
        return True


@pytest.fixture
def far_end(dropping: Scene, lab_name: str) -> Iterator[FarEnd]:
    """The far end of the punt link that misses of the scene are sent to."""
    index = topology.make_punt_link(lab_name)
    dropping.cache.maps.set_control(LIMITS, punt=index)
    end = FarEnd(lab_name)
    yield end
    end.socket.close()


def datagram(scene: Scene, number: int = 1) -> Ether:
    """One of an environment, which nobody has cached."""
    slot = scene.lab.slots[number - 1]
    return (
        Ether(src=slot.environment_mac, dst=slot.gateway_mac)
        / IP(src=INSIDE, dst=SERVICE)
        / UDP(sport=41000, dport=8000)
        / b"to be punted"
    )


def test_a_miss_arrives_with_the_number_of_where_it_came_from(
    dropping: Scene, far_end: FarEnd
) -> None:
    for number in (1, 2):
        frame = bytes(datagram(dropping, number))
        wire.inject(dropping.environment(number), "eth0", [frame])
        assert far_end.next() == Punted(number, bytes(VNET_BYTES), frame)
    back = bytes(
        Ether(src=dropping.interface.peer_mac, dst=dropping.interface.mac)
        / IP(src=SERVICE, dst=TRANSLATED)
        / UDP(sport=8000, dport=31000)
    )
    wire.inject(dropping.vpc, INTERFACE, [back])
    assert far_end.next() == Punted(INTERFACE_ATTACHMENT, bytes(VNET_BYTES), back)


def test_whatever_it_is_it_arrives_as_it_was(dropping: Scene, far_end: FarEnd) -> None:
    """Frames for others, without IP, too short for it."""
    slot = dropping.lab.slots[0]
    frames = [
        bytes(Ether(src=slot.environment_mac, dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=GATEWAY)),
        bytes(Ether(src=slot.environment_mac, dst="02:00:00:00:00:99", type=0x86DD) / Raw(b"six")),
        bytes(Ether(src=slot.environment_mac, dst=slot.gateway_mac, type=0x0800)),
        bytes(Ether(src=slot.environment_mac, dst=slot.gateway_mac, type=0x0800) / Raw(b"\x45")),
    ]
    for frame in frames:
        wire.inject(dropping.environment(), "eth0", [frame])
        assert far_end.next() == Punted(1, bytes(VNET_BYTES), frame)


@pytest.mark.parametrize("layer", [Dot1Q, Dot1AD])
def test_a_tag_of_the_sender_s_is_in_the_frame(
    dropping: Scene, far_end: FarEnd, layer: type[Dot1Q]
) -> None:
    """It cannot be taken for the number of an attachment."""
    plain = datagram(dropping)
    tagged = Ether(src=plain.src, dst=plain.dst) / layer(vlan=2, prio=5) / plain[IP]
    wire.inject(dropping.environment(), "eth0", [bytes(tagged)])
    assert far_end.next() == Punted(1, bytes(VNET_BYTES), bytes(tagged))
    double = Ether(src=plain.src, dst=plain.dst) / layer(vlan=2) / Dot1Q(vlan=3) / plain[IP]
    wire.inject(dropping.environment(), "eth0", [bytes(double)])
    assert far_end.next() == Punted(1, bytes(VNET_BYTES), bytes(double))


def test_every_number_an_attachment_can_have(dropping: Scene, far_end: FarEnd) -> None:
    """All 16 bits: priority and drop eligibility are part of it."""
    index = dropping.lab.slots[0].ifindex
    with route_socket(dropping.lab.gateway) as route:
        for number in (1, 0x0FFF, 0x1000, 0x1001, 0xF000, 0xFFFE):
            dropping.cache.attach(route, {index: number})
            wire.inject(dropping.environment(), "eth0", [bytes(datagram(dropping))])
            assert far_end.next().tag == number


def test_offloads_arrive_with_the_frame(dropping: Scene, far_end: FarEnd) -> None:
    """A partial checksum, and a super-frame of UDP that is longer than any link's MTU."""
    with udp_socket(dropping.environment()) as client:
        client.sendto(b"partial", (SERVICE, 8000))
        punted = far_end.next()
        assert punted.header[:1] == b"\x01"
        assert struct.unpack_from("=HH", punted.header, 6) == (34, 6)
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        client.sendto(b"y" * 40000, (SERVICE, 8000))
        punted = far_end.next()
    assert punted.tag == 1
    assert len(punted.frame) == 42 + 40000
    assert punted.header[1] == VNET_GSO_UDP_L4
    assert struct.unpack_from("=H", punted.header, 4) == (1000,)


def test_a_hit_is_not_punted(dropping: Scene, far_end: FarEnd) -> None:
    flow = dropping.udp()
    with udp_socket(dropping.vpc) as server, udp_socket(dropping.environment(), port=41000) as out:
        server.bind((SERVICE, 8000))
        out.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
        out.sendto(b"hit", (SERVICE, 8000))
        assert server.recv(16) == b"hit"
    assert dropping.use(flow)[0].packets == 1
    assert far_end.nothing()


def test_where_the_punt_link_is_gone_nothing_else_gets_it(
    dropping: Scene, far_end: FarEnd, lab_name: str
) -> None:
    """The frame is lost in the kernel; the gateway's own stack never sees it."""
    topology.remove_punt_link(lab_name)
    wire.inject(dropping.environment(), "eth0", [bytes(datagram(dropping))])
    assert statistics(dropping.lab.gateway)["Ip:InReceives"] == 0
    dropping.cache.maps.set_control(LIMITS, punt=topology.make_punt_link(lab_name))
    again = FarEnd(lab_name)
    wire.inject(dropping.environment(), "eth0", [bytes(datagram(dropping))])
    assert again.next().tag == 1
    again.socket.close()


def test_one_program_after_another_on_a_link_loses_nothing(
    dropping: Scene, far_end: FarEnd, lab_name: str
) -> None:
    index = dropping.lab.slots[0].ifindex
    with (
        route_socket(dropping.lab.gateway) as route,
        FlowCache.load(flows=1, attachments=8) as other,
    ):
        other.maps.set_control(punt=topology.make_punt_link(lab_name))
        for cache in (other, dropping.cache, other):
            cache.attach(route, {index: 7})
            wire.inject(dropping.environment(), "eth0", [bytes(datagram(dropping))])
            assert far_end.next().tag == 7


def test_what_is_armed_is_counted_and_says_so(dropping: Scene, far_end: FarEnd) -> None:
    """And is a hit from the moment on at which the word is exchanged."""
    flow = dropping.udp()
    dropping.arm(flow)
    frame = datagram(dropping)
    frame[IP].flags = "DF"
    for number in range(1, 4):
        wire.inject(dropping.environment(), "eth0", [bytes(frame)])
        assert far_end.next() == Punted(1, bytes(VNET_BYTES), bytes(frame), ETH_P_8021AD)
        assert dropping.use(flow)[0].packets == ARMED + number
    frame[IP].flags = 0
    wire.inject(dropping.environment(), "eth0", [bytes(frame)])
    assert far_end.next().kind == ETH_P_8021Q
    assert dropping.counts(flow)[0] == (ARMED + 3, 0)
    frame[IP].flags = "DF"
    dropping.arm(flow, 0)
    with udp_socket(dropping.vpc) as server:
        server.bind((SERVICE, 8000))
        wire.inject(dropping.environment(), "eth0", [bytes(frame)])
        assert server.recv(64) == b"to be punted"
    assert dropping.counts(flow)[0] == (1, 40)
    assert far_end.nothing()


def test_a_key_that_leads_to_another_flow_s_line_is_a_miss(
    dropping: Scene, far_end: FarEnd
) -> None:
    """As one may for a moment whose place in the hash is used again."""
    flow, other = dropping.udp(), dropping.udp(port=41001, translated=31001)
    frame = datagram(dropping)
    frame[IP].flags = "DF"
    dropping.cache.maps.put_key(flow.keys[0].packed(), other.line)
    wire.inject(dropping.environment(), "eth0", [bytes(frame)])
    assert far_end.next() == Punted(1, bytes(VNET_BYTES), bytes(frame))
    assert dropping.counts(flow) == dropping.counts(other) == ((0, 0), (0, 0))
