# SPDX-License-Identifier: Apache-2.0
"""What must not pass, and that it is counted: hostile frames from environments and from a VPC.

Theory of operation
-------------------
Every test sends frames that must go nowhere, past the sender's own IP stack, and names the one drop
reason that each must be counted under. Then every environment exchanges a datagram with its VPC;
the gateway handles frames in order, so by the time the echo is back everything before it has been
dealt with and nothing needs to be waited for. Captures on all links have then seen those datagrams
and not one frame more: nothing arrived anywhere, and neither the gateway nor its kernel has
answered. A connection that was open from the start carries data after each test, and no forwarder
was replaced.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q
from scapy.packet import Raw

from netns import namespace
from tests.live import wire
from tests.live.configurations import OTHER_ECHO, OTHER_INTERFACE, OTHER_INTERFACE_ADDRESS
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_ADDRESS,
    INSIDE_GATEWAY,
    INTERFACE_ADDRESS,
    WEB,
    Lab,
    require_program,
    run,
    udp_socket,
    wait_until,
)
from tests.live.scene import (
    BROADCAST,
    LIVE_PORT,
    STRANGER,
    TOML,
    Link,
    Scene,
    tell_forwarder,
)

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def shared_scene(launch_shared: Launch) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        yield Scene(launch_shared(environments=3, toml=TOML), stack)


@pytest.fixture
def scene(shared_scene: Scene) -> Iterator[Scene]:
    """The scene; afterwards the live connection must still carry data on the same forwarder."""
    before = shared_scene.lab.status()["forwarder"]["pid"]
    yield shared_scene
    shared_scene.live()
    assert shared_scene.lab.status()["forwarder"]["pid"] == before


def transports(source_port: int = 1234, port: int = 80) -> list[Any]:
    """The first packet of a TCP, UDP and ping exchange."""
    return [
        TCP(sport=source_port, dport=port, flags="S"),
        UDP(sport=source_port, dport=port) / Raw(b"question"),
        ICMP(type=8, id=source_port) / Raw(b"question"),
    ]


def inside_ip(**fields: Any) -> Any:
    """An IPv4 header from environment 1, by default to the web server."""
    return IP(**{"src": INSIDE_ADDRESS, "dst": WEB[0], **fields})


def outside_ip(**fields: Any) -> Any:
    """An IPv4 header from the web server to the interface."""
    return IP(**{"src": WEB[0], "dst": INTERFACE_ADDRESS, **fields})


# --- environments ---


@pytest.mark.requirement("AWS-no-hairpin", profile="aws")
@pytest.mark.requirement("AWS-no-vpc-internet", profile="both")
@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        pytest.param(INSIDE_ADDRESS, "destination_gateway", id="another-environment"),
        pytest.param(INSIDE_GATEWAY, "destination_gateway", id="gateway"),
        pytest.param("169.254.100.3", "destination_gateway", id="inside-broadcast"),
        pytest.param(INTERFACE_ADDRESS, "destination_hairpin", id="own-interface"),
        pytest.param(OTHER_INTERFACE_ADDRESS, "no_route", id="other-interface"),
        pytest.param(OTHER_ECHO[0], "no_route", id="another-vpc"),
        pytest.param("192.0.2.1", "no_route", id="internet"),
        pytest.param("169.254.169.254", "destination_invalid", id="metadata"),
        pytest.param("127.0.0.1", "destination_invalid", id="loopback"),
        pytest.param("0.0.0.0", "destination_invalid", id="zero"),
        pytest.param("224.0.0.1", "destination_invalid", id="multicast"),
        pytest.param("255.255.255.255", "destination_invalid", id="broadcast"),
    ],
)
def test_environment_cannot_reach(scene: Scene, destination: str, reason: str) -> None:
    packets = [inside_ip(dst=destination) / each for each in transports()]
    with scene.dropped(**{reason: len(packets)}):
        scene.inside.inject(*(scene.inside.ethernet() / packet for packet in packets))


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ((INSIDE_GATEWAY, 53), "destination_gateway"),
        ((INTERFACE_ADDRESS, 80), "destination_hairpin"),
        (OTHER_ECHO, "no_route"),
    ],
    ids=["gateway", "interface", "another-vpc"],
)
def test_environment_cannot_reach_with_its_own_stack(
    scene: Scene, target: tuple[str, int], reason: str
) -> None:
    with scene.dropped(**{reason: 1}), udp_socket(scene.inside.where) as endpoint:
        endpoint.sendto(b"question", target)


@pytest.mark.parametrize(
    "source",
    [
        "169.254.100.3",
        INSIDE_GATEWAY,
        INTERFACE_ADDRESS,
        ECHO[0],
        "0.0.0.0",
        "127.0.0.1",
        "203.0.113.7",
    ],
)
def test_spoofed_source(scene: Scene, source: str) -> None:
    packets = [inside_ip(src=source) / each for each in transports()]
    with scene.dropped(source_spoofed=len(packets)):
        scene.inside.inject(*(scene.inside.ethernet() / packet for packet in packets))


def test_spoofed_source_on_a_flow_of_another_environment(scene: Scene) -> None:
    """The very segment that the live connection of environment 3 would send, from environment 1."""
    (flow,) = (
        row
        for row in scene.lab.rows("flows", protocol="tcp", environment="env-3")
        if row["remote_port"] == LIVE_PORT
    )
    segment = TCP(sport=flow["inside_port"], dport=LIVE_PORT, flags="RA", seq=1, ack=1)
    with scene.dropped(tcp_no_flow=1, source_spoofed=1):
        scene.inside.inject(
            scene.inside.ethernet() / inside_ip() / segment,
            scene.inside.ethernet() / inside_ip(src=INTERFACE_ADDRESS) / segment,
        )


# --- what the forwarder alone can be told ---


VPC_NUMBER = 2
"""Of the first VPC in the configuration; 1 is the internet, and the other one's is the next."""


@contextlib.contextmanager
def other_interface(lab: Lab, **fields: Any) -> Iterator[None]:
    """The interface of the other VPC, changed for a while."""
    ip = require_program("ip", "iproute2")
    shown = run(lab.gateway, ip, "-json", "link", "show", OTHER_INTERFACE)
    (link,) = json.loads(shown.stdout)
    item = {
        "number": 1,
        "name": OTHER_INTERFACE,
        "ifindex": link["ifindex"],
        "address": OTHER_INTERFACE_ADDRESS,
        "mac": link["address"],
        "subnet": "10.1.1.0/24",
        "router": "10.1.1.1",
        "destinations": ["10.1.0.0/16"],
        "vpc": VPC_NUMBER + 1,
    }
    tell_forwarder(lab, "configure", interfaces=[item | fields])
    try:
        yield
    finally:
        tell_forwarder(lab, "configure", interfaces=[item])


def test_only_interfaces_of_the_same_vpc_count(scene: Scene) -> None:
    """An address that an interface has in another VPC is like any other, as VPCs may overlap."""
    packets = [inside_ip(dst=OTHER_INTERFACE_ADDRESS) / each for each in transports()]
    answer = outside_ip(src=OTHER_INTERFACE_ADDRESS) / UDP(sport=7, dport=2000)

    def inject() -> None:
        scene.inside.inject(*(scene.inside.ethernet() / packet for packet in packets))
        scene.outside.inject(scene.outside.ethernet() / answer)

    with scene.dropped(no_route=len(packets), no_flow=1):
        inject()
    with (
        other_interface(scene.lab, vpc=VPC_NUMBER),
        scene.dropped(destination_hairpin=len(packets), source_invalid=1),
    ):
        inject()


@pytest.mark.requirement("AWS-sg-stateful", profile="both")
@pytest.mark.requirement("AWS-sg-rule-removal", profile="both")
def test_security_groups_stop_new_flows_only(scene: Scene) -> None:
    """Without any rule the environment's flow goes on, as every test shows, and no other begins."""
    where = scene.lab.environment(2)
    with (
        other_interface(scene.lab, egress=[]),
        scene.dropped(security_group_egress=1),
        udp_socket(where) as endpoint,
    ):
        endpoint.sendto(b"question", OTHER_ECHO)
    guard = {"address": OTHER_ECHO[0], "ingress": [{"protocol": "tcp", "cidr": "0.0.0.0/0"}]}
    with (
        other_interface(scene.lab, guarded=[guard]),
        scene.dropped(security_group_ingress=1),
        udp_socket(where) as endpoint,
    ):
        endpoint.sendto(b"question", OTHER_ECHO)
    with udp_socket(where) as endpoint:
        endpoint.sendto(b"question", OTHER_ECHO)
        assert endpoint.recvfrom(2048) == (b"question", OTHER_ECHO)


# --- the VPC ---


@pytest.mark.requirement("AWS-outbound-only", profile="aws")
@pytest.mark.requirement("RFC4787-8", profile="aws")
def test_vpc_cannot_open_anything_on_any_port(scene: Scene) -> None:
    """A datagram to each of the 65,535 ports of the interface, from the VPC's own stack."""
    pace = 1000
    before = scene.lab.drops().get("no_flow", 0)

    def dropped(count: int) -> bool:
        return scene.lab.drops().get("no_flow", 0) >= count

    with scene.dropped(no_flow=65535), udp_socket(scene.lab.vpc) as prober:
        prober.bind((WEB[0], 5353))
        for port in range(1, 65536):
            prober.sendto(b"knock", (INTERFACE_ADDRESS, port))
            if port % pace == 0:
                # The ring holds 4096: what is lost there would not be counted as dropped.
                wait_until(functools.partial(dropped, before + port), "the gateway keeps up")


@pytest.mark.requirement("AWS-outbound-only", profile="aws")
@pytest.mark.requirement("RFC5382-4", profile="aws")
def test_vpc_cannot_connect(scene: Scene) -> None:
    ports = (22, 80, 443, 1024, 40000, 65535)
    flags = ("S", "SA", "A", "R", "FA")
    segments = [TCP(sport=80, dport=p, flags=f) for p, f in itertools.product(ports, flags)]
    frames = [scene.outside.ethernet() / outside_ip() / segment for segment in segments]
    with scene.dropped(no_flow=len(frames)):
        scene.outside.inject(*frames)


@pytest.mark.requirement("RFC4787-8", profile="aws")
@pytest.mark.requirement("RFC5382-3", profile="aws")
@pytest.mark.requirement("RFC6888-7", profile="aws")
def test_vpc_cannot_use_a_flow_from_elsewhere(scene: Scene) -> None:
    """The port of a flow is open to that flow's remote endpoint only."""
    flows = scene.lab.rows("flows", protocol="udp", environment="env-1")
    port = next(flow["nat_port"] for flow in flows if flow["remote_address"] == ECHO[0])
    payload = Raw(b"forged")
    with scene.dropped(no_flow=3):
        scene.outside.inject(
            scene.outside.ethernet() / outside_ip() / UDP(sport=7, dport=port) / payload,
            scene.outside.ethernet() / outside_ip(src=ECHO[0]) / UDP(sport=8, dport=port) / payload,
            scene.outside.ethernet() / outside_ip(src=ECHO[0]) / TCP(sport=7, dport=port),
        )


@pytest.mark.requirement("RFC5508-11", profile="both")
def test_vpc_cannot_ping(scene: Scene) -> None:
    requests = [outside_ip() / ICMP(type=8, id=1), outside_ip() / ICMP(type=13)]
    replies = [outside_ip() / ICMP(type=0, id=number) for number in (0, 1, 40000)]
    with scene.dropped(icmp_type=len(requests), no_flow=len(replies)):
        scene.outside.inject(*(scene.outside.ethernet() / each for each in requests + replies))


@pytest.mark.requirement("RFC5508-3", profile="both")
def test_vpc_cannot_forge_icmp_errors(scene: Scene) -> None:
    error = ICMP(type=3, code=3)
    quoted = IP(src=INTERFACE_ADDRESS, dst=WEB[0]) / UDP(sport=2000, dport=53)
    elsewhere = IP(src=ECHO[0], dst=WEB[0]) / UDP(sport=2000, dport=53)
    damaged = IP(src=INTERFACE_ADDRESS, dst=WEB[0], chksum=1) / UDP(sport=2000, dport=53)
    with scene.dropped(icmp_error_no_flow=1, icmp_error_mismatch=1, icmp_error_malformed=2):
        scene.outside.inject(
            scene.outside.ethernet() / outside_ip() / error / quoted,
            scene.outside.ethernet() / outside_ip() / error / elsewhere,
            scene.outside.ethernet() / outside_ip() / error / damaged,
            scene.outside.ethernet() / outside_ip() / error / Raw(bytes(quoted)[:20]),
        )


@pytest.mark.parametrize(
    "source",
    [INTERFACE_ADDRESS, "127.0.0.1", "224.0.0.1", "255.255.255.255"],
)
def test_invalid_source_from_the_vpc(scene: Scene, source: str) -> None:
    packets = [outside_ip(src=source) / each for each in transports()]
    with scene.dropped(source_invalid=len(packets)):
        scene.outside.inject(*(scene.outside.ethernet() / packet for packet in packets))


@pytest.mark.parametrize("destination", [INSIDE_ADDRESS, ECHO[0], OTHER_ECHO[0], "10.0.1.255"])
def test_vpc_cannot_route_through_the_interface(scene: Scene, destination: str) -> None:
    packets = [outside_ip(dst=destination) / each for each in transports()]
    with scene.dropped(not_ours=len(packets)):
        scene.outside.inject(*(scene.outside.ethernet() / packet for packet in packets))


# --- ARP ---


def test_arp_spoofing_by_an_environment(scene: Scene) -> None:
    """Claims that the gateway's, another's or a stranger's address is here; and requests beyond."""
    link = scene.inside

    def arp(ethernet: dict[str, str] | None = None, **fields: Any) -> Any:
        body: dict[str, Any] = {
            "op": 1,
            "hwsrc": link.mac,
            "psrc": INSIDE_ADDRESS,
            "pdst": INSIDE_GATEWAY,
        }
        return link.ethernet(**{"dst": BROADCAST, **(ethernet or {})}) / ARP(**(body | fields))

    with scene.dropped(arp_spoofed=6, arp_ignored=3):
        link.inject(
            arp(psrc=INSIDE_GATEWAY),
            arp(psrc=ECHO[0]),
            arp(hwsrc=STRANGER),
            arp({"src": STRANGER}),
            arp({"src": STRANGER}, hwsrc=STRANGER),
            # A gratuitous reply, to the gateway's own address.
            arp({"dst": link.gateway_mac}, op=2, psrc=INSIDE_GATEWAY, hwdst=BROADCAST),
            arp(pdst=INSIDE_ADDRESS),
            arp(pdst=ECHO[0]),
            arp({"dst": link.gateway_mac}, op=2),
        )


def test_arp_spoofing_in_the_vpc(scene: Scene) -> None:
    """Nobody takes the interface's address, nor a server's: the echo still reaches the server.

    Who says that a server's address is elsewhere makes the gateway ask, and the server answers.
    """
    link = scene.outside

    def arp(source: str = STRANGER, **fields: Any) -> Any:
        body: dict[str, Any] = {
            "op": 1,
            "hwsrc": STRANGER,
            "psrc": ECHO[0],
            "pdst": INTERFACE_ADDRESS,
        }
        return link.ethernet(dst=BROADCAST, src=source) / ARP(**(body | fields))

    with scene.dropped(ECHO[0], arp_spoofed=4, arp_ignored=2, arp_unsolicited=2):
        link.inject(
            arp(psrc=INTERFACE_ADDRESS),
            arp(op=2, psrc=INTERFACE_ADDRESS, pdst=INTERFACE_ADDRESS),
            arp(link.mac),
            arp("03:00:00:00:00:01", hwsrc="03:00:00:00:00:01"),
            # Before the gateway has asked: then this would be an answer.
            arp(op=2),
            arp(pdst=ECHO[0]),
            arp(pdst="10.0.1.77"),
            arp(op=2, pdst=ECHO[0]),
        )


@pytest.mark.parametrize("side", ["inside", "outside"])
def test_malformed_arp(scene: Scene, side: str) -> None:
    link: Link = getattr(scene, side)
    header = link.ethernet(dst=BROADCAST, type=0x0806)
    whole = bytes(ARP(hwsrc=link.mac, psrc=INSIDE_ADDRESS, pdst=INSIDE_GATEWAY))
    # In turn: hardware and protocol type, both address lengths, and two operations.
    places = [
        (0, b"\0\6"),
        (2, b"\x86\xdd"),
        (4, b"\x08"),
        (5, b"\x10"),
        (6, b"\0\3"),
        (6, b"\0\0"),
    ]
    changed = [
        header / Raw(whole[:start] + value + whole[start + len(value) :]) for start, value in places
    ]
    short = [header / Raw(whole[:length]) for length in (0, 1, 27)]
    with scene.dropped(arp_malformed=len(changed) + len(short)):
        link.inject(*changed, *short)


# --- malformed and unsupported frames, from both sides ---


def _tcp(**fields: Any) -> Any:
    return TCP(**{"sport": 1234, "dport": 80, "flags": "S", **fields})


def _cut(packet: Any, length: int) -> Any:
    """An IPv4 packet whose total length and checksum are right for what is left of it."""
    whole = bytes(packet)[:length]
    header = IP(whole[:20])
    header.len = length
    header.chksum = None
    return Raw(bytes(header)[:20] + whole[20:])


Build = Callable[[Any], Any]
"""From the IPv4 header of an honest packet to a packet that must not pass."""

UDP_PACKET = UDP(sport=1234, dport=80) / Raw(b"question")

MALFORMED: list[tuple[str, str, Build]] = [
    ("empty", "ip_truncated", lambda _ip: Raw(b"")),
    ("nineteen-bytes", "ip_truncated", lambda ip: Raw(bytes(ip / UDP_PACKET)[:19])),
    ("version-6", "ip_header", lambda ip: Raw(b"\x65" + bytes(ip / UDP_PACKET)[1:])),
    ("header-of-16", "ip_header", lambda ip: Raw(b"\x44" + bytes(ip / UDP_PACKET)[1:])),
    ("header-beyond-the-frame", "ip_header", lambda ip: Raw(b"\x4f" + bytes(ip / UDP_PACKET)[1:])),
    ("longer-than-the-frame", "ip_length", lambda ip: _with(ip, len=37) / UDP_PACKET),
    ("length-65535", "ip_length", lambda ip: _with(ip, len=65535) / UDP_PACKET),
    ("shorter-than-its-header", "ip_length", lambda ip: _with(ip, len=19) / UDP_PACKET),
    ("length-0", "ip_length", lambda ip: _with(ip, len=0) / UDP_PACKET),
    ("ip-checksum", "ip_checksum", lambda ip: _with(ip, chksum=0x1234) / UDP_PACKET),
    (
        "fragment-of-13",
        "fragment_tiny",
        lambda ip: _with(ip, flags="MF", frag=3, proto=17) / Raw(b"a" * 13),
    ),
    ("fragment-of-0", "fragment_tiny", lambda ip: _with(ip, flags="MF", proto=17)),
    ("fragment-beyond-64k", "fragment", lambda ip: _with(ip, frag=8191, proto=17) / Raw(b"a" * 64)),
    ("tcp-fragment", "fragment_refused", lambda ip: _with(ip, flags="MF") / _tcp() / Raw(b"a" * 4)),
    ("icmp-fragment", "fragment_refused", lambda ip: _with(ip, frag=1, proto=1) / Raw(b"a" * 8)),
    ("sctp", "protocol", lambda ip: _with(ip, proto=132) / Raw(bytes(32))),
    ("gre", "protocol", lambda ip: _with(ip, proto=47) / Raw(bytes(32))),
    ("ip-in-ip", "protocol", lambda ip: _with(ip, proto=4) / Raw(bytes(ip / UDP_PACKET))),
    ("icmpv6", "protocol", lambda ip: _with(ip, proto=58) / Raw(bytes(32))),
    ("tcp-cut", "tcp_header", lambda ip: _cut(ip / _tcp(), 39)),
    ("tcp-empty", "tcp_header", lambda ip: _cut(ip / _tcp(), 20)),
    ("tcp-offset-4", "tcp_header", lambda ip: ip / _tcp(dataofs=4)),
    ("tcp-offset-beyond", "tcp_header", lambda ip: ip / _tcp(dataofs=15)),
    ("udp-cut", "udp_header", lambda ip: _cut(ip / UDP_PACKET, 27)),
    ("udp-length-7", "udp_header", lambda ip: ip / UDP(sport=1, dport=80, len=7) / Raw(b"x")),
    ("udp-length-beyond", "udp_header", lambda ip: ip / UDP(sport=1, dport=80, len=10) / Raw(b"x")),
    ("icmp-cut", "icmp_header", lambda ip: _cut(ip / ICMP(), 27)),
    ("tcp-checksum", "l4_checksum", lambda ip: ip / _tcp(chksum=1)),
    ("udp-checksum", "l4_checksum", lambda ip: ip / UDP(sport=1234, dport=80, chksum=1)),
    ("icmp-checksum", "l4_checksum", lambda ip: ip / ICMP(chksum=1)),
    ("tcp-null", "tcp_flags", lambda ip: ip / _tcp(flags="")),
    ("tcp-syn-fin", "tcp_flags", lambda ip: ip / _tcp(flags="SF")),
    ("tcp-syn-rst", "tcp_flags", lambda ip: ip / _tcp(flags="SR")),
    ("tcp-all", "tcp_flags", lambda ip: ip / _tcp(flags="FSRPAU")),
    ("icmp-timestamp", "icmp_type", lambda ip: ip / ICMP(type=13)),
    ("icmp-redirect", "icmp_type", lambda ip: ip / ICMP(type=5) / ip / UDP_PACKET),
]
"""What it is, its drop reason, and the packet."""


def _with(ip: Any, **fields: Any) -> Any:
    result = ip.copy()
    for name, value in fields.items():
        setattr(result, name, value)
    return result


def _sides(scene: Scene) -> dict[str, tuple[Link, Any]]:
    return {
        "inside": (scene.inside, inside_ip()),
        "outside": (scene.outside, outside_ip()),
    }


@pytest.mark.parametrize("side", ["inside", "outside"])
@pytest.mark.parametrize(
    ("reason", "build"), [pytest.param(*rest, id=name) for name, *rest in MALFORMED]
)
def test_bad_packet(scene: Scene, side: str, reason: str, build: Build) -> None:
    link, ip = _sides(scene)[side]
    with scene.dropped(**{reason: 1}):
        link.inject(link.ethernet(type=0x0800) / build(ip))


# The last of them has FIN alone among the flags that count.
@pytest.mark.parametrize("flags", ["A", "FA", "RA", "SA", "PA", "FPU"])
def test_segment_without_a_flow(scene: Scene, flags: str) -> None:
    with scene.dropped(tcp_no_flow=1):
        scene.inside.inject(scene.inside.ethernet() / inside_ip() / _tcp(flags=flags))


@pytest.mark.requirement("AWS-ipv6", profile="both")
@pytest.mark.parametrize("side", ["inside", "outside"])
def test_frames_that_are_not_ipv4(scene: Scene, side: str) -> None:
    link, ip = _sides(scene)[side]
    ipv6 = IPv6(src="fe80::1", dst="fe80::2") / UDP_PACKET
    with scene.dropped(ipv6=2, ethertype=3, vlan=3):
        link.inject(
            link.ethernet() / ipv6,
            link.ethernet(type=0x86DD) / Raw(b"\x60"),
            link.ethernet(type=0x88CC) / Raw(bytes(46)),
            link.ethernet(type=0x8847) / Raw(bytes(46)),
            # IEEE 802.3: a length where the type would be.
            link.ethernet(type=46) / Raw(bytes(46)),
            link.ethernet() / Dot1Q(vlan=7) / ip / UDP_PACKET,
            link.ethernet() / Dot1Q(vlan=0) / ip / UDP_PACKET,
            link.ethernet() / Dot1Q(vlan=7) / Dot1Q(vlan=8) / ip / UDP_PACKET,
        )


@pytest.mark.parametrize("side", ["inside", "outside"])
@pytest.mark.parametrize(
    "destination", [STRANGER, BROADCAST, "01:00:5e:00:00:01", "33:33:00:00:00:01"]
)
def test_frames_to_foreign_addresses(scene: Scene, side: str, destination: str) -> None:
    link, ip = _sides(scene)[side]
    packets = [ip / each for each in transports()]
    ipv6 = IPv6(src="fe80::1", dst="ff02::1") / ICMP()
    with scene.dropped(not_ours=len(packets) + 1):
        link.inject(*(link.ethernet(dst=destination) / each for each in [*packets, ipv6]))


@pytest.mark.parametrize("side", ["inside", "outside"])
def test_checksum_to_be_completed_elsewhere(scene: Scene, side: str) -> None:
    """An offload request that would have the kernel write into the middle of the packet."""
    link, ip = _sides(scene)[side]
    places = [
        (ip / UDP_PACKET, 22, 10),
        (ip / UDP_PACKET / Raw(bytes(32)), 34, 16),
        (ip / _tcp(), 34, 6),
        (ip / _tcp(), 26, 16),
        (ip / ICMP() / Raw(bytes(32)), 34, 2),
    ]
    frames = [
        (
            wire.offload(checksum_start=start, checksum_offset=offset),
            bytes(link.ethernet() / packet),
        )
        for packet, start, offset in places
    ]
    with scene.dropped(offload=len(places)):
        assert wire.inject_offloaded(link.where, link.name, frames) == len(places)


@pytest.mark.requirement("RFC5508-9", profile="both")
def test_packet_from_the_vpc_at_the_end_of_its_life(scene: Scene) -> None:
    with scene.dropped(ttl_exceeded=2):
        scene.outside.inject(
            *(scene.outside.ethernet() / outside_ip(ttl=ttl) / UDP_PACKET for ttl in (0, 1))
        )


# --- after all of that ---


def test_the_gateway_has_no_stack_to_talk_to(scene: Scene) -> None:
    """Its kernel has seen none of the packets above, has sent none and knows no neighbour."""

    def read() -> tuple[dict[str, int], list[str]]:
        lines = Path("/proc/thread-self/net/snmp").read_text(encoding="ascii").splitlines()
        names, values = (line.split()[1:] for line in lines if line.startswith("Ip:"))
        counts = dict(zip(names, map(int, values), strict=True))
        arp = Path("/proc/thread-self/net/arp").read_text(encoding="ascii").splitlines()[1:]
        return counts, arp

    counts, neighbours = namespace.call(scene.lab.gateway, read)
    assert counts["InReceives"] == 0
    assert counts["OutRequests"] == 0
    assert neighbours == []


def test_tables_agree_and_nothing_was_lost(scene: Scene) -> None:
    assert scene.lab.verify() == []
    status = scene.lab.status()
    assert status["forwarder"]["restarts"] == 0
    assert status["counters"]["ring_dropped"] == 0
    assert status["counters"]["transmit_errors"] == 0
