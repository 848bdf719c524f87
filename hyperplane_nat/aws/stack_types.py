# SPDX-License-Identifier: Apache-2.0
"""The types of CloudFormation's resources that the region has, each by the operations of its API.

A type is made by what a client would ask for: properties are that API's parameters, of the same
names but where the functions here say otherwise, and one that the API does not take is refused by
it. Properties and return values: "AWS resource and property types reference" of the AWS
CloudFormation User Guide. Physical ids are the region's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from hyperplane_nat.aws.call import Call, Row
from hyperplane_nat.aws.errors import AwsError, unsupported
from hyperplane_nat.aws.inline_code import archive
from hyperplane_nat.aws.stack_balancers import BALANCER_TYPES
from hyperplane_nat.aws.stack_making import (
    GONE,
    Ec2,
    Making,
    Type,
    names,
    required,
    retagged,
    tag_again,
    without,
)
from hyperplane_nat.aws.stack_nested import NESTED_TYPES
from hyperplane_nat.aws.stack_networks import NETWORK_TYPES
from hyperplane_nat.aws.stack_private_link import PRIVATE_LINK_TYPES

VPC = Ec2("Vpc", "VpcId", "vpc", {"CidrBlock": "CidrBlock"})
SUBNET = Ec2(
    "Subnet",
    "SubnetId",
    "subnet",
    {name: name for name in ("AvailabilityZone", "CidrBlock", "VpcId")},
)
INTERNET_GATEWAY = Ec2("InternetGateway", "InternetGatewayId", "internet-gateway")
ROUTE_TABLE = Ec2("RouteTable", "RouteTableId", "route-table")
GROUP = Ec2("SecurityGroup", "GroupId", "security-group")
NAT_GATEWAY = Ec2("NatGateway", "NatGatewayId", "natgateway")


@contextlib.contextmanager
def _whole(made: Ec2, making: Making, key: str) -> Iterator[None]:
    """What more there is to be done of what is made: without it, it goes."""
    try:
        yield
    except AwsError:
        made.delete(making, key, {})
        raise


_DNS = ("EnableDnsSupport", "EnableDnsHostnames")


def _create_vpc(making: Making, properties: Row) -> str:
    key = VPC.create(making, without(properties, *_DNS))
    with _whole(VPC, making, key):
        _dns(making, key, properties)
    return key


def _update_vpc(making: Making, key: str, before: Row, after: Row) -> str:
    _dns(making, key, after)
    tag_again(making, key, before, after)
    return key


def _dns(making: Making, key: str, properties: Row) -> None:
    said = {name: {"Value": properties[name]} for name in _DNS if name in properties}
    if said:
        making.do("ec2", "ModifyVpcAttribute", VpcId=key, **said)


def _vpc_attribute(call: Call, key: str, properties: Row, name: str) -> Any:
    of_vpc = {"Filters": [{"Name": "vpc-id", "Values": [key]}]}
    if name == "DefaultSecurityGroup":
        groups = call.perform("ec2", "DescribeSecurityGroups", of_vpc)["SecurityGroups"]
        return next(each["GroupId"] for each in groups if each["GroupName"] == "default")
    if name == "DefaultNetworkAcl":
        return call.perform("ec2", "DescribeNetworkAcls", of_vpc)["NetworkAcls"][0]["NetworkAclId"]
    if name == "CidrBlockAssociations":
        return [
            each["AssociationId"] for each in VPC.describe(call, key)["CidrBlockAssociationSet"]
        ]
    if name == "Ipv6CidrBlocks":
        return []
    return VPC.attribute(call, key, properties, name)


def _create_subnet(making: Making, properties: Row) -> str:
    key = SUBNET.create(making, without(properties, "MapPublicIpOnLaunch"))
    with _whole(SUBNET, making, key):
        return _public(making, key, properties)


def _update_subnet(making: Making, key: str, before: Row, after: Row) -> str:
    tag_again(making, key, before, after)
    return _public(making, key, {"MapPublicIpOnLaunch": False, **after})


def _public(making: Making, key: str, properties: Row) -> str:
    if (said := properties.get("MapPublicIpOnLaunch")) is not None:
        value = {"Value": said}
        making.do("ec2", "ModifySubnetAttribute", SubnetId=key, MapPublicIpOnLaunch=value)
    return key


# -- what has no id of its own


def _attach(making: Making, properties: Row) -> str:
    gateway, vpc = required(properties, "InternetGatewayId"), required(properties, "VpcId")
    making.do("ec2", "AttachInternetGateway", InternetGatewayId=gateway, VpcId=vpc)
    return f"IGW|{vpc}"


def _detach(making: Making, _key: str, properties: Row) -> bool:
    making.do("ec2", "DetachInternetGateway", **without(properties))
    return True


def _create_route(making: Making, properties: Row) -> str:
    making.do("ec2", "CreateRoute", **properties)
    return f"{properties['RouteTableId']}|{properties['DestinationCidrBlock']}"


def _replace_route(making: Making, key: str, _before: Row, after: Row) -> str:
    making.do("ec2", "ReplaceRoute", **after)
    return key


def _delete_route(making: Making, _key: str, properties: Row) -> bool:
    named = {name: properties[name] for name in ("RouteTableId", "DestinationCidrBlock")}
    making.do("ec2", "DeleteRoute", **named)
    return True


def _associate(making: Making, properties: Row) -> str:
    return str(making.do("ec2", "AssociateRouteTable", **properties)["AssociationId"])


def _reassociate(making: Making, key: str, _before: Row, after: Row) -> str:
    answer = making.do(
        "ec2",
        "ReplaceRouteTableAssociation",
        AssociationId=key,
        RouteTableId=required(after, "RouteTableId"),
    )
    return str(answer["NewAssociationId"])


def _disassociate(making: Making, key: str, _properties: Row) -> bool:
    making.do("ec2", "DisassociateRouteTable", AssociationId=key)
    return True


def _nothing(_call: Call, key: str, _properties: Row, name: str) -> Any:
    """The attribute Id, or whatever means the resource itself."""
    if name in ("Id", "AttachmentType", "CidrBlock"):
        return {"AttachmentType": "IGW"}.get(name, key)
    raise KeyError(name)


# -- elastic addresses: known by the address itself


def _allocate(making: Making, properties: Row) -> str:
    answer = making.do(
        "ec2",
        "AllocateAddress",
        **without(properties, "InstanceId"),
        TagSpecifications=making.specification("elastic-ip"),
    )
    if properties.get("InstanceId"):
        named = {"AllocationId": answer["AllocationId"]}
        try:
            making.do("ec2", "AssociateAddress", **named, InstanceId=properties["InstanceId"])
        except AwsError:
            making.do("ec2", "ReleaseAddress", **named)
            raise
    return str(answer["PublicIp"])


def _release(making: Making, key: str, _properties: Row) -> bool:
    row = _address(making.call, key)
    if row.get("InstanceId"):
        try:
            making.do("ec2", "DisassociateAddress", AssociationId=row["AssociationId"])
        except AwsError as error:
            # It has none any more, but is still there.
            if not error.code.endswith(GONE):
                raise
    making.do("ec2", "ReleaseAddress", AllocationId=row["AllocationId"])
    return True


def _retagged_address(making: Making, key: str, before: Row, after: Row) -> str:
    tag_again(making, _address(making.call, key)["AllocationId"], before, after)
    return key


def _address(call: Call, key: str) -> Row:
    found: Row = call.perform("ec2", "DescribeAddresses", {"PublicIps": [key]})["Addresses"][0]
    return found


def _address_attribute(call: Call, key: str, _properties: Row, name: str) -> Any:
    if name in ("AllocationId", "PublicIp"):
        return _address(call, key)[name]
    raise KeyError(name)


def _associate_address(making: Making, properties: Row) -> str:
    said = without(properties, "EIP")
    if address := properties.get("EIP"):
        said["AllocationId"] = _address(making.call, address)["AllocationId"]
    return str(making.do("ec2", "AssociateAddress", **said)["AssociationId"])


def _disassociate_address(making: Making, key: str, _properties: Row) -> bool:
    making.do("ec2", "DisassociateAddress", AssociationId=key)
    return True


# -- NAT gateways


def _nat_ready(call: Call, key: str) -> bool:
    row = NAT_GATEWAY.describe(call, key)
    if row["State"] == "failed":
        raise AwsError(row["FailureCode"] or "NotStabilized", row["FailureMessage"] or "failed")
    return bool(row["State"] == "available")


def _delete_nat(making: Making, key: str, properties: Row) -> bool:
    state = NAT_GATEWAY.describe(making.call, key)["State"]
    if state not in ("deleting", "deleted"):
        NAT_GATEWAY.delete(making, key, properties)
    return bool(state == "deleted")


# -- security groups


def _permission(rule: Row) -> Row:
    said = {"Description": rule["Description"]} if rule.get("Description") else {}
    found = {name: rule.get(name) for name in ("IpProtocol", "FromPort", "ToPort")}
    found = {name: value for name, value in found.items() if value is not None}
    other = rule.get("SourceSecurityGroupId") or rule.get("DestinationSecurityGroupId")
    if other:
        return {**found, "UserIdGroupPairs": [{"GroupId": other, **said}]}
    if rule.get("CidrIp"):
        return {**found, "IpRanges": [{"CidrIp": rule["CidrIp"], **said}]}
    if listed := rule.get("SourcePrefixListId") or rule.get("DestinationPrefixListId"):
        return {**found, "PrefixListIds": [{"PrefixListId": listed, **said}]}
    raise unsupported("Rules of security groups have IPv4 networks, groups and prefix lists.")


EVERYTHING: Row = {"IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}
"""The egress rule that a group begins with."""


def _egress(properties: Row) -> list[Row]:
    found: list[Row] = properties.get("SecurityGroupEgress") or []
    return found or [EVERYTHING]


def _rules(making: Making, verb: str, side: str, group: str, rules: list[Row]) -> None:
    for each in rules:
        asked = [_permission(each)]
        try:
            making.do("ec2", f"{verb}SecurityGroup{side}", GroupId=group, IpPermissions=asked)
        except AwsError as error:
            # A change that failed half way is taken back by this, too.
            if error.code not in ("InvalidPermission.NotFound", "InvalidPermission.Duplicate"):
                raise


def _create_group(making: Making, properties: Row) -> str:
    answer = making.do(
        "ec2",
        "CreateSecurityGroup",
        VpcId=properties.get("VpcId"),
        GroupName=properties.get("GroupName") or making.name,
        Description=required(properties, "GroupDescription"),
        TagSpecifications=making.specification("security-group"),
    )
    key = str(answer["GroupId"])
    with _whole(GROUP, making, key):
        _change_rules(making, key, {}, properties)
    return key


def _update_group(making: Making, key: str, before: Row, after: Row) -> str:
    _change_rules(making, key, before, after)
    tag_again(making, key, before, after)
    return key


def _change_rules(making: Making, key: str, before: Row, after: Row) -> None:
    """Rules that are the same in both stay: what is tracked by them goes on."""
    for side, had, has in (
        (
            "Ingress",
            before.get("SecurityGroupIngress") or [],
            after.get("SecurityGroupIngress") or [],
        ),
        ("Egress", _egress(before), _egress(after)),
    ):
        _rules(making, "Revoke", side, key, [each for each in had if each not in has])
        _rules(making, "Authorize", side, key, [each for each in has if each not in had])


def _group_attribute(_call: Call, key: str, properties: Row, name: str) -> Any:
    return {"GroupId": key, "Id": key, "VpcId": properties.get("VpcId")}[name]


def _rule_type(side: str) -> Type:
    def create(making: Making, properties: Row) -> str:
        group = required(properties, "GroupId")
        asked = [_permission(properties)]
        operation = f"AuthorizeSecurityGroup{side}"
        answer = making.do("ec2", operation, GroupId=group, IpPermissions=asked)
        return str(answer["SecurityGroupRules"][0]["SecurityGroupRuleId"])

    def delete(making: Making, key: str, properties: Row) -> bool:
        operation = f"RevokeSecurityGroup{side}"
        making.do("ec2", operation, GroupId=properties["GroupId"], SecurityGroupRuleIds=[key])
        return True

    return Type(create, delete, _nothing)


# -- functions

_CODE = ("Code", "Tags", "FunctionName")


def _code(properties: Row) -> Row:
    said: Row = required(properties, "Code")
    if "ZipFile" in said:
        return {"ZipFile": archive(str(properties.get("Runtime")), str(said["ZipFile"]))}
    return said


def _create_function(making: Making, properties: Row) -> str:
    answer = making.do(
        "lambda",
        "CreateFunction",
        FunctionName=properties.get("FunctionName") or making.name[-64:].lstrip("-"),
        Code=_code(properties),
        Tags=dict(making.tags),
        **without(properties, *_CODE),
    )
    return str(answer["FunctionName"])


def _update_function(making: Making, key: str, before: Row, after: Row) -> str:
    changed = {
        name: after.get(name)
        for name in {*before, *after} - {*_CODE, "Architectures"}
        if before.get(name) != after.get(name)
    }
    if changed:
        making.wait(lambda: _function_ready(making.call.fresh(), key))
        defaults: Row = {"VpcConfig": {"SubnetIds": [], "SecurityGroupIds": []}, "Description": ""}
        defaults |= {"Environment": {"Variables": {}}, "Timeout": 3, "MemorySize": 128}
        said = {
            name: defaults.get(name) if each is None else each for name, each in changed.items()
        }
        making.do("lambda", "UpdateFunctionConfiguration", FunctionName=key, **said)
    if before.get("Code") != after.get("Code"):
        making.wait(lambda: _function_ready(making.call.fresh(), key))
        making.do("lambda", "UpdateFunctionCode", FunctionName=key, **_code(after))
    arn = _function_attribute(making.call, key, after, "Arn")
    tag_again(making, arn, before, after)
    return key


def _function_ready(call: Call, key: str) -> bool:
    row = call.perform("lambda", "GetFunctionConfiguration", {"FunctionName": key})
    for state, reason in (
        (row["State"], row["StateReason"]),
        (row["LastUpdateStatus"], row["LastUpdateStatusReason"]),
    ):
        if state == "Failed":
            raise AwsError("NotStabilized", reason or "the function is Failed")
    return (row["State"], row["LastUpdateStatus"]) == ("Active", "Successful")


def _delete_function(making: Making, key: str, _properties: Row) -> bool:
    making.do("lambda", "DeleteFunction", FunctionName=key)
    return True


def _function_attribute(call: Call, key: str, _properties: Row, name: str) -> Any:
    if name != "Arn":
        raise KeyError(name)
    row = call.perform("lambda", "GetFunctionConfiguration", {"FunctionName": key})
    return row["FunctionArn"]


def _permit(making: Making, properties: Row) -> str:
    making.do("lambda", "AddPermission", **properties, StatementId=making.name)
    return making.name


def _forbid(making: Making, key: str, properties: Row) -> bool:
    function = properties["FunctionName"]
    making.do("lambda", "RemovePermission", FunctionName=function, StatementId=key)
    return True


TYPES: Mapping[str, Type] = {
    **BALANCER_TYPES,
    **NESTED_TYPES,
    **NETWORK_TYPES,
    **PRIVATE_LINK_TYPES,
    "AWS::EC2::EIP": Type(
        _allocate, _release, _address_attribute, names("Tags"), _retagged_address
    ),
    "AWS::EC2::EIPAssociation": Type(_associate_address, _disassociate_address, _nothing),
    "AWS::EC2::InternetGateway": Type(
        INTERNET_GATEWAY.create,
        INTERNET_GATEWAY.delete,
        INTERNET_GATEWAY.attribute,
        names("Tags"),
        retagged,
    ),
    "AWS::EC2::NatGateway": Type(
        NAT_GATEWAY.create,
        _delete_nat,
        NAT_GATEWAY.attribute,
        names("Tags"),
        retagged,
        _nat_ready,
    ),
    "AWS::EC2::Route": Type(
        _create_route,
        _delete_route,
        _nothing,
        names("GatewayId NatGatewayId InstanceId"),
        _replace_route,
    ),
    "AWS::EC2::RouteTable": Type(
        ROUTE_TABLE.create, ROUTE_TABLE.delete, ROUTE_TABLE.attribute, names("Tags"), retagged
    ),
    "AWS::EC2::SecurityGroup": Type(
        _create_group,
        GROUP.delete,
        _group_attribute,
        names("SecurityGroupIngress SecurityGroupEgress Tags"),
        _update_group,
    ),
    "AWS::EC2::SecurityGroupEgress": _rule_type("Egress"),
    "AWS::EC2::SecurityGroupIngress": _rule_type("Ingress"),
    "AWS::EC2::Subnet": Type(
        _create_subnet,
        SUBNET.delete,
        SUBNET.attribute,
        names("MapPublicIpOnLaunch Tags"),
        _update_subnet,
    ),
    "AWS::EC2::SubnetRouteTableAssociation": Type(
        _associate, _disassociate, _nothing, names("RouteTableId"), _reassociate
    ),
    "AWS::EC2::VPC": Type(
        _create_vpc,
        VPC.delete,
        _vpc_attribute,
        names("EnableDnsSupport EnableDnsHostnames Tags"),
        _update_vpc,
    ),
    "AWS::EC2::VPCGatewayAttachment": Type(_attach, _detach, _nothing),
    "AWS::Lambda::Function": Type(
        _create_function,
        _delete_function,
        _function_attribute,
        names(
            "Code Description Environment EphemeralStorage Handler MemorySize Role Runtime Tags "
            "Timeout TracingConfig VpcConfig"
        ),
        _update_function,
        _function_ready,
    ),
    "AWS::Lambda::Permission": Type(_permit, _forbid, _nothing),
}
"""Those that are real: what they make is in the region."""
