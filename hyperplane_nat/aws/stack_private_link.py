# SPDX-License-Identifier: Apache-2.0
"""Types of stacks' resources: endpoint services, their permissions, and endpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hyperplane_nat.aws.call import Call, Row
from hyperplane_nat.aws.stack_making import (
    Making,
    Type,
    names,
    required,
    succeeded,
    tag_again,
    without,
)

# -- endpoint services


def _create_service(making: Making, properties: Row) -> str:
    answer = making.do(
        "ec2",
        "CreateVpcEndpointServiceConfiguration",
        **without(properties),
        TagSpecifications=making.specification("vpc-endpoint-service"),
    )
    return str(answer["ServiceConfiguration"]["ServiceId"])


def _update_service(making: Making, key: str, before: Row, after: Row) -> str:
    accepted = after.get("AcceptanceRequired")
    making.do(
        "ec2",
        "ModifyVpcEndpointServiceConfiguration",
        ServiceId=key,
        AcceptanceRequired=True if accepted is None else accepted,
    )
    tag_again(making, key, before, after)
    return key


def _delete_service(making: Making, key: str, _properties: Row) -> bool:
    succeeded(making.do("ec2", "DeleteVpcEndpointServiceConfigurations", ServiceIds=[key]))
    return True


def _service_attribute(_call: Call, key: str, _properties: Row, name: str) -> Any:
    return {"ServiceId": key}[name]


# -- permissions, which have no id but their service's


def _allow(making: Making, properties: Row) -> str:
    key = str(required(properties, "ServiceId"))
    return _permit(making, key, {}, properties)


def _permit(making: Making, key: str, before: Row, after: Row) -> str:
    had, has = before.get("AllowedPrincipals") or [], after.get("AllowedPrincipals") or []
    making.do(
        "ec2",
        "ModifyVpcEndpointServicePermissions",
        ServiceId=key,
        AddAllowedPrincipals=[each for each in has if each not in had],
        RemoveAllowedPrincipals=[each for each in had if each not in has],
    )
    return key


def _forbid(making: Making, key: str, properties: Row) -> bool:
    _permit(making, key, properties, {})
    return True


def _no_attribute(_call: Call, _key: str, _properties: Row, name: str) -> Any:
    raise KeyError(name)


# -- endpoints


def _create_endpoint(making: Making, properties: Row) -> str:
    answer = making.do(
        "ec2",
        "CreateVpcEndpoint",
        # Off by default, unlike the API's.
        **{"PrivateDnsEnabled": False, **without(_with_policy(properties))},
        TagSpecifications=making.specification("vpc-endpoint"),
    )
    return str(answer["VpcEndpoint"]["VpcEndpointId"])


def _with_policy(properties: Row) -> Row:
    """A template has a policy as an object, too, the API as text alone."""
    policy = properties.get("PolicyDocument")
    if not isinstance(policy, dict):
        return properties
    return {**properties, "PolicyDocument": json.dumps(policy)}


def _update_gateway(making: Making, key: str, row: Row, before: Row, after: Row) -> str:
    had, has = row["RouteTableIds"], after.get("RouteTableIds") or []
    policy = _with_policy(after).get("PolicyDocument")
    changed = _with_policy(before).get("PolicyDocument") != policy
    making.do(
        "ec2",
        "ModifyVpcEndpoint",
        VpcEndpointId=key,
        AddRouteTableIds=[each for each in has if each not in had],
        RemoveRouteTableIds=[each for each in had if each not in has],
        **({} if not changed else {"PolicyDocument": policy} if policy else {"ResetPolicy": True}),
    )
    tag_again(making, key, before, after)
    return key


def _update_endpoint(making: Making, key: str, before: Row, after: Row) -> str:
    changes: Row = {}
    row = _endpoint(making.call, key)
    if row["VpcEndpointType"] == "Gateway":
        return _update_gateway(making, key, row, before, after)
    groups = [each["GroupId"] for each in row["Groups"]]
    default = _default_group(making.call, row["VpcId"])
    for what, had, otherwise in (
        ("SubnetIds", row["SubnetIds"], []),
        ("SecurityGroupIds", groups, default),
    ):
        if before.get(what) != after.get(what):
            has = after.get(what) or otherwise
            changes[f"Add{what}"] = [each for each in has if each not in had]
            changes[f"Remove{what}"] = [each for each in had if each not in has]
    private = after.get("PrivateDnsEnabled") or False
    making.do("ec2", "ModifyVpcEndpoint", VpcEndpointId=key, PrivateDnsEnabled=private, **changes)
    tag_again(making, key, before, after)
    return key


def _default_group(call: Call, vpc: str) -> list[str]:
    """What an endpoint has that is made without groups: without any, everybody would reach it."""
    of_vpc = [
        {"Name": "vpc-id", "Values": [vpc]},
        {"Name": "group-name", "Values": ["default"]},
    ]
    found = call.perform("ec2", "DescribeSecurityGroups", {"Filters": of_vpc})
    return [each["GroupId"] for each in found["SecurityGroups"]]


def _delete_endpoint(making: Making, key: str, _properties: Row) -> bool:
    succeeded(making.do("ec2", "DeleteVpcEndpoints", VpcEndpointIds=[key]))
    return True


def _endpoint(call: Call, key: str) -> Row:
    answer = call.perform("ec2", "DescribeVpcEndpoints", {"VpcEndpointIds": [key]})
    found: Row = answer["VpcEndpoints"][0]
    return found


def _endpoint_ready(call: Call, key: str) -> bool:
    """Acceptance, which is somebody else's, is not waited for."""
    return bool(_endpoint(call, key)["State"] != "pending")


def _endpoint_attribute(call: Call, key: str, _properties: Row, name: str) -> Any:
    row = _endpoint(call, key)
    return {
        "CreationTimestamp": row["CreationTimestamp"].isoformat(),
        # HOSTEDZONE:NAME; the lab's names are in no zone that has an id.
        "DnsEntries": [f":{each['DnsName']}" for each in row["DnsEntries"]],
        "Id": key,
        "NetworkInterfaceIds": row["NetworkInterfaceIds"],
    }[name]


PRIVATE_LINK_TYPES: Mapping[str, Type] = {
    "AWS::EC2::VPCEndpoint": Type(
        _create_endpoint,
        _delete_endpoint,
        _endpoint_attribute,
        names("PolicyDocument PrivateDnsEnabled RouteTableIds SecurityGroupIds SubnetIds Tags"),
        _update_endpoint,
        _endpoint_ready,
    ),
    "AWS::EC2::VPCEndpointService": Type(
        _create_service,
        _delete_service,
        _service_attribute,
        names("AcceptanceRequired Tags"),
        _update_service,
    ),
    "AWS::EC2::VPCEndpointServicePermissions": Type(
        _allow, _forbid, _no_attribute, names("AllowedPrincipals"), _permit
    ),
}
"""Those that are real, too."""
