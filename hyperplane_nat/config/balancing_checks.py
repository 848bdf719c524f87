# SPDX-License-Identifier: Apache-2.0
"""References between load balancers, target groups, hosts, subnets and security groups of a VPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hyperplane_nat.config.checks import places, repeated, unknown
from hyperplane_nat.config.resources import Vpc
from hyperplane_nat.config.values import FieldError

if TYPE_CHECKING:
    from hyperplane_nat.config.whole import Whole


def problems(config: Whole) -> Iterator[FieldError]:
    """What does not fit."""
    for number, vpc in enumerate(config.vpc):
        yield from _groups(vpc, f"vpc[{number}].target_group")
        yield from _balancers(vpc, f"vpc[{number}].load_balancer")


def _groups(vpc: Vpc, location: str) -> Iterator[FieldError]:
    yield from repeated(places(vpc.target_group, location), "target groups")
    hosts = [host.name for host in vpc.host]
    for number, group in enumerate(vpc.target_group):
        for place, target in enumerate(group.target):
            where = f"{location}[{number}].target[{place}]"
            if target.host is not None:
                yield from unknown(target.host, hosts, f"{where}.host", "host", vpc)


def _balancers(vpc: Vpc, location: str) -> Iterator[FieldError]:
    yield from repeated(places(vpc.load_balancer, location), "load balancers")
    subnets = {subnet.name: subnet.availability_zone for subnet in vpc.subnet}
    security_groups = [group.name for group in vpc.security_group]
    groups = [group.name for group in vpc.target_group]
    owners: dict[str, str] = {}
    for number, balancer in enumerate(vpc.load_balancer):
        where = f"{location}[{number}]"
        zones: dict[str, str] = {}
        for place, node in enumerate(balancer.node):
            at = f"{where}.node[{place}].subnet"
            yield from unknown(node.subnet, subnets, at, "subnet", vpc)
            zone = subnets.get(node.subnet)
            if zone is not None and zone in zones:
                yield FieldError(
                    at,
                    f"subnet {zones[zone]!r} is in availability zone {zone!r} as well",
                    "name one subnet in each zone",
                )
            zones.setdefault(zone or "", node.subnet)
        for place, name in enumerate(balancer.security_groups):
            at = f"{where}.security_groups[{place}]"
            yield from unknown(name, security_groups, at, "security group", vpc)
        ports = [listener.port for listener in balancer.listener]
        for place, listener in enumerate(balancer.listener):
            at = f"{where}.listener[{place}]"
            if listener.port in ports[:place]:
                yield FieldError(
                    f"{at}.port",
                    f"port {listener.port} has a listener before it",
                    "choose another port; TCP_UDP listens to both",
                )
            field = f"{at}.target_group"
            yield from unknown(listener.target_group, groups, field, "target group", vpc)
            owner = owners.setdefault(listener.target_group, balancer.name)
            if owner != balancer.name:
                yield FieldError(
                    field,
                    f"load balancer {owner!r} forwards to {listener.target_group!r}",
                    "make another group",
                )
