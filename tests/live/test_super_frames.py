# SPDX-License-Identifier: Apache-2.0
"""Frames of several datagrams (UDP_SEGMENT), and what tunnels carry, through the gateway."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from netns import content
from tests.conftest import in_ci
from tests.live import wire
from tests.live.configurations import ECHO_SERVICE, vpc
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INTERFACE,
    INTERFACE_ADDRESS,
    WEB,
    Lab,
    difference,
    receive,
    require_program,
    ring_unread,
    run,
    tcp_socket,
    udp_socket,
    wait_until,
)

pytestmark = pytest.mark.live

IP_MTU_DISCOVER, PMTUDISC_DONT, PMTUDISC_DO = 10, 0, 2
SERVICE = (ECHO[0], 7005)
NARROW = 1400
RING_SLOTS = 256
BULK_BYTES = 1 << 20

VXLAN_PORT = 4789
TUNNEL_NEAR, TUNNEL_FAR = "192.168.77.1", "192.168.77.2"


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return launch_shared(environments=2)


def segmenting(where: str, size: int, discover: int = PMTUDISC_DO) -> socket.socket:
    """A socket whose kernel cuts what it sends into datagrams of this size, as late as it can."""
    endpoint = udp_socket(where)
    endpoint.setsockopt(socket.IPPROTO_UDP, wire.UDP_SEGMENT, size)
    endpoint.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, discover)
    return endpoint


def test_datagrams_of_a_super_frame_are_counted_one_by_one(lab: Lab) -> None:
    count, size = 40, 1000
    before = lab.counters()
    with udp_socket(lab.vpc) as server, segmenting(lab.environment(1), size) as endpoint:
        server.bind(SERVICE)
        payload = content.read(count * size)
        endpoint.sendto(payload, SERVICE)
        parts = [server.recvfrom(2 * size) for _ in range(count)]
        assert b"".join(part for part, _peer in parts) == payload
        (flow,) = [
            row for row in lab.rows("flows", protocol="udp") if row["nat_port"] == parts[0][1][1]
        ]
        assert (flow["packets_out"], flow["bytes_out"]) == (count, count * (size + 28))
        server.sendto(b"thanks", parts[0][1])
        assert endpoint.recv(64) == b"thanks"
    change = difference(before, lab.counters())
    assert change["packets_out_to_destination"] == count
    assert change["bytes_out_to_destination"] == count * (size + 28)
    assert change["packets_in_from_source"] == count
    assert change["packets_out_to_source"] == 1


def test_datagrams_larger_than_the_next_link_leave_in_pieces(launch: Launch) -> None:
    """Ten datagrams that may be cut: ten arrive, both ways, each whole."""
    count, size = 10, 1440
    lab = launch(toml=vpc(ECHO_SERVICE, mtu_bytes=NARROW))
    with (
        udp_socket(lab.vpc) as server,
        segmenting(lab.environment(1), size, PMTUDISC_DONT) as endpoint,
    ):
        server.bind(SERVICE)
        before = lab.counters()
        payload = content.read(count * size)
        endpoint.sendto(payload, SERVICE)
        assert b"".join(server.recv(2 * size) for _ in range(count)) == payload
        change = difference(before, lab.counters())
        assert change["packets_fragmented"] == count
        assert change["packets_out_to_destination"] == 2 * count
        assert "drop_mtu_exceeded" not in change
    assert lab.verify() == []


@pytest.mark.alone
@pytest.mark.parametrize("size", [22, 1000])
def test_a_super_frame_takes_as_many_turns_as_it_has_datagrams(launch: Launch, size: int) -> None:
    """Who has sent one datagram at a time waits for one super-frame, not for a turn full of them.

    Large ones are also looked past: a ring that fills up with them is made room in.
    """
    lab = launch(toml=f"[forwarder]\nring_slots = {RING_SLOTS}\n")
    datagrams = 60
    flooding = 100 if size < 100 else 215
    quiet = 10
    large = flooding * 4 > RING_SLOTS * 3
    with (
        udp_socket(lab.vpc) as sink,
        udp_socket(lab.vpc) as server,
        segmenting(lab.environment(1), size) as flooder,
        udp_socket(lab.environment(2)) as other,
        wire.capturing((lab.vpc, INTERFACE)) as (capture,),
    ):
        sink.bind(SERVICE)
        server.bind((WEB[0], SERVICE[1]))
        flooder.sendto(b"here", SERVICE)
        other.sendto(b"here", (WEB[0], SERVICE[1]))
        assert (sink.recv(64), server.recv(64)) == (b"here", b"here")
        capture.take()
        before = lab.counters()
        with ring_unread(lab):
            for _ in range(flooding):
                flooder.sendto(bytes(datagrams * size), SERVICE)
            for number in range(quiet):
                other.sendto(b"%d" % number, (WEB[0], SERVICE[1]))
        answers = [server.recv(64) for _ in range(quiet)]
        assert answers == [b"%d" % number for number in range(quiet)]
        frames: list[bytes] = []

        def all_came() -> bool:
            frames.extend(frame for frame in capture.take() if wire.ethertype(frame) == 0x0800)
            change = difference(before, lab.counters())
            gone = change.get("drop_fair_share", 0) // datagrams
            return sum(len(frame) > datagrams * size for frame in frames) + gone == flooding

        wait_until(all_came, "the flood is through or given up")
        last = max(n for n, frame in enumerate(frames) if frame[30:34] == socket.inet_aton(WEB[0]))
        assert sum(len(frame) > datagrams * size for frame in frames[:last]) <= 2
        change = difference(before, lab.counters())
        assert ("drop_fair_share" in change) == large
        assert "ring_dropped" not in change
        assert "drop_oversize" not in change


def _vxlan(where: str, local: str, remote: str | None, *options: str) -> None:
    ip = require_program("ip", "iproute2")
    peer = ["remote", remote] if remote else []
    added = run(
        where, ip, "link", "add", "x0", "type", "vxlan", "id", "5", *peer, "local", local,
        "dstport", str(VXLAN_PORT), "srcport", str(VXLAN_PORT), str(VXLAN_PORT + 1),
        "nolearning", *options, check=False,
    )  # fmt: skip
    if added.returncode and "Unknown device type" in str(added.stderr):
        (pytest.fail if in_ci() else pytest.skip)("this kernel has no VXLAN")
    assert added.returncode == 0, added.stderr
    inside = TUNNEL_NEAR if remote else TUNNEL_FAR
    run(where, ip, "address", "add", f"{inside}/24", "dev", "x0")
    run(where, ip, "link", "set", "x0", "up")


@contextlib.contextmanager
def tunnel(lab: Lab, checksums: str) -> Iterator[None]:
    """VXLAN between environment 1 and a host of the VPC, which answers to the port it hears."""
    near = lab.environment(1)
    local = "169.254.100.2"
    ip, bridge = require_program("ip", "iproute2"), require_program("bridge", "iproute2")
    try:
        _vxlan(lab.vpc, WEB[0], None, checksums)
        _vxlan(near, local, WEB[0], checksums)
        with udp_socket(near) as first:
            first.sendto(b"who has it?", (TUNNEL_FAR, 9))

            def ports() -> list[int]:
                rows = lab.rows("flows", protocol="udp")
                return [row["nat_port"] for row in rows if row["remote_port"] == VXLAN_PORT]

            wait_until(ports, "the tunnel's flow")
            (port,) = ports()
            run(
                lab.vpc, bridge, "fdb", "append", "00:00:00:00:00:00", "dev", "x0",
                "dst", INTERFACE_ADDRESS, "port", str(port),
            )  # fmt: skip
        yield
    finally:
        for where in (near, lab.vpc):
            run(where, ip, "link", "delete", "x0", check=False)


@pytest.mark.parametrize("checksums", ["udpcsum", "noudpcsum"])
def test_tunnels(launch: Launch, checksums: str) -> None:
    """Datagrams, super-frames of them and TCP in VXLAN, with outer checksums and without."""
    lab = launch(environments=1)
    data = content.read(BULK_BYTES)
    with tunnel(lab, checksums):
        before = lab.counters()
        with udp_socket(lab.vpc) as server, segmenting(lab.environment(1), 700) as client:
            server.bind((TUNNEL_FAR, 7006))
            client.sendto(data[:2100], (TUNNEL_FAR, 7006))
            parts = [server.recvfrom(2000) for _ in range(3)]
            assert b"".join(part for part, _peer in parts) == data[:2100]
            server.sendto(b"answer", parts[0][1])
            assert client.recv(64) == b"answer"
        with tcp_socket(lab.vpc) as listener, tcp_socket(lab.environment(1)) as client:
            listener.bind((TUNNEL_FAR, 7007))
            listener.listen()
            client.connect((TUNNEL_FAR, 7007))
            server, _peer = listener.accept()
            with server:
                server.settimeout(30)
                step = 1 << 16
                for source, target in ((client, server), (server, client)):
                    for start in range(0, len(data), step):
                        part = data[start : start + step]
                        source.sendall(part)
                        assert receive(target, len(part)) == part
        change = difference(before, lab.counters())
        assert not [name for name in change if name in ("drop_offload", "drop_l4_checksum")]
        assert "transmit_errors" not in change
    assert lab.verify() == []
