# SPDX-License-Identifier: Apache-2.0
"""A flow by a load balancer's node, and its client, as the oracle has them."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from tests.reference import proxying
from tests.reference.flow import Entry, FlowTuple, InsideKey, OutsideKey
from tests.reference.hosts import Place, PlainFlow, name_of
from tests.reference.tracker import INSIDE, State

End = tuple[IPv4Address, int]

_TIMED = (State.ESTABLISHED, State.FIN_INSIDE, State.FIN_OUTSIDE, State.UDP, State.UDP_REPLIED)
"""States in which a listener says how long a flow may be idle."""


@dataclass
class BalancedFlow(PlainFlow):
    """A flow of a client by a node to one of its targets."""

    node: int = 0
    entrance: int = 0
    """Where its client sends to: the node, or an endpoint that leads there."""
    target: End = (IPv4Address(0), 0)
    idle: int = 0
    proxied: proxying.Proxied | None = None

    def ends_at(self, side: int) -> tuple[End, End]:
        """Source and destination of what comes from a side."""
        if side == INSIDE:
            return super().ends_at(INSIDE)
        return self.target, (self.nat_address, self.nat_port)

    @property
    def keeps_source(self) -> bool:
        return (self.nat_address, self.nat_port) == (self.inside_address, self.inside_port)

    @property
    def inside_key(self) -> InsideKey:
        if self.originator[0] == INSIDE:
            return Entry.inside_key.fget(self)  # type: ignore[attr-defined,no-any-return]
        return super().inside_key

    @property
    def outside_key(self) -> OutsideKey:
        return (self.interface, self.protocol, *self.target, self.nat_port)

    @property
    def tombstone_key(self) -> InsideKey:
        return from_target(self.responder, self.protocol, self)

    def as_tuple(self) -> FlowTuple:
        return Entry.as_tuple(self) if self.originator[0] == INSIDE else super().as_tuple()


def from_target(place: Place, protocol: int, flow: BalancedFlow) -> InsideKey:
    return name_of(place), protocol, flow.nat_address, flow.nat_port, flow.target[1]


def idle_of(entry: Entry) -> int | None:
    """How long a balanced flow may be idle in its state, if its listener says so."""
    return entry.idle if isinstance(entry, BalancedFlow) and entry.state in _TIMED else None


@dataclass(frozen=True)
class Client:
    """Who sends to a node: where it is, whose its packets are in the VPC, and its own end."""

    place: Place
    address: IPv4Address
    end: End
