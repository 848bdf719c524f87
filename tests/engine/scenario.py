# SPDX-License-Identifier: Apache-2.0
"""The gateway that engine tests run on, and one face for the model and the engine.

Three interfaces and six slots. Interfaces 0 and 1 belong to one VPC; interface 2 belongs to
another tenant whose network has the same addresses as interface 0's, the interface's own address
included. All slots have the same inside address; the last is in the pool. Two hosts are in the
first VPC, and one with the address of one of them in the other.

With `gateways` the first VPC has an internet gateway in a third VPC, the internet, a public address
for its first host, and a NAT gateway, by which the environments of interface 0 leave. With
`balancer` it has a load balancer's node, which may have a secondary address, and to which an
endpoint in the other VPC may lead.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Protocol

from tests.reference import (
    Behaviour,
    Interface,
    Policy,
    Ports,
    ReferenceNat,
    Result,
    Slot,
    Timeouts,
    balancers,
    gateways,
)
from tests.reference.flow import FlowTuple
from tests.reference.settings import Host, Listener, NeighbourSettings, mac_bytes

INSIDE = 0
OUTSIDE = 1
HOST = 2
SIDES = {"inside": INSIDE, "outside": OUTSIDE, "host": HOST}

ENVIRONMENT = "169.254.100.2"
GATEWAY = "169.254.100.1"
ENVIRONMENT_SUBNET = "169.254.100.0/30"

WEB = "10.0.1.80"
ECHO = "10.0.1.81"
FAR = "10.0.9.9"
"""Three services: two in the subnet of interface 0, one behind its router."""

INTERFACE_ADDRESSES = ("10.0.1.10", "10.0.2.10", "10.0.1.10")
INTERFACE_VPCS = (0, 0, 1)
SUBNETS = ("10.0.1.0/24", "10.0.2.0/24", "10.0.1.0/24")
ROUTERS = ("10.0.1.1", "10.0.2.1", "10.0.1.1")
DESTINATIONS = ("10.0.0.0/16", "192.168.7.0/24")
NEIGHBOURS = (
    ("10.0.1.1", WEB, ECHO),
    ("10.0.2.1", "10.0.2.80"),
    ("10.0.1.1", WEB, ECHO),
)
SLOT_INTERFACES = {1: 0, 2: 0, 3: 1, 4: 2, 5: 0}
POOLED = 6
HOSTS = (("10.0.1.50", 0), ("10.0.1.51", 0), ("10.0.1.50", 2))
"""Address of each host, and the interface by whose link its VPC's router is reached."""
INTERNET, NAT_VPC = 2, 0
INTERNET_ROUTER, REMOTE, BEYOND = "192.0.2.1", "192.0.2.80", "198.51.100.7"
"""In the internet: the next hop, a host beside the gateway and one behind the router."""
SERVICE = "192.0.2.90"
"""There, too: who is reached by gateway endpoints."""
PUBLIC, ELASTIC, NAT_ADDRESS = "203.0.113.9", "203.0.113.10", "10.0.3.5"
INTERNET_GATEWAY, PUBLIC_NUMBER, ELASTIC_NUMBER, NAT_NUMBER = 8, 9, 10, 11
"""Interface numbers: the gateway, the public addresses of host 0 and of the NAT gateway, that."""
ENDPOINTS_NUMBER, ENDPOINTS_ADDRESS = 12, "192.0.2.11"
"""The interface of the first VPC's gateway endpoints."""
BY_NAT, BY_INTERNET, OF_NAT, OF_NODE = 1, 2, 3, 4
"""Route tables: of the environments, of the hosts, of the NAT gateway, of the node."""
PUBLIC_NODE, PUBLIC_NODE_NUMBER = "203.0.113.20", 13
NODE_NUMBER, BEHIND_NODES = 6, 0
NODES = {NODE_NUMBER: "10.0.1.20", 7: "10.0.1.21"}
"""The addresses of the load balancer's node, by interface number; the first has the listeners. What
is behind the VPC's router is reached by the link of interface `BEHIND_NODES`.
"""
ENDPOINT_NUMBER, BEHIND_ENDPOINT = 5, 2
"""The endpoint has the node's address, in the VPC of interface `BEHIND_ENDPOINT`."""
ALL_SLOTS: dict[int, int | None] = {**SLOT_INTERFACES, POOLED: None}


def interface_mac(number: int) -> str:
    """MAC address of a network interface."""
    return f"02:00:00:00:0a:{number:02x}"


def neighbour_mac(number: int, address: str) -> str:
    """MAC address of a host in the VPC of interface `number`."""
    last = IPv4Address(address).packed[3]
    return f"02:00:00:0b:{number:02x}:{last:02x}"


def environment_mac(slot: int) -> str:
    """MAC address of an environment's eth0."""
    return f"02:00:00:01:00:{slot:02x}"


def gateway_mac(slot: int) -> str:
    """MAC address of the gateway on the link of a slot."""
    return f"02:00:00:02:00:{slot:02x}"


def host_macs(number: int) -> tuple[str, str]:
    """MAC addresses on the link of a host: ours, and the host's."""
    return f"02:00:00:04:00:{number:02x}", f"02:00:00:03:00:{number:02x}"


def neighbours_at(interface: int) -> tuple[str, ...]:
    """Who is known on the link of an interface, the router first."""
    if interface == INTERNET_GATEWAY:
        return INTERNET_ROUTER, REMOTE
    if interface == ENDPOINTS_NUMBER:
        return INTERNET_ROUTER, SERVICE
    return NEIGHBOURS[interface]


def ethernet_addresses(side: int, port: int) -> tuple[str, str]:
    """(ours, theirs) on a link; on an interface's theirs is the first neighbour's."""
    if side == INSIDE:
        return gateway_mac(port), environment_mac(port)
    if side == HOST:
        return host_macs(port)
    return interface_mac(port), neighbour_mac(port, neighbours_at(port)[0])


@dataclass(frozen=True)
class Setup:
    """What differs from test to test."""

    flows_max: int = 64
    ports: Ports = field(default_factory=lambda: Ports(40000, 40000, 55_000))
    timeouts: Timeouts = field(default_factory=Timeouts)
    neighbours_known: bool = True
    neighbours: NeighbourSettings = field(default_factory=NeighbourSettings)
    slot_mtu: int = 65535
    interface_mtu: int = 65535
    policies: Mapping[int, Policy] = field(default_factory=dict)
    """Security groups by interface; an interface without may begin any flow."""
    behaviour: Behaviour = field(default_factory=Behaviour)
    host_mtu: int = 65535
    host_policies: Mapping[int, Policy] = field(default_factory=dict)
    """Security groups by host; one without may begin any flow, and be reached by all."""
    hosts_since: int = 0
    gateways: bool = False
    balancer: tuple[Listener, ...] = ()
    """What the load balancer's node of the first VPC listens to; without any there is none."""
    node_policy: Policy | None = None
    node_addresses: int = 1
    endpoint: bool = False
    """Whether an endpoint of the other VPC leads to the node."""
    internet_facing: bool = False
    """Whether the node has a public address; there are gateways then."""
    endpoint_policies: tuple[Policy | None, Policy | None] = (None, None)
    """Its own, and that of the load balancer about its clients."""
    secondary: tuple[tuple[int, str], ...] = ()
    """Further addresses: (interface, address); they are the interfaces from 3."""

    def interfaces(self) -> Iterator[tuple[int, int, str]]:
        """(number, number of the primary, address) of every address."""
        yield from ((number, number, each) for number, each in enumerate(INTERFACE_ADDRESSES))
        first = len(INTERFACE_ADDRESSES)
        for number, (primary, address) in enumerate(self.secondary, first):
            yield number, primary, address


class Target(Protocol):
    """A NAT under test: the engine, or the model itself."""

    def translate(
        self,
        frame: bytes,
        side: int,
        port: int,
        now: int,
        *,
        partial: bool = False,
        gso_size: int = 0,
        checksum_at: tuple[int, int] | None = None,
    ) -> Result: ...

    def take_extra(self) -> list[Result]:
        """What left besides the result of the last translate."""
        ...

    def expire(self, now: int, budget: int) -> int:
        """End what is due; returns how many entries changed their state or were freed."""
        ...

    def flows(self) -> set[FlowTuple]: ...

    def problems(self) -> list[str]: ...

    def count(self, name: str) -> int: ...

    def close(self) -> None: ...


class ModelTarget:
    """The reference model, choosing for itself."""

    def __init__(self, setup: Setup) -> None:
        self.nat = reference_nat(setup)

    def translate(
        self,
        frame: bytes,
        side: int,
        port: int,
        now: int,
        *,
        partial: bool = False,
        gso_size: int = 0,
        checksum_at: tuple[int, int] | None = None,
    ) -> Result:
        return self.nat.translate(
            frame, side, port, now, partial=partial, gso_size=gso_size, checksum_at=checksum_at
        )

    def take_extra(self) -> list[Result]:
        return self.nat.extra

    def expire(self, now: int, budget: int) -> int:
        return self.nat.expire(now, budget)

    def flows(self) -> set[FlowTuple]:
        return self.nat.flows()

    def problems(self) -> list[str]:
        return []

    def count(self, name: str) -> int:
        if name.startswith("drop_"):
            return self.nat.drops.get(name.removeprefix("drop_"), 0)
        return self.nat.counts.get(name, 0)

    def close(self) -> None:
        pass


def reference_nat(setup: Setup, now: int = 0) -> ReferenceNat:
    """The model, set up as every test expects it."""
    nat = ReferenceNat(setup.flows_max)
    nat.configure(timeouts=setup.timeouts, ports=setup.ports, behaviour=setup.behaviour)
    nat.neighbours.settings = setup.neighbours
    for number, primary, address in setup.interfaces():
        nat.set_interface(
            number,
            Interface(
                address=IPv4Address(address),
                mac=mac_bytes(interface_mac(primary)),
                subnet=IPv4Network(SUBNETS[primary]),
                router=IPv4Address(ROUTERS[primary]),
                destinations=tuple(IPv4Network(text) for text in DESTINATIONS),
                vpc=INTERFACE_VPCS[primary],
                policy=setup.policies.get(primary),
                primary=primary,
                mtu=setup.interface_mtu,
                route_table=BY_NAT if primary == 0 and setup.gateways else None,
            ),
        )
    if setup.gateways:
        _set_gateways(nat, setup)
    if setup.balancer:
        _set_nodes(nat, setup)
    for number, interface in ALL_SLOTS.items():
        nat.set_slot(
            number,
            Slot(
                address=IPv4Address(ENVIRONMENT),
                subnet=IPv4Network(ENVIRONMENT_SUBNET),
                gateway=IPv4Address(GATEWAY),
                environment_mac=mac_bytes(environment_mac(number)),
                gateway_mac=mac_bytes(gateway_mac(number)),
                interface=interface,
                mtu=setup.slot_mtu,
            ),
        )
    for number in range(len(HOSTS)):
        nat.set_host(number, reference_host(setup, number, setup.hosts_since))
    for interface, address, mac in neighbours(setup):
        nat.set_neighbour(interface, IPv4Address(address), mac_bytes(mac), now)
    return nat


def _set_nodes(nat: ReferenceNat, setup: Setup) -> None:
    for number, address in tuple(NODES.items())[: setup.node_addresses]:
        node = Interface(
            address=IPv4Address(address),
            mac=bytes(6),
            subnet=IPv4Network(SUBNETS[0]),
            router=IPv4Address(ROUTERS[0]),
            destinations=(),
            policy=setup.node_policy,
            primary=NODE_NUMBER,
            role=balancers.NODE,
            behind=BEHIND_NODES,
            listeners=setup.balancer if number == NODE_NUMBER else (),
            route_table=OF_NODE if setup.internet_facing else None,
        )
        nat.set_interface(number, node)
        if number != NODE_NUMBER or not setup.endpoint:
            continue
        endpoint = replace(
            node,
            address=IPv4Address(NODES[NODE_NUMBER]),
            vpc=INTERFACE_VPCS[BEHIND_ENDPOINT],
            policy=setup.endpoint_policies[0],
            admission=setup.endpoint_policies[1],
            primary=ENDPOINT_NUMBER,
            role=balancers.ENDPOINT,
            behind=BEHIND_ENDPOINT,
            listeners=(),
            node=NODE_NUMBER,
        )
        nat.set_interface(ENDPOINT_NUMBER, endpoint)


def _set_gateways(nat: ReferenceNat, setup: Setup) -> None:
    gateway = Interface(
        address=IPv4Address("192.0.2.10"),
        mac=mac_bytes(interface_mac(INTERNET_GATEWAY)),
        subnet=IPv4Network("192.0.2.0/24"),
        router=IPv4Address(INTERNET_ROUTER),
        destinations=(IPv4Network("0.0.0.0/0"),),
        vpc=INTERNET,
        primary=INTERNET_GATEWAY,
        mtu=setup.interface_mtu,
        role=gateways.INTERNET_GATEWAY,
    )
    nat.set_interface(INTERNET_GATEWAY, gateway)
    for number, address, serves in (
        (PUBLIC_NUMBER, PUBLIC, ("host", 0)),
        (ELASTIC_NUMBER, ELASTIC, (gateways.NAT_GATEWAY, NAT_NUMBER)),
        *(
            [(PUBLIC_NODE_NUMBER, PUBLIC_NODE, (balancers.NODE, NODE_NUMBER))]
            if setup.internet_facing
            else ()
        ),
    ):
        nat.set_interface(number, replace(gateway, address=IPv4Address(address), serves=serves))
    nat.set_interface(
        NAT_NUMBER,
        replace(
            gateway,
            address=IPv4Address(NAT_ADDRESS),
            vpc=NAT_VPC,
            primary=NAT_NUMBER,
            role=gateways.NAT_GATEWAY,
            route_table=OF_NAT,
        ),
    )
    nat.set_interface(
        ENDPOINTS_NUMBER,
        replace(
            gateway,
            address=IPv4Address(ENDPOINTS_ADDRESS),
            mac=mac_bytes(interface_mac(ENDPOINTS_NUMBER)),
            vpc=NAT_VPC,
            primary=ENDPOINTS_NUMBER,
            role=gateways.GATEWAY_ENDPOINT,
        ),
    )
    to_internet = (IPv4Network("0.0.0.0/0"), gateways.INTERNET_GATEWAY, INTERNET_GATEWAY)
    set_reference_routes(nat, black=False)
    nat.set_route_table(BY_INTERNET, (to_internet, TO_SERVICE))
    nat.set_route_table(OF_NAT, (to_internet, TO_SERVICE))
    nat.set_route_table(OF_NODE, (to_internet,))


TO_SERVICE = (IPv4Network(f"{SERVICE}/32"), gateways.GATEWAY_ENDPOINT, ENDPOINTS_NUMBER)


def set_reference_routes(nat: ReferenceNat, *, black: bool) -> None:
    """Let the environments' routes lead nowhere, or to NAT gateway and endpoints."""
    kind = gateways.BLACKHOLE if black else gateways.NAT_GATEWAY
    anywhere = (IPv4Network("0.0.0.0/0"), kind, NAT_NUMBER)
    nat.set_route_table(BY_NAT, (anywhere,) if black else (anywhere, TO_SERVICE))


def reference_host(setup: Setup, number: int, since: int) -> Host:
    """A host as the model has it."""
    address, interface = HOSTS[number]
    ours, theirs = host_macs(number)
    return Host(
        address=IPv4Address(address),
        subnet=IPv4Network(SUBNETS[interface]),
        router=IPv4Address(ROUTERS[interface]),
        host_mac=mac_bytes(theirs),
        gateway_mac=mac_bytes(ours),
        interface=interface,
        vpc=INTERFACE_VPCS[interface],
        policy=setup.host_policies.get(number),
        mtu=setup.host_mtu,
        route_table=BY_INTERNET if interface == 0 and setup.gateways else None,
        since=since,
    )


def neighbours(setup: Setup) -> list[tuple[int, str, str]]:
    """(interface, address, MAC) of the neighbours to be told."""
    if not setup.neighbours_known:
        return []
    links = [*range(len(NEIGHBOURS))]
    links += [INTERNET_GATEWAY, ENDPOINTS_NUMBER] if setup.gateways else []
    return [
        (number, address, neighbour_mac(number, address))
        for number in links
        for address in neighbours_at(number)
    ]


def flow_key(flow: FlowTuple) -> tuple[Any, str, str, int, int]:
    """(originator, protocol, remote address, remote port, inside port) of a flow."""
    return flow[2], flow[0], flow[6], flow[7], flow[5]


def ended_between(
    before: set[FlowTuple], after: set[FlowTuple]
) -> set[tuple[Any, str, str, int, int]]:
    """Keys of the flows that changed their state or vanished."""
    states = {flow_key(flow): flow[1] for flow in after}
    return {key for flow in before if states.get(key := flow_key(flow)) != flow[1]}
