# SPDX-License-Identifier: Apache-2.0
"""What a region asks of the world: plain data for whoever makes namespaces and links of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from hyperplane_nat.model.balancer_entities import HealthChecker
from hyperplane_nat.model.balancer_wanted import CHECKER_ADDRESS, Nodes, WantedNode
from hyperplane_nat.model.derived import Derived
from hyperplane_nat.model.entities import (
    WITHOUT_LINK,
    Host,
    InterfaceKind,
    NetworkInterface,
    Service,
    Vpc,
)
from hyperplane_nat.model.gateway_endpoints import has_routes, route_table_number, routes_of
from hyperplane_nat.model.gateway_entities import NatGateway, Route, RouteTable
from hyperplane_nat.model.gateways import BLACKHOLE, route_state
from hyperplane_nat.model.names import WantedResolver, resolver_addresses, resolver_of
from hyperplane_nat.model.network_acls import WantedNetworkAcls, wanted_network_acls
from hyperplane_nat.model.private_link_wanted import WantedEndpoint, endpoints_of
from hyperplane_nat.model.security_group import ALLOW_ALL, Compiler, HostPolicy, Policy
from hyperplane_nat.model.settings import LifecycleSettings
from hyperplane_nat.model.states import EnvironmentState, InterfaceStatus
from hyperplane_nat.model.tables import Tables
from hyperplane_nat.model.validation import INTERNET


@dataclass(frozen=True, slots=True)
class WantedService:
    """A server to run in a VPC."""

    name: str
    kind: str
    address: str
    port: int
    size_bytes: int
    host: int | None
    """Number of the host that it runs on; None: the VPC's router."""


@dataclass(frozen=True, slots=True)
class WantedVpc:
    """A VPC's namespace."""

    id: str
    name: str
    """Unique, usable as the name of a namespace; "internet" is the built-in one."""
    number: int
    """For the forwarder, from 1."""
    cidr: str
    mtu_bytes: int
    addresses: tuple[str, ...]
    """The VPC router's in each subnet, and base + 1 of a VPC with hosts, then the resolver's and
    those of services that run on the router; each once."""
    services: tuple[WantedService, ...]
    resolver: WantedResolver | None = None


@dataclass(frozen=True, slots=True)
class WantedInterface:
    """A network interface with what the forwarder needs to know of it."""

    id: str
    link: str
    """Name of its link, at most 15 characters, unique in the lab."""
    number: int
    """Its number in the state map."""
    vpc: str
    """Name of its VPC."""
    vpc_number: int
    subnet: str
    """Network of its subnet."""
    router: str
    address: str
    destinations: tuple[str, ...]
    """Networks that are reached through it."""
    secondary: tuple[tuple[int, str], ...]
    """Its further addresses, with their numbers."""
    mtu_bytes: int | None
    """The largest packet that it sends, where that is not AWS's."""
    vpc_mtu_bytes: int
    kind: InterfaceKind
    status: InterfaceStatus
    policy: Policy
    resolver: tuple[str, ...] = ()
    """Addresses of its VPC's resolver."""
    route_table: int | None = None
    """Number of the route table of its subnet, if that has routes."""
    gateway_of: int | None = None
    """Of an internet gateway: number of the VPC that it is attached to."""
    endpoints_of: int | None = None
    """Of that of gateway endpoints: number of the VPC that they are in."""
    way_back: tuple[str, ...] = ()
    """Of the same: networks that are reached by it, whoever in the internet sends there."""
    mapped: Mapping[str, int] = field(default_factory=dict)
    """Of an internet gateway: numbers of the hosts that have its secondary addresses."""
    translated: Mapping[str, int] = field(default_factory=dict)
    """Of an internet gateway: numbers of the private addresses of NAT gateways that its secondary
    addresses are one to one with."""
    balanced: Mapping[str, int] = field(default_factory=dict)
    """Of an internet gateway: numbers of the nodes of load balancers that are reached by them."""


@dataclass(frozen=True, slots=True)
class WantedRoute:
    """A route; without a target it is a blackhole."""

    destination: str
    interface: int | None = None
    """Number of an internet gateway's interface."""
    host: int | None = None
    """Number of a host."""
    nat_gateway: int | None = None
    """Number of a NAT gateway's primary address."""
    gateway_endpoint: int | None = None
    """Number of the interface of a VPC's gateway endpoints."""


@dataclass(frozen=True, slots=True)
class WantedRouteTable:
    """A route table with routes besides the local one."""

    number: int
    vpc_number: int
    routes: tuple[WantedRoute, ...]


@dataclass(frozen=True, slots=True)
class WantedNatGateway:
    """A NAT gateway that serves."""

    number: int
    name: str
    """At most 15 characters, unique in the lab."""
    address: str
    vpc_number: int
    route_table: int | None
    """Number of the route table of its subnet, if that has routes."""
    secondary: tuple[tuple[int, str], ...]
    """Its further addresses, with their numbers."""
    draining: tuple[int, ...]
    """Numbers of addresses that take no new flows."""


@dataclass(frozen=True, slots=True)
class WantedHost:
    """A host: its namespace, its link, and what the forwarder needs to know of it."""

    number: int
    name: str
    vpc: str
    """Name of its VPC."""
    vpc_number: int
    subnet: str
    """Network of its subnet."""
    router: str
    """Its next hop."""
    address: str
    mtu_bytes: int
    attached: str
    """File of the namespace that it is; empty for one of the lab's own."""
    interface: int
    """Number of the interface that leads to the VPC's router."""
    link: str
    """Name of the link of that."""
    policy: HostPolicy
    route_table: int | None = None
    """Number of the route table of its subnet, if that has routes."""
    resolver: tuple[str, ...] = ()
    """Addresses of its VPC's resolver."""
    checks_from: tuple[str, ...] | None = None
    """Of a health checker: addresses of nodes that it sends from. It is nobody's to reach."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """All of it."""

    revision: int
    """Changes with VPCs, services, policies and with interfaces that come and go; neither with the
    status of an interface nor with environments."""
    vpcs: tuple[WantedVpc, ...]
    interfaces: tuple[WantedInterface, ...]
    """Those being deleted are not among them, nor those without a link."""
    environments: Mapping[int, str]
    """Slot to interface id; those that terminate are not among them."""
    hosts: tuple[WantedHost, ...] = ()
    """Health checkers are among them."""
    route_tables: tuple[WantedRouteTable, ...] = ()
    nat_gateways: tuple[WantedNatGateway, ...] = ()
    load_balancer_nodes: tuple[WantedNode, ...] = ()
    endpoints: tuple[WantedEndpoint, ...] = ()
    network_acls: tuple[WantedNetworkAcls, ...] = ()
    """Of VPCs in which some packet may be refused."""
    given_back: frozenset[int] = frozenset()
    """Numbers of hosts that are gone and whose namespace is somebody else's."""


def wanted_of(tables: Tables, settings: LifecycleSettings) -> Wanted:
    """What these tables ask for, at a first look."""
    return Parts(tables, settings).wanted()


_MEMBERS = ("security_group", "service", "host", "interface")
"""What policies are made of."""
_BALANCED = ("load_balancer", "vpc_endpoint", "endpoint_service")
_WAYS_OUT = ("internet_gateway", "elastic_address", "nat_gateway", "gateway_endpoint")
_ROUTED = ("subnet", "route_table", "gateway_endpoint")
"""By what a subnet has a route table with routes."""


class Parts:
    """
    What tables ask for, part by part (`derived`): a change costs the parts that it may concern, and
    a part that is the same object says the same.
    """

    def __init__(self, tables: Tables, settings: LifecycleSettings) -> None:
        self._tables = tables
        self._settings = settings
        self._nodes = Nodes(tables, settings)
        self._derived = Derived(tables.revisions)

    def wanted(self) -> Wanted:
        """As the tables are now."""
        tables, part = self._tables, self._derived.get
        compiler = part("compiler", _MEMBERS, lambda: Compiler(tables, self._settings))
        nodes = part(
            "load_balancer_nodes",
            ("load_balancer", "listener", "target_group", "vpc", "host", "interface", *_ROUTED),
            lambda: self._nodes.wanted(compiler),
            compiler,
        )
        # A node has much more, which changes with each target.
        named = tuple([(each.vpc_number, each.address, each.named) for each in nodes])
        return Wanted(
            revision=tables.network_revision,
            vpcs=part(
                "vpcs",
                ("vpc", "subnet", "interface", "service", "host", *_BALANCED, *_WAYS_OUT),
                lambda: _vpcs(tables, self._settings.region, nodes),
                named,
            ),
            interfaces=part(
                "interfaces",
                ("interface", "vpc", "host", *_ROUTED, *_WAYS_OUT),
                lambda: _interfaces(tables, compiler),
                compiler,
            ),
            environments=part("environments", ("environment",), lambda: _environments(tables)),
            hosts=part(
                "hosts",
                ("host", "vpc", "interface", "health_checker", *_ROUTED),
                lambda: _hosts(tables, compiler, nodes),
                (compiler, named),
            ),
            route_tables=part(
                "route_tables",
                ("route_table", "vpc", "interface", "host", "service", *_WAYS_OUT),
                lambda: _route_tables(tables),
            ),
            nat_gateways=part(
                "nat_gateways",
                ("nat_gateway", "interface", "vpc", *_ROUTED),
                lambda: _nat_gateways(tables),
            ),
            load_balancer_nodes=nodes,
            endpoints=part(
                "endpoints",
                ("interface", "vpc", "subnet", *_BALANCED),
                lambda: endpoints_of(tables, compiler),
                compiler,
            ),
            network_acls=part(
                "network_acls",
                ("network_acl", "vpc", "subnet"),
                lambda: wanted_network_acls(tables),
            ),
            given_back=part("given_back", ("retired_host",), lambda: _given_back(tables)),
        )


def _vpcs(tables: Tables, region: str, nodes: tuple[WantedNode, ...]) -> tuple[WantedVpc, ...]:
    return tuple(
        _vpc(tables, vpc, region, nodes)
        for vpc in tables.vpcs.values()
        if not _empty_internet(tables, vpc)
    )


def _interfaces(tables: Tables, compiler: Compiler) -> tuple[WantedInterface, ...]:
    return tuple(
        interface_of(tables, compiler, interface)
        for interface in tables.interfaces.values()
        if interface.status is not InterfaceStatus.DELETING and interface.kind not in WITHOUT_LINK
    )


def _environments(tables: Tables) -> dict[int, str]:
    return {
        environment.slot: environment.interface_id
        for environment in tables.environments.values()
        if environment.state is not EnvironmentState.TERMINATING
    }


def _hosts(
    tables: Tables, compiler: Compiler, nodes: tuple[WantedNode, ...]
) -> tuple[WantedHost, ...]:
    return (
        *(_host(tables, compiler, host) for host in tables.hosts.values()),
        *(_checker(tables, each, nodes) for each in tables.health_checkers.values()),
    )


def _route_tables(tables: Tables) -> tuple[WantedRouteTable, ...]:
    return tuple(
        _route_table(tables, table)
        for table in tables.route_tables.values()
        if has_routes(tables, table)
    )


def _nat_gateways(tables: Tables) -> tuple[WantedNatGateway, ...]:
    return tuple(
        _nat_gateway(tables, gateway) for gateway in tables.nat_gateways.values() if gateway.serves
    )


def _given_back(tables: Tables) -> frozenset[int]:
    return frozenset(
        retired.number for retired in tables.retired_hosts.values() if retired.attached
    )


def interface_of(
    tables: Tables, compiler: Compiler, interface: NetworkInterface
) -> WantedInterface:
    """What one interface asks for."""
    vpc = tables.vpcs[interface.vpc_id]
    route_table = None
    if interface.kind is InterfaceKind.ROUTER:
        # Nothing but the VPC's router is on this link, so all that leaves by it goes there.
        network, router = _router_network(vpc), vpc.cidr.network_address + 1
    else:
        subnet = tables.subnets[interface.subnet_id]
        network, router = subnet.cidr, subnet.router
        if interface.kind is InterfaceKind.INTERNET_GATEWAY:
            # Nor is any other one of the internet: that forwards.
            network = IPv4Network((router, 32))
        route_table = route_table_number(tables, subnet)
    gateway = tables.internet_gateways.get(interface.id)
    served = _with_endpoints(tables, interface)
    return WantedInterface(
        id=interface.id,
        link=interface.link,
        number=interface.number,
        vpc=vpc.name,
        vpc_number=vpc.number,
        subnet=str(network),
        router=str(router),
        address=str(interface.address),
        destinations=(str(vpc.cidr),),
        secondary=tuple((number, str(address)) for number, address in interface.secondary),
        mtu_bytes=interface.mtu_bytes,
        vpc_mtu_bytes=vpc.mtu_bytes,
        kind=interface.kind,
        status=interface.status,
        policy=compiler.policy(interface),
        route_table=route_table,
        gateway_of=None if gateway is None else tables.vpcs[gateway.vpc_id].number,
        mapped={} if gateway is None else _mapped(tables, interface),
        translated={} if gateway is None else _translated(tables, interface),
        balanced={} if gateway is None else _balanced(tables, interface),
        endpoints_of=None if served is None else served.number,
        way_back=() if served is None else (str(served.cidr),),
        # Who sends by an internet gateway or an endpoint asks the resolver of its own VPC.
        resolver=resolver_addresses(vpc) if gateway is None and served is None else (),
    )


def _with_endpoints(tables: Tables, interface: NetworkInterface) -> Vpc | None:
    """The VPC whose gateway endpoints an interface is that of."""
    if interface.kind is not InterfaceKind.GATEWAY_ENDPOINT:
        return None
    every = tables.gateway_endpoints.values()
    return next(tables.vpcs[each.vpc_id] for each in every if each.interface_id == interface.id)


def _mapped(tables: Tables, interface: NetworkInterface) -> dict[str, int]:
    return {
        str(each.address): tables.hosts[each.host_id].number
        for each in tables.elastic_addresses.values()
        if each.host_id and each.address in interface.addresses
    }


def _balanced(tables: Tables, interface: NetworkInterface) -> dict[str, int]:
    return {
        str(each.address): tables.interfaces[each.interface_id].number
        for each in tables.elastic_addresses.values()
        if each.interface_id and each.address in interface.addresses
    }


def _translated(tables: Tables, interface: NetworkInterface) -> dict[str, int]:
    return {
        str(elastic.address): _numbers(tables, gateway)[each.address]
        for gateway in tables.nat_gateways.values()
        for each in gateway.addresses
        if (elastic := tables.elastic_addresses.get(each.allocation_id)) is not None
        and elastic.address in interface.addresses
    }


def _numbers(tables: Tables, gateway: NatGateway) -> dict[IPv4Address, int]:
    """The numbers of a NAT gateway's private addresses."""
    interface = tables.interfaces[gateway.interface_id]
    return dict(zip(interface.addresses, interface.numbers, strict=True))


def _nat_gateway(tables: Tables, gateway: NatGateway) -> WantedNatGateway:
    interface, numbers = tables.interfaces[gateway.interface_id], _numbers(tables, gateway)
    return WantedNatGateway(
        number=interface.number,
        name=interface.link,
        address=str(interface.address),
        vpc_number=tables.vpcs[gateway.vpc_id].number,
        route_table=route_table_number(tables, tables.subnets[gateway.subnet_id]),
        secondary=tuple((number, str(address)) for number, address in interface.secondary),
        draining=tuple(numbers[each.address] for each in gateway.addresses if each.due is not None),
    )


def _route_table(tables: Tables, table: RouteTable) -> WantedRouteTable:
    return WantedRouteTable(
        number=table.number,
        vpc_number=tables.vpcs[table.vpc_id].number,
        routes=tuple(_route(tables, table, route) for route in routes_of(tables, table)),
    )


def _route(tables: Tables, table: RouteTable, route: Route) -> WantedRoute:
    destination = str(route.destination)
    if route_state(tables, table, route) == BLACKHOLE:
        return WantedRoute(destination)
    if route.gateway_id:
        return WantedRoute(destination, interface=tables.interfaces[route.gateway_id].number)
    if route.nat_gateway_id:
        interface_id = tables.nat_gateways[route.nat_gateway_id].interface_id
        return WantedRoute(destination, nat_gateway=tables.interfaces[interface_id].number)
    if route.endpoint_id:
        interface_id = tables.gateway_endpoints[route.endpoint_id].interface_id
        return WantedRoute(destination, gateway_endpoint=tables.interfaces[interface_id].number)
    return WantedRoute(destination, host=tables.hosts[route.instance_id].number)


def _router_network(vpc: Vpc) -> IPv4Network:
    return IPv4Network((vpc.cidr.network_address, 30))


def _host(tables: Tables, compiler: Compiler, host: Host) -> WantedHost:
    vpc, subnet = tables.vpcs[host.vpc_id], tables.subnets[host.subnet_id]
    interface = tables.router_interface(vpc.id)
    assert interface is not None
    return WantedHost(
        number=host.number,
        name=host.name,
        vpc=vpc.name,
        vpc_number=vpc.number,
        subnet=str(subnet.cidr),
        router=str(subnet.router),
        address=str(host.address),
        mtu_bytes=vpc.mtu_bytes,
        attached=host.attached,
        interface=interface.number,
        link=interface.link,
        policy=compiler.host_policy(host),
        route_table=route_table_number(tables, subnet),
        resolver=resolver_addresses(vpc),
    )


def _checker(tables: Tables, checker: HealthChecker, nodes: tuple[WantedNode, ...]) -> WantedHost:
    vpc, interface = tables.vpcs[checker.vpc_id], tables.router_interface(checker.vpc_id)
    assert interface is not None
    return WantedHost(
        number=checker.number,
        name="health-checks",
        vpc=vpc.name,
        vpc_number=vpc.number,
        subnet=f"{CHECKER_ADDRESS}/32",
        router=str(vpc.cidr.network_address + 1),
        address=CHECKER_ADDRESS,
        mtu_bytes=vpc.mtu_bytes,
        attached="",
        interface=interface.number,
        link=interface.link,
        policy=HostPolicy(ALLOW_ALL, None),
        checks_from=tuple(each.address for each in nodes if each.vpc_number == vpc.number),
    )


def _vpc(tables: Tables, vpc: Vpc, region: str, nodes: tuple[WantedNode, ...]) -> WantedVpc:
    services = [service for service in tables.services.values() if service.vpc_id == vpc.id]
    routers = [subnet.router for subnet in tables.subnets.values() if subnet.vpc_id == vpc.id]
    if tables.router_interface(vpc.id) is not None:
        routers.append(vpc.cidr.network_address + 1)
    own = [service.address for service in services if not service.host_id]
    resolver = resolver_of(tables, vpc, region, nodes)
    answering = resolver.addresses if resolver else ()
    addresses = [*map(str, routers), *answering, *map(str, own)]
    return WantedVpc(
        id=vpc.id,
        name=vpc.name,
        number=vpc.number,
        cidr=str(vpc.cidr),
        mtu_bytes=vpc.mtu_bytes,
        # Two services may share an address on different ports.
        addresses=tuple(dict.fromkeys(addresses)),
        services=tuple(_service(tables, service) for service in services),
        resolver=resolver,
    )


def _service(tables: Tables, service: Service) -> WantedService:
    return WantedService(
        name=service.name,
        kind=service.kind,
        address=str(service.address),
        port=service.port,
        size_bytes=service.size_bytes,
        host=tables.hosts[service.host_id].number if service.host_id else None,
    )


def _empty_internet(tables: Tables, vpc: Vpc) -> bool:
    return (
        vpc.name == INTERNET
        and not tables.count_in_vpc(vpc.id)
        and not any(service.vpc_id == vpc.id for service in tables.services.values())
    )
