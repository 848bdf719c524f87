# SPDX-License-Identifier: Apache-2.0
"""Links that carry less on one side of the gateway than on the other, and beyond it."""

from __future__ import annotations

import contextlib
import errno
import secrets
import socket
from collections.abc import Iterator

import pytest

from netns import content, namespace, sysctl
from tests.live.configurations import ECHO_SERVICE, WEB_SERVICE, vpc
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INTERFACE_ADDRESS,
    WEB,
    Lab,
    difference,
    receive,
    require_program,
    run,
    tcp_socket,
    udp_socket,
    wait_until,
)

pytestmark = pytest.mark.live

NARROW = 1400
JUMBO = 9001
AWS_MTU = 8500
FAR = "10.0.77.2"
FAR_ROUTER = "10.0.77.1"
FAR_MTU = 1200
SERVICE_PORT = 7002
BULK_BYTES = 4 << 20

IP_MTU_DISCOVER = 10
IP_MTU = 14
PMTUDISC_DONT = 0
PMTUDISC_DO = 2


def vpc_of(mtu: int) -> str:
    return vpc(ECHO_SERVICE, WEB_SERVICE, mtu_bytes=mtu)


@pytest.fixture(scope="module")
def narrow(launch_shared: Launch) -> Lab:
    """The VPC carries less than the environments' links."""
    return launch_shared(toml=vpc_of(NARROW))


@pytest.fixture(scope="module")
def wide(launch_shared: Launch) -> Lab:
    """The VPC carries more."""
    return launch_shared(toml=vpc_of(JUMBO))


@pytest.fixture(scope="module", params=["aws", "rfc"])
def jumbo(request: pytest.FixtureRequest, launch_shared: Launch) -> Lab:
    """Both carry more than the interface, which says nothing of its own (AWS: 8500)."""
    profile = f'[nat]\nprofile = "{request.param}"\n'
    return launch_shared(toml=profile + f"[environment]\nmtu_bytes = {JUMBO}\n" + vpc_of(JUMBO))


def learned_mtu(where: str, target: tuple[str, int], size: int) -> int:
    """What a kernel knows of the way after datagrams of `size` that must not be cut."""
    with udp_socket(where) as endpoint:
        endpoint.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
        endpoint.connect(target)
        return _told(endpoint, size)


def _told(endpoint: socket.socket, size: int) -> int:
    def refused() -> bool:
        try:
            endpoint.send(bytes(size - 28))
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            return True
        return False

    wait_until(refused, "the sender is told that the packet is too large")
    return endpoint.getsockopt(socket.IPPROTO_IP, IP_MTU)


# Kernels remember an MTU that they were told: these come first.


@pytest.mark.requirement("RFC4787-13", profile="both")
def test_what_may_be_cut_is_cut(narrow: Lab, wide: Lab) -> None:
    """Outwards the VPC carries less, inwards the environment's link."""
    for lab, sends, size in ((narrow, "environment", 1450), (wide, "server", 8000)):
        before = lab.counters()
        with udp_socket(lab.vpc) as server, udp_socket(lab.environment(1)) as endpoint:
            server.bind((ECHO[0], SERVICE_PORT))
            endpoint.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)
            server.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)
            payload = content.read(size - 28)
            endpoint.sendto(payload[:100], (ECHO[0], SERVICE_PORT))
            _hello, peer = server.recvfrom(64)
            if sends == "environment":
                endpoint.sendto(payload, (ECHO[0], SERVICE_PORT))
                assert server.recvfrom(1 << 16)[0] == payload
            else:
                server.sendto(payload, peer)
                assert endpoint.recvfrom(1 << 16)[0] == payload
        change = difference(before, lab.counters())
        assert change["packets_fragmented"] == 1


@pytest.mark.requirement("AWS-udp-fragments", profile="both")
@pytest.mark.requirement("RFC4787-14", profile="both")
def test_pieces_are_cut_again(jumbo: Lab) -> None:
    """The environment's kernel cuts by its link, the gateway by the interface; so the answer."""
    before = jumbo.counters()
    payload = content.read(60_000)
    with udp_socket(jumbo.environment(1)) as endpoint:
        endpoint.sendto(payload, ECHO)
        assert endpoint.recvfrom(1 << 16) == (payload, ECHO)
    change = difference(before, jumbo.counters())
    assert change["fragments_forwarded"] >= 2 * 7
    assert change["packets_fragmented"] >= 6
    assert jumbo.verify() == []


@pytest.mark.requirement("AWS-mss-clamping", profile="aws")
@pytest.mark.parametrize(("name", "largest"), [("narrow", NARROW - 40), ("wide", 1460)])
def test_tcp_never_asks_for_more(request: pytest.FixtureRequest, name: str, largest: int) -> None:
    """Both ends use segments that fit, from the first on, and bulk flows both ways."""
    lab: Lab = request.getfixturevalue(name)
    before = lab.counters()
    data = content.read(BULK_BYTES)
    with tcp_socket(lab.vpc) as listener, tcp_socket(lab.environment(1)) as client:
        listener.bind((WEB[0], SERVICE_PORT))
        listener.listen()
        client.connect((WEB[0], SERVICE_PORT))
        server, _peer = listener.accept()
        with server:
            server.settimeout(30)
            for end in (client, server):
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= largest
            for source, target in ((client, server), (server, client)):
                exchange(source, target, data)
    change = difference(before, lab.counters())
    assert change["mss_clamped"] >= 1
    assert "drop_mtu_exceeded" not in change
    assert "transmit_errors" not in change


def exchange(source: socket.socket, target: socket.socket, data: bytes) -> None:
    """Send `data` in parts, so that one thread can do both."""
    step = 1 << 16
    for start in range(0, len(data), step):
        part = data[start : start + step]
        source.sendall(part)
        assert receive(target, len(part)) == part


@pytest.mark.requirement("AWS-pmtud", profile="aws")
@pytest.mark.requirement("RFC4787-13", profile="both")
def test_an_environment_learns_the_mtu(narrow: Lab) -> None:
    before = narrow.counters()
    assert learned_mtu(narrow.environment(1), ECHO, 1450) == NARROW
    change = difference(before, narrow.counters())
    assert change["drop_mtu_exceeded"] == change["replies_icmp"] >= 1


@pytest.mark.requirement("AWS-mtu-8500", profile="both")
@pytest.mark.requirement("AWS-pmtud", profile="both")
@pytest.mark.requirement("RFC4787-13", profile="both")
def test_8500_bytes_and_no_more(jumbo: Lab) -> None:
    """A packet of 8500 bytes passes; one of 8501 is answered with that number, as a path's MTU."""
    with udp_socket(jumbo.environment(2)) as endpoint:
        endpoint.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
        payload = content.read(AWS_MTU - 28)
        endpoint.sendto(payload, ECHO)
        assert endpoint.recvfrom(JUMBO) == (payload, ECHO)
    before = jumbo.counters()
    assert learned_mtu(jumbo.environment(2), ECHO, AWS_MTU + 1) == AWS_MTU
    change = difference(before, jumbo.counters())
    assert change["drop_mtu_exceeded"] == change["replies_icmp"] >= 1


@pytest.mark.requirement("RFC4787-13", profile="both")
def test_a_server_learns_the_mtu(wide: Lab) -> None:
    """From the interface's address, about what it sent there."""
    with udp_socket(wide.vpc) as server, udp_socket(wide.environment(1)) as endpoint:
        server.bind((ECHO[0], SERVICE_PORT))
        endpoint.sendto(b"here", (ECHO[0], SERVICE_PORT))
        _hello, peer = server.recvfrom(64)
        assert peer[0] == INTERFACE_ADDRESS
        server.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
        server.connect(peer)
        assert _told(server, 3000) == 1500


@contextlib.contextmanager
def behind_a_router(lab: Lab) -> Iterator[str]:
    """A host of the VPC behind a router whose link to it is narrow; its namespace."""
    ip = require_program("ip", "iproute2")
    token = secrets.token_hex(3)
    far, near, link = f"t-far-{token}", f"n{token}", f"f{token}"
    run(lab.vpc, ip, "netns", "add", far)
    try:
        run(lab.vpc, ip, "link", "add", near, "mtu", str(FAR_MTU), "type", "veth",
            "peer", link, "mtu", str(FAR_MTU), "netns", far)  # fmt: skip
        run(lab.vpc, ip, "address", "add", f"{FAR_ROUTER}/30", "dev", near)
        run(lab.vpc, ip, "link", "set", near, "up")
        run(far, ip, "address", "add", f"{FAR}/30", "dev", link)
        run(far, ip, "link", "set", link, "up")
        run(far, ip, "route", "add", "default", "via", FAR_ROUTER)

        def forwarding() -> None:
            with sysctl.Writer() as writer:
                writer.write({"ipv4/ip_forward": "1", "ipv4/icmp_ratelimit": "0"})

        namespace.call(lab.vpc, forwarding)
        yield far
    finally:
        run(lab.vpc, ip, "netns", "delete", far, check=False)


@pytest.mark.requirement("AWS-pmtud", profile="aws")
def test_a_router_in_the_vpc_tells_an_environment(launch: Launch) -> None:
    """Its "fragmentation needed" reaches the environment that sent, and no other; TCP goes on."""
    lab = launch(environments=2)
    data = content.read(1 << 20)
    with behind_a_router(lab) as far:
        with udp_socket(lab.environment(2)) as bystander:
            bystander.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
            bystander.connect((FAR, 9))
            assert learned_mtu(lab.environment(1), (FAR, 9), 1400) == FAR_MTU
            assert bystander.getsockopt(socket.IPPROTO_IP, IP_MTU) == 1500
        with tcp_socket(far) as listener, tcp_socket(lab.environment(2)) as client:
            listener.bind((FAR, SERVICE_PORT))
            listener.listen()
            client.connect((FAR, SERVICE_PORT))
            server, _peer = listener.accept()
            with server:
                server.settimeout(30)
                exchange(client, server, data)
                exchange(server, client, data)
    assert lab.counters()["icmp_errors_translated"] >= 1
