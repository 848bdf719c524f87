# SPDX-License-Identifier: Apache-2.0
"""Interface endpoints, as EC2 has them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.aws.support import OTHER, Endpoint, Scene, refusal, scene
from tests.aws.test_endpoint_services import ROOT, allowed, consumer, service


@pytest.fixture
def found(endpoint: Endpoint) -> Scene:
    return scene(endpoint)


def offered(endpoint: Endpoint, found: Scene, **more: Any) -> str:
    """The name of a service that the other account may use, without acceptance."""
    made = service(endpoint, found, AcceptanceRequired=False, **more)
    allowed(endpoint, made["ServiceId"], ROOT)
    name: str = made["ServiceName"]
    return name


def test_an_endpoint_as_ec2_has_it(endpoint: Endpoint, found: Scene) -> None:
    ec2, name = endpoint.client("ec2", OTHER), offered(endpoint, found)
    vpc, subnet = consumer(endpoint)
    tags = [{"Key": "Name", "Value": "orders"}]
    made = ec2.create_vpc_endpoint(
        VpcEndpointType="Interface",
        VpcId=vpc,
        ServiceName=name,
        SubnetConfigurations=[{"SubnetId": subnet, "Ipv4": "10.7.1.77"}],
        TagSpecifications=[{"ResourceType": "vpc-endpoint", "Tags": tags}],
    )["VpcEndpoint"]
    key = made["VpcEndpointId"]
    assert made["State"] == "pending"
    endpoint.pass_seconds(600)
    (shown,) = ec2.describe_vpc_endpoints(
        VpcEndpointIds=[key],
        Filters=[
            {"Name": "vpc-endpoint-state", "Values": ["available"]},
            {"Name": "service-name", "Values": [name]},
            {"Name": "tag:Name", "Values": ["orders"]},
        ],
    )["VpcEndpoints"]
    assert shown == {**made, "State": "available"}
    assert (shown["VpcId"], shown["OwnerId"], shown["SubnetIds"]) == (vpc, OTHER, [subnet])
    assert (shown["ServiceName"], shown["PrivateDnsEnabled"]) == (name, False)
    assert [each["GroupName"] for each in shown["Groups"]] == ["default"]
    service_id = name.rpartition(".")[2]
    assert [each["DnsName"] for each in shown["DnsEntries"]] == [
        f"{key}.{service_id}.us-east-1.vpce.amazonaws.com",
        f"{key}-us-east-1a.{service_id}.us-east-1.vpce.amazonaws.com",
    ]
    (interface,) = ec2.describe_network_interfaces(
        NetworkInterfaceIds=shown["NetworkInterfaceIds"]
    )["NetworkInterfaces"]
    assert (interface["InterfaceType"], interface["PrivateIpAddress"]) == (
        "vpc_endpoint",
        "10.7.1.77",
    )
    assert interface["Description"] == f"VPC Endpoint Interface {key}"
    # Nobody else has it.
    assert endpoint.client("ec2").describe_vpc_endpoints()["VpcEndpoints"] == []
    (failed,) = endpoint.client("ec2").delete_vpc_endpoints(VpcEndpointIds=[key])["Unsuccessful"]
    assert failed["Error"] == {
        "Code": "InvalidVpcEndpoint.NotFound",
        "Message": f"The Vpc Endpoint Id '{key}' does not exist",
    }
    assert ec2.delete_vpc_endpoints(VpcEndpointIds=[key])["Unsuccessful"] == []
    assert refusal(ec2.describe_vpc_endpoints, VpcEndpointIds=[key]) == (
        "InvalidVpcEndpointId.NotFound",
        f"The Vpc Endpoint Id '{key}' does not exist",
        400,
    )
    assert ec2.describe_tags()["Tags"] == []


def test_subnets_groups_and_names_change(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2", OTHER)
    name = offered(endpoint, found, PrivateDnsName="orders.example.com")
    vpc, subnet = consumer(endpoint)
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    second = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.2.0/24", AvailabilityZone="us-east-1a")
    second = second["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="in", Description="of endpoints")
    group = group["GroupId"]
    made = ec2.create_vpc_endpoint(
        VpcEndpointType="Interface", VpcId=vpc, ServiceName=name, SubnetIds=[subnet]
    )["VpcEndpoint"]
    # Of a service that has a private name it is on by default.
    assert made["PrivateDnsEnabled"]
    assert "orders.example.com" in [each["DnsName"] for each in made["DnsEntries"]]
    key, (default,) = made["VpcEndpointId"], [each["GroupId"] for each in made["Groups"]]
    ec2.modify_vpc_endpoint(
        VpcEndpointId=key,
        RemoveSubnetIds=[subnet],
        AddSubnetIds=[second],
        SubnetConfigurations=[{"SubnetId": second, "Ipv4": "10.7.2.9"}],
        AddSecurityGroupIds=[group],
        RemoveSecurityGroupIds=[default],
        PrivateDnsEnabled=False,
    )
    (shown,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    assert shown["SubnetIds"] == [second]
    assert [each["GroupId"] for each in shown["Groups"]] == [group]
    assert not shown["PrivateDnsEnabled"]
    (row,) = endpoint.region.region.tables.endpoints.values()
    assert [str(each.address) for each in row.nodes] == ["10.7.2.9"]
    # What is not named stays.
    ec2.modify_vpc_endpoint(VpcEndpointId=key, PrivateDnsEnabled=True)
    (again,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    assert (again["SubnetIds"], again["PrivateDnsEnabled"]) == ([second], True)


@pytest.mark.parametrize(
    ("more", "code"),
    [
        # One of type Gateway, which is AWS's default, is in no subnet.
        ({"VpcEndpointType": "Gateway"}, "InvalidParameter"),
        ({"VpcEndpointType": None}, "InvalidParameter"),
        ({"RouteTableIds": ["rtb-0"]}, "UnsupportedOperation"),
        ({"PolicyDocument": "{}"}, "UnsupportedOperation"),
        ({"VpcId": "vpc-0"}, "InvalidVpcID.NotFound"),
        ({"ServiceName": None}, "MissingParameter"),
        ({"ServiceName": "com.amazonaws.us-east-1.s3"}, "InvalidServiceName"),
        ({"SubnetIds": ["subnet-0"]}, "InvalidSubnetId.NotFound"),
        ({"SubnetIds": []}, "MissingParameter"),
        ({"SecurityGroupIds": ["sg-0"]}, "InvalidSecurityGroupId.NotFound"),
        ({"PrivateDnsEnabled": True}, "InvalidParameter"),
    ],
)
def test_an_endpoint_that_cannot_be(
    endpoint: Endpoint, found: Scene, more: dict[str, Any], code: str
) -> None:
    vpc, subnet = consumer(endpoint)
    said = {
        "VpcEndpointType": "Interface",
        "VpcId": vpc,
        "ServiceName": offered(endpoint, found),
        "SubnetIds": [subnet],
        **more,
    }
    said = {name: value for name, value in said.items() if value is not None}
    assert refusal(endpoint.client("ec2", OTHER).create_vpc_endpoint, **said)[0] == code
    assert endpoint.lab.client.get("/v1/endpoints") == []


def test_who_is_not_allowed_is_told_of_no_service(endpoint: Endpoint, found: Scene) -> None:
    name = service(endpoint, found)["ServiceName"]
    vpc, subnet = consumer(endpoint)
    refused = refusal(
        endpoint.client("ec2", OTHER).create_vpc_endpoint,
        VpcEndpointType="Interface",
        VpcId=vpc,
        ServiceName=name,
        SubnetIds=[subnet],
    )
    assert refused == (
        "InvalidServiceName",
        f"The Vpc Endpoint Service '{name}' does not exist",
        400,
    )
