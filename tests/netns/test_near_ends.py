# SPDX-License-Identifier: Apache-2.0
"""Who else is at links: packet sockets that receive there, and queueing disciplines."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from netns import NetnsError, links, namespace
from netns.interior import created, route_socket
from netns.near_ends import ANY, Taps, queued
from tests.live.lab import run

pytestmark = pytest.mark.live

ETH_P_ALL, ETH_P_IP = 0x0003, 0x0800


@pytest.fixture
def where(lab: str) -> Iterator[str]:
    """A namespace with a loopback."""
    with created([lab], {}):
        pass
    run(lab, "ip", "link", "set", "dev", "lo", "up")
    yield lab
    namespace.delete([lab])


def packet_socket(where: str, protocol: int) -> socket.socket:
    kind = socket.SOCK_RAW
    return namespace.call(
        where, lambda: socket.socket(socket.AF_PACKET, kind, socket.htons(protocol))
    )


def test_packet_sockets_that_receive(where: str) -> None:
    with Taps(where) as taps:
        assert taps.read() == frozenset()
        with packet_socket(where, 0) as sender:
            sender.bind(("lo", 0))
            assert taps.read() == frozenset()
        with packet_socket(where, ETH_P_ALL):
            assert taps.read() == {ANY}
        for protocol in (ETH_P_ALL, ETH_P_IP):
            with packet_socket(where, 0) as tap, packet_socket(where, 0) as other:
                for each in (tap, other):
                    each.bind(("lo", protocol))
                assert taps.read() == {links.LOOPBACK_INDEX}
        assert taps.read() == frozenset()


def test_those_of_another_namespace_are_not_there(where: str) -> None:
    with Taps(where) as taps, socket.socket(socket.AF_PACKET, socket.SOCK_RAW, ETH_P_ALL):
        assert taps.read() == frozenset()


def test_where_there_is_no_namespace() -> None:
    with pytest.raises(NetnsError):
        Taps("hp-there-is-none")


def test_queueing_disciplines(where: str) -> None:
    with route_socket(where) as route:
        assert queued(route) == frozenset()
        run(where, "tc", "qdisc", "add", "dev", "lo", "clsact")
        assert queued(route) == frozenset()
        run(where, "tc", "qdisc", "add", "dev", "lo", "root", "pfifo")
        assert queued(route) == {links.LOOPBACK_INDEX}
        run(where, "tc", "qdisc", "del", "dev", "lo", "root")
        assert queued(route) == frozenset()
