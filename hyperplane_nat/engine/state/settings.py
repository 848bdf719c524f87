# SPDX-License-Identifier: Apache-2.0
"""What the engine is told, and what it tells: plain records without behaviour."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final, NamedTuple

from hyperplane_nat.engine.state.constants import (
    Action,
    DropReason,
    EventKind,
    Filtering,
    Mapping,
    NeighbourState,
    Position,
    Side,
)

__all__ = [
    "Behaviour",
    "Event",
    "Exhaustion",
    "Flow",
    "FlowDelta",
    "Hop",
    "HostDelta",
    "HostFlow",
    "Listener",
    "NeighbourSettings",
    "NextHop",
    "Ports",
    "RemotePorts",
    "Rule",
    "Target",
    "Timeouts",
    "Verdict",
    "Way",
]


TIMEOUT_MAX_MS: Final = 2**31 - 1
"""24.8 days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """How long a flow outlives its last packet, by state, in milliseconds."""

    tcp_opening: int = 60_000
    tcp_established: int = 350_000
    tcp_half_closed: int = 350_000
    tcp_closing: int = 60_000
    tcp_reset: int = 60_000
    udp: int = 350_000
    icmp: int = 60_000
    hold: int = 60_000

    def __post_init__(self) -> None:
        """ValueError for one that the clock of the flow table cannot tell."""
        for each in fields(self):
            if not 0 <= getattr(self, each.name) <= TIMEOUT_MAX_MS:
                raise ValueError(f"timeout {each.name} is not from 0 to {TIMEOUT_MAX_MS} ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Source ports of an interface address, towards each remote endpoint."""

    first: int = 1024
    last: int = 65535
    limit_per_remote: int = 55_000
    limit_per_interface: int = 0
    """Flows and held ports of one interface address; 0 is no limit."""
    limit_per_environment: int = 0
    """Flows, held ports and mappings of one environment; 0 is no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What the NAT does where AWS and the RFCs differ."""

    mapping: Mapping = Mapping.ADDRESS_AND_PORT_DEPENDENT
    filtering: Filtering = Filtering.ADDRESS_AND_PORT_DEPENDENT
    hairpinning: bool = False
    paired_pooling: bool = False
    """Every flow of an environment gets the same address of an interface."""
    exhaustion_icmp: bool = False
    """Answer a packet for which no port is left with ICMP 3/13."""
    idle_reset: bool = True
    """Answer a TCP segment of a flow that was idle too long with a reset."""
    tombstones: int = 65_536
    """Flows remembered for that after their port is free."""
    tcp_fragments: bool = False
    udp_fragments: bool = True
    icmp_fragments: bool = False
    fragment_ms: int = 30_000
    """How long the fragments of a datagram are waited for."""
    mss_clamping: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighbourSettings:
    """How next hops are asked for; times in milliseconds."""

    reachable_ms: int = 30_000
    retry_ms: int = 1_000
    attempts: int = 3
    failed_ms: int = 3_000
    queue_frames: int = 256
    """Frames that may wait for one next hop."""


class NextHop(NamedTuple):
    """What is known of a next hop of an interface; ``mac`` is None while it has not answered."""

    interface: int
    address: str
    state: NeighbourState
    mac: str | None
    waiting_frames: int


class Rule(NamedTuple):
    """One allow rule of a security group.

    ``protocol`` is tcp, udp, icmp or all; ``cidr`` is the far end: the destination of an egress
    rule, the source of an ingress rule.  The ports, both included, are the destination's and mean
    nothing to ICMP.
    """

    protocol: str
    cidr: str = "0.0.0.0/0"
    first: int = 0
    last: int = 65535


class NetworkAclEntry(NamedTuple):
    """One entry of a network ACL: the first in their order that matches a packet decides.

    ``protocol`` is tcp, udp, icmp or all; ``cidr`` is the far end: the destination of an outbound
    entry, the source of an inbound one.  The ports, both included, are the destination's; ICMP has
    a type and a code in place of them, of which -1 is any.  With ``all`` neither counts.
    """

    allow: bool
    protocol: str = "all"
    cidr: str = "0.0.0.0/0"
    first: int = 0
    last: int = 65535
    icmp_type: int = -1
    icmp_code: int = -1


class SubnetAcl(NamedTuple):
    """A subnet, and the entries of its network ACL."""

    cidr: str
    ingress: tuple[NetworkAclEntry, ...]
    egress: tuple[NetworkAclEntry, ...]


class Verdict(NamedTuple):
    """What becomes of a frame.

    ``side`` and ``port`` (slot or interface number) say where ``frame`` leaves.  A frame of
    ``Action.HOLD`` is what the engine keeps until the next hop has answered; its destination MAC
    address is zero.  ``gso_size`` is the payload of a segment in bytes when the frame is yet to be
    segmented.
    """

    action: Action
    reason: DropReason
    side: Side
    port: int
    frame: bytes
    gso_size: int = 0


class Event(NamedTuple):
    """Something an operator wants to know beyond a counter."""

    kind: EventKind
    now_ms: int
    protocol: int
    slot: int
    interface: int
    remote_address: str
    remote_port: int


class Exhaustion(NamedTuple):
    """Ports that ran out, or a limit that was reached.

    ``remote_address`` 0.0.0.0 and port 0 stand for any: of a limit, or of a mapping's port.
    ``interface`` is the number of the primary address; ``slot`` is who was refused last,
    ``last_ms`` when, on the engine's clock.
    """

    protocol: str
    interface: int
    remote_address: str
    remote_port: int
    slot: int
    reason: DropReason
    errors: int
    last_ms: int


class RemotePorts(NamedTuple):
    """Ports taken towards one remote endpoint by one interface address, held ones included.

    Address 0.0.0.0 and port 0 are those of endpoint-independent mappings.
    """

    protocol: str
    interface: int
    remote_address: str
    remote_port: int
    ports: int
    high_water: int
    """The most at a time since there was none."""


class Hop(NamedTuple):
    """An address on the way of a flow by a NAT gateway or load balancer, and the port taken there.

    First, of an environment's flow, that of its network interface; then the gateway's private one,
    or the node's: with port 0 where the client's source is kept.
    """

    interface: int
    address: str
    port: int


class Target(NamedTuple):
    """Whom a load balancer's listener sends flows to."""

    address: str
    port: int


class Listener(NamedTuple):
    """What a load balancer's node listens to, and the targets that new flows may have.

    ``protocol`` is tcp or udp; ``idle_ms`` is how long a flow may be idle once it is open.  With
    ``sticky`` all flows of a source address have one target; with ``proxy_protocol`` the data of
    a new TCP flow begin with the header of the PROXY protocol, version 2.
    """

    protocol: str
    port: int
    idle_ms: int
    sticky: bool
    preserve_client_ip: bool
    targets: tuple[Target, ...]
    proxy_protocol: bool = False


class Flow(NamedTuple):
    """One entry of the flow table; times are CLOCK_MONOTONIC in ms, the last one modulo 2**32.

    ``nat_address`` and ``nat_port`` are what the remote endpoint sees, ``interface`` is the one of
    the environment.
    """

    entry: int
    protocol: str
    state: str
    slot: int
    interface: int
    inside_address: str
    inside_port: int
    remote_address: str
    remote_port: int
    nat_address: str
    nat_port: int
    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int
    created_ms: int
    last_seen_ms: int
    hops: tuple[Hop, ...] = ()
    target: Target | None = None
    """Of one by a load balancer."""


class HostFlow(NamedTuple):
    """One flow of a host, as its entry has it.

    The ends are attachments, each a side and a number: a host's, that of the interface on whose
    link the VPC's router is, or that of a public address.  ``nat_address`` and ``nat_port`` are
    what the source is translated to, or, of a flow to a public address, the destination; of one
    that is not translated they are the source.
    ``packets_out`` and ``bytes_out`` are the originator's.
    """

    entry: int
    protocol: str
    state: str
    originator_side: Side
    originator: int
    responder_side: Side
    responder: int
    source_address: str
    source_port: int
    destination_address: str
    destination_port: int
    nat_address: str
    nat_port: int
    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int
    created_ms: int
    last_seen_ms: int
    hops: tuple[Hop, ...] = ()
    target: Target | None = None
    """Of one by a load balancer."""

    @property
    def translated(self) -> bool:
        """Whether it leaves or comes by a public address."""
        return (self.nat_address, self.nat_port) != (self.source_address, self.source_port)

    @property
    def to_public_address(self) -> bool:
        """Whether its destination is translated: it came from the internet."""
        return self.translated and self.responder_side is Side.HOST


class Way(NamedTuple):
    """How a flow goes on from its client's interface: by a NAT gateway or a load balancer's node.

    ``hop`` is that one's place and ``address`` its own; before it may be an ``endpoint``, behind it
    the host that is the ``target``, places or None.  On the far side its packets are from the
    source and for the far end.  ``internet`` is whether that is in the internet, as it is of a NAT
    gateway.  Of a packet refused, ``position`` says where.
    """

    hop: int
    address: int
    source_address: int
    source_port: int
    far_address: int
    far_port: int
    internet: bool
    endpoint: int | None = None
    target: int | None = None
    position: Position = Position.CLIENT


class FlowDelta(NamedTuple):
    """What an environment's flow did since the last look, or (``reason`` not 0) a packet refused.

    Addresses are the four bytes as they stand in memory; times are CLOCK_MONOTONIC in ms.  Flags
    are those of flow logs: 1 FIN, 2 SYN, 4 RST, 18 SYN with ACK.  A refused packet
    from outside has slot 65535 and no inside; one from inside has no port of the NAT, unless its
    flow was there already.
    """

    slot: int
    interface: int
    protocol: int
    inside_address: int
    inside_port: int
    remote_address: int
    remote_port: int
    nat_address: int
    nat_port: int
    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int
    created_ms: int
    last_seen_ms: int
    flags_out: int
    flags_in: int
    reason: int
    way: Way | None = None


class HostDelta(NamedTuple):
    """The same of a flow of a host; what is out is its originator's, addresses are those it sees.

    The ends are places: a host's number behind those of the interfaces, None for the VPC's router
    and for whoever is in the internet or behind a gateway or node.  ``internet`` is whether its
    other end is reached by an internet gateway straight.
    Of a packet refused they are who sent it and who was to have it.
    """

    originator: int | None
    responder: int | None
    protocol: int
    source_address: int
    source_port: int
    destination_address: int
    destination_port: int
    packets_out: int
    bytes_out: int
    packets_in: int
    bytes_in: int
    created_ms: int
    last_seen_ms: int
    flags_out: int
    flags_in: int
    reason: int
    way: Way | None = None
    internet: bool = False
