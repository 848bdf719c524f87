# SPDX-License-Identifier: Apache-2.0
"""What a region holds, in the field names of AWS's APIs, ready for JSON.

Functions are as `GetFunctionConfiguration` of the Lambda API has them; interfaces and security
groups as `DescribeNetworkInterfaces` and `DescribeSecurityGroups` of the EC2 API. Environments have
no API at AWS. Times are in seconds of the region's clock.
"""

from __future__ import annotations

from typing import Any

from hyperplane_nat.model.balancer_description import listener, load_balancer, target_group
from hyperplane_nat.model.balancer_entities import Listener, LoadBalancer, TargetGroup
from hyperplane_nat.model.changes import by_name
from hyperplane_nat.model.entities import (
    INTERFACE_TYPE,
    INTERFACE_TYPES,
    LATEST,
    Account,
    Alias,
    Function,
    Host,
    InterfaceKind,
    NetworkConfig,
    NetworkInterface,
    Resource,
    Rule,
    SecurityGroup,
    Service,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.flow_log_description import flow_log
from hyperplane_nat.model.flow_log_entities import FlowLog
from hyperplane_nat.model.gateway_endpoints import endpoints_at, prefix_list_id, service_name
from hyperplane_nat.model.gateway_entities import (
    ElasticAddress,
    InternetGateway,
    NatGateway,
    NatGatewayAddress,
    Route,
    RouteTable,
)
from hyperplane_nat.model.gateways import ACTIVE, route_state
from hyperplane_nat.model.lifecycle import free_addresses
from hyperplane_nat.model.network_acl_description import network_acl
from hyperplane_nat.model.network_acl_entities import NetworkAcl
from hyperplane_nat.model.private_link_description import (
    endpoint,
    endpoint_service,
    gateway_endpoint,
)
from hyperplane_nat.model.private_link_entities import (
    EndpointService,
    GatewayEndpoint,
    VpcEndpoint,
)
from hyperplane_nat.model.provisioned import provisioned_of
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.resources import Code, Networking, Protocol
from hyperplane_nat.model.tables import Tables

_EVERY_PROTOCOL = "-1"
"""EC2 API, `IpProtocol`: all protocols."""


def describe(region: Region, item: Resource) -> dict[str, Any]:
    """One resource, as the list of its kind has it."""
    tables = region.tables
    match item:
        case LoadBalancer():
            return load_balancer(region, item)
        case Listener():
            return listener(region, item)
        case TargetGroup():
            return target_group(region, item)
        case EndpointService():
            return endpoint_service(region, item)
        case VpcEndpoint():
            return endpoint(region, item)
        case GatewayEndpoint():
            return gateway_endpoint(region, item)
        case Account():
            return {"Id": item.id, "Name": item.name, "Declared": item.declared}
        case Vpc():
            return _vpc(item)
        case Subnet():
            return _subnet(tables, item)
        case SecurityGroup():
            return _group(tables, tables.groups[item.id], region.settings.region)
        case Host():
            return _host(tables, item)
        case Service():
            return _service(tables, item)
        case RouteTable():
            return _route_table(tables, region.settings.region, tables.route_tables[item.id])
        case NetworkAcl():
            return network_acl(tables, tables.network_acls.get(item.id, item))
        case InternetGateway():
            return _internet_gateway(tables, item)
        case NatGateway():
            return _nat_gateway(tables, tables.nat_gateways.get(item.id, item))
        case FlowLog():
            return flow_log(tables, item)
        case ElasticAddress():
            return _address(tables, item)
        case Function():
            return _function(tables, tables.functions[item.id])


def describe_accounts(region: Region) -> list[dict[str, Any]]:
    """All accounts, by name."""
    return [describe(region, account) for account in by_name(region.tables.accounts.values())]


def describe_vpcs(region: Region) -> list[dict[str, Any]]:
    """All VPCs, by name."""
    return [_vpc(vpc) for vpc in by_name(region.tables.vpcs.values())]


def describe_subnets(region: Region) -> list[dict[str, Any]]:
    """All subnets, by name."""
    return [_subnet(region.tables, subnet) for subnet in by_name(region.tables.subnets.values())]


def describe_hosts(region: Region) -> list[dict[str, Any]]:
    """All hosts, by VPC and name."""
    tables = region.tables
    return [
        _host(tables, host)
        for host in sorted(
            tables.hosts.values(), key=lambda host: (tables.vpcs[host.vpc_id].name, host.name)
        )
    ]


def describe_services(region: Region) -> list[dict[str, Any]]:
    """All services and internet hosts, by name."""
    return [_service(region.tables, each) for each in by_name(region.tables.services.values())]


def describe_route_tables(region: Region) -> list[dict[str, Any]]:
    """All route tables, by VPC and name."""
    tables = region.tables
    return [
        _route_table(tables, region.settings.region, each)
        for each in sorted(
            tables.route_tables.values(),
            key=lambda each: (tables.vpcs[each.vpc_id].name, each.name),
        )
    ]


def describe_internet_gateways(region: Region) -> list[dict[str, Any]]:
    """All internet gateways, by name."""
    tables = region.tables
    return [_internet_gateway(tables, each) for each in by_name(tables.internet_gateways.values())]


def describe_addresses(region: Region) -> list[dict[str, Any]]:
    """All public addresses, in their order."""
    found = sorted(region.tables.elastic_addresses.values(), key=lambda each: each.address)
    return [_address(region.tables, each) for each in found]


def describe_nat_gateways(region: Region) -> list[dict[str, Any]]:
    """All NAT gateways, those that have ended lately too, by VPC, name and age."""
    tables = region.tables
    return [
        _nat_gateway(tables, each)
        for each in sorted(
            tables.nat_gateways.values(),
            key=lambda each: (tables.vpcs[each.vpc_id].name, each.name, each.created),
        )
    ]


def describe_functions(region: Region) -> list[dict[str, Any]]:
    """All functions, by name; not their versions."""
    functions = by_name(region.tables.functions.values())
    return [_function(region.tables, each) for each in functions if not each.function_id]


def describe_versions(region: Region) -> list[dict[str, Any]]:
    """All published versions, by name and number."""
    functions = by_name(region.tables.functions.values())
    return [
        _function(region.tables, version)
        for each in functions
        if not each.function_id
        for version in region.tables.versions(each)
    ]


def describe_interfaces(region: Region) -> list[dict[str, Any]]:
    """All network interfaces, by number."""
    tables = region.tables
    return [
        {
            "NetworkInterfaceId": interface.id,
            "InterfaceType": INTERFACE_TYPES.get(interface.kind, INTERFACE_TYPE),
            "Kind": interface.kind.value,
            "Status": interface.status.value,
            "Description": interface.description,
            "OwnerId": interface.owner_id,
            "RequesterId": interface.requester_id,
            "RequesterManaged": interface.requester_managed,
            "VpcId": interface.vpc_id,
            "VpcName": tables.vpcs[interface.vpc_id].name,
            "SubnetId": interface.subnet_id,
            "SubnetName": ""
            if interface.kind is InterfaceKind.ROUTER
            else tables.subnets[interface.subnet_id].name,
            "PrivateIpAddress": str(interface.address),
            "SecondaryAddresses": [str(address) for _, address in interface.secondary],
            "SecondaryNumbers": [number for number, _ in interface.secondary],
            "Groups": _groups(tables, interface.group_ids),
            "Number": interface.number,
            "Link": interface.link,
            "References": tables.references(interface),
            "Environments": tables.attached(interface.id),
            "Due": interface.due,
        }
        for interface in sorted(tables.interfaces.values(), key=lambda interface: interface.number)
    ]


def describe_security_groups(region: Region) -> list[dict[str, Any]]:
    """All security groups, by VPC and name."""
    tables = region.tables
    return [
        _group(tables, group, region.settings.region)
        for group in sorted(
            tables.groups.values(), key=lambda group: (tables.vpcs[group.vpc_id].name, group.name)
        )
    ]


def describe_environments(region: Region) -> list[dict[str, Any]]:
    """All execution environments, by slot."""
    return [
        {
            "Slot": environment.slot,
            "FunctionName": environment.function_name,
            "State": environment.state.value,
            "NetworkInterfaceId": environment.interface_id,
            "Invocations": environment.invocations,
            "Due": environment.due,
        }
        for environment in sorted(
            region.tables.environments.values(), key=lambda environment: environment.slot
        )
    ]


def _vpc(vpc: Vpc) -> dict[str, Any]:
    return {
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "OwnerId": vpc.account_id,
        "CidrBlock": str(vpc.cidr),
        "MtuBytes": vpc.mtu_bytes,
        "EnableDnsSupport": vpc.enable_dns_support,
        "EnableDnsHostnames": vpc.enable_dns_hostnames,
        "Declared": vpc.declared,
    }


def _subnet(tables: Tables, subnet: Subnet) -> dict[str, Any]:
    vpc = tables.vpcs[subnet.vpc_id]
    return {
        "SubnetId": subnet.id,
        "SubnetName": subnet.name,
        "OwnerId": vpc.account_id,
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "CidrBlock": str(subnet.cidr),
        "AvailabilityZone": subnet.availability_zone,
        "AvailableIpAddressCount": free_addresses(tables, subnet),
        "Declared": subnet.declared,
    }


def _route_table(tables: Tables, region: str, table: RouteTable) -> dict[str, Any]:
    vpc = tables.vpcs[table.vpc_id]
    return {
        "RouteTableId": table.id,
        "RouteTableName": table.name,
        "OwnerId": vpc.account_id,
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "Main": table.main,
        "Associations": [
            {"SubnetId": each, "SubnetName": tables.subnets[each].name} for each in table.subnet_ids
        ],
        "Routes": [
            {"DestinationCidrBlock": str(vpc.cidr), "GatewayId": "local", "State": ACTIVE},
            *(_route(tables, table, each) for each in table.routes),
            *(
                {
                    "DestinationPrefixListId": prefix_list_id(each.service, region),
                    "DestinationPrefixListName": service_name(each.service, region),
                    "GatewayId": each.id,
                    "State": ACTIVE,
                }
                for each in endpoints_at(tables, table)
            ),
        ],
        "Declared": table.declared,
    }


def _route(tables: Tables, table: RouteTable, route: Route) -> dict[str, Any]:
    targets = {
        "GatewayId": route.gateway_id,
        "NatGatewayId": route.nat_gateway_id,
        "InstanceId": route.instance_id,
    }
    return {
        "DestinationCidrBlock": str(route.destination),
        **{name: target for name, target in targets.items() if target},
        "State": route_state(tables, table, route),
    }


def _internet_gateway(tables: Tables, gateway: InternetGateway) -> dict[str, Any]:
    vpc = tables.vpcs.get(gateway.vpc_id)
    return {
        "InternetGatewayId": gateway.id,
        "InternetGatewayName": gateway.name,
        "OwnerId": gateway.account_id,
        "Attachments": []
        if vpc is None
        else [{"VpcId": vpc.id, "VpcName": vpc.name, "State": "available"}],
        "Declared": gateway.declared,
    }


def _nat_gateway(tables: Tables, gateway: NatGateway) -> dict[str, Any]:
    vpc = tables.vpcs[gateway.vpc_id]
    subnet = tables.subnets[gateway.subnet_id]
    return {
        "NatGatewayId": gateway.id,
        "NatGatewayName": gateway.name,
        "OwnerId": vpc.account_id,
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "SubnetId": subnet.id,
        "SubnetName": subnet.name,
        "AvailabilityZone": subnet.availability_zone,
        "ConnectivityType": "public" if gateway.public else "private",
        "State": gateway.state.value,
        "FailureCode": gateway.failure_code or None,
        "FailureMessage": gateway.failure_message or None,
        "CreateTime": gateway.created,
        "DeleteTime": gateway.deleted,
        "NetworkInterfaceId": gateway.interface_id or None,
        "NatGatewayAddresses": [
            _nat_gateway_address(tables, each, primary=not place)
            for place, each in enumerate(gateway.addresses)
        ],
        "Declared": gateway.declared,
    }


def _nat_gateway_address(
    tables: Tables, address: NatGatewayAddress, *, primary: bool
) -> dict[str, Any]:
    elastic = tables.elastic_addresses.get(address.allocation_id)
    return {
        "PrivateIp": str(address.address),
        "PublicIp": None if elastic is None else str(elastic.address),
        "AllocationId": None if elastic is None else elastic.id,
        "AssociationId": None if elastic is None else elastic.association_id,
        "IsPrimary": primary,
        "Status": address.status.value,
    }


def _balancer_of(tables: Tables, node: NetworkInterface | None) -> str | None:
    """VPC/name of the load balancer that an interface is a node of."""
    for balancer in tables.load_balancers.values():
        if node is not None and node.id in {each.interface_id for each in balancer.nodes}:
            return f"{tables.vpcs[balancer.vpc_id].name}/{balancer.name}"
    return None


def _address(tables: Tables, address: ElasticAddress) -> dict[str, Any]:
    host, node = tables.hosts.get(address.host_id), tables.interfaces.get(address.interface_id)
    place = host or node
    return {
        "AllocationId": address.id,
        "PublicIp": str(address.address),
        "OwnerId": address.account_id,
        "AssociationId": address.association_id or None,
        "InstanceId": address.host_id or None,
        "HostName": None if host is None else f"{tables.vpcs[host.vpc_id].name}/{host.name}",
        "NatGatewayId": address.nat_gateway_id or None,
        "NetworkInterfaceId": address.interface_id or None,
        "LoadBalancerName": _balancer_of(tables, node),
        "PrivateIpAddress": None if place is None else str(place.address),
        "Kept": address.kept,
    }


def _host(tables: Tables, host: Host) -> dict[str, Any]:
    public = tables.public_address_of(host.id)
    return {
        "InstanceId": host.id,
        "NetworkInterfaceId": host.interface_id,
        "HostName": host.name,
        "Description": host.description,
        "OwnerId": tables.vpcs[host.vpc_id].account_id,
        "VpcId": host.vpc_id,
        "VpcName": tables.vpcs[host.vpc_id].name,
        "SubnetId": host.subnet_id,
        "SubnetName": tables.subnets[host.subnet_id].name,
        "PrivateIpAddress": str(host.address),
        "PublicIpAddress": None if public is None else str(public.address),
        "Groups": _groups(tables, host.group_ids),
        "Services": sorted(
            each.name for each in tables.services.values() if each.host_id == host.id
        ),
        "Number": host.number,
        "Attached": host.attached or None,
        "Declared": host.declared,
    }


def _service(tables: Tables, service: Service) -> dict[str, Any]:
    return {
        "ServiceId": service.id,
        "ServiceName": service.name,
        "VpcId": service.vpc_id,
        "VpcName": tables.vpcs[service.vpc_id].name,
        "Kind": service.kind,
        "PrivateIpAddress": str(service.address),
        "Port": service.port,
        "HostName": tables.hosts[service.host_id].name if service.host_id else None,
        "SizeBytes": service.size_bytes,
        "AwsService": service.aws_service or None,
        "Groups": _groups(tables, service.group_ids),
        "Declared": service.declared,
    }


def _function(tables: Tables, function: Function) -> dict[str, Any]:
    return {
        "FunctionName": function.function_name,
        "Version": function.qualifier,
        "Aliases": [_alias(tables, function, alias) for alias in function.aliases],
        "Account": function.account_id,
        "Networking": function.config.networking.value,
        "MemorySize": function.memory_mb,
        "Code": None if function.code is None else _code(function.code),
        "Environment": {"Variables": dict(function.environment)},
        "ReservedConcurrentExecutions": function.reserved_concurrency,
        "State": function.state.value,
        "StateReason": function.state_reason,
        "StateReasonCode": function.state_reason_code,
        "LastUpdateStatus": function.last_update_status.value,
        "LastUpdateStatusReason": function.last_update_status_reason,
        "LastUpdateStatusReasonCode": function.last_update_status_reason_code,
        "VpcConfig": _vpc_config(tables, function.config),
        "NetworkInterfaceIds": [
            interface.id
            for combination in function.config.combinations
            for interface in tables.sharing(combination)
        ],
        "Environments": len(tables.environments_of(function.id)),
        "LastUsed": function.last_used,
    }


def _alias(tables: Tables, function: Function, alias: Alias) -> dict[str, Any]:
    version = tables.function(f"{function.name}:{alias.version or LATEST}")
    found = None
    if alias.provisioned_concurrency and version is not None:
        state = provisioned_of(tables, version)
        found = {
            "RequestedProvisionedConcurrentExecutions": state.requested,
            "AllocatedProvisionedConcurrentExecutions": state.available,
            "AvailableProvisionedConcurrentExecutions": state.available,
            "Status": state.status.value,
            "StatusReason": state.reason,
        }
    return {
        "Name": alias.name,
        "FunctionVersion": str(alias.version or LATEST),
        "RoutingConfig": {
            "AdditionalVersionWeights": {str(number): weight for number, weight in alias.additional}
        },
        "ProvisionedConcurrency": found,
    }


def _code(code: Code) -> dict[str, Any]:
    return {
        "Path": code.path,
        "CodeSha256": code.sha256,
        "Handler": code.handler,
        "Runtime": code.runtime,
        "Timeout": code.timeout_seconds,
        "EphemeralStorage": code.ephemeral_storage_mb,
        "Layers": [{"Path": each.path, "CodeSha256": each.sha256} for each in code.layers],
    }


def _group(tables: Tables, group: SecurityGroup, region: str) -> dict[str, Any]:
    vpc = tables.vpcs[group.vpc_id]
    return {
        "GroupId": group.id,
        "GroupName": group.name,
        "Description": group.description,
        "OwnerId": vpc.account_id,
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "IpPermissions": [_permission(rule, region) for rule in group.ingress],
        "IpPermissionsEgress": [_permission(rule, region) for rule in group.egress],
        "NetworkInterfaceIds": [
            interface.id for interface in tables.in_vpc(vpc.id) if group.id in interface.group_ids
        ],
    }


def _vpc_config(tables: Tables, config: NetworkConfig) -> dict[str, Any] | None:
    if config.networking is Networking.NONE:
        return None
    return {
        "VpcId": config.vpc_id,
        "VpcName": tables.vpcs[config.vpc_id].name,
        "SubnetIds": list(config.subnet_ids),
        "SecurityGroupIds": list(config.group_ids),
    }


def _groups(tables: Tables, group_ids: tuple[str, ...]) -> list[dict[str, str]]:
    return [
        {"GroupId": group_id, "GroupName": tables.groups[group_id].name} for group_id in group_ids
    ]


def _permission(rule: Rule, region: str) -> dict[str, Any]:
    permission: dict[str, Any] = {
        "IpProtocol": _EVERY_PROTOCOL if rule.protocol is Protocol.ALL else rule.protocol.value
    }
    if rule.protocol in (Protocol.TCP, Protocol.UDP):
        permission |= {"FromPort": rule.first, "ToPort": rule.last}
    if rule.cidr is not None:
        permission["IpRanges"] = [{"CidrIp": str(rule.cidr)}]
    elif rule.prefix_list is not None:
        permission["PrefixListIds"] = [
            {
                "PrefixListId": prefix_list_id(rule.prefix_list, region),
                "PrefixListName": service_name(rule.prefix_list, region),
            }
        ]
    else:
        permission["UserIdGroupPairs"] = [{"GroupId": rule.group_id}]
    return permission
