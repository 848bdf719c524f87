# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with load balancers, listeners and target groups by themselves.

Error names, texts and ranges: Elastic Load Balancing API, "Errors" of each operation, and
`TargetGroupAttribute`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

from hyperplane_nat.model.balancer_resources import (
    BalancerProtocol,
    GroupAttributes,
    HealthCheck,
    LoadBalancerResource,
    NodeResource,
    Scheme,
    TargetGroupResource,
    TargetResource,
    TargetType,
)
from hyperplane_nat.model.balancers import without_internet_gateway
from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.resources import VpcResource
from hyperplane_nat.model.route_checks import check_public_address
from hyperplane_nat.model.settings import LifecycleSettings

TARGET_NETWORKS = tuple(
    map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
)
"""Where ip targets may be outside their VPC (RFC 1918, RFC 6598)."""

SECONDARY_MAX = 7
"""`secondary_ips.auto_assigned.per_subnet`."""

_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?")
_CODES = re.compile(r"[2-5][0-9]{2}(-[2-5][0-9]{2})?(,[2-5][0-9]{2}(-[2-5][0-9]{2})?)*")
_PORTS = range(1, 65536)
_TCP_IDLE_SECONDS = (60, 6000)
_FORWARDS = {
    BalancerProtocol.TCP: {BalancerProtocol.TCP, BalancerProtocol.TCP_UDP},
    BalancerProtocol.UDP: {BalancerProtocol.UDP, BalancerProtocol.TCP_UDP},
    BalancerProtocol.TCP_UDP: {BalancerProtocol.TCP_UDP},
}
"""By a listener's protocol those of groups that it forwards to ("Listeners", "Listener rules")."""


def check_balancing(vpc: VpcResource, settings: LifecycleSettings) -> None:
    """The target groups and load balancers of a VPC."""
    _unique(vpc, "target-group", [each.name for each in vpc.target_groups])
    _unique(vpc, "load-balancer", [each.name for each in vpc.load_balancers])
    groups = {each.name: each for each in vpc.target_groups}
    hosts = {each.name for each in vpc.hosts}
    for group in vpc.target_groups:
        try:
            _check_group(vpc, group, hosts, settings)
        except ModelError as error:
            raise error.at(entry_of("target-group", f"{vpc.name}/{group.name}")) from None
    owners: dict[str, str] = {}
    for balancer in vpc.load_balancers:
        try:
            _check_balancer(vpc, balancer, groups, owners, settings)
        except ModelError as error:
            raise error.at(entry_of("load-balancer", f"{vpc.name}/{balancer.name}")) from None


def _check_group(
    vpc: VpcResource, group: TargetGroupResource, hosts: set[str], settings: LifecycleSettings
) -> None:
    check_group(group)
    check_target_count(group.name, len(group.targets), settings)
    seen = set()
    for target in group.targets:
        check_target(vpc.cidr, group.type, target)
        if target.host is not None and target.host not in hosts:
            raise no_target(target.host, vpc.name)
        place = (target.host or target.address, target.port or group.port)
        if place in seen:
            raise _invalid(f"target {place[0]}:{place[1]} is registered twice", "name it once")
        seen.add(place)


def _check_balancer(
    vpc: VpcResource,
    balancer: LoadBalancerResource,
    groups: dict[str, TargetGroupResource],
    owners: dict[str, str],
    settings: LifecycleSettings,
) -> None:
    check_name("load balancer", balancer.name)
    subnets = {each.name: each for each in vpc.subnets}
    for node in balancer.nodes:
        if node.subnet not in subnets:
            raise no_subnet(node.subnet)
        check_node_address(subnets[node.subnet].cidr, node.address)
        check_public_node(balancer.scheme, node)
    if balancer.scheme is Scheme.INTERNET_FACING and not vpc.internet_gateway:
        raise without_internet_gateway(vpc.name)
    check_zones([subnets[node.subnet].availability_zone for node in balancer.nodes])
    check_secondary(balancer.secondary_addresses)
    known = {each.name for each in vpc.security_groups}
    for name in balancer.security_groups:
        if name not in known:
            raise no_security_group(name)
    check_listener_count(balancer.name, len(balancer.listeners), settings)
    ports = [each.port for each in balancer.listeners]
    for listener in balancer.listeners:
        if ports.count(listener.port) > 1:
            raise duplicate_listener(listener.port)
        group = groups.get(listener.target_group)
        if group is None:
            raise no_group(listener.target_group)
        check_listener(listener.protocol, listener.port, listener.tcp_idle_seconds, group.protocol)
        if owners.setdefault(group.name, balancer.name) != balancer.name:
            raise association_limit(group.name, owners[group.name])


# -- what commands look at, too


def check_name(what: str, name: str) -> None:
    """A name that AWS takes. ValidationError."""
    if not _NAME.fullmatch(name) or (what == "load balancer" and name.startswith("internal-")):
        raise ModelError(
            "ValidationError",
            f"The {what} name '{name}' is not valid",
            "use 1 to 32 letters, digits and hyphens, none of these at an end, and not internal-",
        )


def check_zones(zones: Sequence[str]) -> None:
    """Nodes are in zones of their own. InvalidConfigurationRequest, ValidationError."""
    if not zones:
        raise ModelError("ValidationError", "At least one subnet must be specified", "name one")
    if len(set(zones)) < len(zones):
        raise _invalid(
            "A load balancer cannot be attached to multiple subnets in the same Availability Zone",
            "name one subnet in each zone",
        )


def check_node_address(subnet: IPv4Network, address: IPv4Address | None) -> None:
    """An address that a node can have. InvalidConfigurationRequest."""
    if address is None:
        return
    offset = int(address) - int(subnet.network_address)
    if not 4 <= offset < subnet.num_addresses - 1:
        raise _invalid(
            f"The private IPv4 address {address} is not one of the subnet's, {subnet}",
            "choose another one: the first four and the last one are reserved",
        )


def check_public_node(scheme: Scheme, node: NodeResource) -> None:
    """The addresses that are chosen of a node, private or public as its scheme has it.
    InvalidConfigurationRequest, InvalidParameterValue.
    """
    if scheme is Scheme.INTERNET_FACING:
        if node.address is not None:
            raise _invalid(
                f"The private IPv4 address {node.address} is chosen of an internet-facing load "
                "balancer",
                "leave it out: only those of an internal one can be chosen",
            )
        if node.elastic_address is not None:
            check_public_address(f"subnet {node.subnet}", node.elastic_address)
    elif node.elastic_address is not None or node.allocation is not None:
        raise _invalid(
            f"The node in {node.subnet} has an elastic address, and its load balancer is internal",
            'leave it out, or use the scheme "internet-facing"',
        )


def check_secondary(count: int) -> None:
    """`secondary_ips.auto_assigned.per_subnet`. InvalidConfigurationRequest."""
    if not 0 <= count <= SECONDARY_MAX:
        raise _invalid(f"{count} secondary addresses of a node", f"choose 0 to {SECONDARY_MAX}")


def check_listener(
    protocol: BalancerProtocol, port: int, idle_seconds: float, group: BalancerProtocol
) -> None:
    """A listener and the protocol of its group. IncompatibleProtocols, InvalidConfigurationRequest,
    ValidationError.
    """
    if port not in _PORTS:
        raise ModelError("ValidationError", f"Port {port} does not exist", "choose 1 to 65535")
    if group not in _FORWARDS[protocol]:
        known = " or ".join(sorted(each.value for each in _FORWARDS[protocol]))
        raise ModelError(
            "IncompatibleProtocols",
            f"The specified configuration is not valid with this protocol: a {protocol.value} "
            f"listener cannot forward to a {group.value} target group",
            f"use a group of {known}",
        )
    first, last = _TCP_IDLE_SECONDS
    if not first <= idle_seconds <= last:
        raise _invalid(f"tcp.idle_timeout.seconds is {idle_seconds:g}", f"choose {first} to {last}")


def check_group(group: TargetGroupResource) -> None:
    """A target group without its targets. InvalidConfigurationRequest, ValidationError."""
    check_name("target group", group.name)
    if group.port not in _PORTS:
        raise ModelError(
            "ValidationError", f"Port {group.port} does not exist", "choose 1 to 65535"
        )
    _check_health(group.health_check)
    resolved(group.attributes, group.protocol, group.type)


def _check_health(check: HealthCheck) -> None:
    ranges: tuple[tuple[str, float, int, int], ...] = (
        ("HealthCheckIntervalSeconds", check.interval_seconds, 5, 300),
        ("HealthCheckTimeoutSeconds", check.timeout, 2, 120),
        ("HealthyThresholdCount", check.healthy_count, 2, 10),
        ("UnhealthyThresholdCount", check.unhealthy_count, 2, 10),
        ("HealthCheckPort", check.port or 1, 1, 65535),
    )
    for name, value, first, last in ranges:
        if not first <= value <= last:
            raise ModelError("ValidationError", f"{name} is {value:g}", f"choose {first} to {last}")
    if check.timeout > check.interval_seconds:
        raise ModelError(
            "ValidationError",
            f"Health check timeout, {check.timeout:g} seconds, is more than the interval",
            "choose a shorter one",
        )
    if not _CODES.fullmatch(check.codes):
        raise ModelError(
            "ValidationError", f"Matcher {check.codes!r} is not one", 'write it like "200-399"'
        )
    if not check.path.startswith("/") or not check.path.isascii() or not check.path.isprintable():
        raise ModelError(
            "ValidationError", f"Health check path {check.path!r} is not one", "begin with a slash"
        )


def resolved(
    attributes: GroupAttributes, protocol: BalancerProtocol, kind: TargetType
) -> GroupAttributes:
    """Attributes with AWS's defaults where they say nothing. InvalidConfigurationRequest."""
    datagrams = "udp" in protocol.transports
    chosen = replace(
        attributes,
        preserve_client_ip=_or(
            attributes.preserve_client_ip, datagrams or kind is TargetType.INSTANCE
        ),
        deregistration_terminates=_or(attributes.deregistration_terminates, datagrams),
        unhealthy_terminates=_or(attributes.unhealthy_terminates, not datagrams),
    )
    if datagrams and not chosen.preserve_client_ip:
        raise _invalid(
            f"preserve_client_ip.enabled cannot be false for {protocol.value}", "leave it out"
        )
    if datagrams and chosen.proxy_protocol_v2:
        raise _invalid(
            f"proxy_protocol_v2.enabled cannot be true for {protocol.value}", "leave it out"
        )
    if datagrams and chosen.unhealthy_terminates:
        raise _invalid(
            "target_health_state.unhealthy.connection_termination.enabled cannot be true for "
            f"{protocol.value}",
            "leave it out",
        )
    if chosen.unhealthy_draining_seconds and chosen.unhealthy_terminates:
        raise _invalid(
            "target_health_state.unhealthy.draining_interval_seconds is given, and connections "
            "to unhealthy targets are terminated",
            "leave one of them out",
        )
    for name, value, last in (
        ("deregistration_delay.timeout_seconds", chosen.deregistration_delay_seconds, 3600),
        (
            "target_health_state.unhealthy.draining_interval_seconds",
            chosen.unhealthy_draining_seconds,
            360_000,
        ),
    ):
        if not 0 <= value <= last:
            raise _invalid(f"{name} is {value:g}", f"choose 0 to {last}")
    for name, count in (
        ("unhealthy_state_routing", chosen.minimum_healthy),
        ("dns_failover", chosen.dns_minimum_healthy),
    ):
        if count < 1:
            raise _invalid(
                f"target_group_health.{name}.minimum_healthy_targets.count is {count}",
                "choose 1 or more",
            )
    return chosen


def _or(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def check_target(vpc: IPv4Network, kind: TargetType, target: TargetResource) -> None:
    """A target fits its group's type, and where it may be. InvalidTarget."""
    if (target.host is None) == (target.address is None):
        raise invalid_target("a target has a host, or an address", "give one of them")
    if (kind is TargetType.INSTANCE) != (target.host is not None):
        raise invalid_target(
            f"target {target.host or target.address} is not of type {kind.value}",
            "register hosts with instance groups, addresses with ip groups",
        )
    if target.port is not None and target.port not in _PORTS:
        raise invalid_target(f"port {target.port} does not exist", "choose 1 to 65535")
    address = target.address
    if address is None or address in vpc:
        return
    if not any(address in network for network in TARGET_NETWORKS):
        raise invalid_target(
            f"The IP address '{address}' is not within the VPC, nor one of "
            + ", ".join(map(str, TARGET_NETWORKS)),
            "choose another one",
        )


def check_target_count(group: str, count: int, settings: LifecycleSettings) -> None:
    """TooManyTargets."""
    if count > settings.targets_per_group:
        raise ModelError(
            "TooManyTargets",
            f"You've reached the limit on the number of targets: {count} of target group {group}",
            f"register {settings.targets_per_group}, or raise lifecycle.targets_per_group",
        )


def check_listener_count(balancer: str, count: int, settings: LifecycleSettings) -> None:
    """TooManyListeners."""
    if count > settings.listeners_per_load_balancer:
        raise ModelError(
            "TooManyListeners",
            "You've reached the limit on the number of listeners per load balancer: "
            f"{count} of {balancer}",
            f"make {settings.listeners_per_load_balancer}, or raise "
            "lifecycle.listeners_per_load_balancer",
        )


# -- refusals


def invalid_target(message: str, remedy: str) -> ModelError:
    """A target that cannot be registered."""
    return ModelError("InvalidTarget", message, remedy)


def no_target(host: str, vpc: str) -> ModelError:
    """A host that is not there."""
    return invalid_target(
        f"The specified target does not exist, or is not in the same VPC as the target group: "
        f"{host!r} in {vpc}",
        "name a host of the VPC",
    )


def used_by_balancer(address: IPv4Address) -> ModelError:
    """A load balancer as a target, its own included, or an endpoint."""
    return invalid_target(
        f"The IP address '{address}' is reserved for use by a load balancer or an endpoint "
        "(Target.IpUnusable)",
        "register what is behind it",
    )


def no_group(named: str) -> ModelError:
    """A target group that is not there."""
    return ModelError(
        "TargetGroupNotFound", f"One or more target groups not found: '{named}'", "name another"
    )


def no_subnet(named: str) -> ModelError:
    """A subnet that is not there."""
    return ModelError("SubnetNotFound", f"The subnet ID '{named}' is not valid", "name another")


def no_security_group(named: str) -> ModelError:
    """A security group that is not there."""
    return ModelError(
        "InvalidSecurityGroup", f"The security group '{named}' does not exist", "name another"
    )


def duplicate_listener(port: int) -> ModelError:
    """A port that has a listener."""
    return ModelError(
        "DuplicateListener",
        f"A listener already exists on this port for this load balancer: {port}",
        "choose another port; TCP_UDP listens to both",
    )


def association_limit(group: str, balancer: str) -> ModelError:
    """A group that another load balancer forwards to."""
    return ModelError(
        "TargetGroupAssociationLimit",
        f"The target group {group} is used by load balancer {balancer}, and can be by no other",
        "make another group",
    )


def _invalid(message: str, remedy: str) -> ModelError:
    return ModelError("InvalidConfigurationRequest", message, remedy)


def _unique(vpc: VpcResource, kind: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            code = {"target-group": "DuplicateTargetGroupName"}.get(
                kind, "DuplicateLoadBalancerName"
            )
            raise ModelError(
                code,
                f"{names.count(name)} of VPC {vpc.name} are called {name}",
                "rename all but one",
                entry_of(kind, f"{vpc.name}/{name}"),
            )
