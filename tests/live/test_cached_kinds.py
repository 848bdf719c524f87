# SPDX-License-Identifier: Apache-2.0
"""Flows of hosts by NAT gateways and public addresses, and by load balancers, in the kernel.

The labs are those of the examples, with the flow cache.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.conftest import Launch
from tests.live.lab import Lab, difference, receive, tcp_socket, udp_socket, wait_until
from tests.live.test_cached_flows import EARNING
from tests.live.test_flow_cache import ON
from tests.live.test_host_traffic import tcp_echo, where
from tests.live.test_load_balancers import states as health
from tests.live.test_nat_gateways import BASTION, OUT, SITE, internet, route_states

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.usefixtures("flow_cache")]

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
NODE = "10.0.1.100"
PORT = 7007
ENOUGH = 400
"""Packets that the kernel has forwarded: more than are exchanged until a flow is cached."""


def example(name: str) -> str:
    text = (EXAMPLES / f"{name}.toml").read_text(encoding="utf-8")
    return ON + text.replace(f'[lab]\nname = "{name}"\n', "")


def becomes_cached(lab: Lab, exchange: Callable[[], None], what: str) -> None:
    """Exchange until the kernel has forwarded much of it, and all of it is counted."""
    before = lab.counters()

    def hits() -> bool:
        for _ in range(EARNING):
            exchange()
        return difference(before, lab.counters()).get("flow_cache_packets", 0) > ENOUGH

    wait_until(hits, what)


@contextlib.contextmanager
def connection(namespace_name: str, address: str, port: int = PORT) -> Iterator[Callable[[], None]]:
    """A connection to an echo server; each call is a question and its answer."""
    with tcp_socket(namespace_name) as client:
        client.connect((address, port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def exchange() -> None:
            client.sendall(b"a word and its echo")
            assert receive(client, 19) == b"a word and its echo"

        yield exchange


def test_hosts_by_a_nat_gateway_and_by_public_addresses(launch: Launch) -> None:
    lab = launch(environments=0, toml=example("nat-gateway"))
    lab.cli("wait", "--timeout", "60")
    wait_until(lambda: "blackhole" not in route_states(lab), "the routes")
    worker, bastion = where(lab, "worker", "shop"), where(lab, "bastion", "shop")
    with tcp_echo(internet(lab), SITE, PORT), connection(worker, SITE) as exchange:
        becomes_cached(lab, exchange, f"a host's flow as {OUT}")
    with tcp_echo(internet(lab), SITE, PORT + 1), connection(bastion, SITE, PORT + 1) as exchange:
        becomes_cached(lab, exchange, f"a host's flow as {BASTION}")
    with tcp_echo(bastion, "", PORT), connection(internet(lab), BASTION) as exchange:
        becomes_cached(lab, exchange, f"a flow to {BASTION}")
    assert lab.verify() == []


def test_a_client_of_a_load_balancer(launch: Launch) -> None:
    lab = launch(environments=0, toml=example("load-balancer"))
    lab.cli("wait", "--timeout", "60")
    wait_until(lambda: set(health(lab)) == {"healthy"}, "healthy targets")
    with udp_socket(where(lab, "client", "shop")) as endpoint:

        def ask() -> None:
            endpoint.sendto(b"by the node", (NODE, 7))
            assert endpoint.recvfrom(64) == (b"by the node", (NODE, 7))

        becomes_cached(lab, ask, "a balanced flow")
    assert lab.verify() == []
