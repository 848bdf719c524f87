# SPDX-License-Identifier: Apache-2.0
"""What a region holds, in the field names of AWS's APIs, ready for JSON.

Functions are as `GetFunctionConfiguration` of the Lambda API has them; interfaces and security
groups as `DescribeNetworkInterfaces` and `DescribeSecurityGroups` of the EC2 API. Environments have
no API at AWS. Times are in seconds of the region's clock.
"""

from __future__ import annotations

from typing import Any

from hyperplane_nat.model.changes import Resource, by_name
from hyperplane_nat.model.entities import (
    INTERFACE_TYPE,
    Account,
    Function,
    NetworkConfig,
    Rule,
    SecurityGroup,
    Service,
    Subnet,
    Vpc,
)
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.resources import Code, Networking, Protocol
from hyperplane_nat.model.tables import Tables

_EVERY_PROTOCOL = "-1"
"""EC2 API, `IpProtocol`: all protocols."""


def describe(region: Region, item: Resource) -> dict[str, Any]:
    """One resource, as the list of its kind has it."""
    tables = region.tables
    match item:
        case Account():
            return {"Id": item.id, "Name": item.name, "Declared": item.declared}
        case Vpc():
            return _vpc(item)
        case Subnet():
            return _subnet(tables, item)
        case SecurityGroup():
            return _group(tables, tables.groups[item.id])
        case Service():
            return _service(tables, item)
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


def describe_services(region: Region) -> list[dict[str, Any]]:
    """All services and internet hosts, by name."""
    return [_service(region.tables, each) for each in by_name(region.tables.services.values())]


def describe_functions(region: Region) -> list[dict[str, Any]]:
    """All functions, by name."""
    return [_function(region.tables, each) for each in by_name(region.tables.functions.values())]


def describe_interfaces(region: Region) -> list[dict[str, Any]]:
    """All network interfaces, by number."""
    tables = region.tables
    return [
        {
            "NetworkInterfaceId": interface.id,
            "InterfaceType": INTERFACE_TYPE,
            "Kind": interface.kind.value,
            "Status": interface.status.value,
            "Description": interface.description,
            "OwnerId": interface.owner_id,
            "RequesterId": interface.requester_id,
            "RequesterManaged": interface.requester_managed,
            "VpcId": interface.vpc_id,
            "VpcName": tables.vpcs[interface.vpc_id].name,
            "SubnetId": interface.subnet_id,
            "SubnetName": tables.subnets[interface.subnet_id].name,
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
        _group(tables, group)
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
        "Declared": subnet.declared,
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
        "SizeBytes": service.size_bytes,
        "Groups": _groups(tables, service.group_ids),
        "Declared": service.declared,
    }


def _function(tables: Tables, function: Function) -> dict[str, Any]:
    return {
        "FunctionName": function.name,
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


def _code(code: Code) -> dict[str, Any]:
    return {
        "Path": code.path,
        "CodeSha256": code.sha256,
        "Handler": code.handler,
        "Runtime": code.runtime,
        "Timeout": code.timeout_seconds,
    }


def _group(tables: Tables, group: SecurityGroup) -> dict[str, Any]:
    vpc = tables.vpcs[group.vpc_id]
    return {
        "GroupId": group.id,
        "GroupName": group.name,
        "Description": group.description,
        "OwnerId": vpc.account_id,
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "IpPermissions": [_permission(rule) for rule in group.ingress],
        "IpPermissionsEgress": [_permission(rule) for rule in group.egress],
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


def _permission(rule: Rule) -> dict[str, Any]:
    permission: dict[str, Any] = {
        "IpProtocol": _EVERY_PROTOCOL if rule.protocol is Protocol.ALL else rule.protocol.value
    }
    if rule.protocol in (Protocol.TCP, Protocol.UDP):
        permission |= {"FromPort": rule.first, "ToPort": rule.last}
    if rule.cidr is not None:
        permission["IpRanges"] = [{"CidrIp": str(rule.cidr)}]
    else:
        permission["UserIdGroupPairs"] = [{"GroupId": rule.group_id}]
    return permission
