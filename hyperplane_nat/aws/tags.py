# SPDX-License-Identifier: Apache-2.0
"""Tags of what EC2 has; a function's are with the functions."""

from __future__ import annotations

from collections.abc import Mapping

from hyperplane_nat.aws.call import (
    GROUP,
    KINDS,
    Call,
    Kind,
    Operation,
    Params,
    Row,
    checked_tags,
    operation,
)
from hyperplane_nat.aws.errors import AwsError, missing
from hyperplane_nat.aws.filters import answer
from hyperplane_nat.aws.interfaces import INTERFACE, interfaces_of
from hyperplane_nat.aws.security_groups import RULE, rules_of
from hyperplane_nat.aws.vpcs import ACL

TAGGED: Mapping[str, str] = {
    "acl": "network-acl",
    "eipalloc": "elastic-ip",
    "eni": "network-interface",
    "fl": "vpc-flow-log",
    "i": "instance",
    "key": "key-pair",
    "igw": "internet-gateway",
    "nat": "natgateway",
    "rtb": "route-table",
    "sg": "security-group",
    "sgr": "security-group-rule",
    "subnet": "subnet",
    "vpc": "vpc",
    "vpce": "vpc-endpoint",
    "vpce-svc": "vpc-endpoint-service",
}
"""EC2's `ResourceType` by what ids begin with."""

OTHERS: Mapping[str, Kind] = {"acl": ACL, "eni": INTERFACE, "sgr": RULE}
"""What is in no list of the control API by itself, by what ids begin with."""

TAG_FILTERS = {
    "key": "Key",
    "resource-id": "ResourceId",
    "resource-type": "ResourceType",
    "value": "Value",
}


def create_tags(call: Call, params: Params) -> None:
    """CreateTags: the NotFound of each kind, and what `checked_tags` refuses."""
    resources = _tagged(call, params)
    call.notes.tag(resources, checked_tags(params.get("Tags")))


def delete_tags(call: Call, params: Params) -> None:
    """DeleteTags: all of a resource without any named; with a value only that one."""
    tags = params.get("Tags")
    named = None if tags is None else {each.get("Key", ""): each.get("Value") for each in tags}
    call.notes.untag(_tagged(call, params), named)


def describe_tags(call: Call, params: Params) -> Row:
    """DescribeTags."""
    found = [
        {
            "ResourceId": key,
            "ResourceType": TAGGED[prefix],
            "Key": name,
            "Value": value,
        }
        for key, tags in call.notes.tagged()
        if (prefix := _prefix(key)) in TAGGED and _is_own(call, key)
        for name, value in sorted(tags.items())
    ]
    return answer(params, "Tags", found, TAG_FILTERS)


def _prefix(key: str) -> str:
    """What an id begins with; "vpce-svc" has a hyphen of its own."""
    return key.rpartition("-")[0] or key


def _tagged(call: Call, params: Params) -> list[str]:
    resources: list[str] = params.get("Resources") or []
    if not resources:
        raise missing("resourceIdSet")
    for key in resources:
        prefix = _prefix(key)
        if prefix in KINDS:
            call.find(KINDS[prefix], key)
        elif prefix not in OTHERS:
            raise AwsError("InvalidID", f"The ID '{key}' is not valid")
        elif not _is_own(call, key):
            raise OTHERS[prefix].absent(key)
    return resources


def _is_own(call: Call, key: str) -> bool:
    prefix = _prefix(key)
    if prefix in KINDS:
        return any(row[KINDS[prefix].key] == key for row in call.own(KINDS[prefix]))
    if prefix == "acl":
        return any(row["NetworkAclId"] == key for row in call.own(ACL))
    if prefix == "eni":
        return any(row["NetworkInterfaceId"] == key for row in interfaces_of(call))
    rules = (rule for row in call.own(GROUP) for rule in rules_of(call, row))
    return any(rule["SecurityGroupRuleId"] == key for rule in rules)


OPERATIONS: Mapping[str, Operation] = {
    "CreateTags": operation(create_tags, "Resources Tags"),
    "DeleteTags": operation(delete_tags, "Resources Tags"),
    "DescribeTags": operation(describe_tags),
}
