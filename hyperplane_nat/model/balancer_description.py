# SPDX-License-Identifier: Apache-2.0
"""Load balancers, listeners, target groups and the health of targets, in the field names of AWS's
Elastic Load Balancing API: see `description`.
"""

from __future__ import annotations

from typing import Any

from hyperplane_nat.model.balancer_entities import (
    Listener,
    LoadBalancer,
    LoadBalancerNode,
    Target,
    TargetGroup,
)
from hyperplane_nat.model.balancer_resources import CheckProtocol
from hyperplane_nat.model.changes import by_name
from hyperplane_nat.model.names import dns_name
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.tables import Tables
from hyperplane_nat.model.target_health import (
    Surroundings,
    address_of,
    balancer_of,
    health_of,
    zone_of_node,
)


def describe_load_balancers(region: Region) -> list[dict[str, Any]]:
    """All load balancers, by name."""
    return [load_balancer(region, each) for each in by_name(region.tables.load_balancers.values())]


def describe_listeners(region: Region) -> list[dict[str, Any]]:
    """All listeners, by load balancer and port."""
    tables = region.tables
    return [
        listener(region, each)
        for each in sorted(
            tables.listeners.values(),
            key=lambda each: (tables.load_balancers[each.load_balancer_id].name, each.port),
        )
    ]


def describe_target_groups(region: Region) -> list[dict[str, Any]]:
    """All target groups, by name."""
    return [target_group(region, each) for each in by_name(region.tables.target_groups.values())]


def describe_target_health(region: Region) -> list[dict[str, Any]]:
    """All targets, by group."""
    return [
        target
        for group in by_name(region.tables.target_groups.values())
        for target in _targets(region.tables, group)
    ]


def load_balancer(region: Region, balancer: LoadBalancer) -> dict[str, Any]:
    """As DescribeLoadBalancers and DescribeLoadBalancerAttributes have it."""
    tables = region.tables
    vpc = tables.vpcs[balancer.vpc_id]
    return {
        "LoadBalancerId": balancer.id,
        "LoadBalancerName": balancer.name,
        "DNSName": dns_name(balancer, region.settings.region),
        "Type": "network",
        "Scheme": balancer.scheme.value,
        "OwnerId": vpc.account_id,
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "State": balancer.state.value,
        "CreatedTime": balancer.created,
        "AvailabilityZones": [_node(tables, each) for each in balancer.nodes],
        "SecurityGroups": [
            {"GroupId": each, "GroupName": tables.groups[each].name} for each in balancer.group_ids
        ],
        "Attributes": {
            "load_balancing.cross_zone.enabled": _word(balancer.cross_zone),
            "secondary_ips.auto_assigned.per_subnet": str(balancer.secondary_addresses),
        },
        "Listeners": [listener(region, each) for each in tables.listeners_of(balancer.id)],
        "HealthCheckerNumber": tables.health_checkers[vpc.id].number,
        "Declared": balancer.declared,
    }


def _node(tables: Tables, node: LoadBalancerNode) -> dict[str, Any]:
    interface = tables.interfaces[node.interface_id]
    elastic = tables.elastic_addresses.get(node.allocation_id)
    return {
        "ZoneName": zone_of_node(tables, node),
        "SubnetId": node.subnet_id,
        "SubnetName": tables.subnets[node.subnet_id].name,
        "PrivateIPv4Address": str(node.address),
        "IpAddress": None if elastic is None else str(elastic.address),
        "AllocationId": None if elastic is None else elastic.id,
        "SecondaryAddresses": [str(address) for _, address in interface.secondary],
        "NetworkInterfaceId": node.interface_id,
    }


def listener(region: Region, item: Listener) -> dict[str, Any]:
    """As DescribeListeners and DescribeListenerAttributes have it."""
    tables = region.tables
    return {
        "ListenerId": item.id,
        "LoadBalancerId": item.load_balancer_id,
        "LoadBalancerName": tables.load_balancers[item.load_balancer_id].name,
        "Protocol": item.protocol.value,
        "Port": item.port,
        "TargetGroupId": item.target_group_id,
        "TargetGroupName": tables.target_groups[item.target_group_id].name,
        "Attributes": {"tcp.idle_timeout.seconds": f"{item.tcp_idle_seconds:g}"},
        "Declared": item.declared,
    }


def target_group(region: Region, group: TargetGroup) -> dict[str, Any]:
    """As DescribeTargetGroups, DescribeTargetGroupAttributes and DescribeTargetHealth have it."""
    tables, check, chosen = region.tables, group.health_check, group.attributes
    vpc, balancer = tables.vpcs[group.vpc_id], balancer_of(tables, group)
    spoken = check.protocol is not CheckProtocol.TCP
    return {
        "TargetGroupId": group.id,
        "TargetGroupName": group.name,
        "Protocol": group.protocol.value,
        "Port": group.port,
        "TargetType": group.type.value,
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "LoadBalancerName": None if balancer is None else balancer.name,
        "HealthCheckProtocol": check.protocol.value,
        "HealthCheckPort": "traffic-port" if check.port is None else str(check.port),
        "HealthCheckPath": check.path if spoken else None,
        "Matcher": check.codes if spoken else None,
        "HealthCheckIntervalSeconds": check.interval_seconds,
        "HealthCheckTimeoutSeconds": check.timeout,
        "HealthyThresholdCount": check.healthy_count,
        "UnhealthyThresholdCount": check.unhealthy_count,
        "Attributes": {
            "preserve_client_ip.enabled": _word(chosen.preserve_client_ip),
            "proxy_protocol_v2.enabled": _word(chosen.proxy_protocol_v2),
            "stickiness.enabled": _word(chosen.stickiness),
            "stickiness.type": "source_ip",
            "deregistration_delay.timeout_seconds": f"{chosen.deregistration_delay_seconds:g}",
            "deregistration_delay.connection_termination.enabled": _word(
                chosen.deregistration_terminates
            ),
            "target_health_state.unhealthy.connection_termination.enabled": _word(
                chosen.unhealthy_terminates
            ),
            "target_health_state.unhealthy.draining_interval_seconds": (
                f"{chosen.unhealthy_draining_seconds:g}"
            ),
            "target_group_health.unhealthy_state_routing.minimum_healthy_targets.count": str(
                chosen.minimum_healthy
            ),
            "target_group_health.dns_failover.minimum_healthy_targets.count": str(
                chosen.dns_minimum_healthy
            ),
            "load_balancing.cross_zone.enabled": (
                "use_load_balancer_configuration"
                if chosen.cross_zone is None
                else _word(chosen.cross_zone)
            ),
        },
        "Targets": _targets(tables, group),
        "Declared": group.declared,
    }


def _targets(tables: Tables, group: TargetGroup) -> list[dict[str, Any]]:
    around = Surroundings.of(tables, group.vpc_id)
    return [_target(tables, group, each, around) for each in group.targets]


def _target(
    tables: Tables, group: TargetGroup, target: Target, around: Surroundings
) -> dict[str, Any]:
    host, balancer = tables.hosts.get(target.id), balancer_of(tables, group)
    found, address = health_of(tables, group, target, around), address_of(tables, target)
    return {
        "TargetGroupName": group.name,
        "VpcName": tables.vpcs[group.vpc_id].name,
        "LoadBalancerName": None if balancer is None else balancer.name,
        "Id": target.id,
        "Port": target.port,
        "Address": str(address),
        "HostName": None if host is None else host.name,
        "AvailabilityZone": around.zone(address) or "all",
        "HealthCheckPort": str(group.health_check.port or target.port),
        "State": found.state,
        "Reason": found.reason or None,
        "Description": found.description or None,
    }


def _word(value: bool | None) -> str:
    return str(bool(value)).lower()
