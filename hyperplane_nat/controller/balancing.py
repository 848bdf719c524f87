# SPDX-License-Identifier: Apache-2.0
"""From the configuration of load balancers to what the model is asked for: see `resources`."""

from __future__ import annotations

from ipaddress import IPv4Address

from hyperplane_nat.config.balancing import HealthCheck, LoadBalancer, Target, TargetGroup
from hyperplane_nat.model import balancer_resources as resources
from hyperplane_nat.model.balancer_resources import (
    BalancerProtocol,
    CheckProtocol,
    GroupAttributes,
    ListenerResource,
    LoadBalancerResource,
    NodeResource,
    Scheme,
    TargetGroupResource,
    TargetResource,
    TargetType,
)


def target_group_of(group: TargetGroup) -> TargetGroupResource:
    """A target group with its targets."""
    return TargetGroupResource(
        name=group.name,
        protocol=BalancerProtocol(group.protocol),
        port=group.port,
        type=TargetType(group.type),
        health_check=health_check_of(group.health_check),
        attributes=attributes_of(group),
        targets=tuple(map(target_of, group.target)),
    )


def attributes_of(group: TargetGroup) -> GroupAttributes:
    """The attributes among its fields."""
    return GroupAttributes(
        preserve_client_ip=group.preserve_client_ip,
        proxy_protocol_v2=group.proxy_protocol_v2,
        stickiness=group.stickiness,
        deregistration_delay_seconds=group.deregistration_delay_seconds,
        deregistration_terminates=group.deregistration_terminates,
        unhealthy_terminates=group.unhealthy_terminates,
        unhealthy_draining_seconds=group.unhealthy_draining_seconds,
        minimum_healthy=group.minimum_healthy,
        dns_minimum_healthy=group.dns_minimum_healthy,
        cross_zone=group.cross_zone,
    )


def health_check_of(check: HealthCheck) -> resources.HealthCheck:
    """How targets are checked."""
    return resources.HealthCheck(
        protocol=CheckProtocol(check.protocol),
        port=check.port,
        path=check.path,
        codes=check.codes,
        interval_seconds=check.interval_seconds,
        timeout_seconds=check.timeout_seconds,
        healthy_count=check.healthy_count,
        unhealthy_count=check.unhealthy_count,
    )


def target_of(target: Target) -> TargetResource:
    """A target."""
    return TargetResource(target.host, _address(target.address), target.port)


def load_balancer_of(balancer: LoadBalancer) -> LoadBalancerResource:
    """A load balancer with its listeners."""
    return LoadBalancerResource(
        name=balancer.name,
        nodes=tuple(
            NodeResource(each.subnet, _address(each.address), _address(each.elastic_address))
            for each in balancer.node
        ),
        security_groups=tuple(balancer.security_groups),
        cross_zone=balancer.cross_zone,
        secondary_addresses=balancer.secondary_addresses,
        listeners=tuple(
            ListenerResource(
                BalancerProtocol(each.protocol),
                each.port,
                each.target_group,
                each.tcp_idle_seconds,
            )
            for each in balancer.listener
        ),
        scheme=Scheme(balancer.scheme),
    )


def _address(text: str | None) -> IPv4Address | None:
    return None if text is None else IPv4Address(text)
