# SPDX-License-Identifier: Apache-2.0
"""What the cache leaves to whoever stands behind it: untouched, uncounted, and seen there.

Each frame differs in one thing from one that is a hit, which goes in front of it.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from hyperplane_nat.flow_cache.maps import KEYS, delete, update
from hyperplane_nat.flow_cache.program import detach
from netns import content
from netns.interior import route_socket
from tests.flow_cache.scene import (
    INSIDE,
    INTERFACE,
    INTERFACE_ATTACHMENT,
    LIMITS,
    SECOND,
    SERVICE,
    TRANSLATED,
    VPC_MTU,
    Flow,
    Scene,
    Witness,
    ordinary,
)
from tests.live import wire
from tests.live.lab import udp_socket, wait_until

pytestmark = pytest.mark.live

HEADERS = {6: 40, 17: 28}
GSO_TCPV4, GSO_UDP_L4 = 1, 5
SEQUENCE, ACKNOWLEDGED = 1000, 5000


@pytest.fixture
def witness(scene: Scene) -> Iterator[Witness]:
    """Behind the cache on environment 1's link."""
    found = Witness(scene, scene.near())
    yield found
    found.close()


def cached(scene: Scene, protocol: int) -> Flow:
    sequences = ((SEQUENCE, ACKNOWLEDGED), (ACKNOWLEDGED, SEQUENCE))
    return scene.add(protocol, *ordinary(41000, 31000, 8000), sequences=sequences)


def hit(scene: Scene, protocol: int, payload: bytes = b"payload") -> Packet:
    """A frame of environment 1's cached flow."""
    slot = scene.lab.slots[0]
    layer = (
        UDP(sport=41000, dport=8000)
        if protocol == 17
        else TCP(sport=41000, dport=8000, flags="A", seq=SEQUENCE, ack=ACKNOWLEDGED)
    )
    return (
        Ether(src=slot.environment_mac, dst=slot.gateway_mac)
        / IP(src=INSIDE, dst=SERVICE, flags="DF")
        / layer
        / payload
    )


def with_ip(**values: object) -> Callable[[Packet], None]:
    def change(frame: Packet) -> None:
        for name, value in values.items():
            setattr(frame[IP], name, value)

    return change


def with_tcp(**values: object) -> Callable[[Packet], None]:
    def change(frame: Packet) -> None:
        for name, value in values.items():
            setattr(frame[TCP], name, value)

    return change


def with_udp(**values: object) -> Callable[[Packet], None]:
    def change(frame: Packet) -> None:
        for name, value in values.items():
            setattr(frame[UDP], name, value)

    return change


def padded(frame: Packet) -> None:
    """Longer than its IP packet."""
    frame[IP].len = len(frame[IP])
    frame.add_payload(b"\0" * 6)


BOTH = {
    "ttl of 1": with_ip(ttl=1),
    "ttl of 0": with_ip(ttl=0),
    "may be fragmented": with_ip(flags=0),
    "first fragment": with_ip(flags="MF"),
    "later fragment": with_ip(flags=0, frag=10),
    "a fragment that must not be one": with_ip(flags="MF+DF"),
    "reserved flag": with_ip(flags="evil+DF"),
    "ip options": with_ip(options=[IPOption_RR(routers=["0.0.0.0"])]),
    "ip version 6 in its place": with_ip(version=6),
    "wrong header checksum": with_ip(chksum=0x1234),
    "total length too short": with_ip(len=30),
    "total length too long": with_ip(len=1000),
    "padding": padded,
    "another source": with_ip(src="169.254.100.3"),
    "another destination": with_ip(dst="10.0.1.81"),
    "another protocol": with_ip(proto=136),
}
TCP_ALONE = {
    "syn": with_tcp(flags="S"),
    "syn-ack": with_tcp(flags="SA"),
    "fin": with_tcp(flags="FA"),
    "rst": with_tcp(flags="R"),
    "rst-ack": with_tcp(flags="RA"),
    "no ack": with_tcp(flags="P"),
    "no flag": with_tcp(flags=0),
    "data offset too small": with_tcp(dataofs=4),
    "data offset beyond the end": with_tcp(dataofs=15),
    "another source port": with_tcp(sport=41001),
    "another destination port": with_tcp(dport=8001),
}
UDP_ALONE = {
    "udp length too short": with_udp(len=10),
    "udp length too long": with_udp(len=400),
    "another source port": with_udp(sport=41001),
    "another destination port": with_udp(dport=8001),
}
CASES = [
    pytest.param(protocol, change, id=f"{'tcp' if protocol == 6 else 'udp'}: {name}")
    for protocol, changes in ((6, BOTH | TCP_ALONE), (17, BOTH | UDP_ALONE))
    for name, change in changes.items()
]


def hits(scene: Scene, flow: Flow, packet: Packet) -> None:
    """It is one, and counted."""
    before = scene.counts(flow)[0]
    wire.inject(scene.environment(), "eth0", [bytes(packet)])
    size = len(packet) - 14
    wait_until(
        lambda: scene.counts(flow)[0] == (before[0] + 1, before[1] + size),
        lambda: f"a hit: {scene.counts(flow)[0]} after {before}",
    )


def misses(scene: Scene, flow: Flow, witness: Witness, frame: bytes) -> None:
    """It is none: seen behind the cache as it was sent, and nothing of it kept."""
    before = scene.use(flow)
    wire.inject(scene.environment(), "eth0", [frame])
    assert witness.frame() == frame
    assert scene.use(flow) == before


@pytest.mark.parametrize(("protocol", "change"), CASES)
def test_a_frame_that_is_no_hit(
    scene: Scene, witness: Witness, protocol: int, change: Callable[[Packet], None]
) -> None:
    flow = cached(scene, protocol)
    hits(scene, flow, hit(scene, protocol))
    packet = hit(scene, protocol)
    change(packet)
    misses(scene, flow, witness, bytes(packet))
    # A hit again, and not seen there.
    hits(scene, flow, hit(scene, protocol))
    assert witness.nothing()


def test_an_icmp_error_about_a_cached_flow(scene: Scene, witness: Witness) -> None:
    flow = cached(scene, 17)
    inner = bytes(hit(scene, 17)[IP])[:28]
    slot = scene.lab.slots[0]
    error = (
        Ether(src=slot.environment_mac, dst=slot.gateway_mac)
        / IP(src=INSIDE, dst=SERVICE, flags="DF")
        / ICMP(type=3, code=3)
        / inner
    )
    misses(scene, flow, witness, bytes(error))


@pytest.mark.parametrize("destination", ["ff:ff:ff:ff:ff:ff", "02:00:00:00:00:99"])
def test_a_frame_to_another_station(scene: Scene, witness: Witness, destination: str) -> None:
    flow = cached(scene, 17)
    packet = hit(scene, 17)
    packet.dst = destination
    misses(scene, flow, witness, bytes(packet))


def test_a_frame_with_a_vlan_tag(scene: Scene, witness: Witness) -> None:
    """The kernel takes the tag off before it comes to the witness."""
    flow = cached(scene, 17)
    before = scene.use(flow)
    frame = bytes(hit(scene, 17))
    tagged = frame[:12] + bytes.fromhex("81000005") + frame[12:]
    wire.inject(scene.environment(), "eth0", [tagged])
    assert witness.frame() == frame
    assert scene.use(flow) == before


@pytest.mark.parametrize("length", [0, 1, 19, 27])
def test_frames_that_end_early(scene: Scene, witness: Witness, length: int) -> None:
    """The kernel refuses to send those without a whole Ethernet header itself."""
    flow = cached(scene, 17)
    packet = hit(scene, 17, b"")
    packet[IP].len = length
    misses(scene, flow, witness, bytes(packet)[: 14 + length])


@pytest.mark.parametrize("protocol", [6, 17])
def test_what_the_next_link_does_not_carry(scene: Scene, witness: Witness, protocol: int) -> None:
    flow = cached(scene, protocol)
    room = VPC_MTU - HEADERS[protocol]
    hits(scene, flow, hit(scene, protocol, content.read(room)))
    misses(scene, flow, witness, bytes(hit(scene, protocol, content.read(room + 1))))
    scene.serve(INTERFACE_ATTACHMENT, mtu=VPC_MTU + 1)
    hits(scene, flow, hit(scene, protocol, content.read(room + 1)))


def super_frame(scene: Scene, protocol: int, size: int, count: int = 4) -> tuple[bytes, bytes]:
    """A frame of so many segments, and the header that says so, with a checksum to complete."""
    frame = bytearray(bytes(hit(scene, protocol, content.read(size * count))))
    length = len(frame) - 34
    pseudo = (*struct.unpack(">4H", frame[26:34]), protocol, length)
    total = sum(pseudo)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    offset = 16 if protocol == 6 else 6
    frame[34 + offset : 36 + offset] = struct.pack(">H", total)
    header = wire.offload(
        gso_type=GSO_TCPV4 if protocol == 6 else GSO_UDP_L4,
        header_length=14 + HEADERS[protocol],
        gso_size=size,
        checksum_start=34,
        checksum_offset=offset,
    )
    return header, bytes(frame)


@pytest.mark.parametrize("protocol", [6, 17])
def test_super_frames_are_as_large_as_their_segments(
    scene: Scene, witness: Witness, protocol: int
) -> None:
    flow = cached(scene, protocol)
    room = VPC_MTU - HEADERS[protocol]
    fits = super_frame(scene, protocol, room)
    assert wire.inject_offloaded(scene.environment(), "eth0", [fits]) == 1
    wait_until(lambda: scene.counts(flow)[0] == (4, 4 * VPC_MTU), "four segments")
    header, frame = super_frame(scene, protocol, room + 1)
    before = scene.use(flow)
    assert wire.inject_offloaded(scene.environment(), "eth0", [(header, frame)]) == 1
    assert witness.frame() == frame
    assert scene.use(flow) == before
    assert witness.nothing()


@pytest.mark.parametrize("translated", [31000, 41000], ids=["another port", "the same port"])
def test_a_partial_checksum_of_a_packet_inside(
    scene: Scene, witness: Witness, translated: int
) -> None:
    """A tunnel's: the outer checksum is complete and must not be taken for a partial one."""
    flow = scene.udp(translated=translated)
    frame = bytes(hit(scene, 17, content.read(100)))
    inside = wire.offload(checksum_start=34 + 8 + 20, checksum_offset=6)
    before = scene.use(flow)
    assert wire.inject_offloaded(scene.environment(), "eth0", [(inside, frame)]) == 1
    assert witness.frame()[:90] == frame[:90]
    assert scene.use(flow) == before


def test_a_tunnel_without_outer_checksum_passes(scene: Scene, witness: Witness) -> None:
    """VXLAN's usual way: there is nothing to change, and the one inside stays partial."""
    flow = scene.udp()
    packet = hit(scene, 17, content.read(100))
    packet[UDP].chksum = 0
    inside = wire.offload(checksum_start=34 + 8 + 20, checksum_offset=6)
    assert wire.inject_offloaded(scene.environment(), "eth0", [(inside, bytes(packet))]) == 1
    wait_until(lambda: scene.counts(flow)[0][0] == 1, "a hit")
    assert witness.nothing()


def test_a_flow_idle_in_both_directions(scene: Scene, witness: Witness) -> None:
    now = time.monotonic_ns()
    longer = scene.add(17, *ordinary(41000, 31000, 8000), last_use=now - LIMITS[0] + 60 * SECOND)
    hits(scene, longer, hit(scene, 17))
    for key in longer.keys:
        assert scene.cache.maps.remove(key)
    shorter = scene.add(
        17, *ordinary(41000, 31000, 8000), limit=1, last_use=now - LIMITS[0] + 60 * SECOND
    )
    misses(scene, shorter, witness, bytes(hit(scene, 17)))


def test_a_direction_keeps_the_other_alive(scene: Scene, witness: Witness) -> None:
    """As a flow has one time of last use, whoever used it."""
    flow = scene.udp()
    scene.cache.maps.set_control((5 * SECOND, *LIMITS[1:]))
    interface = scene.interface
    answer = bytes(
        Ether(src=interface.peer_mac, dst=interface.mac)
        / IP(src=SERVICE, dst=TRANSLATED, flags="DF")
        / UDP(sport=8000, dport=31000)
    )

    def old() -> bool:
        wire.inject(scene.vpc, INTERFACE, [answer])
        return time.monotonic_ns() - scene.use(flow)[0].last_use > 6 * SECOND

    # Somebody has to take the answers: else they are answered in turn.
    with udp_socket(scene.environment(), port=41000):
        wait_until(old, "the one direction idle for longer than its limit, the other in use")
        assert scene.use(flow)[0].packets == 0
        hits(scene, flow, hit(scene, 17))
        assert witness.nothing()


def test_the_lab_s_clock_counts(scene: Scene, witness: Witness) -> None:
    flow = cached(scene, 17)
    hits(scene, flow, hit(scene, 17))
    scene.cache.maps.set_control(LIMITS, clock_offset=LIMITS[0])
    misses(scene, flow, witness, bytes(hit(scene, 17)))
    scene.cache.maps.set_control(LIMITS, clock_offset=LIMITS[0] - 60 * SECOND)
    hits(scene, flow, hit(scene, 17))
    ahead = scene.use(flow)[0].last_use - time.monotonic_ns()
    assert LIMITS[0] - 61 * SECOND < ahead <= LIMITS[0] - 60 * SECOND


@pytest.mark.parametrize("attachment", [1, INTERFACE_ATTACHMENT], ids=["source", "destination"])
@pytest.mark.parametrize("generation", [0, 2], ids=["not served", "served anew"])
def test_another_generation_ends_all_flows_of_a_link_at_once(
    scene: Scene, witness: Witness, attachment: int, generation: int
) -> None:
    """Both their directions; flows of other links go on."""
    flow = cached(scene, 17)
    other = scene.add(17, *ordinary(41000, 31001, 8000), environment=2)
    hits(scene, flow, hit(scene, 17))
    scene.serve(attachment, generation=generation)
    misses(scene, flow, witness, bytes(hit(scene, 17)))
    behind = Witness(scene, INTERFACE)
    before = scene.use(flow)
    with udp_socket(scene.vpc) as server:
        server.bind((SERVICE, 8000))
        server.sendto(b"answer", (TRANSLATED, 31000))
        assert behind.frame().endswith(b"answer")
        assert scene.use(flow) == before
        if attachment == 1:
            server.sendto(b"answer", (TRANSLATED, 31001))
            wait_until(lambda: scene.counts(other)[1] == (1, 34), "the other environment's")
    behind.close()
    scene.serve(attachment)
    hits(scene, flow, hit(scene, 17))


def test_a_key_that_is_removed(scene: Scene, witness: Witness) -> None:
    flow = cached(scene, 17)
    hits(scene, flow, hit(scene, 17))
    assert scene.cache.maps.remove(flow.keys[0])
    assert not scene.cache.maps.remove(flow.keys[0])
    misses(scene, flow, witness, bytes(hit(scene, 17)))


def test_a_key_that_is_not_counted_is_not_looked_for(scene: Scene, witness: Witness) -> None:
    """However it came into the map."""
    flow = cached(scene, 17)
    key, line = flow.keys[0].packed(), flow.line
    assert scene.cache.maps.remove_key(key)
    update(scene.cache.maps.descriptors[KEYS], key, line.to_bytes(4, sys.byteorder))
    assert scene.cache.maps.line_of(key) == line
    misses(scene, flow, witness, bytes(hit(scene, 17)))
    delete(scene.cache.maps.descriptors[KEYS], key)
    scene.cache.maps.put_key(key, line)
    hits(scene, flow, hit(scene, 17))


def test_a_link_without_the_program_is_as_before(scene: Scene, witness: Witness) -> None:
    flow = cached(scene, 17)
    with route_socket(scene.lab.gateway) as route:
        detach(route, scene.lab.slots[0].ifindex)
        misses(scene, flow, witness, bytes(hit(scene, 17)))
        scene.cache.attach(route, {scene.lab.slots[0].ifindex: 1})
    hits(scene, flow, hit(scene, 17))


def test_an_environment_cannot_be_another_by_what_it_sends(scene: Scene) -> None:
    """The flow of environment 1, from the link of environment 2."""
    flow = cached(scene, 17)
    slot = scene.lab.slots[1]
    packet = hit(scene, 17)
    packet.src, packet.dst = slot.environment_mac, slot.gateway_mac
    witness = Witness(scene, scene.near(2))
    wire.inject(scene.environment(2), "eth0", [bytes(packet)])
    assert witness.frame() == bytes(packet)
    witness.close()
    assert scene.counts(flow) == ((0, 0), (0, 0))
