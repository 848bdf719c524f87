# SPDX-License-Identifier: Apache-2.0
"""Source ports of real gateways: 55,000 towards a remote endpoint and not one more, an address for
each further 55,000, and the hold time.

Tens of thousands of datagrams leave an environment as raw frames, a source port each, because that
many sockets say nothing more; who tries to get a further port is a socket.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator

import pytest

from hyperplane_nat.engine import DropReason, StateMap
from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_ADDRESS,
    INTERFACE_ADDRESS,
    WEB,
    Lab,
    difference,
    drops_exactly,
    tcp_socket,
    udp_socket,
    wait_until,
)
from tests.reference import packet

pytestmark = [pytest.mark.live, pytest.mark.alone]

LIMIT = 55_000
OTHER_ADDRESSES = ("10.0.1.20", "10.0.1.21")
SINK = (WEB[0], 9000)
BURST = 250
ATTEMPTS = 20

# Environments take turns: 1 and 3 have the first interface, 2, 4 and 6 the one with two addresses.
TOML = f"""
[[network_interface]]
name = "eni-a"
subnet = "private-a"
address = "{INTERFACE_ADDRESS}"

[[network_interface]]
name = "eni-b"
subnet = "private-a"
address = "{OTHER_ADDRESSES[0]}"
secondary_addresses = ["{OTHER_ADDRESSES[1]}"]
"""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return launch_shared(environments=6, toml=TOML)


@pytest.fixture
def sink(lab: Lab) -> Iterator[socket.socket]:
    """A server that receives and says nothing."""
    with udp_socket(lab.vpc, seconds=2) as server:
        server.setsockopt(socket.SOL_SOCKET, wire.SO_RCVBUFFORCE, 16 << 20)
        server.bind(SINK)
        yield server


class Sender:
    """Datagrams of one environment from any number of source ports."""

    def __init__(
        self, lab: Lab, number: int, server: socket.socket, target: tuple[str, int]
    ) -> None:
        self._where = lab.environment(number)
        self._server = server
        peer = f"env{number}"
        content = packet.udp(INSIDE_ADDRESS, target[0], 0, target[1], bytes(4), checksum_field=0)
        body = packet.ipv4(INSIDE_ADDRESS, target[0], packet.UDP, content)
        mac, gateway = wire.mac_of(self._where, "eth0"), wire.mac_of(lab.gateway, peer)
        self._frame = packet.ethernet(gateway, mac, packet.ETHERTYPE_IPV4, body)

    def frame(self, port: int) -> bytes:
        at = 14 + 20
        head, tail = self._frame[:at], self._frame[at + 2 : at + 8]
        return head + struct.pack("!H", port) + tail + struct.pack("!I", port)

    def send(self, ports: Iterable[int]) -> dict[int, tuple[str, int]]:
        """Send from each port until it has arrived; where the server saw each come from."""
        seen: dict[int, tuple[str, int]] = {}
        waiting = list(ports)
        for start in range(0, len(waiting), BURST):
            missing = set(waiting[start : start + BURST])
            for _ in range(ATTEMPTS):
                wire.inject(self._where, "eth0", map(self.frame, sorted(missing)))
                with contextlib.suppress(TimeoutError):
                    while missing:
                        data, source = self._server.recvfrom(64)
                        (port,) = struct.unpack("!I", data)
                        seen[port] = source
                        missing.discard(port)
                if not missing:
                    break
            assert not missing, f"{len(missing)} datagrams do not arrive"
        return seen


def _answers(lab: Lab, number: int, target: tuple[str, int], payload: bytes) -> bool:
    with udp_socket(lab.environment(number)) as client:
        client.sendto(payload, target)
        return client.recvfrom(64) == (payload, target)


def _exhausted(lab: Lab) -> list[tuple[str, int, DropReason]]:
    state = StateMap.open(lab.state_file)
    try:
        return [
            (each.remote_address, each.remote_port, each.reason) for each in state.exhaustions()
        ]
    finally:
        state.close()


@pytest.mark.slow
@pytest.mark.requirement("AWS-ports-55000", profile="aws")
@pytest.mark.requirement("AWS-port-range", profile="aws")
@pytest.mark.requirement("AWS-port-reuse-per-destination", profile="aws")
@pytest.mark.requirement("AWS-error-port-allocation", profile="aws")
def test_55000_ports_and_not_one_more(lab: Lab, sink: socket.socket) -> None:
    """Towards one remote endpoint; towards another the same ports serve again."""
    before = lab.counters()
    seen = Sender(lab, 1, sink, SINK).send(range(1024, 1024 + LIMIT))
    assert {address for address, _ in seen.values()} == {INTERFACE_ADDRESS}
    ports = {port for _, port in seen.values()}
    assert len(ports) == LIMIT
    assert min(ports) >= 1024
    # All of the range is used, not its first 55,000.
    assert min(ports) < 1100
    assert max(ports) > 65_400
    with udp_socket(lab.environment(3)) as client:
        with drops_exactly(lab, {"port_allocation": 1}, lambda: _answers(lab, 3, ECHO, b"settled")):
            client.sendto(b"one", SINK)
        # Another remote endpoint is not concerned, and flows there are go on.
        assert _answers(lab, 3, ECHO, b"another remote")
    assert Sender(lab, 1, sink, SINK).send([1024]) == {1024: seen[1024]}
    change = difference(before, lab.counters())
    assert change["port_allocation_errors"] == 1
    assert (*SINK, DropReason.PORT_ALLOCATION) in _exhausted(lab)
    assert lab.verify() == []


@pytest.mark.slow
@pytest.mark.requirement("AWS-8-addresses", profile="aws")
def test_two_addresses_are_110000_ports(lab: Lab, sink: socket.socket) -> None:
    seen: list[tuple[str, int]] = []
    for number in (2, 4):
        seen += Sender(lab, number, sink, SINK).send(range(1024, 1024 + LIMIT)).values()
    assert len(set(seen)) == 2 * LIMIT
    assert Counter(address for address, _ in seen) == dict.fromkeys(OTHER_ADDRESSES, LIMIT)
    with (
        udp_socket(lab.environment(6)) as client,
        drops_exactly(lab, {"port_allocation": 1}, lambda: _answers(lab, 6, ECHO, b"settled")),
    ):
        client.sendto(b"one", SINK)
    assert lab.verify() == []


def test_every_address_is_answered_on(lab: Lab) -> None:
    """Answers come back to each address: the VPC's kernel has asked for it and was told."""
    with udp_socket(lab.vpc) as server:
        server.bind((WEB[0], 9001))
        sources = set()
        for number in range(40):
            with udp_socket(lab.environment(2)) as client:
                client.sendto(b"%d" % number, (WEB[0], 9001))
                question, source = server.recvfrom(64)
                server.sendto(question, source)
                assert client.recvfrom(64) == (question, (WEB[0], 9001))
                sources.add(source[0])
    assert sources == set(OTHER_ADDRESSES)
    (row,) = (row for row in lab.rows("interfaces") if row["name"] == "eni-b")
    assert row["address"] == OTHER_ADDRESSES[0]
    assert row["secondary_addresses"] == [OTHER_ADDRESSES[1]]


@pytest.mark.requirement("AWS-port-hold", profile="aws")
def test_a_closed_connection_s_port_is_held(launch: Launch) -> None:
    """60 seconds, under a time scale of 20; the next connection gets the port then."""
    hold = 60 / 20
    lab = launch(
        environments=2, toml="[ports]\nfirst = 40000\nlast = 40001\n[timeouts]\ntime_scale = 20\n"
    )
    with tcp_socket(lab.vpc) as listener:
        listener.bind((WEB[0], 7100))
        listener.listen()
        ports = set()
        closed: list[float] = []
        for _ in range(2):
            client = tcp_socket(lab.environment(1))
            client.connect((WEB[0], 7100))
            server, source = listener.accept()
            ports.add(source[1])
            closed.append(time.monotonic())
            client.close()
            assert server.recv(1) == b""
            server.close()
        assert ports == {40000, 40001}
        wait_until(
            lambda: {flow["state"] for flow in lab.rows("flows")} == {"TIME_WAIT"}, "both closed"
        )
        with tcp_socket(lab.environment(2), seconds=30) as client:
            client.connect((WEB[0], 7100))
            waited = time.monotonic() - closed[0]
            server, source = listener.accept()
            server.close()
        assert waited > hold - 0.1
        assert source[1] in ports
    assert lab.drops()["port_allocation"] >= 1
