# SPDX-License-Identifier: Apache-2.0
"""A lab of two VPCs under observation, for frames that must go nowhere.

Environments 1 and 3 are in the VPC called customer, environment 2 is in the one called other. Every
link is captured, every environment can exchange a datagram with its VPC, and environment 3 has a
TCP connection that stays open.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scapy.layers.l2 import ARP, Ether

from tests.live import wire
from tests.live.configurations import (
    ECHO_SERVICE,
    OTHER,
    OTHER_ECHO,
    OTHER_INTERFACE,
    OTHER_INTERFACE_ADDRESS,
    OTHER_NETWORK_INTERFACE,
    OTHER_VPC,
    WEB_SERVICE,
    interface,
    vpc,
)
from tests.live.lab import (
    ECHO,
    INSIDE_GATEWAY,
    INTERFACE,
    INTERFACE_ADDRESS,
    Lab,
    drops_exactly,
    live_connection,
    require_program,
    run,
    udp_socket,
)

LIVE_PORT = 7001
STRANGER = "02:de:ad:be:ef:01"
BROADCAST = "ff:ff:ff:ff:ff:ff"

# Environments take turns at the interfaces: 1 and 3 are in the first VPC, 2 is in the other.
# Next hops stay known: a frame about a next hop means something else while that is asked for.
# Next hops stay known: a frame about a next hop means something else while that is asked for.
TOML = (
    "[neighbours]\nreachable_seconds = 3600\n"
    + vpc(WEB_SERVICE, ECHO_SERVICE)
    + OTHER
    + interface()
    + OTHER_NETWORK_INTERFACE
)


def tell_forwarder(lab: Lab, command: str, **arguments: Any) -> Any:
    """A command on the forwarder's own socket; its result."""
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.settimeout(30)
        endpoint.connect(str(lab.runtime_directory / "forwarder.sock"))
        request = {"id": 1, "command": command, "arguments": arguments}
        endpoint.sendall(json.dumps(request).encode() + b"\n")
        with endpoint.makefile() as lines:
            answer = next(each for line in lines if "id" in (each := json.loads(line)))
    assert answer["ok"], answer
    return answer["result"]


@dataclass(frozen=True)
class Link:
    """A link to the gateway, from the other end."""

    where: str
    name: str
    mac: str
    gateway_mac: str

    def ethernet(self, **fields: Any) -> Any:
        """An Ethernet header to the gateway."""
        return Ether(**{"src": self.mac, "dst": self.gateway_mac, **fields})

    def inject(self, *frames: Any) -> None:
        wire.inject(self.where, self.name, [bytes(frame) for frame in frames])


def _asks(frame: bytes, address: str) -> bool:
    """Whether it is the gateway's question who has an address."""
    arp = Ether(frame).getlayer(ARP)
    return arp is not None and (arp.op, arp.psrc, arp.pdst) == (1, INTERFACE_ADDRESS, address)


class Scene:
    """A lab with the links that frames are sent on, and a socket in each environment."""

    def __init__(self, lab: Lab, stack: contextlib.ExitStack) -> None:
        ip = require_program("ip", "iproute2")
        self.lab = lab
        self.inside = self._link(lab.environment(1), "eth0", "env1")
        self.outside = self._link(lab.vpc, INTERFACE, INTERFACE)
        self._links = []
        for where, link, peer, address in (
            *((lab.environment(n), "eth0", f"env{n}", INSIDE_GATEWAY) for n in (1, 2, 3)),
            (lab.vpc, INTERFACE, INTERFACE, INTERFACE_ADDRESS),
            (
                lab.vpc_namespace(OTHER_VPC),
                OTHER_INTERFACE,
                OTHER_INTERFACE,
                OTHER_INTERFACE_ADDRESS,
            ),
        ):
            self._links.append((where, link))
            # Kernels ask for their neighbours when they please; these never need to.
            neighbour = (address, "dev", link, "lladdr", wire.mac_of(lab.gateway, peer))
            run(where, ip, "neigh", "replace", *neighbour, "nud", "permanent")
        self._echoes = [
            (stack.enter_context(udp_socket(lab.environment(number))), target)
            for number, target in ((1, ECHO), (2, OTHER_ECHO), (3, ECHO))
        ]
        self.live = stack.enter_context(live_connection(lab, 3, LIVE_PORT))
        # Nobody has to be asked for an address any more.
        self.settle()

    def _link(self, where: str, name: str, peer: str) -> Link:
        gateway_mac = wire.mac_of(self.lab.gateway, peer)
        return Link(where, name, wire.mac_of(where, name), gateway_mac)

    def settle(self) -> bytes:
        """An echo in every environment; the payload that its datagrams had."""
        payload = b"settled " + secrets.token_hex(8).encode()
        for endpoint, target in self._echoes:
            endpoint.sendto(payload, target)
            assert endpoint.recvfrom(2048) == (payload, target)
        return payload

    @contextlib.contextmanager
    def dropped(self, asked: str = "", /, **reasons: int) -> Iterator[None]:
        """Whatever is sent within is dropped for these reasons, and nothing comes of it.

        But that the gateway may ask who has the address `asked`.
        """
        payloads: list[bytes] = []
        with wire.capturing(*self._links) as captures:
            with drops_exactly(self.lab, reasons, lambda: payloads.append(self.settle())):
                yield
            for capture in captures:
                frames = capture.take()
                strange = [
                    frame
                    for frame in frames
                    if payloads[0] not in frame and not _asks(frame, asked)
                ]
                assert len(frames) > len(strange), f"the capture in {capture.where} sees nothing"
                assert not strange, [Ether(frame).summary() for frame in strange]
