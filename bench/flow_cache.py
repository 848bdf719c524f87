# SPDX-License-Identifier: Apache-2.0
"""`python -m bench.flow_cache`: what a datagram costs its sender, by who forwards it.

The flow cache works in the sender's own system call, as the kernel's NAT does: what it costs is
processor time of the sending thread, which is what is measured, per datagram of 64 bytes to the
black hole in the VPC. Records are written here, so that there is nothing but the program.
Contenders take turns; figures are medians of the rounds, with the lowest and highest.

Exit status: 0; 2 when it could not be measured.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pyroute2.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE
from pyroute2.netlink.rtnl import RTM_NEWNEIGH
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from rich.console import Console
from rich.table import Table

from bench import addresses, gateways, kernel_lab, strays
from bench.counters import ReceiveCounters
from bench.errors import BenchError
from bench.gateways.base import Gateway, Options
from bench.native import udp_sender
from bench.report.table import PIPE_WIDTH
from hyperplane_nat.flow_cache.errors import FlowCacheError
from hyperplane_nat.flow_cache.maps import FLOW_RECORDS, Key, Link, Rewrite, Use
from hyperplane_nat.flow_cache.program import FlowCache
from netns import NetnsError, namespace, topology
from netns.interior import route_socket
from netns.netlink import RouteSocket, encode
from netns.spec import InterfaceSpec, LabSpec, VpcSpec

SOCKETS = 16
SOURCE_PORT, TRANSLATED_PORT = 20000, 30000
FRAME_BYTES = 64
INSIDE, INSIDE_GATEWAY = "169.254.100.2", "169.254.100.1"
MTU = 1500
ENVIRONMENT, INTERFACE = 1, 2
"""Attachments."""

_IDLE_NS = 3600 * 10**9
_NUD_PERMANENT = 0x80


class Cached(Gateway):
    """Our links with the flow cache on them, and nobody for what it does not know."""

    name = "flow cache"

    def start(self, stack: contextlib.ExitStack) -> None:
        """Build the lab and cache a flow for each socket."""
        vpc = VpcSpec(
            "customer",
            MTU,
            addresses.VPC_ADDRESSES,
            (InterfaceSpec(addresses.INTERFACE, addresses.INTERFACE_ADDRESS),),
        )
        spec = LabSpec(self.lab, 1, INSIDE, 30, INSIDE_GATEWAY, MTU, (vpc,))
        lab = topology.build(spec)
        slot, interface = lab.slots[0], lab.interfaces[0]
        with route_socket(slot.namespace) as route:
            know(route, INSIDE_GATEWAY, hardware(slot.gateway_mac))
        try:
            self.cache = stack.enter_context(
                FlowCache.load(flows=SOCKETS, attachments=INTERFACE + 1)
            )
        except FlowCacheError as error:
            raise BenchError(str(error).replace("\n", "; ")) from None
        self.cache.maps.set_control((_IDLE_NS,))
        self.interface = interface
        near = Link(1, slot.ifindex, hardware(slot.gateway_mac), MTU)
        self.cache.maps.set_link(ENVIRONMENT, near)
        self.redirect(to_peer=True)
        with route_socket(lab.gateway) as route:
            self.cache.attach(route, {slot.ifindex: ENVIRONMENT, interface.ifindex: INTERFACE})
        for number in range(SOCKETS):
            self._cache(number, hardware(slot.environment_mac))

    def redirect(self, *, to_peer: bool) -> None:
        """Right into the VPC, or out of the gateway's end of the link."""
        link = Link(1, self.interface.ifindex, hardware(self.interface.mac), MTU, to_peer)
        self.cache.maps.set_link(INTERFACE, link)

    def _cache(self, number: int, environment_mac: bytes) -> None:
        remote = (addresses.BLACK_HOLE, addresses.UDP_PORT + 1)
        source = (INSIDE, SOURCE_PORT + number)
        translated = (addresses.INTERFACE_ADDRESS, TRANSLATED_PORT + number)
        line, unused = FLOW_RECORDS * number, Use(time.monotonic_ns(), 0, 0)
        self.cache.maps.put(
            line,
            Key(ENVIRONMENT, socket.IPPROTO_UDP, source, remote),
            Rewrite(translated, remote, hardware(self.interface.peer_mac), INTERFACE, (1, 1)),
            unused,
        )
        self.cache.maps.put(
            line + 1,
            Key(INTERFACE, socket.IPPROTO_UDP, remote, translated),
            Rewrite(remote, source, environment_mac, ENVIRONMENT, (1, 1)),
            unused,
        )

    def hits(self) -> int:
        """Datagrams that were forwarded so far."""
        return sum(self.cache.maps.use(FLOW_RECORDS * number).packets for number in range(SOCKETS))


@dataclass(frozen=True, slots=True)
class Cost:
    """One measurement."""

    nanoseconds: float
    """Of the sending thread, per datagram."""
    rate: float
    """Datagrams per second that arrived."""
    arrived: float
    """Of those sent, 1 is all."""


def hardware(text: str) -> bytes:
    """A MAC address as bytes."""
    return bytes.fromhex(text.replace(":", ""))


def know(route: RouteSocket, address: str, mac: bytes) -> None:
    """Have an environment know a next hop for good."""
    message = ndmsg()
    message["family"] = socket.AF_INET
    message["ifindex"] = kernel_lab.index_of(route, topology.ENVIRONMENT_LINK)
    message["state"] = _NUD_PERMANENT
    message["attrs"] = [("NDA_DST", address), ("NDA_LLADDR", mac.hex(":"))]
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    route.request([encode(message, RTM_NEWNEIGH, flags)], f"cannot set the next hop {address}")


def measure(gateway: Gateway, seconds: float) -> Cost:
    """Full load from environment 1 for so long."""
    payload = addresses.payload_bytes(FRAME_BYTES)
    where = topology.environment_namespace(gateway.lab, 1)
    with contextlib.ExitStack() as stack:
        descriptors = []
        for number in range(SOCKETS):
            each = namespace.call(where, socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
            stack.enter_context(each)
            each.bind(("", SOURCE_PORT + number))
            each.connect((addresses.BLACK_HOLE, addresses.UDP_PORT + 1))
            descriptors.append(each.fileno())
        counters = stack.enter_context(ReceiveCounters(gateway.vpc))
        ends = os.pipe()
        for end in ends:
            stack.callback(os.close, end)
        # The first datagrams ask for next hops and make flows.
        udp_sender.send(
            descriptors, payload_bytes=payload, seconds=seconds / 10, stop_descriptor=ends[0]
        )
        before, used = counters.read(), time.thread_time_ns()
        sent, _, taken = udp_sender.send(
            descriptors, payload_bytes=payload, seconds=seconds, stop_descriptor=ends[0]
        )
        used = time.thread_time_ns() - used
        arrived = counters.read().since(before).datagrams(payload)
    return Cost(used / sent, arrived / taken, arrived / sent)


@contextlib.contextmanager
def contenders() -> Iterator[dict[str, Gateway]]:
    """Bare link, kernel's NAT and flow cache, each in a lab of its own."""
    options = Options(environments=1)
    with contextlib.ExitStack() as stack:
        yield {
            kind.name: stack.enter_context(kind(options))
            for kind in (gateways.Direct, gateways.Nft, Cached)
        }


def run(rounds: int, seconds: float) -> dict[str, list[Cost]]:
    """All contenders in turn."""
    found: dict[str, list[Cost]] = {}
    with contenders() as labs:
        for _ in range(rounds):
            for name, gateway in labs.items():
                if not isinstance(gateway, Cached):
                    found.setdefault(name, []).append(measure(gateway, seconds))
                    continue
                for to_peer, said in ((True, name), (False, f"{name}, by the near end")):
                    gateway.redirect(to_peer=to_peer)
                    before = gateway.hits()
                    found.setdefault(said, []).append(measure(gateway, seconds))
                    if gateway.hits() == before:
                        raise BenchError("the flow cache has forwarded nothing")
    return found


def show(found: dict[str, list[Cost]], console: Console) -> None:
    """The table, with ratios of each round to the bare link and to nft in it."""
    table = Table()
    table.add_column("who")
    for title in ("ns/datagram (min-max)", "datagrams/s", "arrived", "cost to direct", "to nft"):
        table.add_column(title, justify="right")
    for name, costs in found.items():
        spent = [each.nanoseconds for each in costs]
        ratios = [
            statistics.median(
                ours / theirs.nanoseconds for ours, theirs in zip(spent, found[peer], strict=True)
            )
            for peer in (gateways.Direct.name, gateways.Nft.name)
        ]
        table.add_row(
            name,
            f"{statistics.median(spent):,.0f} ({min(spent):,.0f}-{max(spent):,.0f})",
            f"{statistics.median(each.rate for each in costs):,.0f}",
            f"{min(each.arrived for each in costs):.4f}",
            *(f"{ratio:.2f}" for ratio in ratios),
        )
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.flow_cache", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.4, help="of one measurement")
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 1 or chosen.seconds <= 0:
        parser.error("a round at least, and some time for it")
    try:
        if os.geteuid() != 0:
            raise BenchError("namespaces need root (run it with sudo)")
        with strays.only_one():
            strays.clear()
            found = run(chosen.rounds, chosen.seconds)
    except (BenchError, NetnsError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    show(found, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
