# SPDX-License-Identifier: Apache-2.0
"""Gateway endpoints and prefix lists, as EC2 has them."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from tests.aws.stack_support import Stacks
from tests.aws.support import OTHER, REGION, Endpoint, Scene, refusal, scene

S3, DYNAMODB = (f"com.amazonaws.{REGION}.{each}" for each in ("s3", "dynamodb"))
BUCKETS = "198.51.100.80"


def buckets(endpoint: Endpoint, service: str = "s3", address: str = BUCKETS) -> None:
    """The internet has a host that stands for one of AWS's services."""
    wanted = {"vpc": "internet", "name": f"of-{service}", "kind": "http", "port": 80}
    endpoint.lab.client.post("/v1/services", {**wanted, "address": address, "aws_service": service})


@pytest.fixture
def found(endpoint: Endpoint) -> Scene:
    buckets(endpoint)
    return scene(endpoint)


def leading(ec2: Any, table: str) -> list[tuple[str, str]]:
    """Prefix lists and targets of a table's routes."""
    (found,) = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"]
    return [
        (each["DestinationPrefixListId"], each["GatewayId"])
        for each in found["Routes"]
        if "DestinationPrefixListId" in each
    ]


def test_an_endpoint_as_ec2_has_it(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    tags = [{"Key": "Name", "Value": "store"}]
    made = ec2.create_vpc_endpoint(
        VpcId=found.vpc,
        ServiceName=S3,
        RouteTableIds=[found.private_table],
        TagSpecifications=[{"ResourceType": "vpc-endpoint", "Tags": tags}],
    )["VpcEndpoint"]
    key = made["VpcEndpointId"]
    assert (made["VpcEndpointType"], made["State"]) == ("Gateway", "available")
    assert made["RouteTableIds"] == [found.private_table]
    assert json.loads(made["PolicyDocument"])["Statement"][0]["Effect"] == "Allow"
    by_type = [
        {"Name": "vpc-endpoint-type", "Values": ["Gateway"]},
        {"Name": "tag:Name", "Values": ["store"]},
    ]
    assert ec2.describe_vpc_endpoints(Filters=by_type)["VpcEndpoints"] == [made]
    (listed,) = ec2.describe_prefix_lists()["PrefixLists"]
    assert (listed["PrefixListName"], listed["Cidrs"]) == (S3, [f"{BUCKETS}/32"])
    number = listed["PrefixListId"]
    assert leading(ec2, found.private_table) == [(number, key)]
    by_list = [{"Name": "route.destination-prefix-list-id", "Values": [number]}]
    (table,) = ec2.describe_route_tables(Filters=by_list)["RouteTables"]
    assert table["RouteTableId"] == found.private_table
    assert "DestinationPrefixListName" not in table["Routes"][-1]
    ec2.modify_vpc_endpoint(
        VpcEndpointId=key,
        AddRouteTableIds=[found.table],
        RemoveRouteTableIds=[found.private_table],
        PolicyDocument='{"Statement": []}',
    )
    (shown,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[key])["VpcEndpoints"]
    assert (shown["RouteTableIds"], shown["PolicyDocument"]) == (
        [found.table],
        '{"Statement": []}',
    )
    ec2.modify_vpc_endpoint(VpcEndpointId=key, ResetPolicy=True)
    (shown,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[key])["VpcEndpoints"]
    assert shown["PolicyDocument"] == made["PolicyDocument"]
    assert leading(ec2, found.private_table) == []
    assert leading(ec2, found.table) == [(number, key)]
    (failed,) = endpoint.client("ec2", OTHER).delete_vpc_endpoints(VpcEndpointIds=[key])[
        "Unsuccessful"
    ]
    assert failed["Error"]["Code"] == "InvalidVpcEndpoint.NotFound"
    assert ec2.delete_vpc_endpoints(VpcEndpointIds=[key])["Unsuccessful"] == []
    assert leading(ec2, found.table) == []
    assert ec2.describe_vpc_endpoints()["VpcEndpoints"] == []
    assert ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [key]}])["Tags"] == []


def test_prefix_lists_that_aws_manages(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    buckets(endpoint, "dynamodb", "198.51.100.90")
    managed = ec2.describe_managed_prefix_lists()["PrefixLists"]
    assert [each["PrefixListName"] for each in managed] == [S3, DYNAMODB]
    assert {each["OwnerId"] for each in managed} == {"AWS"}
    by_name = [{"Name": "prefix-list-name", "Values": [DYNAMODB]}]
    (items,) = ec2.describe_managed_prefix_lists(Filters=by_name)["PrefixLists"]
    assert items["PrefixListArn"].endswith(f":aws:prefix-list/{items['PrefixListId']}")
    entries = ec2.get_managed_prefix_list_entries(PrefixListId=items["PrefixListId"])["Entries"]
    assert entries == [{"Cidr": "198.51.100.90/32"}]
    services = ec2.describe_vpc_endpoint_services(ServiceNames=[S3])
    assert services["ServiceNames"] == [S3]
    (detail,) = services["ServiceDetails"]
    assert detail["ServiceType"] == [{"ServiceType": "Gateway"}]
    assert detail["BaseEndpointDnsNames"] == [f"s3.{REGION}.amazonaws.com"]
    for work, wrong in (
        (ec2.describe_prefix_lists, {"PrefixListIds": ["pl-1"]}),
        (ec2.describe_managed_prefix_lists, {"PrefixListIds": ["pl-1"]}),
        (ec2.get_managed_prefix_list_entries, {"PrefixListId": "pl-1"}),
    ):
        assert refusal(work, **wrong) == (
            "InvalidPrefixListID.NotFound",
            "The prefix list ID 'pl-1' does not exist",
            400,
        )


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"VpcId": "vpc-1"}, "InvalidVpcID.NotFound"),
        ({"ServiceName": DYNAMODB}, "InvalidServiceName"),
        ({"ServiceName": None}, "MissingParameter"),
        ({"RouteTableIds": ["rtb-1"]}, "InvalidRouteTableId.NotFound"),
        ({"SubnetIds": ["subnet-1"]}, "InvalidParameter"),
        ({"SecurityGroupIds": ["sg-1"]}, "InvalidParameter"),
        ({"PolicyDocument": "no"}, "InvalidPolicyDocument"),
        ({"VpcEndpointType": "GatewayLoadBalancer"}, "UnsupportedOperation"),
        ({"IpAddressType": "ipv6"}, "UnsupportedOperation"),
    ],
)
def test_an_endpoint_that_is_refused(
    endpoint: Endpoint, found: Scene, wrong: dict[str, Any], code: str
) -> None:
    ec2 = endpoint.client("ec2")
    asked: dict[str, Any] = {"VpcId": found.vpc, "ServiceName": S3, **wrong}
    asked = {name: value for name, value in asked.items() if value is not None}
    assert refusal(ec2.create_vpc_endpoint, **asked)[0] == code
    assert ec2.describe_vpc_endpoints()["VpcEndpoints"] == []


def test_a_table_has_one_route_to_a_service(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    asked: dict[str, Any] = {"VpcId": found.vpc, "ServiceName": S3}
    ec2.create_vpc_endpoint(**asked, RouteTableIds=[found.table])
    (listed,) = ec2.describe_prefix_lists()["PrefixLists"]
    assert refusal(ec2.create_vpc_endpoint, **asked, RouteTableIds=[found.table])[:2] == (
        "RouteAlreadyExists",
        f"route table {found.table} already has a route with destination-prefix-list-id "
        f"{listed['PrefixListId']}",
    )
    other = ec2.create_vpc_endpoint(**asked)["VpcEndpoint"]["VpcEndpointId"]
    wrong = {"VpcEndpointId": other, "AddRouteTableIds": [found.table]}
    assert refusal(ec2.modify_vpc_endpoint, **wrong)[0] == "RouteAlreadyExists"
    for name in ("RemoveSecurityGroupIds", "RemoveSubnetIds"):
        code, text, _ = refusal(ec2.modify_vpc_endpoint, VpcEndpointId=other, **{name: ["x-1"]})
        assert (code, text.split()[0]) == ("InvalidParameter", name)
    elsewhere = ec2.create_route_table(VpcId=found.empty)["RouteTable"]["RouteTableId"]
    wrong = {"VpcEndpointId": other, "AddRouteTableIds": [elsewhere]}
    assert refusal(ec2.modify_vpc_endpoint, **wrong)[0] == "InvalidRouteTableId.NotFound"


def test_a_stack_has_a_gateway_endpoint(stacks: Stacks) -> None:
    buckets(stacks.endpoint)
    resources: dict[str, Any] = {
        "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.6.0.0/16"}},
        "First": {"Type": "AWS::EC2::RouteTable", "Properties": {"VpcId": {"Ref": "Vpc"}}},
        "Second": {"Type": "AWS::EC2::RouteTable", "Properties": {"VpcId": {"Ref": "Vpc"}}},
        "Endpoint": {
            "Type": "AWS::EC2::VPCEndpoint",
            "Properties": {
                "VpcId": {"Ref": "Vpc"},
                "ServiceName": {"Fn::Sub": "com.amazonaws.${AWS::Region}.s3"},
                "RouteTableIds": [{"Ref": "First"}],
                "PolicyDocument": {"Statement": [{"Effect": "Deny"}]},
            },
        },
    }
    made = stacks.create("net", Resources=resources)
    assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("net")[:4]
    ec2, ids = stacks.endpoint.client("ec2"), stacks.resources("net")
    (found,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[ids["Endpoint"]])["VpcEndpoints"]
    assert json.loads(found["PolicyDocument"]) == {"Statement": [{"Effect": "Deny"}]}
    assert found["RouteTableIds"] == [ids["First"]]
    changed = deepcopy(resources)
    changed["Endpoint"]["Properties"]["RouteTableIds"] = [{"Ref": "Second"}]
    del changed["Endpoint"]["Properties"]["PolicyDocument"]
    assert stacks.update("net", Resources=changed)["StackStatus"] == "UPDATE_COMPLETE"
    assert stacks.resources("net") == ids
    (found,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    assert found["RouteTableIds"] == [ids["Second"]]
    assert json.loads(found["PolicyDocument"])["Statement"][0]["Effect"] == "Allow"
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE", stacks.told("net")[:4]
    assert ec2.describe_vpc_endpoints()["VpcEndpoints"] == []


def test_rules_of_security_groups_name_prefix_lists(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    (listed,) = ec2.describe_prefix_lists()["PrefixLists"]
    key = listed["PrefixListId"]
    group = ec2.create_security_group(VpcId=found.vpc, GroupName="g", Description="d")["GroupId"]
    https = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443}
    peers = [{"PrefixListId": key, "Description": "buckets"}]
    (made,) = ec2.authorize_security_group_egress(
        GroupId=group, IpPermissions=[{**https, "PrefixListIds": peers}]
    )["SecurityGroupRules"]
    assert (made["PrefixListId"], made["Description"]) == (key, "buckets")
    wanted = [{"Name": "egress.ip-permission.prefix-list-id", "Values": [key]}]
    (described,) = ec2.describe_security_groups(Filters=wanted)["SecurityGroups"]
    permissions = {
        each["IpProtocol"]: each["PrefixListIds"] for each in described["IpPermissionsEgress"]
    }
    assert permissions == {"-1": [], "tcp": peers}
    unknown = {**https, "PrefixListIds": [{"PrefixListId": "pl-00000000"}]}
    said = refusal(ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[unknown])
    assert said[:2] == (
        "InvalidPrefixListID.NotFound",
        "The prefix list ID 'pl-00000000' does not exist",
    )
    (gone,) = ec2.revoke_security_group_egress(
        GroupId=group, SecurityGroupRuleIds=[made["SecurityGroupRuleId"]]
    )["RevokedSecurityGroupRules"]
    assert gone["PrefixListId"] == key


def test_rules_of_a_stack_name_prefix_lists(stacks: Stacks) -> None:
    buckets(stacks.endpoint)
    ec2 = stacks.endpoint.client("ec2")
    (listed,) = ec2.describe_prefix_lists()["PrefixLists"]
    https = {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443}
    resources: dict[str, Any] = {
        "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.6.0.0/16"}},
        "Group": {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {
                "VpcId": {"Ref": "Vpc"},
                "GroupDescription": "of what asks for buckets",
                "SecurityGroupEgress": [
                    {**https, "DestinationPrefixListId": listed["PrefixListId"]}
                ],
            },
        },
        "Rule": {
            "Type": "AWS::EC2::SecurityGroupIngress",
            "Properties": {
                "GroupId": {"Ref": "Group"},
                **https,
                "SourcePrefixListId": listed["PrefixListId"],
            },
        },
    }
    made = stacks.create("net", Resources=resources)
    assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("net")[:4]
    rules = ec2.describe_security_group_rules()["SecurityGroupRules"]
    group = stacks.resources("net")["Group"]
    assert {
        each["IsEgress"]: each.get("PrefixListId") for each in rules if each["GroupId"] == group
    } == {True: listed["PrefixListId"], False: listed["PrefixListId"]}
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE", stacks.told("net")[:4]
