# SPDX-License-Identifier: Apache-2.0
"""What load balancers ask of the world: nodes for the forwarder, health checks: see `wanted`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hyperplane_nat.model.balancer_entities import (
    Listener,
    LoadBalancer,
    LoadBalancerNode,
    Target,
    TargetGroup,
)
from hyperplane_nat.model.security_group import Compiler, HostPolicy
from hyperplane_nat.model.settings import LifecycleSettings
from hyperplane_nat.model.states import LoadBalancerState
from hyperplane_nat.model.tables import Tables
from hyperplane_nat.model.target_health import (
    Surroundings,
    address_of,
    eligible,
    in_reach,
    to_end,
)

UDP_IDLE_SECONDS = 120
"""Of a UDP flow ("Network Load Balancers", "Connection idle timeout")."""

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


def nodes_of(
    tables: Tables, compiler: Compiler, settings: LifecycleSettings
) -> tuple[WantedNode, ...]:
    """The nodes of all active load balancers."""
    around = {
        vpc_id: Surroundings.of(tables, vpc_id)
        for vpc_id in {each.vpc_id for each in tables.load_balancers.values()}
    }
    return tuple(
        _node(tables, compiler, settings, around[balancer.vpc_id], balancer, node)
        for balancer in tables.load_balancers.values()
        if balancer.state is LoadBalancerState.ACTIVE
        for node in balancer.nodes
    )


def _node(
    tables: Tables,
    compiler: Compiler,
    settings: LifecycleSettings,
    around: Surroundings,
    balancer: LoadBalancer,
    node: LoadBalancerNode,
) -> WantedNode:
    interface, vpc = tables.interfaces[node.interface_id], tables.vpcs[balancer.vpc_id]
    router = tables.router_interface(vpc.id)
    assert router is not None
    listeners: list[WantedListener] = []
    ends: list[WantedEnd] = []
    checks: dict[tuple[str, tuple[str, int]], WantedCheck] = {}
    for listener in tables.listeners_of(balancer.id):
        group = tables.target_groups[listener.target_group_id]
        reached = in_reach(tables, group, balancer, node, around)
        for transport in listener.protocol.transports:
            targets = eligible(group, reached)
            listeners.append(_listener(tables, listener, group, transport, targets))
            ends += _ends(tables, listener, group, transport, to_end(group, reached))
        for target in reached:
            # A group behind two listeners is checked once.
            checks.setdefault(
                (group.id, target.place), _check(tables, settings, listener, group, node, target)
            )
    return WantedNode(
        number=interface.number,
        name=interface.link,
        address=str(interface.address),
        vpc=vpc.name,
        vpc_number=vpc.number,
        interface=router.number,
        link=router.link,
        secondary=tuple((number, str(address)) for number, address in interface.secondary),
        policy=compiler.node_policy(interface),
        listeners=tuple(listeners),
        ends=tuple(ends),
        checks=tuple(checks.values()),
    )


def _listener(
    tables: Tables, listener: Listener, group: TargetGroup, transport: str, targets: list[Target]
) -> WantedListener:
    endpoints = sorted((address_of(tables, each), each.port) for each in targets)
    hosts = {host.address for host in tables.hosts_in(group.vpc_id)}
    # Answers of what is no host do not come by the forwarder.
    preserved = all(address in hosts for address, _ in endpoints)
    return WantedListener(
        protocol=transport,
        port=listener.port,
        idle_seconds=listener.tcp_idle_seconds if transport == "tcp" else UDP_IDLE_SECONDS,
        sticky=group.attributes.stickiness,
        preserve_client_ip=preserved and group.attributes.preserve_client_ip is True,
        proxy_protocol=group.attributes.proxy_protocol_v2,
        targets=tuple((str(address), port) for address, port in endpoints),
    )


def _ends(
    tables: Tables, listener: Listener, group: TargetGroup, transport: str, targets: list[Target]
) -> Iterator[WantedEnd]:
    for target in targets:
        yield WantedEnd(
            protocol=transport,
            port=listener.port,
            target=(str(address_of(tables, target)), target.port),
            drained=(group.id, target.place) if target.ending else None,
        )


def _check(
    tables: Tables,
    settings: LifecycleSettings,
    listener: Listener,
    group: TargetGroup,
    node: LoadBalancerNode,
    target: Target,
) -> WantedCheck:
    check = group.health_check
    return WantedCheck(
        group_id=group.id,
        target=target.place,
        node=str(node.address),
        address=str(address_of(tables, target)),
        port=check.port or target.port,
        protocol=check.protocol.value,
        path=check.path,
        codes=check.codes,
        host=f"{node.address}:{listener.port}",
        interval_seconds=settings.scaled(check.interval_seconds),
        timeout_seconds=settings.scaled(check.timeout),
        healthy_count=check.healthy_count,
        unhealthy_count=check.unhealthy_count,
        proxy_protocol=group.attributes.proxy_protocol_v2,
    )
