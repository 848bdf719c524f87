# SPDX-License-Identifier: Apache-2.0
"""
What a region holds, in the field names of AWS's APIs, ready for JSON.

Functions are as `GetFunctionConfiguration` of the Lambda API has them; interfaces and security
groups as `DescribeNetworkInterfaces` and `DescribeSecurityGroups` of the EC2 API. Environments have
no API at AWS. Times are in seconds of the region's clock.
"""

from __future__ import annotations

from typing import Any

from hyperplane_nat.model.entities import INTERFACE_TYPE, NetworkConfig, Rule
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.resources import Networking, Protocol
from hyperplane_nat.model.tables import Tables

_EVERY_PROTOCOL = "-1"
"""EC2 API, `IpProtocol`: all protocols."""


def describe_functions(region: Region) -> list[dict[str, Any]]:
    """All functions, by name."""
    tables = region.tables
    return [
        {
            "FunctionName": function.name,
            "Account": function.account_id,
            "Networking": function.config.networking.value,
            "MemorySize": function.memory_mb,
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
        for function in sorted(tables.functions.values(), key=lambda function: function.name)
    ]


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
        {
            "GroupId": group.id,
            "GroupName": group.name,
            "Description": group.description,
            "OwnerId": tables.vpcs[group.vpc_id].account_id,
            "VpcId": group.vpc_id,
            "VpcName": tables.vpcs[group.vpc_id].name,
            "IpPermissions": [_permission(rule) for rule in group.ingress],
            "IpPermissionsEgress": [_permission(rule) for rule in group.egress],
            "NetworkInterfaceIds": [
                interface.id
                for interface in tables.in_vpc(group.vpc_id)
                if group.id in interface.group_ids
            ],
        }
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
