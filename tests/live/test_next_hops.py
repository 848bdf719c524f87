# SPDX-License-Identifier: Apache-2.0
"""Next hops with real kernels: a burst to one that is not known, a scan for many, a virtual address
that moves to another host.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest
from scapy.layers.l2 import ARP, Ether

from tests.live import wire
from tests.live.configurations import (
    ECHO_SERVICE,
    OTHER,
    OTHER_ECHO,
    OTHER_NETWORK_INTERFACE,
    interface,
    vpc,
)
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INTERFACE,
    WAIT_SECONDS,
    Lab,
    require_program,
    run,
    tcp_socket,
    udp_socket,
    until_answered,
    wait_until,
)
from tests.live.scene import BROADCAST, tell_forwarder

pytestmark = [pytest.mark.live, pytest.mark.alone]

ATTEMPTS = 1000
BURST = 200
DEAD = 5_000
VIRTUAL = "10.0.1.99"
NEW_MAC = "02:00:5e:00:53:01"
BUFFER_BYTES = 8 << 20

# A next hop is forgotten when it was not used for a second. The first subnet has room for a scan.
TOML = (
    "[neighbours]\nreachable_seconds = 1\nretry_milliseconds = 200\nattempts = 20\n"
    + vpc(ECHO_SERVICE, subnet_cidr="10.0.0.0/16")
    + OTHER
    + interface()
    + OTHER_NETWORK_INTERFACE
)


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    """Two VPCs; environments 1 and 3 are in the first, environment 2 is in the other."""
    return launch_shared(environments=3, toml=TOML)


def forgotten(lab: Lab, address: str) -> None:
    """Wait until nothing is known of a next hop."""

    def known() -> list[str]:
        return [each["address"] for each in tell_forwarder(lab, "neighbours")]

    wait_until(lambda: address not in known(), f"{address} is forgotten")


@contextlib.contextmanager
def echoing(where: str, address: tuple[str, int]) -> Iterator[None]:
    """A server that has room for a burst."""
    stop = threading.Event()

    def serve(server: socket.socket) -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                data, peer = server.recvfrom(2048)
                server.sendto(data, peer)

    with udp_socket(where, seconds=0.1) as server:
        server.setsockopt(socket.SOL_SOCKET, wire.SO_RCVBUFFORCE, BUFFER_BYTES)
        server.bind(address)
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.mark.requirement("RFC1122-2.3.2.2", profile="both")
def test_a_burst_to_a_forgotten_next_hop_is_echoed_whole(lab: Lab) -> None:
    """Frames that come with the answer are sent, behind those that waited for it."""
    address = (ECHO[0], 7007)
    with echoing(lab.vpc, address), udp_socket(lab.environment(1)) as endpoint:
        endpoint.setsockopt(socket.SOL_SOCKET, wire.SO_RCVBUFFORCE, BUFFER_BYTES)
        endpoint.connect(address)
        for _ in range(3):
            # The kernels at both ends know the gateway.
            endpoint.settimeout(30)
            endpoint.send(bytes(8))
            assert endpoint.recv(64) == bytes(8)
            forgotten(lab, ECHO[0])
            for number in range(BURST):
                endpoint.send(number.to_bytes(4))
            deadline = time.monotonic() + WAIT_SECONDS
            echoed: list[int] = []
            with contextlib.suppress(TimeoutError):
                while len(echoed) < BURST and (left := deadline - time.monotonic()) > 0:
                    endpoint.settimeout(left)
                    echoed.append(int.from_bytes(endpoint.recv(64)))
            assert sorted(echoed) == list(range(BURST))


def test_what_waits_keeps_what_is_left_to_be_done(lab: Lab) -> None:
    """Checksums that the sender left to its link, and datagrams yet to be cut out of one frame."""
    address = (ECHO[0], 7009)
    with echoing(lab.vpc, address), udp_socket(lab.environment(3)) as endpoint:
        forgotten(lab, ECHO[0])
        endpoint.setsockopt(socket.IPPROTO_UDP, wire.UDP_SEGMENT, 100)
        whole = bytes(range(250)) * 4
        endpoint.sendto(whole, address)
        parts = [endpoint.recv(2048) for _ in range(10)]
        assert sorted(parts) == sorted(whole[at : at + 100] for at in range(0, 1000, 100))
    retransmitted = []
    with tcp_socket(lab.vpc) as listener:
        listener.bind((ECHO[0], 7010))
        listener.listen()
        # On a busy machine an answer may be late, but not each time.
        for _ in range(3):
            forgotten(lab, ECHO[0])
            with tcp_socket(lab.environment(3)) as client:
                client.connect((ECHO[0], 7010))
                information = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
                retransmitted.append(int.from_bytes(information[100:104], sys.byteorder))
    assert 0 in retransmitted, "the first SYN that waited never arrived"


def test_a_scan_takes_nobody_else_a_next_hop(lab: Lab) -> None:
    """Not another VPC's environments, nor the others behind the same interface."""
    forgotten(lab, ECHO[0])
    forgotten(lab, OTHER_ECHO[0])
    with (
        udp_socket(lab.environment(1)) as scanner,
        udp_socket(lab.environment(2)) as other,
        udp_socket(lab.environment(3)) as same,
    ):
        for number in range(DEAD):
            scanner.sendto(b"anybody?", (f"10.0.{100 + (number >> 8)}.{number & 255}", 7))
        for endpoint, target in ((other, OTHER_ECHO), (same, ECHO)):
            endpoint.connect(target)
            # The scan may be more than the ring holds.
            until_answered(endpoint, partial(endpoint.send, b"question"), b"question")
    assert lab.verify() == []


@pytest.mark.requirement("RFC1122-2.3.2.1-flush", profile="both")
def test_an_address_that_moves_is_followed_within_a_second(lab: Lab) -> None:
    """Another MAC address takes over, and says so once."""
    ip = require_program("ip", "iproute2")
    where = lab.vpc
    address = (VIRTUAL, 7008)
    old = wire.mac_of(where, INTERFACE)
    run(where, ip, "address", "add", f"{VIRTUAL}/32", "dev", "lo")
    try:
        with echoing(where, address), udp_socket(lab.environment(3), seconds=30) as endpoint:
            endpoint.connect(address)
            endpoint.send(b"before")
            assert endpoint.recv(64) == b"before"
            # The kernel takes nothing any more that is sent to the old one.
            run(where, ip, "link", "set", "dev", INTERFACE, "address", NEW_MAC)
            announcement = Ether(src=NEW_MAC, dst=BROADCAST) / ARP(
                op=1, hwsrc=NEW_MAC, psrc=VIRTUAL, hwdst="00:00:00:00:00:00", pdst=VIRTUAL
            )
            endpoint.settimeout(0.01)
            wire.inject(where, INTERFACE, [bytes(announcement)])
            # Each waits for its answer, so that some are enough whatever the machine does.
            for _ in range(ATTEMPTS):
                endpoint.send(b"after")
                with contextlib.suppress(TimeoutError):
                    assert endpoint.recv(64) == b"after"
                    break
            else:
                pytest.fail("frames still go to the old MAC address")
    finally:
        run(where, ip, "link", "set", "dev", INTERFACE, "address", old)
        run(where, ip, "address", "del", f"{VIRTUAL}/32", "dev", "lo")


def test_an_address_that_moves_back_and_forth(lab: Lab) -> None:
    """Two hosts have it by turns: each time it is found again."""
    ip = require_program("ip", "iproute2")
    where = lab.vpc
    old = wire.mac_of(where, INTERFACE)
    with udp_socket(lab.environment(3), seconds=0.05) as endpoint:
        endpoint.connect(ECHO)

        def answers(question: bytes) -> bool:
            endpoint.send(question)
            with contextlib.suppress(TimeoutError):
                return endpoint.recv(64) == question
            return False

        try:
            for number, mac in enumerate((NEW_MAC, old, NEW_MAC, old)):
                run(where, ip, "link", "set", "dev", INTERFACE, "address", mac)
                gratuitous = Ether(src=mac, dst=BROADCAST) / ARP(
                    op=2, hwsrc=mac, psrc=ECHO[0], hwdst=BROADCAST, pdst=ECHO[0]
                )
                wire.inject(where, INTERFACE, [bytes(gratuitous)])
                question = b"question %d" % number
                wait_until(functools.partial(answers, question), f"{ECHO[0]} answers at {mac}")
        finally:
            run(where, ip, "link", "set", "dev", INTERFACE, "address", old)
