# SPDX-License-Identifier: Apache-2.0
"""An endpoint in a VPC of its own that leads to the load balancer of `balancers`, on an engine.

The consumer's VPC has the addresses of the provider's: its host is where the provider's target is,
its endpoint where the load balancer's node is. Environment 3 and host 3 are in it, interface 10
leads to its router, and interface 11 is the environment's.
"""

from __future__ import annotations

from hyperplane_nat.engine import Listener, Policy, Side, Verdict
from tests.engine import balancers
from tests.engine.balancers import ACK, LISTENS, NODE, SYN, SYNACK
from tests.engine.gateways import ENVIRONMENT, FIRST, HOST, INSIDE, OUTSIDE, ends, macs

CONSUMER = 8
ROUTER_LINK, OF_LAMBDA, ENDPOINT = 10, 11, 12
LAMBDA, NEIGHBOUR = "10.0.1.10", "10.0.1.99"
ID = "vpce-0123456789abcdef0"

CLIENTS = {
    "environment": ((INSIDE, 3), ENVIRONMENT),
    "host": ((HOST, 3), FIRST),
    "router": ((OUTSIDE, ROUTER_LINK), NEIGHBOUR),
}
"""Where clients are: the link, and the address there."""
SEEN_AS = {"environment": LAMBDA, "host": FIRST, "router": NEIGHBOUR}
BACK_AT = {
    "environment": (Side.INSIDE, 3),
    "host": (Side.HOST, 3),
    "router": (Side.OUTSIDE, ROUTER_LINK),
}


class Scene(balancers.Scene):
    """The load balancer, and an endpoint in another VPC that leads to its node."""

    def __init__(self, *listeners: Listener) -> None:
        self.leads_to: int | None = 8
        self.own: Policy | None = None
        self.admission: Policy | None = None
        super().__init__(*listeners)

    def serve(self) -> None:
        super().serve()
        self.consume()
        self.lead()

    def consume(self) -> None:
        """The consumer's links as they are told."""
        for number, address in ((ROUTER_LINK, "10.0.1.3"), (OF_LAMBDA, LAMBDA)):
            self.set_interface(number, address, vpc=CONSUMER)
        for each in ("10.0.1.1", NEIGHBOUR):
            self.engine.set_neighbour(ROUTER_LINK, each, macs(OUTSIDE, ROUTER_LINK)[1])
        ours, theirs = macs(INSIDE, 3)
        self.engine.set_slot(
            3,
            address=ENVIRONMENT,
            gateway="169.254.100.1",
            environment_mac=theirs,
            gateway_mac=ours,
            interface=OF_LAMBDA,
            link=103,
            mtu=self.mtu,
        )
        ours, theirs = macs(HOST, 3)
        self.engine.set_host(
            3,
            address=FIRST,
            router="10.0.1.1",
            host_mac=theirs,
            gateway_mac=ours,
            interface=ROUTER_LINK,
            vpc=CONSUMER,
            link=203,
            mtu=self.mtu,
        )

    def lead(self) -> None:
        """The endpoint as it is told."""
        self.engine.set_endpoint(
            ENDPOINT,
            address=NODE,
            vpc=CONSUMER,
            interface=ROUTER_LINK,
            endpoint_id=ID,
            node=self.leads_to,
            policy=self.own,
            admission=self.admission,
        )

    def lead_to(self, node: int | None) -> None:
        """The endpoint leads to this node from now on, or nowhere."""
        self.leads_to = node
        self.lead()

    def consumer_sends(
        self,
        client: str,
        flags: int,
        sequences: tuple[int, int] = (0, 0),
        *,
        port: int = 5000,
        to: tuple[str, int] = LISTENS,
    ) -> Verdict:
        place, address = CLIENTS[client]
        return self.tcp(place, (address, port), to, flags, sequences)

    def opens(self, client: str, port: int = 5000) -> tuple[str, int]:
        """A connection by the endpoint; its source as the target sees it."""
        source, target = ends(self.consumer_sends(client, SYN, (100, 0), port=port))
        self.target_sends(target, source, SYNACK, (500, 101))
        self.consumer_sends(client, ACK, (101, 501), port=port)
        return source

    def counted(self, number: int) -> dict[str, int]:
        return {name: value for name, value in self.map.node_counters(number).items() if value}
