# SPDX-License-Identifier: Apache-2.0
"""Load balancers, listeners and target groups through the control API: see `commands`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, Literal

from pydantic import Field

from hyperplane_nat.config.balancing import Protocol
from hyperplane_nat.config.values import Address, Port
from hyperplane_nat.controller.api import balancer_descriptions as descriptions
from hyperplane_nat.controller.api.command import (
    Command,
    CommandRequest,
    Listing,
    Named,
    delete_command,
)
from hyperplane_nat.controller.api.requests import Request
from hyperplane_nat.model import balancer_description as description
from hyperplane_nat.model.balancer_resources import (
    TCP_IDLE_SECONDS,
    BalancerProtocol,
    CheckProtocol,
    GroupAttributes,
    HealthCheck,
    NodeResource,
    Scheme,
    TargetGroupResource,
    TargetResource,
    TargetType,
)
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.entities import Resource


class NodeRequest(Request):
    """A node (Elastic Load Balancing API, SubnetMapping)."""

    subnet: Named
    address: Address | None = Field(default=None, description="A free one if left out.")


class BalancerNodeRequest(NodeRequest):
    """A node of a load balancer, which may face the internet."""

    allocation: Named | None = Field(
        default=None,
        description="Its public address, by allocation id or as it is; one of its own if left out. "
        "Of an internet-facing load balancer.",
    )


class CreateLoadBalancer(CommandRequest):
    """
    POST /v1/load-balancers (Elastic Load Balancing API, CreateLoadBalancer of type `network`). Sent
    again, it is the one that there is.
    """

    vpc: Named
    name: Named = Field(description="1 to 32 letters, digits and hyphens.")
    nodes: list[BalancerNodeRequest] = Field(description="One in each availability zone.")
    scheme: Literal["internal", "internet-facing"] = "internal"
    security_groups: list[Named] = Field(
        default_factory=list, description="Only who has one from the beginning can have any."
    )
    cross_zone: bool = False
    secondary_addresses: int = Field(
        default=0, description="Further addresses of each node, 7 at most."
    )


class ModifyLoadBalancer(CommandRequest):
    """
    PATCH /v1/load-balancers/{name} (Elastic Load Balancing API, SetSubnets, SetSecurityGroups,
    ModifyLoadBalancerAttributes): what is left out stays.
    """

    nodes: list[BalancerNodeRequest] | None = None
    security_groups: list[Named] | None = None
    cross_zone: bool | None = None
    secondary_addresses: int | None = Field(default=None, description="Not fewer than there are.")


class CreateListener(CommandRequest):
    """
    POST /v1/listeners (Elastic Load Balancing API, CreateListener with one action, `forward`). Sent
    again, it is the one that there is.
    """

    load_balancer: Named
    protocol: Protocol = "TCP"
    port: Port
    target_group: Named
    tcp_idle_seconds: float = Field(default=TCP_IDLE_SECONDS, description="60 to 6000.")


class ModifyListener(CommandRequest):
    """
    PATCH /v1/listeners/{name} (Elastic Load Balancing API, ModifyListener,
    ModifyListenerAttributes), by id or LOAD-BALANCER:PORT: what is left out stays.
    """

    protocol: Protocol | None = None
    port: Port | None = None
    target_group: Named | None = None
    tcp_idle_seconds: float | None = None


class HealthCheckRequest(Request):
    """How targets are checked; the fields of a file."""

    protocol: Literal["TCP", "HTTP", "HTTPS"] = "TCP"
    port: Port | None = Field(default=None, description="That of each target if left out.")
    path: str = Field(default="/", max_length=1024)
    codes: str = Field(default="200-399", max_length=256)
    interval_seconds: float = 30
    timeout_seconds: float | None = None
    healthy_count: int = 5
    unhealthy_count: int = 2

    @property
    def meant(self) -> HealthCheck:
        """What it means to the model."""
        fields = self.model_dump()
        return HealthCheck(**{**fields, "protocol": CheckProtocol(self.protocol)})


class AttributesRequest(Request):
    """Attributes of a target group; the fields of a file."""

    preserve_client_ip: bool | None = None
    proxy_protocol_v2: bool | None = None
    stickiness: bool | None = None
    deregistration_delay_seconds: float | None = None
    deregistration_terminates: bool | None = None
    unhealthy_terminates: bool | None = None
    unhealthy_draining_seconds: float | None = None
    minimum_healthy: int | None = None
    dns_minimum_healthy: int | None = None
    cross_zone: bool | Literal["use_load_balancer_configuration"] | None = None

    def changed(self, before: GroupAttributes) -> GroupAttributes:
        """Those of a group, where something is said."""
        said = {name: value for name, value in self.model_dump().items() if value is not None}
        if said.get("cross_zone") == "use_load_balancer_configuration":
            said["cross_zone"] = None
        return replace(before, **said)


class TargetRequest(Request):
    """A target (Elastic Load Balancing API, TargetDescription)."""

    host: Named | None = Field(default=None, description="Of a group of type `instance`.")
    address: Address | None = Field(default=None, description="Of a group of type `ip`.")
    port: Port | None = Field(default=None, description="That of the group if left out.")

    @property
    def meant(self) -> TargetResource:
        """What it means to the model."""
        address = None if self.address is None else IPv4Address(self.address)
        return TargetResource(self.host, address, self.port)


class CreateTargetGroup(CommandRequest):
    """
    POST /v1/target-groups (Elastic Load Balancing API, CreateTargetGroup, RegisterTargets). Sent
    again, it is the one that there is.
    """

    vpc: Named
    name: Named = Field(description="1 to 32 letters, digits and hyphens.")
    protocol: Protocol = "TCP"
    port: Port
    type: Literal["instance", "ip"] = "instance"
    health_check: HealthCheckRequest = Field(default_factory=HealthCheckRequest)
    attributes: AttributesRequest = Field(default_factory=AttributesRequest)
    targets: list[TargetRequest] = Field(default_factory=list)


class ModifyTargetGroup(CommandRequest):
    """
    PATCH /v1/target-groups/{name} (Elastic Load Balancing API, ModifyTargetGroup,
    ModifyTargetGroupAttributes, DeregisterTargets, RegisterTargets): in this order, all of it or
    nothing.
    """

    health_check: HealthCheckRequest | None = Field(default=None, description="All of it.")
    attributes: AttributesRequest | None = Field(
        default=None, description="What is left out of them stays."
    )
    deregister_targets: list[TargetRequest] = Field(default_factory=list)
    register_targets: list[TargetRequest] = Field(default_factory=list)


def nodes_of(asked: Iterable[NodeRequest]) -> list[NodeResource]:
    """What they mean to the model."""
    return [
        NodeResource(
            each.subnet,
            None if each.address is None else IPv4Address(each.address),
            allocation=each.allocation if isinstance(each, BalancerNodeRequest) else None,
        )
        for each in asked
    ]


def _create_load_balancer(commands: Commands, _name: str, asked: CreateLoadBalancer) -> Resource:
    return commands.create_load_balancer(
        asked.vpc,
        asked.name,
        nodes_of(asked.nodes),
        security_groups=asked.security_groups,
        cross_zone=asked.cross_zone,
        secondary_addresses=asked.secondary_addresses,
        scheme=Scheme(asked.scheme),
    )


def _modify_load_balancer(commands: Commands, name: str, asked: ModifyLoadBalancer) -> Resource:
    return commands.modify_load_balancer(
        name,
        nodes=None if asked.nodes is None else nodes_of(asked.nodes),
        security_groups=asked.security_groups,
        cross_zone=asked.cross_zone,
        secondary_addresses=asked.secondary_addresses,
    )


def _create_listener(commands: Commands, _name: str, asked: CreateListener) -> Resource:
    return commands.create_listener(
        asked.load_balancer,
        BalancerProtocol(asked.protocol),
        asked.port,
        asked.target_group,
        asked.tcp_idle_seconds,
    )


def _modify_listener(commands: Commands, name: str, asked: ModifyListener) -> Resource:
    return commands.modify_listener(
        name,
        protocol=None if asked.protocol is None else BalancerProtocol(asked.protocol),
        port=asked.port,
        target_group=asked.target_group,
        tcp_idle_seconds=asked.tcp_idle_seconds,
    )


def _create_target_group(commands: Commands, _name: str, asked: CreateTargetGroup) -> Resource:
    wanted = TargetGroupResource(
        name=asked.name,
        protocol=BalancerProtocol(asked.protocol),
        port=asked.port,
        type=TargetType(asked.type),
        health_check=asked.health_check.meant,
        attributes=asked.attributes.changed(GroupAttributes()),
    )
    group = commands.create_target_group(asked.vpc, wanted)
    return commands.register_targets(group.id, [each.meant for each in asked.targets])


def _modify_target_group(commands: Commands, name: str, asked: ModifyTargetGroup) -> Resource:
    group = commands.target_group(name)
    attributes = None
    if asked.attributes is not None:
        attributes = asked.attributes.changed(group.attributes)
    check = None if asked.health_check is None else asked.health_check.meant
    commands.modify_target_group(group.id, check, attributes)
    commands.deregister_targets(group.id, [each.meant for each in asked.deregister_targets])
    return commands.register_targets(group.id, [each.meant for each in asked.register_targets])


BALANCER_COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "post",
        "/v1/load-balancers",
        "Create a load balancer",
        CreateLoadBalancer,
        descriptions.LoadBalancerDescription,
        _create_load_balancer,
    ),
    Command(
        "patch",
        "/v1/load-balancers/{name}",
        "Change nodes, security groups and attributes of a load balancer",
        ModifyLoadBalancer,
        descriptions.LoadBalancerDescription,
        _modify_load_balancer,
    ),
    delete_command(
        "/v1/load-balancers", "a load balancer with its listeners", Commands.delete_load_balancer
    ),
    Command(
        "post",
        "/v1/listeners",
        "Create a listener",
        CreateListener,
        descriptions.ListenerDescription,
        _create_listener,
    ),
    Command(
        "patch",
        "/v1/listeners/{name}",
        "Change a listener",
        ModifyListener,
        descriptions.ListenerDescription,
        _modify_listener,
    ),
    delete_command("/v1/listeners", "a listener", Commands.delete_listener),
    Command(
        "post",
        "/v1/target-groups",
        "Create a target group",
        CreateTargetGroup,
        descriptions.TargetGroupDescription,
        _create_target_group,
    ),
    Command(
        "patch",
        "/v1/target-groups/{name}",
        "Change a target group, register and deregister targets",
        ModifyTargetGroup,
        descriptions.TargetGroupDescription,
        _modify_target_group,
    ),
    delete_command("/v1/target-groups", "a target group", Commands.delete_target_group),
)

BALANCER_LISTS = (
    Listing(
        "/v1/load-balancers",
        "Load balancers",
        description.describe_load_balancers,
        descriptions.LoadBalancerDescription,
    ),
    Listing(
        "/v1/listeners",
        "Listeners",
        description.describe_listeners,
        descriptions.ListenerDescription,
    ),
    Listing(
        "/v1/target-groups",
        "Target groups",
        description.describe_target_groups,
        descriptions.TargetGroupDescription,
    ),
    Listing(
        "/v1/target-health",
        "Targets and their health",
        description.describe_target_health,
        descriptions.TargetDescription,
    ),
)
