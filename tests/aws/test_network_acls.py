# SPDX-License-Identifier: Apache-2.0
"""Network ACLs, as EC2 has them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.aws.support import OTHER, Endpoint, Scene, refusal, scene


@pytest.fixture
def found(endpoint: Endpoint) -> Scene:
    return scene(endpoint)


def acl_of(ec2: Any, subnet: str) -> dict[str, Any]:
    """The network ACL that a subnet has."""
    by_subnet = [{"Name": "association.subnet-id", "Values": [subnet]}]
    (acl,) = ec2.describe_network_acls(Filters=by_subnet)["NetworkAcls"]
    shown: dict[str, Any] = acl
    return shown


def web(acl: str, number: int = 100, **more: Any) -> dict[str, Any]:
    return {
        "NetworkAclId": acl,
        "RuleNumber": number,
        "Egress": False,
        "Protocol": "6",
        "RuleAction": "allow",
        "CidrBlock": "10.0.0.0/8",
        "PortRange": {"From": 80, "To": 81},
        **more,
    }


def test_a_request_that_is_sent_again_makes_one(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    asked = {"VpcId": found.vpc, "ClientToken": "once"}
    first, again = (ec2.create_network_acl(**asked)["NetworkAcl"] for _ in range(2))
    assert first["NetworkAclId"] == again["NetworkAclId"]
    other = ec2.create_network_acl(VpcId=found.vpc, ClientToken="twice")["NetworkAcl"]
    assert other["NetworkAclId"] != first["NetworkAclId"]


def test_an_acl_is_made_for_a_subnet_and_goes(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    former = acl_of(ec2, found.private)
    assert former["IsDefault"]
    tags = [{"ResourceType": "network-acl", "Tags": [{"Key": "a", "Value": "b"}]}]
    made = ec2.create_network_acl(VpcId=found.vpc, TagSpecifications=tags)["NetworkAcl"]
    key = made["NetworkAclId"]
    assert (made["IsDefault"], made["Associations"]) == (False, [])
    assert {each["RuleAction"] for each in made["Entries"]} == {"deny"}
    (association,) = (
        each["NetworkAclAssociationId"]
        for each in former["Associations"]
        if each["SubnetId"] == found.private
    )
    asked = {"AssociationId": association, "NetworkAclId": key}
    new = ec2.replace_network_acl_association(**asked)["NewAssociationId"]
    shown = acl_of(ec2, found.private)
    assert shown["NetworkAclId"] == key
    assert [each["NetworkAclAssociationId"] for each in shown["Associations"]] == [new]
    assert shown["Tags"] == [{"Key": "a", "Value": "b"}]
    assert refusal(ec2.replace_network_acl_association, **asked)[0] == (
        "InvalidAssociationID.NotFound"
    )
    assert refusal(ec2.delete_network_acl, NetworkAclId=key)[0] == "DependencyViolation"
    ec2.replace_network_acl_association(AssociationId=new, NetworkAclId=former["NetworkAclId"])
    ec2.delete_network_acl(NetworkAclId=key)
    said = refusal(ec2.describe_network_acls, NetworkAclIds=[key])
    assert said == (
        "InvalidNetworkAclID.NotFound",
        f"The networkAcl ID '{key}' does not exist",
        400,
    )
    assert endpoint.client("ec2", OTHER).describe_network_acls()["NetworkAcls"] == []


def test_entries_are_the_regions(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    key = ec2.create_network_acl(VpcId=found.vpc)["NetworkAcl"]["NetworkAclId"]

    def entries() -> list[dict[str, Any]]:
        (shown,) = ec2.describe_network_acls(NetworkAclIds=[key])["NetworkAcls"]
        return [each for each in shown["Entries"] if each["RuleNumber"] != 32767]

    ec2.create_network_acl_entry(**web(key))
    ping = {"Protocol": "1", "IcmpTypeCode": {"Type": 8, "Code": -1}, "PortRange": {}}
    ec2.create_network_acl_entry(**web(key, 110, Egress=True, **ping))
    everything = {"Protocol": "-1", "RuleAction": "deny", "PortRange": {}}
    ec2.create_network_acl_entry(**web(key, 120, Egress=True, **everything))
    first, second, third = entries()
    assert first == {
        "CidrBlock": "10.0.0.0/8",
        "Egress": False,
        "PortRange": {"From": 80, "To": 81},
        "Protocol": "6",
        "RuleAction": "allow",
        "RuleNumber": 100,
    }
    assert (second["Protocol"], second["IcmpTypeCode"]) == ("1", {"Type": 8, "Code": -1})
    assert (third["Protocol"], third["RuleAction"]) == ("-1", "deny")
    assert refusal(ec2.create_network_acl_entry, **web(key))[:2] == (
        "NetworkAclEntryAlreadyExists",
        "The network acl entry identified by 100 already exists.",
    )
    ec2.replace_network_acl_entry(**web(key, PortRange={"From": 443, "To": 443}))
    assert entries()[0]["PortRange"] == {"From": 443, "To": 443}
    ec2.delete_network_acl_entry(NetworkAclId=key, RuleNumber=100, Egress=False)
    assert [each["RuleNumber"] for each in entries()] == [110, 120]
    for work, params, code in (
        (ec2.replace_network_acl_entry, web(key), "InvalidNetworkAclEntry.NotFound"),
        (ec2.create_network_acl_entry, web(key, 40_000), "InvalidParameterValue"),
        (ec2.create_network_acl_entry, web(key, CidrBlock="x"), "InvalidParameterValue"),
        (ec2.create_network_acl_entry, web(key, RuleAction="maybe"), "InvalidParameterValue"),
        (ec2.create_network_acl_entry, web(key, Ipv6CidrBlock="::/0"), "UnsupportedOperation"),
        (ec2.create_network_acl_entry, {"NetworkAclId": key}, "MissingParameter"),
        (ec2.replace_network_acl_association, {"NetworkAclId": key}, "MissingParameter"),
    ):
        assert refusal(work, **params)[0] == code, params
    assert len(entries()) == 2
