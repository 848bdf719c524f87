# SPDX-License-Identifier: Apache-2.0
"""What somebody in the VPC, or an environment, does to harm the connections of others.

Theory of operation
-------------------
Environment 1 has a TCP connection and a UDP exchange that must not notice anything. The attacker
writes whole frames with any source address, in bursts that the gateway can count; each burst is
waited for by the counters it must move. Afterwards the connection carries data both ways, the table
has not a flow more than before, and its checker has nothing to say. Numbers come from a generator
with a fixed seed.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.live import peer, wire
from tests.live.conftest import Launch
from tests.live.lab import (
    ECHO,
    INSIDE_GATEWAY,
    INTERFACE,
    INTERFACE_ADDRESS,
    WEB,
    Lab,
    difference,
    drops_exactly,
    live_connection,
    tcp_socket,
    udp_socket,
    wait_until,
)
from tests.live.peer import Peer, speaking

pytestmark = pytest.mark.live

BURST = 250
LIVE_PORT = 7300
ENVIRONMENT_LIMIT = 300
ICMP_DROPS = (
    "icmp_header",
    "icmp_error_malformed",
    "icmp_error_mismatch",
    "icmp_error_no_flow",
    "l4_checksum",
    "icmp_type",
)


class Target:
    """A lab with a live connection and an exchange, and somebody who writes frames."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack) -> None:
        self.lab = lab
        self.random = Random(4787)
        self.far: Peer = stack.enter_context(speaking(lab))
        self._mac = wire.mac_of(lab.gateway, INTERFACE)
        self._exchange = stack.enter_context(live_connection(lab, 1, LIVE_PORT))
        self._endpoint = stack.enter_context(udp_socket(lab.environment(1)))
        self.untouched()
        self.flow = self._row("tcp", LIVE_PORT)
        self.entries = self.count("flows_entries_used")

    def _row(self, protocol: str, port: int) -> dict[str, Any]:
        rows = self.lab.rows("flows", protocol=protocol, environment="env-1")
        (row,) = (each for each in rows if each["remote_port"] == port)
        return row

    def count(self, name: str) -> int:
        return self.lab.counters()[name]

    def echo(self) -> None:
        self._endpoint.sendto(b"still there", ECHO)
        assert self._endpoint.recv(64) == b"still there"

    def untouched(self) -> None:
        """Both flows of environment 1 carry data."""
        self._exchange()
        self.echo()

    def attack(self, packets: Iterable[Any], counters: Iterable[str]) -> dict[str, int]:
        """Send from the VPC, a burst at a time, until `counters` tell of each; what they did."""
        names = list(counters)
        begin = self.lab.counters()
        frames = [bytes(Ether(src=peer.MAC, dst=self._mac) / each) for each in packets]
        for start in range(0, len(frames), BURST):
            wire.inject(self.lab.vpc, INTERFACE, frames[start : start + BURST])
            sent = min(start + BURST, len(frames))

            def counted(sent: int = sent) -> bool:
                change = difference(begin, self.lab.counters())
                return sum(change.get(name, 0) for name in names) >= sent

            wait_until(counted, f"{sent} of {names}")
        return difference(begin, self.lab.counters())

    def quoted(self, **fields: Any) -> Any:
        """The start of a segment of the live connection, as an error would quote it."""
        segment = {
            "sport": self.flow["nat_port"],
            "dport": LIVE_PORT,
            "seq": self.random.getrandbits(32),
            **fields,
        }
        return bytes(IP(src=INTERFACE_ADDRESS, dst=WEB[0]) / TCP(**segment))


@pytest.fixture(scope="module", params=["aws", "rfc"])
def shared_target(request: pytest.FixtureRequest, launch_shared: Launch) -> Iterator[Target]:
    toml = (
        f'[nat]\nprofile = "{request.param}"\n\n'
        f"[ports]\nlimit_per_environment = {ENVIRONMENT_LIMIT}\n\n"
        "[neighbours]\nreachable_seconds = 3600\n"
    )
    with contextlib.ExitStack() as stack:
        yield Target(launch_shared(environments=2, toml=toml), stack)


@pytest.fixture
def target(shared_target: Target) -> Iterator[Target]:
    yield shared_target
    shared_target.untouched()
    assert shared_target.lab.verify() == []


def drops(*names: str) -> list[str]:
    return [f"drop_{name}" for name in names]


@pytest.mark.requirement("RFC7857-2.2", profile="both")
def test_blind_resets(target: Target) -> None:
    """Resets with numbers all over the space: those out of window, nearly all, go nowhere."""
    step = (1 << 32) // 1000
    resets = [
        IP(src=WEB[0], dst=INTERFACE_ADDRESS)
        / TCP(sport=LIVE_PORT, dport=target.flow["nat_port"], flags="R", seq=number * step)
        for number in range(1000)
    ]
    # What by chance hits the window reaches the environment, whose kernel wants the exact number.
    change = target.attack(resets, [*drops("tcp_rst_window"), "packets_out_to_source"])
    assert change["drop_tcp_rst_window"] > 950
    target.untouched()


@pytest.mark.requirement("RFC4787-12", profile="both")
@pytest.mark.requirement("RFC5382-10", profile="both")
@pytest.mark.requirement("RFC5508-6", profile="both")
def test_blind_icmp_errors(target: Target) -> None:
    """Errors of all codes about a segment that was never sent end neither flow nor connection."""
    errors = [
        IP(src=source, dst=INTERFACE_ADDRESS)
        / ICMP(type=kind, code=code, nexthopmtu=68 if (kind, code) == (3, 4) else 0)
        / Raw(target.quoted()[:length])
        for source in (WEB[0], peer.ADDRESS)
        for kind, codes in ((3, range(16)), (11, range(2)), (12, range(3)))
        for code in codes
        for length in (28, 40)
    ]
    change = target.attack(errors, ["icmp_errors_translated"])
    assert change["icmp_errors_translated"] == len(errors)
    assert not any(name.startswith("flows_ended") for name in change)


@pytest.mark.requirement("RFC5508-3", profile="both")
@pytest.mark.requirement("RFC5508-4", profile="both")
def test_forged_and_truncated_quotes(target: Target) -> None:
    """Quotes that are cut, damaged, of other ends or of nonsense are dropped, each for a reason."""
    random = target.random
    packets = []
    for number in range(750):
        quote = bytearray(target.quoted())
        match number % 5:
            case 0:
                del quote[random.randrange(28) :]
            case 1:
                # The header's checksum is wrong then.
                quote[random.choice((2, 4, 6, 8, 9, 12, 16))] ^= 1 << random.randrange(8)
            case 2:
                quote = bytearray(target.quoted(sport=random.randrange(1, 1024)))
            case 3:
                quote[0] = random.choice((0x44, 0x4F, 0x65, 0x00))
            case _:
                quote = bytearray(random.randbytes(random.randrange(64)))
        kind = random.choice((3, 3, 4, 5, 11, 12))
        header = IP(src=WEB[0], dst=INTERFACE_ADDRESS)
        packets.append(header / ICMP(type=kind, code=random.randrange(4)) / Raw(bytes(quote)))
    change = target.attack(packets, drops(*ICMP_DROPS))
    assert sum(change.get(name, 0) for name in drops(*ICMP_DROPS)) == len(packets)
    assert "icmp_errors_translated" not in change


@pytest.mark.requirement("RFC5382-4", profile="both")
@pytest.mark.requirement("AWS-outbound-only", profile="aws")
def test_scan_from_the_vpc(target: Target) -> None:
    """Segments of all kinds to ports in use and others: no answer tells which is which."""
    used = target.flow["nat_port"]
    ports = [used, *target.random.sample(range(1, 65536), 100)]
    kinds = ("S", "SA", "A", "FA", "R", "", "FPU")
    scan = [
        IP(src=peer.ADDRESS, dst=INTERFACE_ADDRESS)
        / TCP(sport=LIVE_PORT, dport=port, flags=flags, seq=target.random.getrandbits(32))
        for flags in kinds
        for port in ports
    ]
    change = target.attack(scan, drops("no_flow", "filtered", "tcp_flags"))
    assert change["drop_tcp_flags"] == len(ports)
    assert target.far.silent(target.echo)
    assert target.count("flows_entries_used") == target.entries


@pytest.mark.requirement("RFC4787-11", profile="both")
def test_syn_flood_from_the_vpc(target: Target) -> None:
    """SYNs from everywhere make no state at all."""
    random = target.random
    flood = [
        IP(src=f"10.0.{random.randrange(2, 250)}.{random.randrange(1, 255)}", dst=INTERFACE_ADDRESS)
        / TCP(
            sport=random.randrange(1, 65536),
            dport=random.randrange(1, 65536),
            flags="S",
            seq=random.getrandbits(32),
        )
        for _ in range(1000)
    ]
    change = target.attack(flood, drops("no_flow", "filtered"))
    assert "flows_created_tcp" not in change
    assert target.count("flows_entries_used") == target.entries


@pytest.mark.requirement("RFC6888-4", profile="both")
@pytest.mark.requirement("RFC6888-5", profile="both")
def test_syn_flood_of_an_environment(target: Target) -> None:
    """One that opens connections without end gets its share; another one opens its own."""
    lab = target.lab
    where = lab.environment(2)
    mac, gateway = wire.mac_of(where, "eth0"), wire.mac_of(lab.gateway, "env2")
    begin = lab.counters()
    frames = [
        bytes(
            Ether(src=mac, dst=gateway)
            / IP(src="169.254.100.2", dst=peer.ADDRESS)
            / TCP(sport=1024 + number, dport=80, flags="S", seq=number)
        )
        for number in range(4 * ENVIRONMENT_LIMIT)
    ]
    reason = "drop_port_limit_environment"
    for start in range(0, len(frames), BURST):
        wire.inject(where, "eth0", frames[start : start + BURST])
        sent = min(start + BURST, len(frames))

        def counted(sent: int = sent) -> bool:
            return difference(begin, lab.counters()).get("tcp_syns_from_source", 0) >= sent

        wait_until(counted, f"{sent} SYNs")
    change = difference(begin, lab.counters())
    assert 0 < change["flows_created_tcp"] <= ENVIRONMENT_LIMIT
    assert change["flows_created_tcp"] + change[reason] == len(frames)
    target.untouched()
    with tcp_socket(lab.environment(1)) as client:
        client.connect(WEB)


@pytest.mark.requirement("RFC7126-4.3", profile="both")
@pytest.mark.requirement("RFC7126-4.4", profile="both")
def test_a_program_that_asks_for_a_source_route(target: Target) -> None:
    """By way of a server, or strictly of the gateway, to where nobody may go."""
    with udp_socket(target.lab.environment(1)) as client:
        with drops_exactly(target.lab, {"source_route": 2}, target.echo):
            for kind, hop in ((131, ECHO[0]), (137, INSIDE_GATEWAY)):
                route = bytes((kind, 7, 4)) + socket.inet_aton(hop) + b"\0"
                client.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, route)
                client.sendto(b"by way of", ("192.0.2.1", 7))
        client.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"")
        client.sendto(b"straight", ECHO)
        assert client.recvfrom(64) == (b"straight", ECHO)
