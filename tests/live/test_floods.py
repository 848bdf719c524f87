# SPDX-License-Identifier: Apache-2.0
"""Shortages: one environment wants more flows, ports or next hops than there are; others go on."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netns import content
from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_ADDRESS,
    INTERFACE,
    INTERFACE_ADDRESS,
    WEB,
    Lab,
    difference,
    drops_exactly,
    live_connection,
    program,
    receive,
    ring_unread,
    tcp_socket,
    udp_socket,
    until_answered,
    wait_until,
)
from tests.live.test_super_frames import segmenting

pytestmark = [pytest.mark.live, pytest.mark.alone]

FLOWS_MAX = 2048
LIMIT = 50
QUEUE_FRAMES = 8
CHUNK_BYTES = 1 << 16
NOBODY = "10.0.1.200"
SERVICE = (WEB[0], 7000)

SMALL = f"""
[flows]
max = {FLOWS_MAX}

[ports]
limit_per_remote = {LIMIT}

[neighbours]
queue_frames = {QUEUE_FRAMES}
attempts = 3
retry_milliseconds = 1000
failed_seconds = 3600
"""

TIME_SCALE = 100
UDP_SECONDS = 2.0
HOLD_SECONDS = 5.0

# 200 seconds in a hundredth of the time.
QUICK = f"""
[timeouts]
time_scale = {TIME_SCALE}
udp_seconds = {UDP_SECONDS * TIME_SCALE:.0f}
tcp_established_seconds = 360000

[ports]
limit_per_remote = 1
hold_seconds = {HOLD_SECONDS * TIME_SCALE:.0f}
"""


@pytest.fixture(scope="module")
def small(launch_shared: Launch) -> Lab:
    """A lab with few flows, few ports and a short queue."""
    return launch_shared(environments=2, toml=SMALL)


def ask(endpoint: socket.socket, target: tuple[str, int] = ECHO) -> None:
    """A datagram that comes back."""
    endpoint.sendto(b"question", target)
    assert endpoint.recvfrom(64) == (b"question", target)


def settle(lab: Lab, environment: int = 2) -> None:
    """
    Whatever was sent before has gone through the gateway.

    By TCP, to the web server: these tests use up the ports and next hops of UDP.
    """
    with tcp_socket(lab.environment(environment)) as connection:
        connection.connect(WEB)


@contextlib.contextmanager
def bystander(lab: Lab, *, lossless: bool = True) -> Iterator[None]:
    """
    A TCP connection of environment 2 is busy all the time: it sees no reset and no wrong byte.

    With `lossless`, the gateway must not have lost a frame either. (A sender that the machine's
    load delays may send again what was never lost: retransmissions prove nothing.)
    """
    data = content.read(CHUNK_BYTES)
    stop = threading.Event()
    before = lab.status()["counters"]

    def work(server: socket.socket, client: socket.socket) -> int:
        chunks = 0
        while not stop.is_set():
            server.sendall(data)
            assert receive(client, len(data)) == data
            client.sendall(b"next")
            assert receive(server, 4) == b"next"
            chunks += 1
        return chunks

    with tcp_socket(lab.vpc) as listener, tcp_socket(lab.environment(2)) as client:
        listener.bind(SERVICE)
        listener.listen()
        client.connect(SERVICE)
        server, _peer = listener.accept()
        with server, ThreadPoolExecutor(1) as pool:
            server.settimeout(30)
            chunks = pool.submit(work, server, client)
            try:
                yield
            finally:
                stop.set()
            assert chunks.result(60) > 0
    change = difference(before, lab.status()["counters"])
    lost = ("ring_dropped", "transmit_full", "transmit_errors")
    assert not [name for name in lost if lossless and name in change]


def flood(lab: Lab, ports: range, remote_ports: range) -> None:
    """One datagram of environment 1 on each of so many flows, to a server that is not there."""
    link = (lab.environment(1), "eth0")
    gateway_mac = wire.mac_of(lab.gateway, "env1")
    ip = IP(src=INSIDE_ADDRESS, dst=WEB[0]) / UDP(sport=1, dport=1, chksum=0)
    whole = bytes(Ether(src=wire.mac_of(*link), dst=gateway_mac) / ip)
    before = handled(lab)
    sent = 0

    def kept_up() -> bool:
        return handled(lab) - before >= sent

    for remote in remote_ports:
        frames = [whole[:34] + struct.pack("!HH", port, remote) + whole[38:] for port in ports]
        wire.inject(*link, frames)
        sent += len(frames)
        # What is lost in a full ring never asks for a flow.
        wait_until(kept_up, "the gateway keeps up")


def handled(lab: Lab) -> int:
    """UDP flows that were asked for, got or not."""
    counters = lab.counters()
    return counters["flows_created_udp"] + counters["drop_flow_table_full"]


@pytest.mark.requirement("RFC5508-8", profile="aws")
@pytest.mark.requirement("AWS-error-port-allocation", profile="aws")
@pytest.mark.requirement("RFC6888-11", profile="aws")
def test_ports_to_one_remote_run_out(small: Lab) -> None:
    """The limit holds for all environments of an interface together, and for that remote only."""
    before = small.counters()
    with contextlib.ExitStack() as stack:
        endpoints = [
            stack.enter_context(udp_socket(small.environment(1 + number % 2)))
            for number in range(LIMIT)
        ]
        for endpoint in endpoints:
            ask(endpoint)
        late = stack.enter_context(udp_socket(small.environment(1)))
        with drops_exactly(small, {"port_allocation": 2 * 5 + 1}, lambda: settle(small)):
            late.sendto(b"question", ECHO)
            for number in (1, 2):
                for _ in range(5):
                    other = stack.enter_context(udp_socket(small.environment(number)))
                    other.sendto(b"question", ECHO)
        change = difference(before, small.counters())
        assert change["port_allocation_errors"] == 2 * 5 + 1
        assert change["flows_created_udp"] == LIMIT
        # Flows that have a port keep it; and a socket that got none has one towards others.
        for endpoint in endpoints:
            ask(endpoint)
        with udp_socket(small.vpc) as server:
            server.bind((WEB[0], 7002))
            late.sendto(b"question", (WEB[0], 7002))
            payload, peer = server.recvfrom(64)
            server.sendto(payload, peer)
            try:
                answer = late.recvfrom(64)
            except TimeoutError:
                pytest.fail(f"no answer by {peer}: {difference(before, small.counters())}")
            assert answer == (b"question", (WEB[0], 7002))
    # The limit is the protocol's own.
    settle(small)


def test_frames_to_a_next_hop_that_does_not_answer(small: Lab) -> None:
    """A few frames wait; the rest is dropped at once, and the few when the next hop has failed."""
    sent = 20
    waiting = QUEUE_FRAMES
    before = small.counters()
    with (
        bystander(small),
        udp_socket(small.environment(1)) as endpoint,
        drops_exactly(
            small,
            {"neighbour_queue_full": sent - waiting, "neighbour_failed": waiting},
            lambda: settle(small),
        ),
    ):
        for _ in range(sent):
            endpoint.sendto(b"anybody?", (NOBODY, 7))
    change = difference(before, small.counters())
    # Those of two others that are in use may be looked at again meanwhile.
    assert 3 <= change["neighbour_requests"] <= 5
    assert change["neighbour_failures"] == 1
    with (
        udp_socket(small.environment(1)) as endpoint,
        drops_exactly(small, {"neighbour_failed": 5}, lambda: settle(small)),
    ):
        for _ in range(5):
            endpoint.sendto(b"anybody?", (NOBODY, 7))


@pytest.mark.requirement("RFC4787-11", profile="both")
def test_flow_table_full(small: Lab) -> None:
    """Flows beyond the table are refused; those in it are as good as before, TCP and UDP."""
    with udp_socket(small.environment(2)) as old, bystander(small):
        with udp_socket(small.vpc) as server:
            server.bind((ECHO[0], 7003))
            old.connect((ECHO[0], 7003))
            old.send(b"early")
            payload, peer = server.recvfrom(64)
            before = small.counters()
            ports = range(10000, 10000 + LIMIT)
            # Each remote port has its own pool of ports, so that the table is what runs out.
            remotes = range(20000, 20000 + 2 * FLOWS_MAX // LIMIT)
            wanted = len(ports) * len(remotes)
            refused = wanted - (FLOWS_MAX - before["flows_entries_used"])
            assert 0 < refused < wanted
            with drops_exactly(small, {"flow_table_full": refused}, lambda: old.send(b"late")):
                flood(small, ports, remotes)
                wait_until(
                    lambda: small.counters()["flows_entries_used"] == FLOWS_MAX, "the table fills"
                )
            assert server.recvfrom(64) == (b"late", peer)
            server.sendto(payload, peer)
            assert old.recv(64) == b"early"
        with tcp_socket(small.environment(2), seconds=0.2) as late:
            before_late = small.drops()["flow_table_full"]
            with pytest.raises(TimeoutError):
                late.connect(WEB)
            wait_until(
                lambda: small.drops()["flow_table_full"] > before_late, "the late one is dropped"
            )
    change = difference(before, small.counters())
    assert not [name for name in change if name.startswith("flows_ended_udp")]
    assert "flows_ended_tcp_rst" not in change
    assert small.counters()["flows_active_udp"] <= FLOWS_MAX
    assert small.verify() == []
    assert small.status()["forwarder"]["restarts"] == 0


@pytest.mark.requirement("AWS-port-hold", profile="aws")
@pytest.mark.requirement("RFC6888-8", profile="aws")
def test_idle_flow_expires_and_its_port_is_held(launch: Launch) -> None:
    """A UDP flow ends when idle; its port stays taken for the hold time and is then free."""
    lab = launch(environments=2, toml=QUICK)
    with (
        udp_socket(lab.environment(1)) as first,
        udp_socket(lab.environment(2)) as second,
        udp_socket(lab.vpc) as server,
        live_connection(lab, 2, SERVICE[1]) as settle_by_tcp,
    ):
        server.bind(SERVICE)
        started = time.monotonic()
        first.sendto(b"only", SERVICE)
        _payload, peer = server.recvfrom(64)
        assert peer[0] == INTERFACE_ADDRESS

        wait_until(lambda: lab.counters()["flows_ended_udp_timeout"] == 1, "the flow ends")
        ended = time.monotonic()
        # Neither before its time nor long after it.
        assert UDP_SECONDS - 0.1 <= ended - started < UDP_SECONDS + 10
        assert lab.counters()["flows_active_udp"] == 0
        (held,) = lab.rows("flows", protocol="udp")
        assert held["state"] == "HELD"
        assert held["nat_port"] == peer[1]

        with drops_exactly(lab, {"flow_held": 1, "port_allocation": 1}, settle_by_tcp):
            # Late news for the old flow reach nobody, and the port is nobody else's.
            server.sendto(b"late", peer)
            second.sendto(b"another", SERVICE)

        wait_until(lambda: not lab.rows("flows", protocol="udp"), "the port is free")
        assert time.monotonic() - started >= UDP_SECONDS + HOLD_SECONDS - 0.2
        with drops_exactly(lab, {"no_flow": 1}, settle_by_tcp):
            server.sendto(b"later", peer)
        second.sendto(b"another", SERVICE)
        assert server.recv(64) == b"another"
    assert lab.verify() == []


def nonsense(chance: random.Random, ethernet: Any, ip: Any) -> Iterator[tuple[bytes, bytes]]:
    """Honest frames of all sizes with offload requests that are mostly wrong."""
    transports = [
        *(TCP(sport=1234, dport=80, flags=flags) for flags in "SAFR"),
        UDP(sport=1234, dport=80),
        ICMP(),
    ]
    frames = [
        bytes(ethernet / ip / transport / Raw(bytes(size)))
        for transport in transports
        for size in (0, 1, 100, 1400, 3000, 20000, 60000)
    ]
    while True:
        header = wire.offload(
            flags=chance.choice((0, 1, 1, 1, 2, 3, 255)),
            gso_type=chance.choice((0, 1, 1, 3, 4, 5, 0x80, 0x81, 255)),
            header_length=chance.choice((0, 34, 42, 54, 1000, 65535)),
            gso_size=chance.choice((0, 1, 8, 100, 1460, 65535)),
            checksum_start=chance.choice((34, 34, 34, 33, 20, 54, 60000)),
            checksum_offset=chance.choice((16, 6, 2, 0, 30)),
        )
        yield header, chance.choice(frames)


def test_nonsense_about_offloads(launch: Launch) -> None:
    """Whatever a virtio-net header claims: forwarder and tables stay whole, others unharmed."""
    lab = launch(environments=2)
    chance = random.Random(2)
    places = (
        (lab.environment(1), "eth0", "env1", INSIDE_ADDRESS, WEB[0]),
        (lab.vpc, INTERFACE, INTERFACE, WEB[0], INTERFACE_ADDRESS),
    )
    # One frame can make thousands of fragments, more than the ring holds.
    with bystander(lab, lossless=False):
        for where, link, peer, source, destination in places:
            before = lab.counters()["ring_received"]
            ethernet = Ether(src=wire.mac_of(where, link), dst=wire.mac_of(lab.gateway, peer))
            frames = nonsense(chance, ethernet, IP(src=source, dst=destination))
            taken = wire.inject_offloaded(where, link, itertools.islice(frames, 3000))
            assert taken > 0
            ask_all(lab)
            assert lab.counters()["ring_received"] > before
    assert lab.verify() == []
    assert lab.status()["forwarder"]["restarts"] == 0


def ask_all(lab: Lab) -> None:
    """Every environment can still talk; a question that finds the ring full is repeated."""
    for where in lab.environments():
        with udp_socket(where) as endpoint:
            endpoint.connect(ECHO)
            until_answered(endpoint, partial(endpoint.send, b"question"), b"question")


def test_who_fills_the_ring_pays_for_it(launch: Launch) -> None:
    """A ring that is nearly full when the forwarder looks: it is made room at the flooder's cost.

    Three frames in four of the ring may wait; of more, each of two senders keeps half.
    """
    slots, flooding, quiet = 256, 230, 10
    lab = launch(toml=f"[forwarder]\nring_slots = {slots}\n")
    with udp_socket(lab.environment(1)) as flooder, udp_socket(lab.environment(2)) as other:
        for endpoint in (flooder, other):
            ask(endpoint)
        before = {row["name"]: row["drops"] for row in lab.rows("environments")}
        cut = flooding - (flooding + quiet) // 2

        with drops_exactly(lab, {"fair_share": cut}, lambda: settle(lab)):
            with ring_unread(lab):
                for _ in range(flooding):
                    flooder.sendto(b"flood", ECHO)
                for number in range(quiet):
                    other.sendto(b"%d" % number, ECHO)
            answers = [other.recvfrom(64)[0] for _ in range(quiet)]
            assert answers == [b"%d" % number for number in range(quiet)]
        after = {row["name"]: row["drops"] for row in lab.rows("environments")}
        assert after == before | {"env-1": before["env-1"] + cut}
        assert lab.counters()["ring_dropped"] == 0


def test_who_fills_the_ring_alone_leaves_half_of_it_free(launch: Launch) -> None:
    """Otherwise the kernel would refuse whoever comes next."""
    slots, flooding = 256, 230
    lab = launch(toml=f"[forwarder]\nring_slots = {slots}\n")
    with udp_socket(lab.environment(1)) as flooder:
        ask(flooder)
        with drops_exactly(lab, {"fair_share": flooding - slots // 2}, lambda: settle(lab)):
            with ring_unread(lab):
                for number in range(flooding):
                    flooder.sendto(b"%d" % number, ECHO)
            answers = [flooder.recvfrom(64)[0] for _ in range(slots // 2)]
        assert answers == [b"%d" % number for number in range(flooding - slots // 2, flooding)]


DATAGRAM, DATAGRAMS, SUPER_FRAMES, SINGLE = 22, 64, 40, 48
# The first one, and one more each time the other's turns of 16 datagrams have paid for it.
AHEAD = 3


def test_a_super_frame_has_as_many_turns_as_datagrams(launch: Launch) -> None:
    """
    One environment's frames of 64 datagrams wait, and another's of one, which came later.

    Charged as a frame, sixteen of the former would go before each sixteen of the latter.
    """
    lab = launch(environments=2, toml="[forwarder]\nflow_cache = false\n")
    with (
        udp_socket(lab.vpc) as server,
        segmenting(lab.environment(1), DATAGRAM) as flooder,
        udp_socket(lab.environment(2)) as other,
    ):
        server.bind(SERVICE)
        server.setsockopt(socket.SOL_SOCKET, wire.SO_RCVBUFFORCE, 64 << 20)
        for endpoint in (flooder, other):
            endpoint.connect(SERVICE)
            endpoint.send(b"first")
            assert server.recv(64) == b"first"

        with ring_unread(lab):
            for _ in range(SUPER_FRAMES):
                flooder.send(bytes(DATAGRAM * DATAGRAMS))
            for number in range(SINGLE):
                other.send(b"%d" % number)
        order = [server.recv(64) for _ in range(SUPER_FRAMES * DATAGRAMS + SINGLE)]
    assert [each for each in order if each != bytes(DATAGRAM)] == [
        b"%d" % number for number in range(SINGLE)
    ]
    last = order.index(b"%d" % (SINGLE - 1))
    assert last - (SINGLE - 1) <= AHEAD * DATAGRAMS
    assert lab.verify() == []


FLOOD = """
import socket, sys

address, port, size, count = sys.argv[1], *map(int, sys.argv[2:])
flooder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
flooder.setsockopt(socket.IPPROTO_UDP, 103, size)
flooder.connect((address, port))
datagrams = bytes(size * count)
while True:
    try:
        flooder.send(datagrams)
    except OSError:
        pass
"""
REQUESTS = 20


def test_a_flood_of_super_frames_lets_others_go_on(launch: Launch) -> None:
    """Another environment's datagrams are answered, and its connections come about, meanwhile."""
    lab = launch(environments=2)
    flood = (SERVICE[0], SERVICE[1], DATAGRAM, DATAGRAMS)
    with udp_socket(lab.vpc) as sink, udp_socket(lab.environment(2)) as other:
        sink.bind(SERVICE)
        other.settimeout(0.5)
        other.connect(ECHO)
        before = lab.counters()["packets_in_from_source"]
        with program(lab.environment(1), sys.executable, "-c", FLOOD, *map(str, flood)):
            wait_until(
                lambda: lab.counters()["packets_in_from_source"] > before + 1000, "the flood"
            )
            done = itertools.count(1)

            def request() -> bool:
                try:
                    other.send(b"question")
                    other.recv(64)
                    with tcp_socket(lab.environment(2), seconds=0.5) as connection:
                        connection.connect(WEB)
                except OSError:
                    return False
                return next(done) >= REQUESTS

            wait_until(request, f"{REQUESTS} requests", 60)
    assert lab.verify() == []
    assert lab.status()["forwarder"]["restarts"] == 0
