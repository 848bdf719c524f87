# SPDX-License-Identifier: Apache-2.0
"""Who listens in a namespace, by the kernel's account."""

from __future__ import annotations

import fcntl
import secrets
import socket
import struct
from collections.abc import Iterator

import pytest

from netns import NetnsError, listening, namespace

pytestmark = pytest.mark.live

IP_FREEBIND = 15


@pytest.fixture
def where() -> Iterator[str]:
    name = f"t-{secrets.token_hex(4)}"
    namespace.create([name], lambda _name: None)
    yield name
    namespace.delete([name])


def opened(where: str, family: int, kind: int, address: str) -> tuple[socket.socket, int]:
    """A socket at an address that need not be the namespace's, and its port."""
    found = namespace.call(where, socket.socket, family, kind)
    found.setsockopt(socket.SOL_IP, IP_FREEBIND, 1)
    found.bind((address, 0))
    return found, found.getsockname()[1]


@pytest.mark.parametrize(
    ("family", "address", "takes"),
    [
        (socket.AF_INET, "10.0.1.80", True),
        (socket.AF_INET, "0.0.0.0", True),
        (socket.AF_INET, "10.0.1.81", False),
        (socket.AF_INET6, "::", True),
        (socket.AF_INET6, "::ffff:10.0.1.80", True),
        (socket.AF_INET6, "::ffff:10.0.1.81", False),
    ],
)
def test_sockets_of_both_families(where: str, family: int, address: str, takes: bool) -> None:
    stream, port = opened(where, family, socket.SOCK_STREAM, address)
    with stream:
        # Bound is not listening.
        assert not listening.listening(where, "tcp", "10.0.1.80", port)
        stream.listen()
        assert listening.listening(where, "tcp", "10.0.1.80", port) is takes
        assert not listening.listening(where, "tcp", "10.0.1.80", port ^ 1)
        assert not listening.listening(where, "udp", "10.0.1.80", port)
    assert not listening.listening(where, "tcp", "10.0.1.80", port)
    datagram, port = opened(where, family, socket.SOCK_DGRAM, address)
    with datagram:
        assert listening.listening(where, "udp", "10.0.1.80", port) is takes
        assert not listening.listening(where, "tcp", "10.0.1.80", port)


def test_only_the_namespace_itself_counts(where: str) -> None:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        port = own.getsockname()[1]
        assert not listening.listening(where, "tcp", "127.0.0.1", port)
        assert listening.listening(where, "udp", "127.0.0.1", port) is False
    with pytest.raises(NetnsError, match="cannot open namespace"):
        listening.listening(f"{where}-gone", "tcp", "127.0.0.1", port)


def test_a_datagram_socket_with_a_peer_hears_that_alone(where: str) -> None:
    datagram, port = opened(where, socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1")
    with datagram:
        namespace.call(where, _loopback_up)
        datagram.connect(("127.0.0.1", 9))
        assert not listening.listening(where, "udp", "127.0.0.1", port)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        # SIOCSIFFLAGS, IFF_UP.
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14x", b"lo", 1))
