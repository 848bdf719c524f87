# SPDX-License-Identifier: Apache-2.0
"""A flow of the reference model and the keys it is found by."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from tests.reference import packet
from tests.reference.packet import Datagram
from tests.reference.settings import Timeouts
from tests.reference.tracker import State, Tracker

PROTOCOL_NAMES = {packet.ICMP: "icmp", packet.TCP: "tcp", packet.UDP: "udp"}

InsideKey = tuple[Any, int, IPv4Address, int, int]
"""The originator, a slot or the name of a place, and the rest."""
OutsideKey = tuple[int, int, IPv4Address, int, int]
FlowTuple = tuple[str, str, Any, Any, str, int, str, int, str, int, int, int, int, int, int, int]


@dataclass
class Entry:
    """One flow."""

    protocol: int
    slot: int
    interface: int
    inside_address: IPv4Address
    inside_port: int
    remote_address: IPv4Address
    remote_port: int
    nat_address: IPv4Address
    nat_port: int
    created: int
    last_seen: int
    state: State = State.FREE
    packets_out: int = 0
    bytes_out: int = 0
    packets_in: int = 0
    bytes_in: int = 0
    mapped: bool = False
    hop: int | None = None
    """Of one by a NAT gateway: the interface address where it is counted, too."""
    tracker: Tracker = field(default_factory=Tracker)

    @property
    def inside_key(self) -> InsideKey:
        return (
            self.slot,
            self.protocol,
            self.remote_address,
            self.remote_port,
            self.inside_port,
        )

    @property
    def tombstone_key(self) -> InsideKey:
        """What is remembered of it when it was idle too long."""
        return self.inside_key

    @property
    def outside_key(self) -> OutsideKey:
        return (
            self.interface,
            self.protocol,
            self.remote_address,
            self.remote_port,
            self.nat_port,
        )

    def count_out(self, datagram: Datagram) -> None:
        """A packet from inside was sent: all that it is on a wire."""
        self.packets_out += len(datagram.segments())
        self.bytes_out += sum(datagram.segments())

    def count_in(self, datagram: Datagram) -> None:
        """A packet from outside was sent."""
        self.packets_in += len(datagram.segments())
        self.bytes_in += sum(datagram.segments())

    def as_tuple(self) -> FlowTuple:
        """The flow in the order of the engine's `Flow`, without its index."""
        return (
            PROTOCOL_NAMES[self.protocol],
            self.state.name,
            self.slot,
            self.interface if self.hop is None else self.hop,
            str(self.inside_address),
            self.inside_port,
            str(self.remote_address),
            self.remote_port,
            str(self.nat_address),
            self.nat_port,
            self.packets_out,
            self.bytes_out,
            self.packets_in,
            self.bytes_in,
            self.created,
            self.last_seen,
        )


def timeout_of(timeouts: Timeouts, state: State) -> int:
    """The idle time in milliseconds that ends a state."""
    match state:
        case State.SYN_SENT | State.SYN_RECEIVED:
            return timeouts.tcp_opening
        case State.ESTABLISHED:
            return timeouts.tcp_established
        case State.FIN_INSIDE | State.FIN_OUTSIDE:
            return timeouts.tcp_half_closed
        case State.FIN_BOTH:
            return timeouts.tcp_closing
        case State.RESET:
            return timeouts.tcp_reset
        case State.UDP | State.UDP_REPLIED:
            return timeouts.udp
        case State.ICMP:
            return timeouts.icmp
        case _:
            return timeouts.hold
