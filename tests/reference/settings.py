# SPDX-License-Identifier: Apache-2.0
"""What a reference NAT is told: timers, ports, interfaces and slots."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from tests.reference.security_group import Policy


@dataclass(frozen=True)
class Timeouts:
    """Idle times in milliseconds, by the state of a flow."""

    tcp_opening: int = 60_000
    tcp_established: int = 350_000
    tcp_half_closed: int = 350_000
    tcp_closing: int = 60_000
    tcp_reset: int = 60_000
    udp: int = 350_000
    icmp: int = 60_000
    hold: int = 60_000


@dataclass(frozen=True)
class Ports:
    """The range ports are taken from and how many one remote may take."""

    first: int = 1024
    last: int = 65535
    limit_per_remote: int = 55_000
    limit_per_interface: int = 0
    limit_per_environment: int = 0


@dataclass(frozen=True)
class Behaviour:
    """What the NAT does where AWS and the RFCs differ."""

    tcp_fragments: bool = False
    udp_fragments: bool = True
    icmp_fragments: bool = False
    fragment_ms: int = 30_000
    mss_clamping: bool = True
    endpoint_independent: bool = False
    filtering: str = "address_and_port_dependent"
    hairpinning: bool = False
    paired_pooling: bool = False
    exhaustion_icmp: bool = False
    idle_reset: bool = True
    tombstones: int = 65536


@dataclass(frozen=True)
class Listener:
    """What a load balancer's node listens to; `idle` in milliseconds."""

    protocol: int
    port: int
    idle: int
    sticky: bool
    preserves: bool
    targets: tuple[tuple[IPv4Address, int], ...]
    proxies: bool = False


@dataclass(frozen=True)
class Interface:
    """A network interface: where translated packets leave.

    With `primary` it is a further address of that one, on whose link its packets are.
    """

    address: IPv4Address
    mac: bytes
    subnet: IPv4Network
    router: IPv4Address
    destinations: tuple[IPv4Network, ...]
    vpc: int = 0
    policy: Policy | None = None
    mtu: int = 65535
    primary: int | None = None
    role: str = ""
    """What it is besides: an internet gateway, or a NAT gateway, which has no link."""
    serves: tuple[str, int] | None = None
    """The host, NAT gateway's address or load balancer's node that an internet gateway's address
    stands for.
    """
    route_table: int | None = None
    behind: int | None = None
    """Of a load balancer's node or an endpoint: the interface by whose link the VPC's router is
    reached.
    """
    listeners: tuple[Listener, ...] = ()
    node: int | None = None
    """Of an endpoint: the node that it leads to, in whatever VPC; None: it leads nowhere."""
    admission: Policy | None = None
    """Of an endpoint: whom the load balancer's groups let in by it."""


@dataclass(frozen=True)
class Slot:
    """An execution environment, known by the link its frames arrive on.

    Without an interface it waits in the pool.
    """

    address: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address
    environment_mac: bytes
    gateway_mac: bytes
    interface: int | None
    mtu: int = 65535
    silent: bool = False
    """It stands still: nothing passes its link, and no flow notices what would."""


@dataclass(frozen=True)
class Host:
    """A host of a VPC, on its own link; the link of `interface` leads to the VPC's router."""

    address: IPv4Address
    subnet: IPv4Network
    router: IPv4Address
    host_mac: bytes
    gateway_mac: bytes
    interface: int
    vpc: int = 0
    policy: Policy | None = None
    mtu: int = 65535
    route_table: int | None = None
    since: int = 0
    """When it got its address, in milliseconds."""


_NOWHERE = tuple(IPv4Network(text) for text in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4"))
_RESERVED = IPv4Network("240.0.0.0/4")


def never_a_host(address: IPv4Address) -> bool:
    """Whether an address can be nobody's."""
    return address in _RESERVED or any(address in network for network in _NOWHERE)


@dataclass(frozen=True)
class NeighbourSettings:
    """How next hops are asked for; times in milliseconds."""

    reachable_ms: int = 30_000
    retry_ms: int = 1_000
    attempts: int = 3
    failed_ms: int = 3_000
    queue_frames: int = 8


def mac_bytes(text: str) -> bytes:
    """The six octets of a MAC address in colon form."""
    octets = bytes.fromhex(text.replace(":", ""))
    if len(octets) != 6:
        raise ValueError(f"{text!r} is not a MAC address of six octets")
    return octets
