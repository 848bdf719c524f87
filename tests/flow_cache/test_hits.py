# SPDX-License-Identifier: Apache-2.0
"""Packets of cached flows: what arrives, what is counted, what is remembered."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from netns import content
from tests.flow_cache.scene import (
    GATEWAY,
    INSIDE,
    INTERFACE,
    INTERFACE_ATTACHMENT,
    SERVICE,
    TRANSLATED,
    Flow,
    Scene,
    Witness,
    ordinary,
    slow_path,
)
from tests.live import wire
from tests.live.lab import require_program, run, tcp_socket, udp_socket, wait_until

pytestmark = pytest.mark.live

SO_NO_CHECK, UDP_SEGMENT = 11, 103
IP_MTU_DISCOVER, PMTUDISC_DO = 10, 2
SIZES = (0, 1, 2, 3, 17, 512, 1371, 1372)
BULK = 24 << 20


def offloads(where: str, link: str, **switches: str) -> None:
    """Switch a link's offloads (ethtool -K)."""
    words = [word for pair in switches.items() for word in pair]
    run(where, require_program("ethtool", "ethtool"), "-K", link, *words)


def statistics(where: str) -> dict[str, int]:
    """The counters of a namespace's stack since it was made, RFC 1213's names."""
    text = run(where, "cat", "/proc/net/snmp").stdout
    rows = [line.split() for line in text.splitlines()]
    return {
        names[0] + name: int(value)
        for names, values in zip(rows[::2], rows[1::2], strict=True)
        for name, value in zip(names[1:], values[1:], strict=True)
    }


def receive_errors(where: str) -> dict[str, int]:
    """What a namespace has refused for its checksum or header."""
    found = statistics(where)
    wanted = ("Ip:InHdrErrors", "Tcp:InCsumErrors", "Udp:InCsumErrors")
    return {each: found[each] for each in wanted if found[each]}


def exchange(scene: Scene, flow: Flow, sizes: tuple[int, ...] = SIZES) -> None:
    """Datagrams of these sizes there and back between real sockets, compared at both ends."""
    (_, port), remote = flow.outward
    translated, local = flow.beyond
    with (
        udp_socket(scene.vpc) as server,
        udp_socket(scene.environment(flow.environment), port=port) as client,
    ):
        server.bind(local)
        for size in sizes:
            payload = content.read(size)
            client.sendto(payload, remote)
            assert server.recvfrom(2048) == (payload, translated)
            server.sendto(payload[::-1], translated)
            assert client.recvfrom(2048) == (payload[::-1], remote)


def test_datagrams_pass_both_ways_and_are_counted(scene: Scene) -> None:
    flow = scene.udp()
    before = time.monotonic_ns()
    exchange(scene, flow)
    after = time.monotonic_ns()
    counted = len(SIZES), sum(SIZES) + 28 * len(SIZES)
    assert scene.counts(flow) == (counted, counted)
    out, back = scene.use(flow)
    assert before < out.last_use < back.last_use < after
    assert (out.sequence_end, out.acknowledged, out.window) == (0, 0, 0)
    assert not receive_errors(scene.vpc)
    assert not receive_errors(scene.environment())


@pytest.mark.parametrize("checksums", ["on", "off"])
@pytest.mark.parametrize("translated", [31000, 41000], ids=["another port", "the same port"])
def test_complete_and_partial_checksums_are_right_behind_it(
    scene: Scene, checksums: str, translated: int
) -> None:
    """A complete one is checked by the receiver; a partial one, where it is completed."""
    offloads(scene.environment(), "eth0", tx=checksums)
    offloads(scene.vpc, INTERFACE, tx=checksums)
    flow = scene.udp(translated=translated)
    exchange(scene, flow)
    assert scene.counts(flow)[0][0] == len(SIZES)
    capture = wire.Capture(scene.vpc, INTERFACE)
    with udp_socket(scene.environment(), port=41000) as client:
        for size in SIZES:
            client.sendto(content.read(size), (SERVICE, 8000))
    for frame in wait_until(lambda: capture.take(), "the datagrams"):
        packet = Ether(frame)
        check, header = packet[UDP].chksum, packet[IP].chksum
        del packet[UDP].chksum, packet[IP].chksum
        right = Ether(bytes(packet))
        assert right[IP].chksum == header
        if checksums == "off":
            assert right[UDP].chksum == check
    capture.close()
    assert not receive_errors(scene.vpc)
    assert not receive_errors(scene.environment())


def test_a_partial_checksum_is_completed_right_behind_it(scene: Scene) -> None:
    """A link that offers no checksums makes the kernel complete them on the way out."""
    offloads(scene.lab.gateway, INTERFACE, tx="off")
    scene.serve(INTERFACE_ATTACHMENT, has_peer=False)
    flow = scene.udp()
    exchange(scene, flow)
    assert scene.counts(flow)[0][0] == len(SIZES)
    assert not receive_errors(scene.vpc)


def test_no_checksum_stays_none(scene: Scene) -> None:
    flow = scene.udp()
    capture = wire.Capture(scene.vpc, INTERFACE)
    with udp_socket(scene.environment(), port=41000) as client:
        client.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        client.sendto(b"unchecked", (SERVICE, 8000))
    (frame,) = wait_until(capture.take, "the datagram")
    capture.close()
    packet = Ether(frame)
    assert (packet[IP].src, packet[UDP].sport, packet[UDP].chksum) == (TRANSLATED, 31000, 0)
    assert scene.counts(flow)[0] == (1, 28 + 9)


def test_a_frame_is_rewritten_in_these_places_alone(scene: Scene) -> None:
    scene.udp()
    slot, interface = scene.lab.slots[0], scene.interface
    sent = bytes(
        Ether(src=slot.environment_mac, dst=slot.gateway_mac)
        / IP(src=INSIDE, dst=SERVICE, flags="DF", ttl=2, tos=0x2E, id=7)
        / UDP(sport=41000, dport=8000)
        / b"as it was"
    )
    expected = Ether(sent)
    expected.src, expected.dst = interface.mac, interface.peer_mac
    expected[IP].src, expected[UDP].sport, expected[IP].ttl = TRANSLATED, 31000, 1
    del expected[IP].chksum, expected[UDP].chksum
    capture = wire.Capture(scene.vpc, INTERFACE)
    wire.inject(scene.environment(), "eth0", [sent])
    assert wait_until(capture.take, "the frame") == [bytes(expected)]
    capture.close()


def test_both_addresses_and_ports_can_be_rewritten(scene: Scene) -> None:
    """As a balancer does that keeps no client address, or an endpoint."""
    flow = scene.add(
        17,
        ((INSIDE, 41000), ("192.0.2.99", 80)),
        ((TRANSLATED, 31000), (SERVICE, 8000)),
    )
    exchange(scene, flow)
    assert scene.counts(flow)[1][0] == len(SIZES)
    assert not receive_errors(scene.vpc)
    assert not receive_errors(scene.environment())


def test_the_same_address_and_port_on_two_links_are_two_flows(scene: Scene) -> None:
    first = scene.udp()
    second = scene.add(17, *ordinary(41000, 31001, 8000), environment=2)
    exchange(scene, first, (10,))
    exchange(scene, second, (20, 30))
    assert scene.counts(first) == ((1, 38), (1, 38))
    assert scene.counts(second) == ((2, 106), (2, 106))


def test_datagrams_of_a_super_frame_are_counted_one_by_one(scene: Scene) -> None:
    count, size = 40, 1000
    flow = scene.udp()
    with udp_socket(scene.vpc) as server, udp_socket(scene.environment(), port=41000) as client:
        server.bind((SERVICE, 8000))
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        # Without, a super-frame larger than the link may be fragmented, and is a miss.
        client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
        payload = content.read(count * size)
        client.sendto(payload, (SERVICE, 8000))
        assert b"".join(server.recv(2 * size) for _ in range(count)) == payload
    assert scene.counts(flow)[0] == (count, count * (size + 28))
    assert not receive_errors(scene.vpc)


@pytest.mark.races
def test_two_threads_on_one_flow_lose_no_count(scene: Scene) -> None:
    flow, each = scene.udp(), 20_000
    with udp_socket(scene.environment(), port=41000) as client:

        def work() -> None:
            for _ in range(each):
                client.sendto(b"x" * 12, (SERVICE, 8000))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # A frame may wait for the other end's processor a little longer than its sender.
        wait_until(
            lambda: scene.counts(flow)[0] == (2 * each, 2 * each * 40),
            lambda: f"all counted: {scene.counts(flow)[0]}",
        )


@contextlib.contextmanager
def connection(scene: Scene) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection whose opening the cache leaves to the slow path."""
    with tcp_socket(scene.vpc) as listener, tcp_socket(scene.environment(), port=41000) as client:
        listener.bind((SERVICE, 8000))
        listener.listen()
        client.connect((SERVICE, 8000))
        server, peer = listener.accept()
        with server:
            assert peer == (TRANSLATED, 31000)
            server.settimeout(30)
            yield client, server


def carried_digest(sender: socket.socket, receiver: socket.socket) -> str:
    """The digest of what arrives of `BULK` bytes."""
    thread = threading.Thread(target=sender.sendall, args=(content.read(BULK),))
    thread.start()
    digest, left = hashlib.sha256(), BULK
    while left and (data := receiver.recv(min(left, 1 << 18))):
        digest.update(data)
        left -= len(data)
    thread.join()
    return digest.hexdigest()


@pytest.mark.parametrize(
    "switches",
    [{}, {"tso": "off", "gso": "off"}, {"tx": "off", "tso": "off", "gso": "off"}],
    ids=["super-frames", "segments, partial checksums", "segments, complete checksums"],
)
def test_a_connection_in_bulk_both_ways(scene: Scene, switches: dict[str, str]) -> None:
    """It opens and ends beside the cache; in between nothing of it does."""
    if switches:
        offloads(scene.environment(), "eth0", **switches)
        offloads(scene.vpc, INTERFACE, **switches)
    flow = scene.add(6, *ordinary(41000, 31000, 8000))
    with slow_path(scene) as carried:
        with connection(scene) as (client, server):
            opening = [Ether(frame)[TCP] for frame in carried]
            assert [str(each.flags) for each in opening] == ["S", "SA"]
            # The tracker has seen these two when it has the flow cached.
            firsts = [each.seq + 1 & 0xFFFFFFFF for each in opening]
            prime(scene, flow, firsts)
            assert carried_digest(client, server) == content.sha256(BULK)
            assert carried_digest(server, client) == content.sha256(BULK)
            assert len(carried) == 2
            out, back = scene.use(flow)
            ends = [(first + BULK) & 0xFFFFFFFF for first in firsts]
            assert [out.sequence_end, back.sequence_end] == ends
            wait_until(
                lambda: [each.acknowledged for each in scene.use(flow)] == ends[::-1],
                lambda: f"acknowledged {scene.use(flow)}, {ends[::-1]}",
            )
            assert min(each.window for each in scene.use(flow)) > 0
        wait_until(lambda: len(carried) >= 4, "both FINs beside the cache")
    assert {str(Ether(frame)[TCP].flags) for frame in carried[2:]} <= {"FA", "FPA"}
    ends_of = (scene.environment(), scene.vpc)
    for where, (packets, size) in zip(ends_of, scene.counts(flow), strict=True):
        # Each segment is counted, of super-frames too: none carries more than 1348 bytes.
        assert packets >= BULK // 1348
        again = statistics(where)["Tcp:RetransSegs"] * 1348
        assert BULK + packets * 40 <= size <= BULK + packets * 60 + again
    assert not receive_errors(scene.vpc)
    assert not receive_errors(scene.environment())


def prime(scene: Scene, flow: Flow, firsts: list[int]) -> None:
    """Cache a flow anew with the numbers that its sides begin at."""
    scene.flows.remove(flow)
    ends = ((firsts[0], firsts[1]), (firsts[1], firsts[0]))
    again = scene.add(6, *ordinary(41000, 31000, 8000), sequences=ends)
    assert again.line == flow.line


def test_what_was_never_sent_is_not_taken_for_acknowledged(scene: Scene) -> None:
    """And no number goes back: as in the tracker, by whose rules resets are judged."""
    flow = scene.add(6, *ordinary(41000, 31000, 8000), sequences=((1000, 5000), (6000, 900)))
    slot = scene.lab.slots[0]

    def send(seq: int, ack: int, window: int, payload: bytes = b"") -> tuple[int, int, int]:
        before = scene.counts(flow)[0][0]
        frame = (
            Ether(src=slot.environment_mac, dst=slot.gateway_mac)
            / IP(src=INSIDE, dst=SERVICE, flags="DF")
            / TCP(sport=41000, dport=8000, flags="A", seq=seq, ack=ack, window=window)
            / payload
        )
        wire.inject(scene.environment(), "eth0", [bytes(frame)])
        wait_until(lambda: scene.counts(flow)[0][0] == before + 1, "a hit")
        use = scene.use(flow)[0]
        return use.sequence_end, use.acknowledged, use.window

    assert send(1000, 5500, 11, b"x" * 100) == (1100, 5500, 11)
    assert send(900, 5400, 12, b"x" * 100) == (1100, 5500, 11)
    assert send(1100, 6001, 13) == (1100, 5500, 11)
    assert send(1100, 6000, 14) == (1100, 6000, 14)


def test_the_drop_behind_it_gets_no_hit(dropping: Scene) -> None:
    """As links are in a lab: what is no hit goes no further than the packet tap."""
    flow = dropping.udp()
    witness = Witness(dropping, dropping.near())
    with udp_socket(dropping.environment(), port=41000) as client:
        client.sendto(b"miss", (SERVICE, 8001))
    exchange(dropping, flow)
    assert dropping.counts(flow)[0][0] == len(SIZES)
    assert witness.nothing()
    witness.close()


def test_a_link_without_peer_is_left_by_its_near_end(scene: Scene) -> None:
    """Where a tap of the gateway's sees it."""
    flow = scene.udp()
    tap = wire._packet_socket(scene.lab.gateway, INTERFACE, wire.ETH_P_ALL)
    tap.setsockopt(wire.SOL_PACKET, wire.PACKET_IGNORE_OUTGOING, 0)
    tap.setblocking(False)
    with tap:
        exchange(scene, flow, (10,))
        # The answer, as it comes.
        assert len(frames(tap)) == 1
        scene.serve(INTERFACE_ATTACHMENT, has_peer=False)
        exchange(scene, flow, (10,))
        assert len(frames(tap)) == 2
    assert scene.counts(flow) == ((2, 76), (2, 76))


def frames(tap: socket.socket) -> list[bytes]:
    """What a tap has."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(tap.recv(1 << 17))
    return found


def test_misses_are_seen_behind_it_and_hits_are_not(scene: Scene) -> None:
    """The witness of tests/flow_cache/test_misses.py, tried by what is sure."""
    scene.udp()
    witness = Witness(scene, scene.near())
    with udp_socket(scene.environment(), port=41000) as client:
        client.sendto(b"hit", (SERVICE, 8000))
        client.sendto(b"miss", (GATEWAY, 8000))
    assert witness.frame().endswith(b"miss")
    assert witness.nothing()
    witness.close()
