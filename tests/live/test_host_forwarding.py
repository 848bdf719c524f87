# SPDX-License-Identifier: Apache-2.0
"""Hosts of a VPC with real kernels: namespaces on links of their own, told to the forwarder."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.live import wire
from tests.live.configurations import ECHO_SERVICE, interface, vpc
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INTERFACE,
    INTERFACE_ADDRESS,
    Lab,
    require_program,
    run,
    tcp_socket,
    udp_socket,
    wait_until,
)
from tests.live.scene import tell_forwarder

pytestmark = pytest.mark.live

ADDRESSES = ("10.0.1.201", "10.0.1.202")
ROUTER = "10.0.1.1"
VPC = 2
"""The number of the lab's VPC in the forwarder, which refuses another for its interface."""
TOML = vpc(ECHO_SERVICE) + interface()


@contextlib.contextmanager
def host(lab: Lab, number: int, **rules: Any) -> Iterator[str]:
    """A namespace that is host `number`; its name."""
    ip = require_program("ip", "iproute2")
    name, ours = f"{lab.name}-{secrets.token_hex(2)}", f"h{secrets.token_hex(4)}"
    run(lab.gateway, ip, "netns", "add", name)
    try:
        peer = ("peer", "name", "eth0", "netns", name)
        run(lab.gateway, ip, "link", "add", ours, "type", "veth", *peer)
        run(lab.gateway, ip, "link", "set", ours, "up")
        for command in (
            ("link", "set", "lo", "up"),
            ("link", "set", "eth0", "up"),
            ("address", "add", f"{ADDRESSES[number]}/32", "dev", "eth0"),
            ("route", "add", ROUTER, "dev", "eth0"),
            ("route", "add", "default", "via", ROUTER, "dev", "eth0"),
        ):
            run(name, ip, *command)
        # What the VPC's router is told of each host.
        run(lab.vpc, ip, "route", "add", ADDRESSES[number], "dev", INTERFACE)
        (link,) = json.loads(run(lab.gateway, ip, "-json", "link", "show", ours).stdout)
        item = {
            "number": number,
            "name": name,
            "ifindex": link["ifindex"],
            "address": ADDRESSES[number],
            "host_mac": wire.mac_of(name, "eth0"),
            "gateway_mac": link["address"],
            "router": ROUTER,
            "subnet": "10.0.1.0/24",
            "interface": 0,
            "vpc": VPC,
            "mtu": 1500,
            "egress": None,
            "ingress": None,
            **rules,
        }
        tell_forwarder(lab, "configure", hosts=[item])
        try:
            yield name
        finally:
            tell_forwarder(lab, "configure", remove_hosts=[number])
    finally:
        run(lab.gateway, ip, "netns", "delete", name)


def test_everybody_meets_the_hosts(launch: Launch) -> None:
    """Two hosts, the VPC's service and a function: each way that there is, and no other."""
    lab = launch(environments=1, toml=TOML)
    closed = [{"protocol": "udp", "cidr": "10.0.0.0/16", "first": 7, "last": 7}]
    with (
        host(lab, 0) as one,
        host(lab, 1, ingress=closed) as two,
        udp_socket(one, port=7) as server,
        udp_socket(two, port=7) as other,
        udp_socket(two) as peer,
        udp_socket(lab.environment(1)) as function,
    ):
        # Host to host, as it is.
        peer.sendto(b"from a host", (ADDRESSES[0], 7))
        data, sender = server.recvfrom(2048)
        assert (data, sender[0], sender[1]) == (b"from a host", ADDRESSES[1], peer.getsockname()[1])
        server.sendto(b"back", sender)
        assert peer.recvfrom(2048) == (b"back", (ADDRESSES[0], 7))
        # Host to the VPC's service.
        peer.sendto(b"to the service", ECHO)
        assert peer.recvfrom(2048) == (b"to the service", ECHO)
        # A function, from its interface's address.
        function.sendto(b"from a function", (ADDRESSES[0], 7))
        data, sender = server.recvfrom(2048)
        assert (data, sender[0]) == (b"from a function", INTERFACE_ADDRESS)
        server.sendto(b"to the function", sender)
        assert function.recvfrom(2048) == (b"to the function", (ADDRESSES[0], 7))
        # The VPC's router, and a service on it.
        with udp_socket(lab.vpc) as router:
            router.sendto(b"from the router", (ADDRESSES[1], 7))
            data, sender = other.recvfrom(2048)
            other.sendto(b"answered", sender)
            assert router.recvfrom(2048) == (b"answered", (ADDRESSES[1], 7))
        # The groups of the second admit nothing else.
        before = lab.drops().get("security_group_ingress", 0)
        server.sendto(b"refused", (ADDRESSES[1], 8))
        wait_until(
            lambda: lab.drops().get("security_group_ingress", 0) == before + 1, "it is refused"
        )
        # A connection, and a ping both ways.
        with tcp_socket(one, port=8080) as listener, tcp_socket(two) as client:
            listener.listen()
            client.connect((ADDRESSES[0], 8080))
            connection, address = listener.accept()
            with connection:
                assert address[0] == ADDRESSES[1]
                client.sendall(bytes(200_000))
                received = 0
                while received < 200_000:
                    received += len(connection.recv(65536))
        ping = require_program("ping", "iputils-ping")
        run(one, ping, "-c", "1", "-W", "5", ROUTER)
        run(lab.vpc, ping, "-c", "1", "-W", "5", ADDRESSES[0])
        kinds = {row["host"] for row in lab.rows("flows") if "host" in row}
        assert {"host-0", "host-1"} & kinds
    wait_until(lambda: tell_forwarder(lab, "status")["hosts"] == 0, "they are gone")
    wait_until(
        lambda: not any(tell_forwarder(lab, "status")["retiring"].values()), "so are their flows"
    )
    assert [row for row in lab.rows("flows") if "host" in row] == []
    assert lab.verify() == []
