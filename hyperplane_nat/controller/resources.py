# SPDX-License-Identifier: Apache-2.0
"""From the configuration to what the model is asked for. Functions that read nothing but code.

Here everything that a configuration leaves to be understood is said: the account of a VPC, the
account and VPC of a function, the VPC of a network interface, all ports of a rule without ports.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from hyperplane_nat import runtime
from hyperplane_nat.config.functions import Function
from hyperplane_nat.config.lab import Config
from hyperplane_nat.config.network_acls import AclRule, NetworkAcl
from hyperplane_nat.config.resources import (
    Host,
    InternetHost,
    Rule,
    SecurityGroup,
    Service,
    Vpc,
)
from hyperplane_nat.config.routing import NatGateway, RouteTable
from hyperplane_nat.config.sections import NetworkInterface
from hyperplane_nat.controller.balancing import load_balancer_of, target_group_of
from hyperplane_nat.controller.private_link import (
    endpoint_of,
    endpoint_service_of,
    gateway_endpoint_of,
)
from hyperplane_nat.model.network_acl_entities import ANY, PROTOCOLS, NetworkAclEntry
from hyperplane_nat.model.resources import (
    AccountResource,
    AliasResource,
    Code,
    FunctionResource,
    HostResource,
    InterfaceResource,
    Layer,
    NatGatewayResource,
    NetworkAclResource,
    Networking,
    Protocol,
    Resources,
    RouteResource,
    RouteTableResource,
    RuleResource,
    SecurityGroupResource,
    ServiceResource,
    SubnetResource,
    VpcResource,
)
from hyperplane_nat.model.settings import LifecycleSettings


def resources_of(config: Config) -> Resources:
    """What a region is to hold, by names."""
    return Resources(
        accounts=tuple(AccountResource(account.name, account.id) for account in config.account),
        vpcs=tuple(_vpc(config, vpc) for vpc in config.vpc),
        internet=tuple(_server(host) for host in config.internet),
        functions=tuple(_function(config, function) for function in config.function),
        interfaces=tuple(_interface(config, interface) for interface in config.network_interface),
        environments=config.lab.environments,
    )


def lifecycle_of(config: Config) -> LifecycleSettings:
    """Durations, in seconds before they are scaled, and quotas, and what Lambda carries."""
    return LifecycleSettings(
        **config.lifecycle.model_dump(),
        blocked_tcp_ports=tuple(config.aws_lambda.blocked_tcp_ports),
        icmp=config.aws_lambda.icmp,
        region=config.aws_lambda.region,
        flow_log_aggregation_seconds=config.flow_logs.aggregation_seconds
        if config.flow_logs.enabled
        else None,
    )


def _vpc(config: Config, vpc: Vpc) -> VpcResource:
    return VpcResource(
        name=vpc.name,
        cidr=vpc.network,
        account=config.account_of(vpc),
        mtu_bytes=vpc.mtu_bytes,
        subnets=tuple(
            SubnetResource(subnet.name, subnet.network, subnet.availability_zone)
            for subnet in vpc.subnet
        ),
        security_groups=tuple(_group(group) for group in vpc.security_group),
        services=tuple(_server(service) for service in vpc.service),
        hosts=tuple(_host(host) for host in vpc.host),
        internet_gateway=vpc.internet_gateway,
        target_groups=tuple(map(target_group_of, vpc.target_group)),
        load_balancers=tuple(map(load_balancer_of, vpc.load_balancer)),
        endpoint_services=tuple(map(endpoint_service_of, vpc.endpoint_service)),
        endpoints=tuple(map(endpoint_of, vpc.endpoint)),
        gateway_endpoints=tuple(map(gateway_endpoint_of, vpc.gateway_endpoint)),
        nat_gateways=tuple(_nat_gateway(gateway) for gateway in vpc.nat_gateway),
        route_tables=tuple(_route_table(table) for table in vpc.route_table),
        network_acls=tuple(_network_acl(acl) for acl in vpc.network_acl),
        enable_dns_support=vpc.enable_dns_support,
        enable_dns_hostnames=vpc.enable_dns_hostnames,
    )


def _interface(config: Config, interface: NetworkInterface) -> InterfaceResource:
    return InterfaceResource(
        name=interface.name,
        vpc=config.place(interface)[0].name,
        subnet=interface.subnet,
        addresses=tuple(map(IPv4Address, interface.addresses)),
        mtu_bytes=interface.mtu_bytes,
    )


def _group(group: SecurityGroup) -> SecurityGroupResource:
    return SecurityGroupResource(
        name=group.name,
        description=group.description,
        ingress=tuple(rule_of(rule) for rule in group.ingress),
        egress=tuple(rule_of(rule) for rule in group.egress),
    )


def rule_of(rule: Rule) -> RuleResource:
    """A rule with all its ports."""
    first, last = rule.port_range
    return RuleResource(
        protocol=Protocol(rule.protocol),
        first=first,
        last=last,
        cidr=None if rule.cidr is None else IPv4Network(rule.cidr),
        group=rule.group,
        prefix_list=rule.prefix_list,
    )


def _route_table(table: RouteTable) -> RouteTableResource:
    return RouteTableResource(
        name=table.name,
        main=table.main,
        subnets=tuple(table.subnets),
        routes=tuple(
            RouteResource(
                route.network,
                internet_gateway=route.internet_gateway,
                host=route.host,
                nat_gateway=route.nat_gateway,
            )
            for route in table.routes
        ),
    )


def _network_acl(acl: NetworkAcl) -> NetworkAclResource:
    return NetworkAclResource(
        name=acl.name,
        default=acl.default,
        subnets=tuple(acl.subnets),
        ingress=tuple(acl_entry_of(each) for each in acl.ingress),
        egress=tuple(acl_entry_of(each) for each in acl.egress),
    )


def acl_entry_of(rule: AclRule) -> NetworkAclEntry:
    """An entry with its protocol's number and all its ports."""
    first, last = rule.port_range
    return NetworkAclEntry(
        rule_number=rule.rule,
        allow=rule.action == "allow",
        protocol=PROTOCOLS.get(rule.protocol) or int(rule.protocol),
        cidr=IPv4Network(rule.cidr),
        first=first,
        last=last,
        icmp_type=ANY if rule.icmp_type is None else rule.icmp_type,
        icmp_code=ANY if rule.icmp_code is None else rule.icmp_code,
    )


def _nat_gateway(gateway: NatGateway) -> NatGatewayResource:
    return NatGatewayResource(
        name=gateway.name,
        subnet=gateway.subnet,
        public=gateway.connectivity == "public",
        addresses=gateway.count,
        elastic_addresses=tuple(map(IPv4Address, gateway.elastic_addresses)),
    )


def _host(host: Host) -> HostResource:
    return HostResource(
        name=host.name,
        subnet=host.subnet,
        address=None if host.address is None else IPv4Address(host.address),
        security_groups=tuple(host.security_groups),
        description=host.description,
        public=bool(host.public_address),
        public_address=IPv4Address(host.public_address)
        if isinstance(host.public_address, str)
        else None,
    )


def _server(server: Service | InternetHost) -> ServiceResource:
    return ServiceResource(
        name=server.name,
        kind=server.kind,
        address=None if server.address is None else IPv4Address(server.address),
        port=server.port,
        size_bytes=server.size_bytes,
        security_groups=tuple(server.security_groups) if isinstance(server, Service) else (),
        host=server.host if isinstance(server, Service) else None,
        aws_service=server.aws_service or "" if isinstance(server, InternetHost) else "",
    )


def _function(config: Config, function: Function) -> FunctionResource:
    networking = Networking(function.networking)
    return FunctionResource(
        name=function.name,
        networking=networking,
        account=config.account_of(function),
        vpc=None if networking is Networking.NONE else config.vpc_of(function).name,
        subnets=tuple(function.subnets),
        security_groups=tuple(function.security_groups),
        memory_mb=function.memory_mb,
        code=_code(function),
        environment=tuple(sorted(function.environment.items())),
        reserved_concurrency=function.reserved_concurrency,
        aliases=tuple(
            AliasResource(
                alias.name,
                alias.version,
                alias.provisioned_concurrency,
                tuple(
                    (int(number), weight)
                    for number, weight in alias.additional_version_weights.items()
                ),
            )
            for alias in function.alias
        ),
    )


def _code(function: Function) -> Code | None:
    if function.code is None:
        return None
    return Code(
        path=function.code,
        sha256=runtime.code.code_sha256(Path(function.code)),
        handler=function.handler or "bootstrap",
        runtime=function.runtime or runtime.code.OWN_RUNTIME,
        timeout_seconds=function.timeout_seconds,
        ephemeral_storage_mb=function.ephemeral_storage_mb,
        freeze=function.freeze,
        layers=tuple(Layer(path, runtime.code.code_sha256(Path(path))) for path in function.layers),
    )
