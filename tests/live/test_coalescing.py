# SPDX-License-Identifier: Apache-2.0
"""Datagrams that the forwarder finds together leave together, and arrive one by one all the same.

They are found together because the forwarder is stopped while they are sent.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from netns import content
from tests.live.conftest import Launch
from tests.live.lab import INTERFACE, Lab, ring_unread, udp_socket, wait_until
from tests.live.test_capture import capturing, fields, tshark

pytestmark = pytest.mark.live

SERVICE = ("10.0.1.81", 7001)
COUNT = 100
SIZE = 100
SOL_UDP, UDP_GRO = 17, 104


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return launch_shared(environments=1)


@contextlib.contextmanager
def connected(lab: Lab) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client in the environment and a server in the VPC that have spoken to each other."""
    with udp_socket(lab.environment(1)) as client, udp_socket(lab.vpc) as server:
        server.bind(SERVICE)
        client.connect(SERVICE)
        client.send(b"first")
        data, peer = server.recvfrom(64)
        server.connect(peer)
        server.send(data)
        assert client.recv(64) == b"first"
        yield client, server


def burst() -> list[bytes]:
    """Datagrams of one length, and a shorter one."""
    text = content.read(COUNT * SIZE)
    return [text[start : start + SIZE] for start in range(0, len(text), SIZE)] + [b"the last"]


def coalesced(lab: Lab) -> int:
    return int(lab.status()["counters"]["transmit_coalesced"])


@pytest.mark.parametrize("inwards", [False, True], ids=["outwards", "inwards"])
def test_a_burst_arrives_as_it_was_sent(lab: Lab, inwards: bool) -> None:
    datagrams = burst()
    before = coalesced(lab)
    with connected(lab) as ends:
        receiver, sender = ends if inwards else reversed(ends)
        with ring_unread(lab):
            for datagram in datagrams:
                sender.send(datagram)
        assert [receiver.recv(2048) for _ in datagrams] == datagrams
    wait_until(lambda: coalesced(lab) - before > COUNT // 2, "most of them left as one frame")


def test_who_asks_for_many_at_once_gets_them_at_once(lab: Lab) -> None:
    datagrams = burst()
    with connected(lab) as (client, server):
        server.setsockopt(SOL_UDP, UDP_GRO, 1)
        with ring_unread(lab):
            for datagram in datagrams:
                client.send(datagram)
        received = [server.recv(65535)]
        assert len(received[0]) > SIZE
        while sum(map(len, received)) < sum(map(len, datagrams)):
            received.append(server.recv(65535))
    assert b"".join(received) == b"".join(datagrams)


def test_two_flows_are_kept_apart(lab: Lab) -> None:
    datagrams = burst()
    with (
        connected(lab) as (client, server),
        udp_socket(lab.environment(1)) as other_client,
        udp_socket(lab.vpc) as other_server,
    ):
        other_server.bind((SERVICE[0], SERVICE[1] + 1))
        other_client.connect(other_server.getsockname())
        with ring_unread(lab):
            for datagram in datagrams:
                client.send(datagram)
                other_client.send(datagram[::-1])
        assert [server.recv(2048) for _ in datagrams] == datagrams
        assert [other_server.recv(2048)[::-1] for _ in datagrams] == datagrams


def test_a_capture_has_them_one_by_one(lab: Lab, tmp_path: Path) -> None:
    datagrams = burst()
    with connected(lab) as (client, server):
        file = tmp_path / "burst.pcapng"
        with capturing(lab, file, "--interface", INTERFACE) as running:
            with ring_unread(lab):
                for datagram in datagrams:
                    client.send(datagram)
            assert [server.recv(2048) for _ in datagrams] == datagrams
            assert running.end()["dropped"] == 0
    frames = fields(file, "udp.length", "udp.checksum.status", "ip.checksum.status", wanted="udp")
    assert [int(each["udp.length"]) - 8 for each in frames] == [len(each) for each in datagrams]
    assert {each["udp.checksum.status"] for each in frames} == {"1"}
    assert {each["ip.checksum.status"] for each in frames} == {"1"}
    assert tshark(file, "-q", "-z", "expert,error").strip() == ""


def test_it_can_be_turned_off(launch: Launch) -> None:
    lab = launch(environments=1, toml="[forwarder]\ncoalesce_udp = false")
    datagrams = burst()
    with connected(lab) as (client, server):
        with ring_unread(lab):
            for datagram in datagrams:
                client.send(datagram)
        assert [server.recv(2048) for _ in datagrams] == datagrams
    assert coalesced(lab) == 0
