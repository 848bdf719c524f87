# SPDX-License-Identifier: Apache-2.0
"""What load balancers ask of the world: nodes for the forwarder, health checks: see `wanted`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hyperplane_nat.model.balancer_entities import (
    Listener,
    LoadBalancer,
    LoadBalancerNode,
    Target,
    TargetGroup,
)
from hyperplane_nat.model.balancer_resources import HealthCheck
from hyperplane_nat.model.entities import NetworkInterface, Vpc
from hyperplane_nat.model.gateway_endpoints import route_table_number
from hyperplane_nat.model.security_group import Compiler, HostPolicy
from hyperplane_nat.model.settings import LifecycleSettings
from hyperplane_nat.model.states import LoadBalancerState
from hyperplane_nat.model.tables import Tables
from hyperplane_nat.model.target_health import (
    Surroundings,
    address_of,
    eligible,
    in_reach,
    named,
    to_end,
)

UDP_IDLE_SECONDS = 120
"""Of a UDP flow ("Network Load Balancers", "Connection idle timeout")."""

_BESIDE = ("vpc", "host", "interface", "subnet", "route_table", "gateway_endpoint")
"""Kinds of what nodes are made of besides load balancers, listeners and target groups."""

CHECKER_ADDRESS = "169.254.169.252"
"""That of a VPC's health checker, which sends from the nodes' addresses alone."""

Endpoint = tuple[str, int]
"""Address and port."""


@dataclass(frozen=True, slots=True)
class WantedListener:
    """A listener of a node for one protocol; one of TCP_UDP is two."""

    protocol: str
    """"tcp" or "udp"."""
    port: int
    idle_seconds: float
    """As on AWS, before it is scaled."""
    sticky: bool
    preserve_client_ip: bool
    proxy_protocol: bool
    targets: tuple[Endpoint, ...]
    """Those for new flows, sorted."""


@dataclass(frozen=True, slots=True)
class WantedEnd:
    """Flows of a node that are to be ended."""

    protocol: str
    port: int
    """Of the listener."""
    target: Endpoint
    drained: tuple[str, tuple[str, int]] | None = None
    """Group and target, where it goes with them."""


@dataclass(frozen=True, slots=True)
class WantedCheck:
    """Checks of one target by one node; durations are in seconds of this region."""

    group_id: str
    target: tuple[str, int]
    """Id and port, as it is registered."""
    node: str
    """The node's address, which is the checks' source."""
    address: str
    port: int
    protocol: str
    path: str
    codes: str
    host: str
    """The Host header of HTTP: the node's address and the listener's port."""
    interval_seconds: float
    timeout_seconds: float
    healthy_count: int
    unhealthy_count: int
    proxy_protocol: bool
    """Whether a header of the PROXY protocol comes first."""


@dataclass(frozen=True, slots=True)
class WantedNode:
    """A node of an active load balancer."""

    number: int
    name: str
    """At most 15 characters, unique in the lab."""
    address: str
    vpc: str
    """Name of its VPC."""
    vpc_number: int
    interface: int
    """Number of the interface that leads to the VPC's router."""
    link: str
    """Name of the link of that."""
    secondary: tuple[tuple[int, str], ...]
    """Its further addresses, with their numbers."""
    policy: HostPolicy
    listeners: tuple[WantedListener, ...]
    ends: tuple[WantedEnd, ...]
    checks: tuple[WantedCheck, ...]
    named: bool
    """Whether each of its groups has healthy targets enough for DNS to name it."""
    route_table: int | None = None
    """Number of the route table of its subnet, if that has routes."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node is, by which it depends what targets it reaches and what their addresses are."""

    balancer: LoadBalancer
    node: LoadBalancerNode
    around: Surroundings
    hosts: tuple[int, ...]
    """Tells hosts as they are from hosts as they were."""


@dataclass(frozen=True, slots=True)
class _Balanced:
    """What the nodes of a load balancer are made of."""

    balancer: LoadBalancer
    vpc: Vpc
    router: NetworkInterface
    interfaces: tuple[NetworkInterface, ...]
    listeners: tuple[Listener, ...]
    groups: tuple[TargetGroup, ...]
    """Those that the listeners forward to."""
    around: Surroundings
    hosts: tuple[int, ...]
    """As of `_Place`."""
    compiler: Compiler
    route_tables: tuple[int | None, ...]
    """As of `WantedNode`, by node."""


@dataclass(frozen=True, slots=True)
class _Found:
    """A target, as a node sees it."""

    order: tuple[int, int]
    """Address as a number, and port."""
    endpoint: Endpoint
    check: WantedCheck


@dataclass(frozen=True, slots=True)
class _Use:
    """What a node makes of a target group."""

    place: _Place
    group: TargetGroup
    port: int
    """Of the listener that checks name."""
    targets: tuple[Endpoint, ...]
    """Those for new flows, sorted."""
    hosts_only: bool
    """Whether all of these are hosts."""
    ends: tuple[tuple[Endpoint, tuple[str, int] | None], ...]
    """Targets whose flows are to be ended; of one that has drained the target, too."""
    checks: tuple[WantedCheck, ...]
    named: bool
    found: dict[tuple[str, int], _Found]


class Nodes:
    """
    The nodes of all active load balancers, made anew where something of them has changed.

    Entities are replaced and never changed, so whether something has is mostly a look at whether it
    is the same object: the health of one target costs what its group costs.
    """

    def __init__(self, tables: Tables, settings: LifecycleSettings) -> None:
        self._tables = tables
        self._settings = settings
        self._balancers: dict[str, tuple[_Balanced, tuple[WantedNode, ...]]] = {}
        """By load balancer of what its nodes were made, and the nodes."""
        self._made: dict[str, tuple[tuple[object, ...], WantedNode]] = {}
        """By interface of what a node was made, and the node."""
        self._uses: dict[str, dict[str, _Use]] = {}
        """By interface and target group."""
        self._heard: dict[str, dict[tuple[str, str], tuple[Listener, _Use, WantedListener]]] = {}
        """By interface, and listener and transport."""
        self._beside: object = None
        """All that load balancers were made of besides themselves, their listeners and groups."""

    def wanted(self, compiler: Compiler) -> tuple[WantedNode, ...]:
        """As the tables are now."""
        before, self._balancers = self._balancers, {}
        beside = (compiler, self._tables.revisions(_BESIDE))
        same, self._beside = beside == self._beside, beside
        for balancer in self._tables.load_balancers.values():
            if balancer.state is not LoadBalancerState.ACTIVE:
                continue
            known = before.get(balancer.id)
            if same and known is not None and self._is_still(balancer, known[0]):
                self._balancers[balancer.id] = known
                continue
            of = self._of(balancer, compiler, None if known is None else known[0])
            if known is None or known[0] != of:
                tables = zip(balancer.nodes, of.route_tables, strict=True)
                known = (of, tuple(self._node(of, node, table) for node, table in tables))
            self._balancers[balancer.id] = known
        found = tuple(node for _, nodes in self._balancers.values() for node in nodes)
        own = {
            each.interface_id for of, _ in self._balancers.values() for each in of.balancer.nodes
        }
        for gone in self._made.keys() - own:
            del self._made[gone], self._uses[gone], self._heard[gone]
        return found

    def _is_still(self, balancer: LoadBalancer, known: _Balanced) -> bool:
        """Whether a load balancer, its listeners and their groups are those that it was made of."""
        tables = self._tables
        return (
            known.balancer is balancer
            and known.listeners is tables.listeners_of(balancer.id)
            and all(tables.target_groups[each.id] is each for each in known.groups)
        )

    def _of(
        self, balancer: LoadBalancer, compiler: Compiler, former: _Balanced | None
    ) -> _Balanced:
        tables = self._tables
        router = tables.router_interface(balancer.vpc_id)
        assert router is not None
        listeners = tables.listeners_of(balancer.id)
        keys: Iterable[str]
        if former is not None and former.listeners is listeners:
            keys = [each.id for each in former.groups]
        else:
            keys = dict.fromkeys([each.target_group_id for each in listeners])
        return _Balanced(
            balancer=balancer,
            vpc=tables.vpcs[balancer.vpc_id],
            router=router,
            interfaces=tuple([tables.interfaces[each.interface_id] for each in balancer.nodes]),
            listeners=listeners,
            groups=tuple([tables.target_groups[key] for key in keys]),
            around=Surroundings.of(tables, balancer.vpc_id),
            hosts=tables.revisions(("host",)),
            compiler=compiler,
            route_tables=tuple(
                [
                    route_table_number(tables, tables.subnets[each.subnet_id])
                    for each in balancer.nodes
                ]
            ),
        )

    def _node(
        self, balanced: _Balanced, node: LoadBalancerNode, route_table: int | None
    ) -> WantedNode:
        key, vpc, router = node.interface_id, balanced.vpc, balanced.router
        place = _Place(balanced.balancer, node, balanced.around, balanced.hosts)
        interface = self._tables.interfaces[key]
        policy = balanced.compiler.node_policy(interface)
        listeners = balanced.listeners
        of = (place, interface, vpc, router, policy, listeners, balanced.groups, route_table)
        if (former := self._made.get(key)) is not None and former[0] == of:
            return former[1]
        groups = {each.id: each for each in balanced.groups}
        uses: dict[str, _Use] = {}
        before, heard = self._heard.get(key, {}), {}
        wanted: list[WantedListener] = []
        ends: list[WantedEnd] = []
        for listener in listeners:
            group = groups[listener.target_group_id]
            use = uses.get(group.id)
            if use is None:
                # A group behind two listeners is checked once.
                former_use = self._uses.get(key, {}).get(group.id)
                use = uses[group.id] = self._use(place, group, listener.port, former_use)
            for transport in listener.protocol.transports:
                place_of = listener.id, transport
                known = before.get(place_of)
                if known is None or known[0] is not listener or known[1] is not use:
                    known = listener, use, _listener(listener, transport, use)
                heard[place_of] = known
                wanted.append(known[2])
                if use.ends:
                    ends += _ends(listener, transport, use)
        made = WantedNode(
            number=interface.number,
            name=interface.link,
            address=str(interface.address),
            vpc=vpc.name,
            vpc_number=vpc.number,
            interface=router.number,
            link=router.link,
            secondary=tuple((number, str(address)) for number, address in interface.secondary),
            policy=policy,
            listeners=tuple(wanted),
            ends=tuple(ends),
            checks=tuple(check for use in uses.values() for check in use.checks),
            named=all(use.named for use in uses.values()),
            route_table=route_table,
        )
        self._made[key], self._uses[key], self._heard[key] = (of, made), uses, heard
        return made

    def _use(self, place: _Place, group: TargetGroup, port: int, former: _Use | None) -> _Use:
        known: dict[tuple[str, int], _Found] = {}
        if former is not None and (former.place, former.port) == (place, port):
            if former.group == group:
                return former
            if _checked_by(former.group) == _checked_by(group):
                known = former.found
        tables = self._tables
        reached = in_reach(tables, group, place.balancer, place.node, place.around)
        found = {}
        for target in group.targets:
            key = target.place
            found[key] = known.get(key) or self._found(place, group, port, target)
        eligible_ones = [found[each.place] for each in eligible(group, reached)]
        eligible_ones.sort(key=_order)
        hosts = {int(host.address) for host in tables.hosts_in(group.vpc_id)}
        return _Use(
            place=place,
            group=group,
            port=port,
            targets=tuple(each.endpoint for each in eligible_ones),
            hosts_only=all(each.order[0] in hosts for each in eligible_ones),
            ends=tuple(
                (found[each.place].endpoint, each.place if each.ending else None)
                for each in to_end(group, reached)
            ),
            checks=tuple(found[each.place].check for each in reached),
            named=named(group, reached),
            found=found,
        )

    def _found(self, place: _Place, group: TargetGroup, port: int, target: Target) -> _Found:
        address, check = address_of(self._tables, target), group.health_check
        text, node = str(address), str(place.node.address)
        return _Found(
            (int(address), target.port),
            (text, target.port),
            WantedCheck(
                group_id=group.id,
                target=target.place,
                node=node,
                address=text,
                port=check.port or target.port,
                protocol=check.protocol.value,
                path=check.path,
                codes=check.codes,
                host=f"{node}:{port}",
                interval_seconds=self._settings.scaled(check.interval_seconds),
                timeout_seconds=self._settings.scaled(check.timeout),
                healthy_count=check.healthy_count,
                unhealthy_count=check.unhealthy_count,
                proxy_protocol=group.attributes.proxy_protocol_v2,
            ),
        )


def _checked_by(group: TargetGroup) -> tuple[HealthCheck, bool]:
    return group.health_check, group.attributes.proxy_protocol_v2


def _order(found: _Found) -> tuple[int, int]:
    return found.order


def _listener(listener: Listener, transport: str, use: _Use) -> WantedListener:
    attributes = use.group.attributes
    return WantedListener(
        protocol=transport,
        port=listener.port,
        idle_seconds=listener.tcp_idle_seconds if transport == "tcp" else UDP_IDLE_SECONDS,
        sticky=attributes.stickiness,
        # Answers of what is no host do not come by the forwarder.
        preserve_client_ip=use.hosts_only and attributes.preserve_client_ip is True,
        proxy_protocol=attributes.proxy_protocol_v2,
        targets=use.targets,
    )


def _ends(listener: Listener, transport: str, use: _Use) -> Iterator[WantedEnd]:
    for endpoint, drained in use.ends:
        yield WantedEnd(
            protocol=transport,
            port=listener.port,
            target=endpoint,
            drained=None if drained is None else (use.group.id, drained),
        )
