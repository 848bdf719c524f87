# SPDX-License-Identifier: Apache-2.0
"""A VPC with two hosts and two environments, an internet gateway and a NAT gateway, on an engine.

Interface 0 leads to the VPC's router, environments 1 and 2 leave by interface 1. The internet
gateway is interface 2; its public addresses are interfaces 3 (of host 0), 4 and 5 (of the NAT
gateway's addresses, interfaces 6 and 7).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from hyperplane_nat.engine import Engine, Policy, Ports, Side, StateMap, Timeouts, Verdict
from hyperplane_nat.engine.state.constants import RouteTarget
from tests.engine.compiled import MEMORY_DIRECTORY
from tests.reference import packet
from tests.reference.reading import check_transport, checked_ipv4

VPC, INTERNET = 7, 9
ENVIRONMENT = "169.254.100.2"
FIRST, SECOND = "10.0.1.50", "10.0.1.51"
LAMBDA = "10.0.1.10"
PUBLIC, ELASTIC, OTHER_ELASTIC = "203.0.113.9", "203.0.113.10", "203.0.113.11"
NAT, OTHER_NAT = "10.0.9.5", "10.0.9.6"
FAR, FARTHER = "192.0.2.80", "198.51.100.7"
ROUTER = "192.0.2.1"

ENVIRONMENTS_TABLE, HOSTS_TABLE, GATEWAY_TABLE = 3, 4, 5
TO_INTERNET = ("0.0.0.0/0", RouteTarget.INTERNET_GATEWAY, 2)
TO_NAT = ("0.0.0.0/0", RouteTarget.NAT_GATEWAY, 6)
NOWHERE = ("0.0.0.0/0", RouteTarget.BLACKHOLE, 0)

INSIDE, OUTSIDE, HOST = int(Side.INSIDE), int(Side.OUTSIDE), int(Side.HOST)
MACS = {
    INSIDE: ("02:00:00:02:00:{:02x}", "02:00:00:01:00:{:02x}"),
    OUTSIDE: ("02:00:00:00:0a:{:02x}", "02:00:00:00:0b:{:02x}"),
    HOST: ("02:00:00:04:00:{:02x}", "02:00:00:03:00:{:02x}"),
}
"""Ours and the other's on a link, by side and number."""


def macs(side: int, number: int) -> tuple[str, str]:
    ours, theirs = (text.format(number) for text in MACS[side])
    return ours, theirs


class Scene:
    """The engine, its map, and what arrives on its links."""

    mtu = 65535
    """Of all links but the internet's."""

    def __init__(self, *, ports: Ports | None = None, addresses: int = 1) -> None:
        self._directory = tempfile.TemporaryDirectory(dir=MEMORY_DIRECTORY)
        self.path = Path(self._directory.name) / "state.map"
        self.map = StateMap.create(
            self.path, flows_max=256, slots_max=8, interfaces_max=16, hosts_max=4
        )
        self.ports = ports or Ports(first=40_000, last=40_063)
        self.addresses = addresses
        self.now = 0
        self.serve()

    def serve(self) -> None:
        """As a forwarder that is told everything."""
        self.engine = Engine(self.map, seed=bytes(range(16)), now_ms=self.now)
        self.opened()
        self.engine.configure(timeouts_ms=Timeouts(), ports=self.ports, now_ms=self.now)
        self.set_interface(0, "10.0.1.3")
        self.set_interface(1, LAMBDA, route_table=ENVIRONMENTS_TABLE)
        self.set_gateway(2, "192.0.2.10")
        self.set_gateway(3, PUBLIC, host=0)
        for place in range(self.addresses):
            address = (NAT, OTHER_NAT)[place]
            self.set_nat(6 + place, address)
            self.set_gateway(4 + place, (ELASTIC, OTHER_ELASTIC)[place], nat_gateway=6 + place)
        for number in (1, 2):
            self.set_slot(number)
        self.set_host(0, FIRST)
        self.set_host(1, SECOND)
        self.engine.set_route_table(ENVIRONMENTS_TABLE, [TO_NAT])
        self.engine.set_route_table(HOSTS_TABLE, [TO_INTERNET])
        self.engine.set_route_table(GATEWAY_TABLE, [TO_INTERNET])
        for address in (FAR, ROUTER):
            self.engine.set_neighbour(2, address, macs(OUTSIDE, 2)[1])
        self.engine.set_neighbour(0, "10.0.1.1", macs(OUTSIDE, 0)[1])

    def opened(self) -> None:
        """The engine has its map, and is told nothing yet."""

    def starts_again(self) -> None:
        """Another forwarder on the same map."""
        del self.engine
        self.map.close()
        self.map = StateMap.open(self.path, writable=True)
        self.serve()
        self.engine.remove_strangers()

    def set_interface(
        self, number: int, address: str, route_table: int | None = None, *, vpc: int = VPC
    ) -> None:
        self.engine.set_interface(
            number,
            address=address,
            mac=macs(OUTSIDE, number)[0],
            subnet="10.0.1.0/24",
            router="10.0.1.1",
            destinations=("10.0.0.0/16",),
            vpc=vpc,
            route_table=route_table,
            mtu=self.mtu,
        )

    def set_gateway(
        self, number: int, address: str, host: int | None = None, nat_gateway: int | None = None
    ) -> None:
        self.engine.set_interface(
            number,
            address=address,
            mac=macs(OUTSIDE, 2)[0],
            subnet="192.0.2.0/24",
            router=ROUTER,
            destinations=("0.0.0.0/0",),
            vpc=INTERNET,
            primary=2,
            mtu=1500,
            internet_gateway=True,
            host=host,
            nat_gateway=nat_gateway,
        )

    def set_nat(self, number: int, address: str, *, draining: bool = False) -> None:
        self.engine.set_nat_gateway(
            number,
            address=address,
            vpc=VPC,
            primary=6,
            mtu=8500,
            draining=draining,
            route_table=GATEWAY_TABLE,
        )

    def set_slot(self, number: int) -> None:
        ours, theirs = macs(INSIDE, number)
        self.engine.set_slot(
            number,
            address=ENVIRONMENT,
            gateway="169.254.100.1",
            environment_mac=theirs,
            gateway_mac=ours,
            interface=1,
            link=100 + number,
            mtu=self.mtu,
        )

    def set_host(
        self,
        number: int,
        address: str,
        *,
        route_table: int | None = HOSTS_TABLE,
        policy: Policy | None = None,
        source_check: bool = True,
    ) -> None:
        ours, theirs = macs(HOST, number)
        self.engine.set_host(
            number,
            address=address,
            router="10.0.1.1",
            host_mac=theirs,
            gateway_mac=ours,
            interface=0,
            vpc=VPC,
            link=200 + number,
            policy=policy,
            route_table=route_table,
            source_check=source_check,
            mtu=self.mtu,
        )

    def arrives(self, side: int, number: int, body: bytes, gso_size: int = 0) -> Verdict:
        """A packet on a link."""
        ours, theirs = (bytes.fromhex(text.replace(":", "")) for text in macs(side, number))
        frame = ours + theirs + b"\x08\x00" + body
        return self.engine.translate(frame, side, number, self.now, gso_size=gso_size)

    def udp(
        self,
        place: tuple[int, int],
        source: tuple[str, int],
        destination: tuple[str, int],
        payload: bytes = b"",
    ) -> Verdict:
        content = packet.udp(source[0], destination[0], source[1], destination[1], payload)
        return self.arrives(*place, packet.ipv4(source[0], destination[0], packet.UDP, content))

    def tcp(
        self,
        place: tuple[int, int],
        source: tuple[str, int],
        destination: tuple[str, int],
        flags: int,
        sequences: tuple[int, int] = (0, 0),
    ) -> Verdict:
        content = packet.tcp(
            source[0],
            destination[0],
            source[1],
            destination[1],
            flags,
            seq=sequences[0],
            ack=sequences[1],
        )
        return self.arrives(*place, packet.ipv4(source[0], destination[0], packet.TCP, content))

    def from_environment(
        self, number: int = 1, port: int = 5000, far: tuple[str, int] = (FAR, 53)
    ) -> Verdict:
        return self.udp((INSIDE, number), (ENVIRONMENT, port), far)

    def from_host(
        self, number: int = 0, port: int = 5000, far: tuple[str, int] = (FAR, 53)
    ) -> Verdict:
        return self.udp((HOST, number), ((FIRST, SECOND)[number], port), far)

    def from_internet(
        self, destination: tuple[str, int], far: tuple[str, int] = (FAR, 53)
    ) -> Verdict:
        return self.udp((OUTSIDE, 2), far, destination)

    def drops(self) -> dict[str, int]:
        counters = self.engine.counters()
        return {
            name.removeprefix("drop_"): value
            for name, value in counters.items()
            if name.startswith("drop_") and value
        }

    def removed(self, interfaces: Sequence[int] = ()) -> None:
        """Interfaces go, and with them their flows."""
        for number in interfaces:
            self.engine.remove_interface(number)
        self.engine.sweep(self.now)

    def close(self) -> None:
        del self.engine, self.map
        self._directory.cleanup()


def ends(verdict: Verdict) -> tuple[tuple[str, int], tuple[str, int]]:
    """Source and destination of the packet of a frame."""
    datagram = checked_ipv4(verdict.frame[14:])
    check_transport(datagram, partial=False)
    return (
        (str(datagram.source), packet.word(datagram.payload, 0)),
        (str(datagram.destination), packet.word(datagram.payload, 2)),
    )
