# SPDX-License-Identifier: Apache-2.0
"""A VPC with two zones, three hosts and a load balancer, for tests to change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from hyperplane_nat.model.balancer_description import describe_target_health
from hyperplane_nat.model.balancer_entities import LoadBalancer, TargetGroup
from hyperplane_nat.model.balancer_resources import (
    BalancerProtocol,
    GroupAttributes,
    ListenerResource,
    LoadBalancerResource,
    NodeResource,
    TargetGroupResource,
    TargetResource,
    TargetType,
)
from hyperplane_nat.model.balancer_wanted import WantedListener, WantedNode
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.resources import HostResource, Resources, SubnetResource, VpcResource
from tests.model.support import Scene, address, lab, network, vpc

TCP, UDP, BOTH = BalancerProtocol.TCP, BalancerProtocol.UDP, BalancerProtocol.TCP_UDP
HOSTS = (("one", "a"), ("two", "a"), ("three", "b"))


def group(
    name: str = "web", protocol: BalancerProtocol = TCP, **fields: Any
) -> TargetGroupResource:
    given = {"targets": tuple(TargetResource(host=host) for host, _ in HOSTS), **fields}
    return TargetGroupResource(name, protocol, 80, **given)


def ips(*addresses: str, **fields: Any) -> TargetGroupResource:
    targets = tuple(TargetResource(address=address(each)) for each in addresses)
    return group(type=TargetType.IP, targets=targets, **fields)


def balancer(name: str = "front", **fields: Any) -> LoadBalancerResource:
    given = {
        "nodes": (NodeResource("a"), NodeResource("b")),
        "listeners": (ListenerResource(TCP, 80, "web"),),
        **fields,
    }
    return LoadBalancerResource(name, **given)


def place(
    *balancers: LoadBalancerResource, groups: Iterable[TargetGroupResource] = (), **fields: Any
) -> VpcResource:
    """The subnets are called as their zones."""
    return replace(
        vpc(),
        subnets=tuple(
            SubnetResource(zone, network(f"10.0.{number}.0/24"), zone)
            for number, zone in enumerate(("a", "b", "c"), 1)
        ),
        hosts=tuple(HostResource(name, subnet) for name, subnet in HOSTS),
        load_balancers=balancers,
        target_groups=tuple(groups),
        **fields,
    )


def declared(attributes: GroupAttributes | None = None, **fields: Any) -> Resources:
    """One load balancer with one group of all hosts; `fields` are those of the balancer."""
    made = group(attributes=attributes or GroupAttributes())
    return lab(vpcs=[place(balancer(**fields), groups=[made])])


def do(scene: Scene, command: str, *arguments: Any, **options: Any) -> Any:
    with scene.region.commands() as commands:
        work: Callable[..., Any] = getattr(Commands, command)
        return work(commands, *arguments, **options)


def active(scene: Scene) -> None:
    scene.pass_seconds(scene.settings.load_balancer_creation_seconds)


def the_balancer(scene: Scene) -> LoadBalancer:
    (found,) = scene.region.tables.load_balancers.values()
    return found


def the_group(scene: Scene, name: str = "web") -> TargetGroup:
    (found,) = (each for each in scene.region.tables.target_groups.values() if each.name == name)
    return found


def checked(scene: Scene, **found: str) -> None:
    """What checks find of hosts: nothing, or a reason."""
    targets = {
        each.place: found[scene.region.tables.hosts[each.id].name]
        for each in the_group(scene).targets
        if scene.region.tables.hosts[each.id].name in found
    }
    do(scene, "note_health", {the_group(scene).id: targets})


def health(scene: Scene) -> dict[str, tuple[str, str | None]]:
    """State and reason by host, or address."""
    return {
        row["HostName"] or row["Id"]: (row["State"], row["Reason"])
        for row in describe_target_health(scene.region)
    }


def nodes(scene: Scene) -> tuple[WantedNode, ...]:
    return scene.region.wanted().load_balancer_nodes


def targets(scene: Scene) -> list[list[str]]:
    """For new flows of the first listener, the hosts by node."""
    names = {str(host.address): host.name for host in scene.region.tables.hosts.values()}
    return [
        sorted(names.get(each, each) for each, _ in node.listeners[0].targets)
        for node in nodes(scene)
    ]


def ended(scene: Scene) -> list[list[str]]:
    names = {str(host.address): host.name for host in scene.region.tables.hosts.values()}
    return [sorted(names[each.target[0]] for each in node.ends) for node in nodes(scene)]


def listener(scene: Scene) -> WantedListener:
    return nodes(scene)[0].listeners[0]
