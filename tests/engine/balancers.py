# SPDX-License-Identifier: Apache-2.0
"""A load balancer's node in front of hosts and a service behind the VPC's router, on an engine.

The VPC is that of `gateways`: hosts 0 and 1 are targets, host 2 and environments 1 and 2 clients.
The node is interface 8, with interface 9 as its secondary address.
"""

from __future__ import annotations

from collections.abc import Iterable

from hyperplane_nat.engine import Listener, Policy, Ports, Target, Verdict
from tests.engine import gateways
from tests.engine.gateways import FIRST, HOST, INSIDE, OUTSIDE, SECOND, VPC
from tests.reference import packet

NODE, SECONDARY = "10.0.1.20", "10.0.1.21"
CLIENT, SERVICE, NEIGHBOUR = "10.0.1.52", "10.0.1.80", "10.0.1.99"
LISTENS = (NODE, 80)
WEB = (FIRST, 8080)

SYN, SYNACK, ACK = packet.SYN, packet.SYN | packet.ACK, packet.ACK
FIN, RST = packet.FIN | packet.ACK, packet.RST

PLACES = {
    "environment": ((INSIDE, 1), gateways.ENVIRONMENT),
    "host": ((HOST, 2), CLIENT),
    "router": ((OUTSIDE, 0), NEIGHBOUR),
}
"""Where clients are: the link, and the address there."""


def listener(
    *targets: tuple[str, int],
    protocol: str = "tcp",
    port: int = 80,
    idle_ms: int = 350_000,
    sticky: bool = False,
    preserve: bool = True,
) -> Listener:
    return Listener(
        protocol, port, idle_ms, sticky, preserve, tuple(Target(*each) for each in targets)
    )


class Scene(gateways.Scene):
    """The engine with a node, and what arrives."""

    def __init__(self, *listeners: Listener, ports: Ports | None = None, secondary: bool = False):
        self.listeners: Iterable[Listener] = listeners
        self.secondary = secondary
        self.policy: Policy | None = None
        super().__init__(ports=ports)

    def serve(self) -> None:
        super().serve()
        self.set_host(2, CLIENT)
        self.listen(*self.listeners)
        for address in (SERVICE, NEIGHBOUR, "10.0.1.1"):
            for interface in (0, 1):
                self.engine.set_neighbour(interface, address, gateways.macs(OUTSIDE, 0)[1])

    def listen(self, *listeners: Listener) -> None:
        """The node as it is, with these listeners."""
        self.listeners = listeners
        self.engine.set_load_balancer_node(
            8, address=NODE, vpc=VPC, interface=0, policy=self.policy, listeners=listeners
        )
        if self.secondary:
            self.engine.set_load_balancer_node(
                9, address=SECONDARY, vpc=VPC, interface=0, primary=8
            )

    def client_sends(
        self,
        client: str,
        flags: int,
        sequences: tuple[int, int] = (0, 0),
        *,
        port: int = 5000,
        to: tuple[str, int] = LISTENS,
    ) -> Verdict:
        place, address = PLACES[client]
        return self.tcp(place, (address, port), to, flags, sequences)

    def target_sends(
        self,
        at: tuple[str, int],
        to: tuple[str, int],
        flags: int,
        sequences: tuple[int, int] = (0, 0),
    ) -> Verdict:
        return self.tcp(self.place_of(at[0], to[0]), at, to, flags, sequences)

    def place_of(self, address: str, to: str = NODE) -> tuple[int, int]:
        """On which link a target is, and what it sends to an address arrives."""
        if address in (FIRST, SECOND):
            return HOST, (FIRST, SECOND).index(address)
        return OUTSIDE, 1 if to == gateways.LAMBDA else 0

    def connect(self, client: str, *, port: int = 5000, number: int = 100) -> tuple[str, int]:
        """A connection is opened; its source as the target sees it."""
        syn = self.client_sends(client, SYN, (number, 0), port=port)
        source, target = gateways.ends(syn)
        self.target_sends(target, source, SYNACK, (500, number + 1))
        self.client_sends(client, ACK, (number + 1, 501), port=port)
        return source

    def datagram(self, client: str, port: int = 5000, payload: bytes = b"") -> Verdict:
        place, address = PLACES[client]
        return self.udp(place, (address, port), LISTENS, payload)

    def node(self) -> dict[str, int]:
        """What the node has counted, without what is 0."""
        return {name: value for name, value in self.map.node_counters(8).items() if value}
