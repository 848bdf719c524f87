# SPDX-License-Identifier: Apache-2.0
"""Fragments of datagrams cross the gateway: those that kernels make, and hand-made ones."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netns import content, namespace
from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_ADDRESS,
    INTERFACE_ADDRESS,
    Lab,
    difference,
    drops_exactly,
    require_program,
    run,
    tcp_socket,
    udp_socket,
    until_answered,
    wait_until,
)
from tests.live.peer import ADDRESS as PEER_ADDRESS
from tests.live.peer import speaking
from tests.reference import packet

pytestmark = pytest.mark.live

SERVICE = (ECHO[0], 7001)
WEB = ("10.0.1.80", 80)
SOURCE_PORT = 40000
PIECE = 512
TIME_SCALE = 100
ATTEMPTS = 20
HOST_BYTES = 4 << 20
"""What a kernel keeps of unfinished datagrams (net.ipv4.ipfrag_high_thresh)."""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return launch_shared(environments=2)


@pytest.fixture
def server(lab: Lab) -> Iterator[socket.socket]:
    """A socket in the VPC."""
    with udp_socket(lab.vpc) as endpoint:
        endpoint.bind(SERVICE)
        yield endpoint


def settle(lab: Lab) -> None:
    """Whatever was sent before has gone through the gateway."""
    for where in lab.environments():
        with tcp_socket(where) as connection:
            connection.connect(WEB)


def datagram(identification: int, size: int) -> list[bytes]:
    """A datagram of environment 1 to the server, as frames with a piece each."""
    payload = content.read(size)
    whole = bytes(
        IP(src=INSIDE_ADDRESS, dst=SERVICE[0], id=identification)
        / UDP(sport=SOURCE_PORT, dport=SERVICE[1])
        / Raw(payload)
    )[20:]
    pieces = []
    for start in range(0, len(whole), PIECE):
        part = whole[start : start + PIECE]
        pieces.append(
            bytes(
                IP(
                    src=INSIDE_ADDRESS,
                    dst=SERVICE[0],
                    id=identification,
                    proto=17,
                    frag=start // 8,
                    flags="MF" if start + PIECE < len(whole) else 0,
                )
                / Raw(part)
            )
        )
    return pieces


def halves(
    identification: int,
    payload: bytes,
    *,
    ends: tuple[str, str] = (INSIDE_ADDRESS, ECHO[0]),
    ports: tuple[int, int] = (SOURCE_PORT, ECHO[1]),
) -> list[IP]:
    """A datagram without checksum in two pieces, of which the first has 1,480 bytes."""
    source, destination = ends
    content = UDP(sport=ports[0], dport=ports[1], len=8 + len(payload), chksum=0) / Raw(payload)
    whole = bytes(content)
    header: dict[str, Any] = {"src": source, "dst": destination, "id": identification, "proto": 17}
    return [
        IP(**header, flags="MF") / Raw(whole[:1480]),
        IP(**header, frag=1480 // 8) / Raw(whole[1480:]),
    ]


def heard(endpoint: socket.socket) -> list[bytes]:
    """What has come to a socket by now."""
    endpoint.setblocking(False)
    result = []
    with contextlib.suppress(BlockingIOError):
        while True:
            result.append(endpoint.recv(1 << 16))
    return result


def reassembly_bytes(where: str) -> int:
    """What the kernel of a namespace keeps of unfinished datagrams."""
    text = namespace.call(where, Path("/proc/thread-self/net/sockstat").read_text)
    words = next(line for line in text.splitlines() if line.startswith("FRAG")).split()
    return int(words[words.index("memory") + 1])


def send(lab: Lab, packets: Sequence[bytes], environment: int = 1) -> None:
    where = lab.environment(environment)
    gateway = wire.mac_of(lab.gateway, f"env{environment}")
    ethernet = Ether(src=wire.mac_of(where, "eth0"), dst=gateway, type=0x0800)
    wire.inject(where, "eth0", [bytes(ethernet / Raw(each)) for each in packets])


@pytest.mark.requirement("AWS-udp-fragments", profile="aws")
@pytest.mark.requirement("RFC4787-14", profile="both")
@pytest.mark.parametrize("size", [1473, 8000, 65507])
def test_large_datagrams(lab: Lab, server: socket.socket, size: int) -> None:
    """Larger than the links carry, both ways: kernels cut them and put them together."""
    payload = content.read(size)
    before = lab.counters()
    for where in lab.environments():
        with udp_socket(where) as endpoint:
            endpoint.sendto(payload, SERVICE)
            received, peer = server.recvfrom(1 << 16)
            assert received == payload
            server.sendto(payload, peer)
            assert endpoint.recvfrom(1 << 16) == (payload, SERVICE)
    change = difference(before, lab.counters())
    assert change["fragments_forwarded"] == 4 * (-(-(size + 8) // 1480))
    assert not [name for name in change if name.startswith("drop_")]


@pytest.mark.requirement("RFC4787-14", profile="both")
@pytest.mark.parametrize("order", ["reversed", *range(4)])
def test_any_order(lab: Lab, server: socket.socket, order: str | int) -> None:
    pieces = datagram(7, 5000)
    if order == "reversed":
        pieces.reverse()
    else:
        random.Random(order).shuffle(pieces)
    send(lab, pieces)
    assert server.recv(1 << 16) == content.read(5000)
    assert lab.counters()["fragments_waiting"] == 0


def test_overlap_poisons_the_datagram(lab: Lab, server: socket.socket) -> None:
    """No part of it that comes afterwards passes, and others are not concerned."""
    pieces = datagram(8, 2000)
    forged = bytearray(pieces[1])
    forged[20:] = bytes(len(forged) - 20)
    overlapping = IP(bytes(forged))
    overlapping.frag += 1
    overlapping.chksum = None
    with drops_exactly(lab, {"fragment_overlap": 3}, lambda: settle(lab)):
        send(lab, [pieces[0], pieces[1], bytes(overlapping), *pieces[2:]])
    send(lab, datagram(9, 2000))
    assert server.recv(1 << 16) == content.read(2000)


def test_a_datagram_without_its_first_fragment(launch: Launch) -> None:
    """It waits for as long as is configured, and is counted then."""
    lab = launch(toml=f"[timeouts]\ntime_scale = {TIME_SCALE}\n")
    before = lab.drops()
    send(lab, datagram(1, 2000)[1:])
    wait_until(
        lambda: difference(before, lab.drops()) == {"fragment_timeout": 3},
        lambda: f"three fragments are given up: {lab.drops()}",
    )
    assert lab.counters()["fragments_waiting"] == 0


@pytest.mark.requirement("AWS-tcp-icmp-fragments", profile="aws")
def test_fragments_of_icmp_are_dropped(lab: Lab) -> None:
    ping = require_program("ping", "iputils-ping")
    options = ("-n", "-c", "1", "-W", "1", "-M", "dont", "-s", "3000")
    with drops_exactly(lab, {"fragment_refused": 3}, lambda: settle(lab)):
        done = run(lab.environment(1), ping, *options, ECHO[0], check=False)
    assert done.returncode == 1


@pytest.mark.requirement("RFC4787-14", profile="rfc")
def test_fragments_of_icmp_in_the_other_profile(launch: Launch) -> None:
    ping = require_program("ping", "iputils-ping")
    lab = launch(toml='[nat]\nprofile = "rfc"\n')
    options = ("-n", "-c", "3", "-i", "0.01", "-W", "5", "-M", "dont", "-s", "3000")
    for where in lab.environments():
        done = run(where, ping, *options, ECHO[0])
        assert "3 packets transmitted, 3 received" in done.stdout
    assert lab.counters()["fragments_forwarded"] == 2 * 2 * 3 * 3


@pytest.mark.requirement("RFC4787-14", profile="both")
def test_a_flood_of_fragments(lab: Lab, server: socket.socket) -> None:
    """Of one environment, without firsts: what another one sends out of order passes."""
    flood = [
        each for number in range(3000) for each in itertools.islice(datagram(number, 1000), 1, None)
    ]
    quiet = datagram(5, 5000)[::-1]
    before = lab.counters()
    send(lab, quiet[:5], environment=2)
    send(lab, flood)
    send(lab, quiet[5:], environment=2)
    assert server.recv(1 << 16) == content.read(5000)
    wait_until(
        lambda: difference(before, lab.counters()).get("drop_fragment_quota", 0) > 2000,
        "most of the flood is refused",
    )
    assert lab.counters()["fragments_waiting"] <= 128
    assert lab.verify() == []


@pytest.mark.requirement("RFC7857-10", profile="both")
def test_two_environments_with_the_same_identification(lab: Lab) -> None:
    """One begins a datagram and leaves it at that; it never gets what the other one sends."""
    with (
        udp_socket(lab.environment(1), port=SOURCE_PORT) as first,
        udp_socket(lab.environment(2), port=SOURCE_PORT) as second,
    ):
        numbers = itertools.count(100)
        for attempt in range(ATTEMPTS):
            theirs = f"second {attempt} ".encode() * 200

            def ask(payload: bytes = theirs) -> None:
                number = next(numbers)
                send(lab, [bytes(halves(number, b"first" * 400)[0])], 1)
                send(lab, [bytes(each) for each in halves(number, payload)], 2)

            until_answered(second, ask, theirs)
        settle(lab)
        assert heard(first) == []


def test_a_datagram_is_not_completed_by_the_next_one(lab: Lab) -> None:
    """A server's identifications come round: the unfinished datagram with the same is over."""
    with (
        speaking(lab) as peer,
        udp_socket(lab.environment(1)) as first,
        udp_socket(lab.environment(2)) as second,
    ):
        ports = []
        for endpoint in (first, second):
            endpoint.sendto(b"hello", (PEER_ADDRESS, 7))
            asked = peer.receive(lambda each: UDP in each, "a datagram")
            ports.append(asked[UDP].sport)
        ends = (PEER_ADDRESS, INTERFACE_ADDRESS)
        numbers = itertools.count(1)
        for attempt in range(ATTEMPTS):
            answer = f"second {attempt} ".encode() * 200

            def say(answer: bytes = answer) -> None:
                number = next(numbers)
                lost = halves(number, b"first" * 400, ends=ends, ports=(7, ports[0]))
                peer.send(lost[0])
                for each in halves(number, answer, ends=ends, ports=(7, ports[1])):
                    peer.send(each)

            until_answered(second, say, answer)
        settle(lab)
        assert heard(first) == []


@pytest.mark.requirement("RFC4787-14", profile="both")
def test_unfinished_datagrams_leave_a_host_its_memory(launch: Launch) -> None:
    """First pieces of one environment, three times what the host may keep, and its neighbour's."""
    lab = launch()
    first = bytes(halves(0, bytes(2000))[0])
    flood = [
        packet.sealed_header(packet.with_word(first[:20], 4, number)) + first[20:]
        for number in range(6000)
    ]
    payload = content.read(5000)
    with udp_socket(lab.environment(2)) as endpoint:

        def ask() -> None:
            endpoint.sendto(payload, ECHO)

        until_answered(endpoint, ask, payload)
        before = lab.counters()
        for start in range(0, len(flood), 500):
            send(lab, flood[start : start + 500])
            settle(lab)
        change = difference(before, lab.counters())
        assert change["drop_fragment_quota"] > 3000, change
        assert 0 < reassembly_bytes(lab.vpc) < HOST_BYTES // 2
        for _ in range(10):
            until_answered(endpoint, ask, payload)
    assert lab.verify() == []
