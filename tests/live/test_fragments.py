# SPDX-License-Identifier: Apache-2.0
"""Fragments of datagrams cross the gateway: those that kernels make, and hand-made ones."""

from __future__ import annotations

import itertools
import random
import socket
from collections.abc import Iterator, Sequence

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netns import content
from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_ADDRESS,
    Lab,
    difference,
    drops_exactly,
    require_program,
    run,
    tcp_socket,
    udp_socket,
    wait_until,
)

pytestmark = pytest.mark.live

SERVICE = (ECHO[0], 7001)
WEB = ("10.0.1.80", 80)
SOURCE_PORT = 40000
PIECE = 512
TIME_SCALE = 100


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
    change = difference(before, lab.counters())
    assert change["drop_fragment_quota"] > 2000
    assert lab.counters()["fragments_waiting"] <= 128
    assert lab.verify() == []
