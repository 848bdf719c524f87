# SPDX-License-Identifier: Apache-2.0
"""The part of the oracle that knows of routes, public addresses of hosts and NAT gateways.

An environment's flow by a NAT gateway is one at its public address, which is counted at a further
address, the hop. A host's own flow is one that takes no port and may have another address. Hosts
that go by a NAT gateway are not in it, and routes stay or turn black.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from tests.reference.errors import DroppedError, RefusedError
from tests.reference.flow import Entry, InsideKey
from tests.reference.mapping import Chosen, MappingRules

HOST = 2

INTERNET_GATEWAY = "internet gateway"
NAT_GATEWAY = "NAT gateway"
GATEWAY_ENDPOINT = "gateway endpoint"
BLACKHOLE = "blackhole"

RESERVED = IPv4Network("169.254.168.0/22")
"""Nothing is forwarded there, whatever route covers it."""


@dataclass(frozen=True)
class Way:
    """Where a packet leaves: by a NAT gateway, with the public address of its sender, or by a
    gateway endpoint as it would otherwise.
    """

    kind: str
    interface: int


Route = tuple[IPv4Network, str, int]


class RouteRules(MappingRules):
    """Rules about what is for no address of its VPC."""

    def __init__(self) -> None:
        super().__init__()
        self.route_tables: dict[int, tuple[Route, ...]] = {}
        self.way: Way | None = None
        """Of the packet that is looked at."""
        self.astray = ""
        """Why that is led nowhere, unless it answers a load balancer's client."""

    def set_route_table(self, number: int, routes: tuple[Route, ...]) -> None:
        self.route_tables[number] = routes

    @property
    def nat_gateway(self) -> int | None:
        """The NAT gateway that the packet leaves by."""
        way = self.way
        return way.interface if way is not None and way.kind == NAT_GATEWAY else None

    @property
    def gateway_endpoint(self) -> int | None:
        """The interface of gateway endpoints that it leaves by."""
        way = self.way
        return way.interface if way is not None and way.kind == GATEWAY_ENDPOINT else None

    def is_endpoint(self, number: int) -> bool:
        """Whether an interface is that of a VPC's gateway endpoints."""
        return self.interfaces[number].role == GATEWAY_ENDPOINT

    def from_internet(self, number: int) -> bool:
        """Whether what comes by an interface may have gone through the internet."""
        return bool(self.interfaces[number].role) and not self.is_endpoint(number)

    def _number(self, primary: int, address: IPv4Address) -> int | None:
        """Which of its addresses this is; to gateway endpoints also comes what is for an interface
        of the VPC.
        """
        if (own := super()._number(primary, address)) is not None or not self.is_endpoint(primary):
            return own
        vpc = self.interfaces[primary].vpc
        found = (each for each, it in self.interfaces.items() if it.vpc == vpc and not it.role)
        return next((each for each in found if self.interfaces[each].address == address), None)

    def _route(
        self, table: int | None, destination: IPv4Address, *, endpoints: bool = True
    ) -> tuple[str, int]:
        """The target of the longest prefix, which is there; or of those not to `endpoints`."""
        routes = () if table is None else self.route_tables.get(table, ())
        matching = [
            route
            for route in routes
            if destination in route[0] and (endpoints or route[1] != GATEWAY_ENDPOINT)
        ]
        if not matching:
            raise DroppedError("no_route")
        _, kind, target = max(matching, key=lambda route: route[0].prefixlen)
        there = self.hosts if kind == "host" else self.interfaces
        if kind == BLACKHOLE or target not in there:
            raise DroppedError("route_blackhole")
        return kind, target

    def public_address(self, kind: str, number: int) -> int | None:
        """The address of an internet gateway that stands for a host or a NAT gateway's address."""
        found = (each for each, it in self.interfaces.items() if it.serves == (kind, number))
        return next(found, None)

    def _route_away(
        self, place: tuple[int, int], table: int | None, destination: IPv4Address
    ) -> Way | int:
        """By which gateway a packet leaves, or to which host."""
        if destination in RESERVED:
            raise DroppedError("destination_invalid")
        kind, target = self._route(table, destination)
        if kind == "host":
            if place == (HOST, target):
                raise DroppedError("destination_invalid")
            return target
        if kind == GATEWAY_ENDPOINT:
            return Way(kind, target)
        if kind == INTERNET_GATEWAY:
            own = self.public_address("host", place[1]) if place[0] == HOST else None
            if own is None:
                raise DroppedError("no_public_address")
            return Way(INTERNET_GATEWAY, own)
        table = self.interfaces[target].route_table
        kind, _ = self._route(table, destination, endpoints=False)
        if kind != INTERNET_GATEWAY:
            raise DroppedError("no_route")
        if all(self.public_address(NAT_GATEWAY, each) is None for each in self.addresses(target)):
            raise DroppedError("nat_gateway_private")
        return Way(NAT_GATEWAY, target)

    def _refuse_astray(self) -> None:
        if self.astray:
            raise DroppedError(self.astray)

    def _way_back(self, table: int | None, destination: IPv4Address) -> None:
        """Whether a load balancer's node can answer a client in the internet."""
        kind, _ = self._route(table, destination, endpoints=False)
        if kind != INTERNET_GATEWAY:
            raise DroppedError("no_route")

    # Ports

    def _hop(self, key: InsideKey, now: int) -> int:
        """The address of its interface at which an environment's flow is counted."""
        slot, protocol, remote_address, remote_port, _ = key
        remote = (remote_address, remote_port)
        numbers = self.addresses(self._attached_to(slot))
        if self.behaviour.paired_pooling:
            numbers = [numbers[slot % len(numbers)]]
        most = min(self.ports.limit_per_remote, self.ports.last - self.ports.first + 1)
        reason = "port_limit_interface"
        for number in numbers:
            if self._held_back(slot, number, 1):
                continue
            there = [
                entry
                for entry in self.outside.values()
                if entry.hop == number
                and entry.protocol == protocol
                and (entry.remote_address, entry.remote_port) == remote
            ]
            if len(there) < most:
                return number
            reason = "port_allocation"
        raise self._refuse(slot, protocol, remote, reason, now)

    def _allocated_at_gateway(
        self, key: InsideKey, gateway: int, chosen: Chosen | None, now: int
    ) -> tuple[int, int, int]:
        """Public address, port and hop of a new flow of an environment by a NAT gateway."""
        slot, protocol, remote_address, remote_port, _ = key
        remote = (remote_address, remote_port)
        if len(self._entries()) >= self.flows_max:
            raise RefusedError("flow_table_full")
        if reason := self._held_back(slot, None, 1):
            raise self._refuse(slot, protocol, remote, reason, now)
        hop = self._hop(key, now)
        numbers = [
            public
            for each in self.addresses(gateway)
            if (public := self.public_address(NAT_GATEWAY, each)) is not None
        ]
        free = self._free(numbers, protocol, remote)
        if not free:
            raise self._refuse(slot, protocol, remote, "port_allocation", now, gateway)
        return *self._legal(free, chosen, remote), hop

    def _admitting(self, entry: Entry) -> int:
        """At which interface security groups are asked about a flow of an environment."""
        return entry.interface if entry.hop is None else entry.hop
