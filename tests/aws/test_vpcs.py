# SPDX-License-Identifier: Apache-2.0
"""VPCs, subnets, their tags, and how lists are filtered and paged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Network
from typing import Any

import pytest

from hyperplane_nat.model.network_acl_entities import NetworkAclEntry
from tests.aws.support import OTHER, Endpoint, refusal


def tagged(**tags: str) -> list[dict[str, Any]]:
    """A request's tags of a new VPC."""
    return [
        {"ResourceType": "vpc", "Tags": [{"Key": key, "Value": tags[key]} for key in tags]},
    ]


def test_a_vpc_has_what_ec2_makes_with_it_and_takes_it_along(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.9/16")["Vpc"]
    key = vpc["VpcId"]
    assert (vpc["CidrBlock"], vpc["State"], vpc["IsDefault"]) == ("10.7.0.0/16", "available", False)
    of_it = [{"Name": "vpc-id", "Values": [key]}]
    (group,) = ec2.describe_security_groups(Filters=of_it)["SecurityGroups"]
    assert group["GroupName"] == "default"
    (pair,) = group["IpPermissions"][0]["UserIdGroupPairs"]
    assert pair["GroupId"] == group["GroupId"]
    (table,) = ec2.describe_route_tables(Filters=of_it)["RouteTables"]
    assert [each["Main"] for each in table["Associations"]] == [True]
    (acl,) = ec2.describe_network_acls(Filters=of_it)["NetworkAcls"]
    assert acl["IsDefault"]
    ec2.delete_vpc(VpcId=key)
    assert key not in endpoint.region.region.tables.vpcs
    assert ec2.describe_route_tables(Filters=of_it)["RouteTables"] == []
    assert ec2.describe_security_groups(Filters=of_it)["SecurityGroups"] == []


def test_network_acls_are_the_regions(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    key = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=key, CidrBlock="10.7.1.0/24")["Subnet"]["SubnetId"]
    entry = NetworkAclEntry(7, True, 6, IPv4Network("0.0.0.0/0"), 443, 443)
    with endpoint.region.region.commands() as commands:
        made = commands.create_network_acl(key)
        commands.create_network_acl_entry(made.id, entry, egress=False)
        commands.associate_network_acl(made.id, [subnet])
    (acl,) = ec2.describe_network_acls(NetworkAclIds=[made.id])["NetworkAcls"]
    assert [each["SubnetId"] for each in acl["Associations"]] == [subnet]
    web, last, denied = acl["Entries"]
    assert (web["PortRange"], web["RuleAction"]) == ({"From": 443, "To": 443}, "allow")
    assert (last["RuleNumber"], denied["Egress"]) == (32767, True)
    of_subnet = [{"Name": "association.subnet-id", "Values": [subnet]}]
    (found,) = ec2.describe_network_acls(Filters=of_subnet)["NetworkAcls"]
    assert found["NetworkAclId"] == made.id


def test_the_ids_are_the_regions_and_what_it_has_is_shown(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    made = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    tables = endpoint.region.region.tables
    (customer,) = (vpc for vpc in tables.vpcs.values() if vpc.name == "customer")
    shown = {vpc["VpcId"] for vpc in ec2.describe_vpcs()["Vpcs"]}
    assert shown == {made, customer.id}
    subnets = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [customer.id]}])
    assert {each["SubnetId"] for each in subnets["Subnets"]} == {
        each.id for each in tables.subnets.values() if each.vpc_id == customer.id
    }
    free = {each["CidrBlock"]: each["AvailableIpAddressCount"] for each in subnets["Subnets"]}
    # Of 256 five are reserved, two taken: by eni-a of the file and the interface of `orders`.
    assert free["10.0.1.0/24"] == 249


def test_another_account_sees_nothing_of_it_and_may_do_nothing(endpoint: Endpoint) -> None:
    ec2, other = endpoint.client("ec2"), endpoint.client("ec2", OTHER)
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16", TagSpecifications=tagged(Name="a"))["Vpc"]
    assert other.describe_vpcs()["Vpcs"] == []
    assert other.describe_tags()["Tags"] == []
    assert refusal(other.delete_vpc, VpcId=vpc["VpcId"])[0] == "InvalidVpcID.NotFound"
    code, _, _ = refusal(other.create_tags, Resources=[vpc["VpcId"]], Tags=[{"Key": "a"}])
    assert code == "InvalidVpcID.NotFound"
    # The same addresses are another VPC there, and its account is made with it.
    own = other.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]
    assert own["OwnerId"] == OTHER
    assert [each["VpcId"] for each in other.describe_vpcs()["Vpcs"]] == [own["VpcId"]]
    assert OTHER in endpoint.region.region.tables.accounts
    identity = endpoint.client("sts", OTHER).get_caller_identity()
    assert (identity["Account"], identity["Arn"]) == (OTHER, f"arn:aws:iam::{OTHER}:root")


def test_an_access_key_that_is_no_account_is_the_labs_first(endpoint: Endpoint) -> None:
    assert endpoint.client("sts", "AKIAEXAMPLE").get_caller_identity()["Account"] == "111122223333"


def test_a_role_of_another_account_is_assumed(endpoint: Endpoint) -> None:
    role = f"arn:aws:iam::{OTHER}:role/r"
    found = endpoint.client("sts").assume_role(RoleArn=role, RoleSessionName="s")
    key = found["Credentials"]["AccessKeyId"]
    assert endpoint.client("sts", key).get_caller_identity()["Account"] == OTHER
    made = endpoint.client("ec2", key).create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]
    assert made["OwnerId"] == OTHER


@pytest.mark.races
def test_clients_beside_each_other_lose_nothing(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]

    def work(number: int) -> None:
        made = ec2.create_subnet(
            VpcId=vpc,
            CidrBlock=f"10.7.{number}.0/24",
            TagSpecifications=[
                {"ResourceType": "subnet", "Tags": [{"Key": "n", "Value": str(number)}]}
            ],
        )
        ec2.create_tags(Resources=[vpc], Tags=[{"Key": str(number), "Value": ""}])
        ec2.describe_subnets(SubnetIds=[made["Subnet"]["SubnetId"]])

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(40)))
    shown = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"]
    assert {row["CidrBlock"].split(".")[2] for row in shown} == {
        row["Tags"][0]["Value"] for row in shown
    }
    assert len(shown) == len(ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"][0]["Tags"]) == 40


def test_names_of_the_region_are_no_ids(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    assert refusal(ec2.delete_vpc, VpcId="customer")[0] == "InvalidVpcID.NotFound"
    assert refusal(ec2.delete_subnet, SubnetId="customer/a")[0] == "InvalidSubnetID.NotFound"


def test_subnets_have_zones_of_the_region(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    made = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.1.0/24", AvailabilityZone="us-east-1c")
    assert made["Subnet"]["AvailabilityZone"] == "us-east-1c"
    assert made["Subnet"]["AvailabilityZoneId"] == "use1-az3"
    tables = endpoint.region.region.tables
    assert tables.subnets[made["Subnet"]["SubnetId"]].availability_zone == "c"
    for zone in ("eu-west-1a", "us-east-1", "us-east-1ab", "us-east-1A"):
        code, _, _ = refusal(
            ec2.create_subnet, VpcId=vpc, CidrBlock="10.7.2.0/24", AvailabilityZone=zone
        )
        assert code == "InvalidParameterValue"
    zones = ec2.describe_availability_zones(ZoneNames=["us-east-1a"])["AvailabilityZones"]
    assert [each["ZoneName"] for each in zones] == ["us-east-1a"]
    assert [each["RegionName"] for each in ec2.describe_regions()["Regions"]] == ["us-east-1"]
    ec2.modify_subnet_attribute(
        SubnetId=made["Subnet"]["SubnetId"], MapPublicIpOnLaunch={"Value": True}
    )
    (shown,) = ec2.describe_subnets(SubnetIds=[made["Subnet"]["SubnetId"]])["Subnets"]
    assert shown["MapPublicIpOnLaunch"] is True


def test_dns_attributes_are_the_regions(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    assert endpoint.region.region.tables.vpcs[vpc].enable_dns_hostnames
    for name, field in (
        ("enableDnsHostnames", "EnableDnsHostnames"),
        ("enableDnsSupport", "EnableDnsSupport"),
    ):
        found = ec2.describe_vpc_attribute(VpcId=vpc, Attribute=name)
        assert found[field] == {"Value": True}


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([{"Name": "tag:Name", "Values": ["one"]}], {"one"}),
        ([{"Name": "tag:Name", "Values": ["o*", "tw?"]}], {"one", "two"}),
        ([{"Name": "tag:Name", "Values": ["[o]ne"]}], set()),
        ([{"Name": "tag-key", "Values": ["Owner"]}], {"two"}),
        (
            [
                {"Name": "tag-key", "Values": ["Name"]},
                {"Name": "cidr", "Values": ["10.1.0.0/16"]},
            ],
            {"one"},
        ),
        ([{"Name": "is-default", "Values": ["true"]}], set()),
        ([{"Name": "vpc-id", "Values": []}], set()),
    ],
)
def test_filters(endpoint: Endpoint, filters: list[dict[str, Any]], found: set[str]) -> None:
    ec2 = endpoint.client("ec2")
    ec2.create_vpc(CidrBlock="10.1.0.0/16", TagSpecifications=tagged(Name="one"))
    ec2.create_vpc(CidrBlock="10.2.0.0/16", TagSpecifications=tagged(Name="two", Owner="x"))
    names = {
        tag["Value"]
        for vpc in ec2.describe_vpcs(Filters=filters)["Vpcs"]
        for tag in vpc["Tags"]
        if tag["Key"] == "Name"
    }
    assert names == found


def test_a_filter_that_there_is_not_is_refused(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    said = refusal(ec2.describe_vpcs, Filters=[{"Name": "colour", "Values": ["red"]}])
    assert said == ("InvalidParameterValue", "The filter 'colour' is invalid", 400)


def test_pages(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    made = {ec2.create_vpc(CidrBlock=f"10.{n}.0.0/16")["Vpc"]["VpcId"] for n in range(1, 8)}
    pages = [
        [vpc["VpcId"] for vpc in page["Vpcs"]]
        for page in ec2.get_paginator("describe_vpcs").paginate(PaginationConfig={"PageSize": 5})
    ]
    assert [len(page) for page in pages] == [5, 3]
    assert made < {key for page in pages for key in page}
    assert refusal(ec2.describe_vpcs, NextToken="x")[0] == "InvalidParameterValue"


def test_tags_come_and_go(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16", TagSpecifications=tagged(a="1", b="2"))["Vpc"]
    assert vpc["Tags"] == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}]
    ec2.create_tags(Resources=[vpc["VpcId"]], Tags=[{"Key": "a", "Value": "3"}, {"Key": "c"}])
    ec2.delete_tags(Resources=[vpc["VpcId"]], Tags=[{"Key": "b"}, {"Key": "a", "Value": "1"}])
    (row, empty) = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [vpc["VpcId"]]}])[
        "Tags"
    ]
    assert (row["Key"], row["Value"], row["ResourceType"]) == ("a", "3", "vpc")
    assert (empty["Key"], empty["Value"]) == ("c", "")
    ec2.delete_tags(Resources=[vpc["VpcId"]])
    assert ec2.describe_tags()["Tags"] == []
    many = [{"Key": str(number), "Value": ""} for number in range(51)]
    said = refusal(ec2.create_tags, Resources=[vpc["VpcId"]], Tags=many)
    assert said[0] == "TagLimitExceeded"
    said = refusal(ec2.create_tags, Resources=[vpc["VpcId"]], Tags=[{"Key": "aws:x"}])
    assert said[0] == "InvalidParameterValue"
    assert refusal(ec2.create_tags, Resources=[vpc["VpcId"]], Tags=[{"Value": "x"}])[0] == (
        "MissingParameter"
    )
    for wrong, code in (
        ("x-1", "InvalidID"),
        ("vpc", "InvalidVpcID.NotFound"),
        ("vpce-1", "InvalidVpcEndpointId.NotFound"),
        ("vpce-svc-1", "InvalidVpcEndpointServiceId.NotFound"),
        ("sgr-1", "InvalidSecurityGroupRuleId.NotFound"),
        ("acl-1", "InvalidNetworkAclID.NotFound"),
        ("eni-1", "InvalidNetworkInterfaceID.NotFound"),
    ):
        assert refusal(ec2.create_tags, Resources=[wrong], Tags=[{"Key": "a"}])[0] == code
    ec2.create_tags(Resources=[vpc["VpcId"]], Tags=[{"Key": "a", "Value": "1"}])
    ec2.delete_vpc(VpcId=vpc["VpcId"])
    assert (endpoint.directory / "aws.json").read_text() == "{}"


def test_what_would_have_no_effect_is_refused_by_its_name(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    said = refusal(ec2.create_vpc, CidrBlock="10.7.0.0/16", AmazonProvidedIpv6CidrBlock=True)
    assert said[:2] == (
        "UnsupportedOperation",
        "The parameter AmazonProvidedIpv6CidrBlock is not emulated.",
    )
    assert refusal(ec2.create_vpc, CidrBlock="10.7.0.0/16", InstanceTenancy="dedicated")[0] == (
        "UnsupportedOperation"
    )
    assert len(ec2.describe_vpcs()["Vpcs"]) == 1


def test_a_dry_run_changes_nothing(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    said = refusal(ec2.create_vpc, CidrBlock="10.7.0.0/16", DryRun=True)
    assert (said[0], said[2]) == ("DryRunOperation", 412)
    assert len(ec2.describe_vpcs()["Vpcs"]) == 1


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ([{"Key": str(number)} for number in range(51)], "TagLimitExceeded"),
        ([{"Key": "aws:x"}], "InvalidParameterValue"),
        ([{"Key": "k" * 129}], "InvalidParameterValue"),
        ([{"Key": "k", "Value": "v" * 257}], "InvalidParameterValue"),
        ([{"Value": "v"}], "MissingParameter"),
    ],
)
def test_nothing_is_made_with_wrong_tags(
    endpoint: Endpoint, tags: list[dict[str, str]], code: str
) -> None:
    ec2 = endpoint.client("ec2")
    wanted = [{"ResourceType": "vpc", "Tags": tags}]
    before = len(ec2.describe_vpcs()["Vpcs"])
    said = refusal(ec2.create_vpc, CidrBlock="10.7.0.0/16", TagSpecifications=wanted)
    assert (said[0], len(ec2.describe_vpcs()["Vpcs"])) == (code, before)


def test_a_page_has_one_item_at_least(endpoint: Endpoint) -> None:
    for wrong in (0, -5):
        said = refusal(endpoint.client("ec2").describe_vpcs, MaxResults=wrong)
        assert said[0] == "InvalidParameterValue"


def test_what_xml_has_no_characters_for_is_told_all_the_same(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    assert refusal(ec2.describe_vpcs, VpcIds=["a\0b"])[0] == "InvalidVpcID.NotFound"
    tags = [{"ResourceType": "vpc", "Tags": [{"Key": "k", "Value": "a\x1bb"}]}]
    made = ec2.create_vpc(CidrBlock="10.7.0.0/16", TagSpecifications=tags)["Vpc"]
    (found,) = ec2.describe_vpcs(VpcIds=[made["VpcId"]])["Vpcs"]
    assert found["Tags"] == [{"Key": "k", "Value": "a\ufffdb"}]


def test_a_zone_is_named_by_its_id_too(endpoint: Endpoint) -> None:
    ec2 = endpoint.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    said = {"VpcId": vpc, "CidrBlock": "10.7.0.0/24"}
    for changes, code in (
        ({"AvailabilityZoneId": "use1-az0"}, "InvalidParameterValue"),
        (
            {"AvailabilityZoneId": "use1-az2", "AvailabilityZone": "us-east-1b"},
            "InvalidParameterCombination",
        ),
    ):
        assert refusal(ec2.create_subnet, **said, **changes)[0] == code
    made = ec2.create_subnet(**said, AvailabilityZoneId="use1-az2")["Subnet"]
    assert (made["AvailabilityZoneId"], made["AvailabilityZone"]) == ("use1-az2", "us-east-1b")
