# SPDX-License-Identifier: Apache-2.0
"""Types of stacks' resources: network ACLs with their entries and subnets, and flow logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperplane_nat.aws.call import Call, Row
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.stack_making import (
    Ec2,
    Making,
    Type,
    names,
    required,
    retagged,
    succeeded,
    without,
)


def _id(_call: Call, key: str, _properties: Row, name: str) -> Any:
    return {"Id": key}[name]


NETWORK_ACL = Ec2("NetworkAcl", "NetworkAclId", "network-acl")


# -- entries, which have no id but their number in an ACL


def _entry(properties: Row) -> Row:
    said = {"Egress": False, **without(properties, "Icmp")}
    if "Icmp" in properties:
        said["IcmpTypeCode"] = properties["Icmp"]
    return said


def _create_entry(making: Making, properties: Row) -> str:
    making.do("ec2", "CreateNetworkAclEntry", **_entry(properties))
    return making.name


def _replace_entry(making: Making, key: str, _before: Row, after: Row) -> str:
    making.do("ec2", "ReplaceNetworkAclEntry", **_entry(after))
    return key


def _delete_entry(making: Making, _key: str, properties: Row) -> bool:
    said = _entry(properties)
    named = {name: said[name] for name in ("NetworkAclId", "RuleNumber", "Egress")}
    making.do("ec2", "DeleteNetworkAclEntry", **named)
    return True


# -- the ACL of a subnet


def _associate(making: Making, properties: Row) -> str:
    subnet = required(properties, "SubnetId")
    acl = _acl_of(making.call, "association.subnet-id", subnet)
    if acl is None:
        raise AwsError("InvalidSubnetID.NotFound", f"The subnet ID '{subnet}' does not exist")
    return _replace(making, acl, subnet, required(properties, "NetworkAclId"))


def _disassociate(making: Making, key: str, properties: Row) -> bool:
    """The subnet has its VPC's default ACL again, unless it has another one meanwhile."""
    acl = _acl_of(making.call, "association.association-id", key)
    if acl is not None:
        defaults = _acls(making.call, {"vpc-id": acl["VpcId"], "default": "true"})
        _replace(making, acl, properties["SubnetId"], defaults[0]["NetworkAclId"])
    return True


def _acl_of(call: Call, name: str, value: str) -> Row | None:
    found = _acls(call, {name: value})
    return found[0] if found else None


def _acls(call: Call, wanted: Mapping[str, str]) -> list[Row]:
    filters = [{"Name": name, "Values": [value]} for name, value in wanted.items()]
    answer = call.perform("ec2", "DescribeNetworkAcls", {"Filters": filters})
    found: list[Row] = answer["NetworkAcls"]
    return found


def _replace(making: Making, acl: Row, subnet: str, wanted: str) -> str:
    former = next(
        each["NetworkAclAssociationId"]
        for each in acl["Associations"]
        if each["SubnetId"] == subnet
    )
    answer = making.do(
        "ec2", "ReplaceNetworkAclAssociation", AssociationId=former, NetworkAclId=wanted
    )
    return str(answer["NewAssociationId"])


def _association_attribute(_call: Call, key: str, _properties: Row, name: str) -> Any:
    return {"AssociationId": key}[name]


# -- flow logs


def _create_flow_log(making: Making, properties: Row) -> str:
    answer = making.do(
        "ec2",
        "CreateFlowLogs",
        **without(properties, "ResourceId"),
        ResourceIds=[required(properties, "ResourceId")],
        TagSpecifications=making.specification("vpc-flow-log"),
    )
    succeeded(answer)
    return str(answer["FlowLogIds"][0])


def _delete_flow_log(making: Making, key: str, _properties: Row) -> bool:
    succeeded(making.do("ec2", "DeleteFlowLogs", FlowLogIds=[key]))
    return True


NETWORK_TYPES: Mapping[str, Type] = {
    "AWS::EC2::FlowLog": Type(_create_flow_log, _delete_flow_log, _id, names("Tags"), retagged),
    "AWS::EC2::NetworkAcl": Type(
        NETWORK_ACL.create, NETWORK_ACL.delete, _id, names("Tags"), retagged
    ),
    "AWS::EC2::NetworkAclEntry": Type(
        _create_entry,
        _delete_entry,
        _id,
        names("CidrBlock Icmp PortRange Protocol RuleAction"),
        _replace_entry,
    ),
    "AWS::EC2::SubnetNetworkAclAssociation": Type(
        _associate, _disassociate, _association_attribute
    ),
}
"""Those that are real, too."""
