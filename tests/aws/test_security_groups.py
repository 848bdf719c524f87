# SPDX-License-Identifier: Apache-2.0
"""Security groups: rules as permissions, as rules with ids, and as the region has them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.aws.support import Endpoint, refusal


def group_in(endpoint: Endpoint, name: str = "g") -> tuple[str, str]:
    """A VPC and a group in it."""
    ec2 = endpoint.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    made = ec2.create_security_group(VpcId=vpc, GroupName=name, Description="d")
    return vpc, made["GroupId"]


def rules_of(endpoint: Endpoint, group: str) -> set[tuple[Any, ...]]:
    """What the region lets in."""
    return {
        (str(rule.protocol), rule.first, rule.last, str(rule.cidr or rule.group_id))
        for rule in endpoint.region.region.tables.groups[group].ingress
    }


def test_permissions_are_rules_of_the_region(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    vpc, group = group_in(endpoint)
    other = ec2.create_security_group(VpcId=vpc, GroupName="o", Description="d")["GroupId"]
    permissions = [
        {
            "IpProtocol": "6",
            "FromPort": 80,
            "ToPort": 81,
            "IpRanges": [
                {"CidrIp": "10.0.0.1/8", "Description": "inside"},
                {"CidrIp": "0.0.0.0/0"},
            ],
            "UserIdGroupPairs": [{"GroupId": other}],
        },
        {
            "IpProtocol": "udp",
            "FromPort": 0,
            "ToPort": 65535,
            "IpRanges": [{"CidrIp": "1.1.1.1/32"}],
        },
        {
            "IpProtocol": "icmp",
            "FromPort": -1,
            "ToPort": -1,
            "UserIdGroupPairs": [{"GroupId": group}],
        },
    ]
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=permissions)
    assert rules_of(endpoint, group) == {
        ("tcp", 80, 81, "10.0.0.0/8"),
        ("tcp", 80, 81, "0.0.0.0/0"),
        ("tcp", 80, 81, other),
        ("udp", 0, 65535, "1.1.1.1/32"),
        ("icmp", 0, 65535, group),
    }
    assert len(made["SecurityGroupRules"]) == 5
    (shown,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    tcp, udp, icmp = sorted(shown["IpPermissions"], key=lambda each: each["FromPort"], reverse=True)
    assert tcp["IpRanges"] == [
        {"CidrIp": "10.0.0.0/8", "Description": "inside"},
        {"CidrIp": "0.0.0.0/0"},
    ]
    assert [pair["GroupId"] for pair in tcp["UserIdGroupPairs"]] == [other]
    assert (udp["FromPort"], udp["ToPort"]) == (0, 65535)
    assert (icmp["FromPort"], icmp["ToPort"]) == (-1, -1)
    # What is shown can be taken as it is.
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=shown["IpPermissions"])
    assert rules_of(endpoint, group) == set()
    assert (endpoint.directory / "aws.json").read_text() == "{}"


def test_rules_have_ids_descriptions_and_tags(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    _, group = group_in(endpoint)
    made = ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[
            {
                "IpProtocol": "tcp",
                "FromPort": 1,
                "ToPort": 1,
                "IpRanges": [{"CidrIp": "10.0.0.0/8", "Description": "it"}],
            }
        ],
        TagSpecifications=[
            {"ResourceType": "security-group-rule", "Tags": [{"Key": "a", "Value": "b"}]}
        ],
    )
    (rule,) = made["SecurityGroupRules"]
    key = rule["SecurityGroupRuleId"]
    (shown,) = ec2.describe_security_group_rules(SecurityGroupRuleIds=[key])["SecurityGroupRules"]
    assert (shown["CidrIpv4"], shown["Description"], shown["IsEgress"]) == (
        "10.0.0.0/8",
        "it",
        False,
    )
    assert shown["Tags"] == [{"Key": "a", "Value": "b"}]
    of_it = [{"Name": "group-id", "Values": [group]}]
    assert len(ec2.describe_security_group_rules(Filters=of_it)["SecurityGroupRules"]) == 2
    revoked = ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[key])
    assert [each["SecurityGroupRuleId"] for each in revoked["RevokedSecurityGroupRules"]] == [key]
    assert rules_of(endpoint, group) == set()
    said = refusal(ec2.revoke_security_group_ingress, GroupId=group, SecurityGroupRuleIds=[key])
    assert said[0] == "InvalidSecurityGroupRuleId.NotFound"


def test_the_older_form_of_a_rule(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    _, group = group_in(endpoint)
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "10.0.0.0/8"}
    ec2.authorize_security_group_ingress(GroupId=group, **rule)
    assert rules_of(endpoint, group) == {("tcp", 22, 22, "10.0.0.0/8")}
    ec2.revoke_security_group_ingress(GroupId=group, **rule)
    assert rules_of(endpoint, group) == set()


ANYWHERE = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


@pytest.mark.parametrize(
    ("permission", "code"),
    [
        ({"IpProtocol": "50", **ANYWHERE}, "UnsupportedOperation"),
        ({"IpProtocol": "icmp", "FromPort": 8, "ToPort": 0, **ANYWHERE}, "UnsupportedOperation"),
        ({"IpProtocol": "-1", "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}, "UnsupportedOperation"),
        ({"IpProtocol": "tcp", **ANYWHERE}, "InvalidParameterValue"),
        (
            {"IpProtocol": "tcp", "FromPort": 2, "ToPort": 1, **ANYWHERE},
            "InvalidParameterValue",
        ),
        ({"IpProtocol": "-1"}, "InvalidParameterValue"),
        ({"IpProtocol": "-1", "IpRanges": [{"CidrIp": "all"}]}, "InvalidParameterValue"),
        ({"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-0"}]}, "InvalidGroup.NotFound"),
    ],
)
def test_rules_that_cannot_be_are_refused(
    endpoint: Endpoint, permission: dict[str, Any], code: str
) -> None:
    ec2 = endpoint.client("ec2")
    _, group = group_in(endpoint)
    said = refusal(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[permission])
    assert said[0] == code
    assert rules_of(endpoint, group) == set()


def test_a_group_of_another_vpc_is_in_no_rule(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    _, one = group_in(endpoint, "one")
    _, two = group_in(endpoint, "two")
    permission = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": two}]}
    said = refusal(ec2.authorize_security_group_ingress, GroupId=one, IpPermissions=[permission])
    assert said[0] == "InvalidGroup.NotFound"


def test_groups_are_not_known_by_name_without_a_default_vpc(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    group_in(endpoint)
    assert refusal(ec2.delete_security_group, GroupName="g")[0] == "InvalidGroup.NotFound"
    assert refusal(ec2.delete_security_group)[0] == "MissingParameter"
    for name in ("sg-x", ""):
        vpc = ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
        said = refusal(ec2.create_security_group, VpcId=vpc, GroupName=name, Description="d")
        assert said[0] in ("InvalidParameterValue", "MissingParameter")


def test_what_leaves_is_allowed_by_rules_too(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="g", Description="d")["GroupId"]
    everything = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    web = {
        "IpProtocol": "tcp",
        "FromPort": 80,
        "ToPort": 80,
        "IpRanges": [{"CidrIp": "10.8.0.0/16"}],
    }
    ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[web])
    ec2.revoke_security_group_egress(GroupId=group, IpPermissions=[everything])
    (shown,) = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    (rule,) = shown["IpPermissionsEgress"]
    assert (rule["FromPort"], rule["IpRanges"]) == (80, [{"CidrIp": "10.8.0.0/16"}])
    assert len(endpoint.region.region.tables.groups[group].egress) == 1
