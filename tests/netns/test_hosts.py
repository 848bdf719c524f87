# SPDX-License-Identifier: Apache-2.0
"""Hosts of VPCs: made, attached, linked again and removed, with nothing but netns."""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from netns import NetnsError, hosts, links, namespace, topology
from netns.netlink import RouteSocket
from netns.topology import HostSpec
from tests.netns.conftest import lab_spec

pytestmark = pytest.mark.live

HOST = HostSpec(number=3, address="10.0.1.50", router="10.0.1.1", mtu=1400)


@pytest.fixture
def foreign() -> Iterator[str]:
    """A namespace that is nobody's; it has no link but its loopback."""
    name = f"t-{secrets.token_hex(4)}"
    namespace.create([name], lambda _name: None)
    yield name
    namespace.delete([name])


def inside(name: str) -> tuple[set[str], set[str], set[tuple[str, str | None]]]:
    """Links, addresses beside the loopback's, and routes as (destination, gateway)."""

    def read() -> tuple[set[str], set[str], set[tuple[str, str | None]]]:
        with RouteSocket() as route:
            addresses = {value for index, value in links.addresses(route) if index != 1}
            routes = {(each.destination, each.gateway) for each in links.routes(route)}
            return set(links.links(route)), addresses, routes

    return namespace.call(name, read)


def occupy() -> None:
    """An eth0 of somebody else's."""
    command = ["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other"]
    subprocess.run(command, check=True)


ROUTED = {("10.0.1.1/32", None), ("0.0.0.0/0", "10.0.1.1")}


def test_a_host_comes_and_goes(lab: str) -> None:
    topology.build(lab_spec(lab, 0))
    made = topology.add_host(lab, HOST)
    where = topology.host_namespace(lab, 3)
    assert inside(where) == ({"lo", "eth0"}, {"10.0.1.50/32"}, ROUTED)
    (found,) = topology.survey(lab).hosts
    assert (found.host, found.mtu) == (made, 1400)
    assert not topology.survey(lab).broken
    topology.remove_hosts(lab, [3])
    topology.remove_hosts(lab, [3])
    assert not namespace.exists(where)
    assert topology.survey(lab).hosts == ()
    # A hardware address belongs to the host, not to one life of its link.
    again = topology.add_host(lab, HOST)
    assert (again.host_mac, again.gateway_mac) == (made.host_mac, made.gateway_mac)


def test_the_lab_goes_with_its_hosts(lab: str, foreign: str) -> None:
    topology.build(lab_spec(lab, 0))
    topology.add_host(lab, HOST)
    topology.add_host(lab, replace(HOST, number=4, attached=str(namespace.path(foreign))))
    topology.destroy(lab)
    assert topology.strays(lab) == []
    assert inside(foreign) == ({"lo"}, set(), set())


def test_a_namespace_is_attached_and_given_back(lab: str, foreign: str) -> None:
    topology.build(lab_spec(lab, 0))
    file = namespace.path(foreign)
    hosts.check_attachable(file)
    topology.add_host(lab, replace(HOST, attached=str(file)))
    assert inside(foreign) == ({"lo", "eth0"}, {"10.0.1.50/32"}, ROUTED)
    with pytest.raises(NetnsError, match="which is of a lab"):
        hosts.check_attachable(file)
    topology.remove_hosts(lab, [3])
    assert inside(foreign) == ({"lo"}, set(), set())
    hosts.check_attachable(file)


def test_the_namespace_of_a_process_is_attached(lab: str) -> None:
    topology.build(lab_spec(lab, 0))
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE) as process:
        file = Path(f"/proc/{process.pid}/ns/net")
        mine = Path("/proc/self/ns/net").stat().st_ino
        while file.stat().st_ino == mine:
            assert process.poll() is None
        topology.add_host(lab, replace(HOST, attached=str(file)))
        # Its name holds it when the process is gone.
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
    assert inside(topology.host_namespace(lab, 3))[1] == {"10.0.1.50/32"}


def test_what_cannot_be_attached_is_said(lab: str, foreign: str) -> None:
    topology.build(lab_spec(lab, 1))
    with pytest.raises(NetnsError, match="No such file"):
        hosts.check_attachable(namespace.path("t-none-such"))
    with pytest.raises(NetnsError, match="no network namespace"):
        hosts.check_attachable(Path("/proc/self/ns/mnt"))
    with pytest.raises(NetnsError, match="no network namespace"):
        hosts.check_attachable(Path("/etc/hostname"))
    with pytest.raises(NetnsError, match="the lab itself runs in"):
        hosts.check_attachable(Path("/proc/self/ns/net"))
    with pytest.raises(NetnsError, match="which is of a lab"):
        hosts.check_attachable(namespace.path(topology.gateway_namespace(lab)))

    namespace.call(foreign, occupy)
    with pytest.raises(NetnsError, match="eth0 already"):
        hosts.check_attachable(namespace.path(foreign))
    with pytest.raises(NetnsError, match="File exists"):
        topology.add_host(lab, replace(HOST, attached=str(namespace.path(foreign))))
    assert topology.survey(lab).hosts == ()
    assert not topology.survey(lab).broken
    assert inside(foreign)[0] == {"lo", "eth0", "other"}


@pytest.mark.parametrize("end", ["eth0", "host.3"])
def test_a_lost_link_is_made_again_and_what_runs_goes_on(lab: str, end: str) -> None:
    topology.build(lab_spec(lab, 0))
    topology.add_host(lab, HOST)
    where = topology.host_namespace(lab, 3)
    with namespace.call(where, socket.socket) as listening:
        listening.bind(("0.0.0.0", 0))
        listening.listen()
        place = where if end == "eth0" else topology.gateway_namespace(lab)

        def lose() -> None:
            subprocess.run(["ip", "link", "delete", end], check=True)

        namespace.call(place, lose)
        assert topology.survey(lab).broken.hosts == (3,)
        topology.add_host(lab, HOST)
        (found,) = topology.survey(lab).hosts
        assert found.host.number == 3
        port = listening.getsockname()[1]

        def connect() -> None:
            with socket.create_connection(("10.0.1.50", port), 5):
                pass

        namespace.call(where, connect)


def test_something_else_in_the_place_of_the_link_costs_the_namespace(lab: str) -> None:
    topology.build(lab_spec(lab, 0))
    topology.add_host(lab, HOST)
    where = topology.host_namespace(lab, 3)

    with namespace.call(where, RouteSocket) as route:
        links.delete(route, ["eth0"])
    namespace.call(where, occupy)
    topology.add_host(lab, HOST)
    assert inside(where) == ({"lo", "eth0"}, {"10.0.1.50/32"}, ROUTED)


def test_a_vpc_reaches_hosts_by_one_link(lab: str) -> None:
    topology.build(lab_spec(lab, 0))
    vpc = topology.vpc_namespace(lab, "customer")
    before = inside(vpc)[2]
    topology.add_routes(lab, "customer", "eni-a", ["10.0.1.50", "10.0.1.51"])
    topology.add_routes(lab, "customer", "eni-a", ["10.0.1.51"])
    assert inside(vpc)[2] - before == {("10.0.1.50/32", None), ("10.0.1.51/32", None)}
    topology.remove_routes(lab, "customer", "eni-a", ["10.0.1.50", "10.0.1.52"])
    topology.remove_routes(lab, "customer", "none-such", ["10.0.1.51"])
    assert inside(vpc)[2] - before == {("10.0.1.51/32", None)}
    with pytest.raises(NetnsError, match="vanished"):
        topology.add_routes(lab, "customer", "none-such", ["10.0.1.53"])


def test_a_half_made_host_is_made_whole(lab: str) -> None:
    topology.build(lab_spec(lab, 0))
    namespace.path(topology.host_namespace(lab, 3)).touch()
    assert topology.survey(lab).broken.hosts == (3,)
    topology.add_host(lab, HOST)
    assert not topology.survey(lab).broken


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (replace(HOST, number=0), "host number 0"),
        (replace(HOST, address="10.0.1"), "IPv4 addresses"),
        (replace(HOST, mtu=67), "MTU"),
    ],
)
def test_impossible_hosts_are_refused(lab: str, spec: HostSpec, words: str) -> None:
    with pytest.raises(NetnsError, match=words):
        topology.add_host(lab, spec)
