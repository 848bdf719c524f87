# SPDX-License-Identifier: Apache-2.0
"""A load balancer whose clients open connections by the ten thousand and say nothing more.

The SYNs leave the client host as raw frames, a source port each; what answers them is dropped where
it arrives. The lab is the one of docs/examples/load-balancer.toml.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.live import wire
from tests.live.conftest import Launch
from tests.live.lab import Lab, difference, require_program, run, tcp_socket, wait_until
from tests.live.test_host_traffic import REFUSED_SECONDS, where
from tests.live.test_load_balancers import (
    CLIENT,
    EXAMPLE,
    HOSTS,
    NODES,
    PORT,
    Target,
    ask,
    own_group,
    seen,
    states,
)
from tests.reference import packet

pytestmark = [pytest.mark.live, pytest.mark.alone]

LIMIT = 55_000
HALF_OPEN = 10_000
FIRST = 1024
BURST, ATTEMPTS = 1_000, 20
SUBNET = "10.0.1.0/24"
TARGET = "web-b"
CHECK = {"port": 80}
"""Targets are healthy by another port than that of the listener."""


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    """The example, when its targets are healthy."""
    text = EXAMPLE.read_text(encoding="utf-8").replace('[lab]\nname = "load-balancer"\n', "")
    lab = launch_shared(environments=0, toml=text)
    lab.cli("wait", "--timeout", "60")
    wait_until(lambda: set(states(lab)) == {"healthy"}, lambda: f"health: {states(lab)}")
    return lab


@pytest.fixture(autouse=True)
def _free(lab: Lab) -> Iterator[None]:
    """No port is taken by the test before."""
    yield
    lab.cli("advance", "600")
    wait_until(lambda: taken(lab) == 0, "the ports are free")


@contextlib.contextmanager
def silence(lab: Lab, host: str, field: str) -> Iterator[None]:
    """A host that does not hear what has the listener's port in this field."""
    nft, place = require_program("nft", "nftables"), where(lab, host, "shop")
    hook = "chain input { type filter hook input priority 0; "
    try:
        run(place, nft, f"table ip silence {{ {hook} tcp {field} {PORT} drop; }}; }}")
        yield
    finally:
        run(place, nft, "delete table ip silence", check=False)


class Opener:
    """SYNs of the client host to a node, from any number of ports."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._where = where(lab, "client", "shop")
        # That the neighbour is known.
        assert seen(lab, "client", NODES[0]) is not None
        (gateway,) = {
            words[words.index("lladdr") + 1]
            for line in run(self._where, "ip", "neighbour").stdout.splitlines()
            if "lladdr" in (words := line.split())
        }
        self._ends = gateway, wire.mac_of(self._where, "eth0")

    def _frame(self, port: int) -> bytes:
        content = packet.tcp(CLIENT, NODES[0], port, PORT, packet.SYN, seq=port)
        body = packet.ipv4(CLIENT, NODES[0], packet.TCP, content)
        return packet.ethernet(*self._ends, packet.ETHERTYPE_IPV4, body)

    def open(self, ports: Sequence[int]) -> None:
        """A flow for each; a SYN that is sent again is of the same."""
        for start in range(0, len(ports), BURST):
            frames = [self._frame(port) for port in ports[start : start + BURST]]
            self._send(frames, taken(self._lab) + len(frames))

    def _send(self, frames: Sequence[bytes], expected: int) -> None:
        for _ in range(ATTEMPTS):
            wire.inject(self._where, "eth0", frames)
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                if taken(self._lab) >= expected:
                    return
        pytest.fail(f"{taken(self._lab)} of {expected} flows are there")


def taken(lab: Lab) -> int:
    """Ports of the nodes towards the target."""
    answer = lab.client.get("/v1/ports", {"remote": f"{HOSTS[TARGET]}:{PORT}"})
    assert isinstance(answer, dict)
    return sum(row["in_use"] for row in answer["remotes"] if row["protocol"] == "tcp")


def further(lab: Lab, number: int) -> socket.socket:
    """A socket of the client that has a port behind those that are taken."""
    result = tcp_socket(where(lab, "client", "shop"))
    result.bind((CLIENT, FIRST + LIMIT + number))
    return result


def errors(lab: Lab) -> float:
    """PortAllocationErrorCount of the node."""
    with urllib.request.urlopen(lab.status()["metrics_url"]) as answer:
        lines = answer.read().decode().splitlines()
    name = "hyperplane_nat_networkelb_port_allocation_error_total"
    (value,) = (line.split()[1] for line in lines if line.startswith(name) and 'zone="a"' in line)
    return float(value)


@pytest.mark.slow
@pytest.mark.requirement("NLB-ports", profile="both")
@pytest.mark.requirement("NLB-more-ports", profile="both")
def test_55000_ports_of_a_node_towards_a_target_and_not_one_more(lab: Lab) -> None:
    """Other targets have theirs, and another address of the node has as many again."""
    with (
        contextlib.closing(Target(lab, TARGET)),
        own_group(lab, TARGET, health_check=CHECK, preserve_client_ip=False),
    ):
        before, refusals = lab.drops(), errors(lab)
        with silence(lab, TARGET, "dport"):
            Opener(lab).open(range(FIRST, FIRST + LIMIT))
            assert taken(lab) == LIMIT
            with further(lab, 1) as refused:
                refused.settimeout(REFUSED_SECONDS)
                with pytest.raises(TimeoutError):
                    refused.connect((NODES[0], PORT))
        wait_until(
            lambda: difference(before, lab.drops()).get("load_balancer_port_allocation"),
            "the one more is dropped",
        )
        found = difference(before, lab.drops())
        assert errors(lab) - refusals == found["load_balancer_port_allocation"]
        wait_until(
            lambda: "port-exhaustion" in [row["kind"] for row in lab.rows("events")], "the event"
        )
        assert seen(lab, "client", f"{NODES[0]}:8080") in NODES
        lab.client.patch("/v1/load-balancers/front", {"secondary_addresses": 1})
        with further(lab, 2) as more:
            more.connect((NODES[0], PORT))
            name, peer = ask(more)
        assert name == TARGET
        assert IPv4Address(peer) in IPv4Network(SUBNET)
        assert peer != NODES[0]
    assert lab.verify() == []


@pytest.mark.requirement("NLB-listeners", profile="both")
def test_half_open_connections_harm_no_other_listener(lab: Lab) -> None:
    opener = Opener(lab)
    with (
        contextlib.closing(Target(lab, TARGET)),
        own_group(lab, TARGET, health_check=CHECK, preserve_client_ip=False),
        silence(lab, "client", "sport"),
    ):
        flood = threading.Thread(target=opener.open, args=(range(FIRST, FIRST + HALF_OPEN),))
        flood.start()
        answers: list[str | None] = []
        while flood.is_alive() or len(answers) < 5:
            answers.append(seen(lab, "client", NODES[0]))
        flood.join()
        assert set(answers) == {CLIENT}
        assert taken(lab) == HALF_OPEN
    assert lab.verify() == []
