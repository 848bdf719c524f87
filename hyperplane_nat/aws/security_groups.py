# SPDX-License-Identifier: Apache-2.0
"""Security groups and their rules.

A rule of the region is one rule of AWS (`SecurityGroupRule`), whose id is derived from what it
says. Where a request names a permission of several networks and groups, it is as many rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from hyperplane_nat.aws.call import (
    GROUP,
    VPC,
    Call,
    Kind,
    Operation,
    Params,
    Row,
    derived,
    operation,
)
from hyperplane_nat.aws.errors import AwsError, missing, unsupported
from hyperplane_nat.aws.filters import answer
from hyperplane_nat.aws.gateway_endpoints import PREFIX_LIST
from hyperplane_nat.aws.vpcs import network

Direction = Literal["ingress", "egress"]

RULE = Kind(
    "",
    "SecurityGroupRuleId",
    "InvalidSecurityGroupRuleId.NotFound",
    "The security group rule ID '{}' does not exist",
)

DEFAULT = "default"
"""The name of the group that a VPC comes with."""

LISTS: Mapping[Direction, str] = {"ingress": "IpPermissions", "egress": "IpPermissionsEgress"}

PROTOCOLS: Mapping[str, str] = {
    "-1": "all",
    "1": "icmp",
    "6": "tcp",
    "17": "udp",
    "icmp": "icmp",
    "tcp": "tcp",
    "udp": "udp",
}
"""EC2's `IpProtocol` in the words of the control API."""

PORTS_ALL = (0, 65535)
_DESCRIPTION = re.compile(r"[a-zA-Z0-9. _\-:/()#,@\[\]+=&;{}!$*]{0,255}")

GROUP_FILTERS = {
    "description": "Description",
    "group-id": "GroupId",
    "group-name": "GroupName",
    "owner-id": "OwnerId",
    "vpc-id": "VpcId",
    "ip-permission.cidr": "IpPermissions.IpRanges.CidrIp",
    "ip-permission.from-port": "IpPermissions.FromPort",
    "ip-permission.group-id": "IpPermissions.UserIdGroupPairs.GroupId",
    "ip-permission.ipv6-cidr": "IpPermissions.Ipv6Ranges.CidrIpv6",
    "ip-permission.prefix-list-id": "IpPermissions.PrefixListIds.PrefixListId",
    "ip-permission.protocol": "IpPermissions.IpProtocol",
    "ip-permission.to-port": "IpPermissions.ToPort",
    "ip-permission.user-id": "IpPermissions.UserIdGroupPairs.UserId",
    "egress.ip-permission.cidr": "IpPermissionsEgress.IpRanges.CidrIp",
    "egress.ip-permission.from-port": "IpPermissionsEgress.FromPort",
    "egress.ip-permission.group-id": "IpPermissionsEgress.UserIdGroupPairs.GroupId",
    "egress.ip-permission.ipv6-cidr": "IpPermissionsEgress.Ipv6Ranges.CidrIpv6",
    "egress.ip-permission.prefix-list-id": "IpPermissionsEgress.PrefixListIds.PrefixListId",
    "egress.ip-permission.protocol": "IpPermissionsEgress.IpProtocol",
    "egress.ip-permission.to-port": "IpPermissionsEgress.ToPort",
    "egress.ip-permission.user-id": "IpPermissionsEgress.UserIdGroupPairs.UserId",
}
RULE_FILTERS = {"group-id": "GroupId", "security-group-rule-id": "SecurityGroupRuleId"}


def create_security_group(call: Call, params: Params) -> Row:
    """CreateSecurityGroup: InvalidVpcID.NotFound, InvalidGroup.Duplicate."""
    name, description = params.get("GroupName") or "", params.get("Description") or ""
    for field, value in (("GroupName", name), ("GroupDescription", description)):
        if not value:
            raise missing(field)
    if _DESCRIPTION.fullmatch(description) is None:
        raise AwsError(
            "InvalidParameterValue",
            f"Value ({description}) for parameter GroupDescription is invalid. Character sets "
            "beyond ASCII are not supported.",
        )
    if name.startswith("sg-"):
        raise AwsError(
            "InvalidParameterValue",
            f"Value ({name}) for parameter GroupName is invalid. Group names may not be in the "
            "format sg-*.",
        )
    vpc = call.find(VPC, params.get("VpcId"))
    body = {"vpc": vpc["VpcId"], "name": name, "description": description}
    made = call.post(GROUP.path, body)
    call.tag_new(made["GroupId"], "security-group", params)
    return {
        "GroupId": made["GroupId"],
        "SecurityGroupArn": _arn(call, made),
        "Tags": call.tags(made["GroupId"]),
    }


def delete_security_group(call: Call, params: Params) -> Row:
    """DeleteSecurityGroup: InvalidGroup.NotFound, CannotDelete, DependencyViolation."""
    found = _group(call, params)
    if found["GroupName"] == DEFAULT:
        raise AwsError(
            "CannotDelete",
            f'the specified group: "{found["GroupId"]}" name: "{DEFAULT}" cannot be deleted by a '
            "user",
        )
    rules = [each["SecurityGroupRuleId"] for each in rules_of(call, found)]
    call.delete(GROUP.path, found["GroupId"])
    call.notes.forget(*rules)
    return {"Return": True, "GroupId": found["GroupId"]}


def describe_security_groups(call: Call, params: Params) -> Row:
    """DescribeSecurityGroups: InvalidGroup.NotFound."""
    rows = call.select(GROUP, params.get("GroupIds"))
    if names := params.get("GroupNames"):
        rows = [row for row in rows if row["GroupName"] in names]
    found = [
        {
            "GroupId": row["GroupId"],
            "GroupName": row["GroupName"],
            "Description": row["Description"] or row["GroupName"],
            "OwnerId": row["OwnerId"],
            "VpcId": row["VpcId"],
            "SecurityGroupArn": _arn(call, row),
            "IpPermissions": _permissions(call, row, "ingress"),
            "IpPermissionsEgress": _permissions(call, row, "egress"),
            "Tags": call.tags(row["GroupId"]),
        }
        for row in rows
    ]
    return answer(params, "SecurityGroups", found, GROUP_FILTERS)


def describe_security_group_rules(call: Call, params: Params) -> Row:
    """DescribeSecurityGroupRules: InvalidSecurityGroupRuleId.NotFound."""
    found = [rule for row in call.own(GROUP) for rule in rules_of(call, row)]
    if wanted := params.get("SecurityGroupRuleIds"):
        found = _select_rules(found, wanted)
    return answer(params, "SecurityGroupRules", found, RULE_FILTERS)


def authorize(direction: Direction, call: Call, params: Params) -> Row:
    """
    AuthorizeSecurityGroupIngress and -Egress.

    Errors: InvalidGroup.NotFound, InvalidPermission.Duplicate, InvalidPermission.Malformed,
    InvalidPrefixListID.NotFound.
    """
    found = _group(call, params)
    wanted = list(_wanted(call, found, params))
    known = {each["SecurityGroupRuleId"] for each in rules_of(call, found, direction)}
    ids = [_rule_id(found, direction, rule) for rule, _ in wanted]
    for place, (rule, _) in enumerate(wanted):
        there = ids[place] in known and not call.repeated
        if there or ids[place] in ids[:place]:
            raise AwsError(
                "InvalidPermission.Duplicate",
                f'the specified rule "{_text(rule)}" already exists',
            )
    body = {f"authorize_{direction}": [_asked(rule) for rule, _ in wanted]}
    changed = call.patch(GROUP.path, found["GroupId"], body)
    for key, (_, description) in zip(ids, wanted, strict=True):
        if description:
            call.notes.put(key, {"Description": description})
        call.tag_new(key, "security-group-rule", params)
    made = [r for r in rules_of(call, changed, direction) if r["SecurityGroupRuleId"] in ids]
    return {"Return": True, "SecurityGroupRules": made}


def revoke(direction: Direction, call: Call, params: Params) -> Row:
    """
    RevokeSecurityGroupIngress and -Egress, by what rules say or by their ids.

    Errors: InvalidGroup.NotFound, InvalidPermission.NotFound, InvalidSecurityGroupRuleId.NotFound.
    """
    found = _group(call, params)
    known = rules_of(call, found, direction)
    if wanted := params.get("SecurityGroupRuleIds"):
        gone = _select_rules(known, wanted)
        rules = [_of_rule(each) for each in gone]
    else:
        rules = [rule for rule, _ in _wanted(call, found, params)]
        ids = {_rule_id(found, direction, rule) for rule in rules}
        gone = [each for each in known if each["SecurityGroupRuleId"] in ids]
    body = {f"revoke_{direction}": [_asked(rule) for rule in rules]}
    call.patch(GROUP.path, found["GroupId"], body)
    call.notes.forget(*(each["SecurityGroupRuleId"] for each in gone))
    fields = {"SecurityGroupRuleId", "GroupId", "IsEgress", "IpProtocol", "FromPort", "ToPort"}
    revoked = [
        {
            **{name: value for name, value in each.items() if name in fields},
            "CidrIpv4": each.get("CidrIpv4"),
            "PrefixListId": each.get("PrefixListId"),
            "ReferencedGroupId": each.get("ReferencedGroupInfo", {}).get("GroupId"),
        }
        for each in gone
    ]
    return {"Return": True, "RevokedSecurityGroupRules": revoked}


# -- rules: (protocol, ports or None, "cidr", "group" or "prefix_list", the other side)

Rule = tuple[str, tuple[int, int] | None, str, str]


def _wanted(call: Call, group: Row, params: Params) -> Iterator[tuple[Rule, str]]:
    """The rules that a request names, with their descriptions."""
    permissions: Sequence[Row] = params.get("IpPermissions") or ()
    if not permissions and (params.get("IpProtocol") or params.get("CidrIp")):
        ranges = [{"CidrIp": params["CidrIp"]}] if params.get("CidrIp") else []
        ports = {name: params.get(name) for name in ("IpProtocol", "FromPort", "ToPort")}
        permissions = [{**ports, "IpRanges": ranges}]
    if not permissions:
        raise missing("ipPermissions")
    for each in permissions:
        yield from _of_permission(call, group, each)


def _of_permission(call: Call, group: Row, permission: Row) -> Iterator[tuple[Rule, str]]:
    if permission.get("Ipv6Ranges"):
        raise unsupported("Rules of security groups have IPv4 networks, groups and prefix lists.")
    protocol = PROTOCOLS.get(str(permission.get("IpProtocol")).lower())
    if protocol is None:
        raise unsupported(f"The protocol {permission.get('IpProtocol')} is not emulated.")
    ports = _ports(protocol, permission)
    sides = [
        ("cidr", str(network(each.get("CidrIp"), "CidrIp")), each)
        for each in permission.get("IpRanges") or ()
    ]
    for pair in permission.get("UserIdGroupPairs") or ():
        other = call.find(GROUP, pair.get("GroupId"))
        if other["VpcId"] != group["VpcId"]:
            raise AwsError(
                "InvalidGroup.NotFound",
                "You have specified two resources that belong to different networks.",
            )
        sides.append(("group", other["GroupId"], pair))
    if listed := permission.get("PrefixListIds"):
        wanted = [str(each.get("PrefixListId")) for each in listed]
        PREFIX_LIST.known(call.rows(PREFIX_LIST.path), wanted)
        sides += [("prefix_list", *pair) for pair in zip(wanted, listed, strict=True)]
    if not sides:
        raise AwsError(
            "InvalidParameterValue",
            "The permission names neither a network nor a group nor a prefix list.",
        )
    for kind, side, each in sides:
        yield (protocol, ports, kind, side), each.get("Description") or ""


def _ports(protocol: str, permission: Row) -> tuple[int, int] | None:
    first, last = permission.get("FromPort"), permission.get("ToPort")
    if protocol == "all":
        return None
    if protocol == "icmp":
        if (first, last) not in ((-1, -1), (None, None)):
            raise unsupported("Rules of ICMP are for all of its types.")
        return None
    if first is None or last is None:
        raise AwsError(
            "InvalidParameterValue",
            "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange.",
        )
    if not 0 <= first <= last <= PORTS_ALL[1]:
        raise AwsError(
            "InvalidParameterValue",
            f"Invalid value '{first}-{last}' for portRange. Must be 0 to 65535, from before to.",
        )
    return first, last


def _of_region(row: Row) -> Rule:
    protocol = PROTOCOLS[row["IpProtocol"]]
    ports = (row["FromPort"], row["ToPort"]) if "FromPort" in row else None
    if "IpRanges" in row:
        return protocol, ports, "cidr", row["IpRanges"][0]["CidrIp"]
    if "PrefixListIds" in row:
        return protocol, ports, "prefix_list", row["PrefixListIds"][0]["PrefixListId"]
    return protocol, ports, "group", row["UserIdGroupPairs"][0]["GroupId"]


def _of_rule(rule: Row) -> Rule:
    protocol = PROTOCOLS[rule["IpProtocol"]]
    ports = (rule["FromPort"], rule["ToPort"]) if protocol in ("tcp", "udp") else None
    if "CidrIpv4" in rule:
        return protocol, ports, "cidr", rule["CidrIpv4"]
    if "PrefixListId" in rule:
        return protocol, ports, "prefix_list", rule["PrefixListId"]
    return protocol, ports, "group", rule["ReferencedGroupInfo"]["GroupId"]


def _asked(rule: Rule) -> Row:
    protocol, ports, kind, side = rule
    asked = {"protocol": protocol, kind: side}
    if ports not in (None, PORTS_ALL):
        asked["ports"] = f"{ports[0]}-{ports[1]}"
    return asked


def _text(rule: Rule) -> str:
    protocol, ports, _, side = rule
    named = "ALL" if protocol == "all" else protocol.upper()
    range_ = "" if ports is None else f", from port: {ports[0]}, to port: {ports[1]}"
    return f"peer: {side}, {named}{range_}, ALLOW"


def _rule_id(group: Row, direction: Direction, rule: Rule) -> str:
    return derived("sgr", group["GroupId"], direction, *(str(part) for part in rule))


def _of_protocol(rule: Rule) -> Row:
    protocol, ports, _, _ = rule
    first, last = ports or (-1, -1)
    found: Row = {"IpProtocol": "-1" if protocol == "all" else protocol}
    return found if protocol == "all" else {**found, "FromPort": first, "ToPort": last}


def rules_of(call: Call, group: Row, only: Direction | None = None) -> list[Row]:
    """A group's rules as `DescribeSecurityGroupRules` has them."""
    found = []
    for direction, key in LISTS.items():
        if only not in (None, direction):
            continue
        for row in group[key]:
            rule = _of_region(row)
            identifier = _rule_id(group, direction, rule)
            sides: Mapping[str, Row] = {
                "cidr": {"CidrIpv4": rule[3]},
                "prefix_list": {"PrefixListId": rule[3]},
                "group": {"ReferencedGroupInfo": {"GroupId": rule[3], "UserId": group["OwnerId"]}},
            }
            side = sides[rule[2]]
            if description := call.note(identifier).get("Description"):
                side["Description"] = description
            found.append(
                {
                    "SecurityGroupRuleId": identifier,
                    "GroupId": group["GroupId"],
                    "GroupOwnerId": group["OwnerId"],
                    "IsEgress": direction == "egress",
                    "FromPort": -1,
                    "ToPort": -1,
                    **_of_protocol(rule),
                    **side,
                    "Tags": call.tags(identifier),
                }
            )
    return found


def _permissions(call: Call, group: Row, direction: Direction) -> list[Row]:
    """A group's rules as `IpPermission`: those of the same protocol and ports are one."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in group[LISTS[direction]]:
        rule = _of_region(row)
        permission = found.setdefault(
            rule[:2],
            {
                **_of_protocol(rule),
                "IpRanges": [],
                "Ipv6Ranges": [],
                "PrefixListIds": [],
                "UserIdGroupPairs": [],
            },
        )
        description = call.note(_rule_id(group, direction, rule)).get("Description")
        said = {"Description": description} if description else {}
        if rule[2] == "cidr":
            permission["IpRanges"].append({"CidrIp": rule[3], **said})
        elif rule[2] == "prefix_list":
            permission["PrefixListIds"].append({"PrefixListId": rule[3], **said})
        else:
            pair = {"GroupId": rule[3], "UserId": group["OwnerId"], **said}
            permission["UserIdGroupPairs"].append(pair)
    return list(found.values())


def _group(call: Call, params: Params) -> Row:
    if not params.get("GroupId") and params.get("GroupName"):
        # There is no default VPC, in which alone groups are known by their names.
        raise AwsError(
            "InvalidGroup.NotFound",
            f"The security group '{params['GroupName']}' does not exist in default VPC",
        )
    return call.find(GROUP, params.get("GroupId"))


def _select_rules(known: Sequence[Row], wanted: Sequence[str]) -> list[Row]:
    found = RULE.known(known, wanted)
    return [found[each] for each in wanted]


def _arn(call: Call, group: Row) -> str:
    return call.arn("ec2", f"security-group/{group['GroupId']}")


_OF_RULES = "GroupId IpPermissions IpProtocol FromPort ToPort CidrIp"
_NAMED: Mapping[Direction, str] = {"ingress": "GroupName", "egress": ""}
"""EC2 knows groups by their names in one direction alone, and in a default VPC."""

OPERATIONS: Mapping[str, Operation] = {
    "CreateSecurityGroup": operation(
        create_security_group,
        "VpcId GroupName Description TagSpecifications",
        makes="security-group",
    ),
    "DeleteSecurityGroup": operation(delete_security_group, "GroupId GroupName"),
    "DescribeSecurityGroups": operation(describe_security_groups, "GroupIds GroupNames"),
    "DescribeSecurityGroupRules": operation(describe_security_group_rules, "SecurityGroupRuleIds"),
    **{
        f"AuthorizeSecurityGroup{direction.capitalize()}": operation(
            partial(authorize, direction),
            f"{_OF_RULES} {named} TagSpecifications",
            makes="security-group-rule",
        )
        for direction, named in _NAMED.items()
    },
    **{
        f"RevokeSecurityGroup{direction.capitalize()}": operation(
            partial(revoke, direction), f"{_OF_RULES} {named} SecurityGroupRuleIds"
        )
        for direction, named in _NAMED.items()
    },
}
