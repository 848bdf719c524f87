# SPDX-License-Identifier: Apache-2.0
"""Endpoint services, their permissions and connections, as EC2 has them."""

from __future__ import annotations

from typing import Any

import pytest

from hyperplane_nat.aws.call import Call
from hyperplane_nat.aws.operations import REAL
from tests.aws.support import ACCOUNT, OTHER, Endpoint, Scene, refusal, scene
from tests.aws.test_load_balancers import balancer

ROOT = f"arn:aws:iam::{OTHER}:root"
NOWHERE = "arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/no/0123456789abcdef"


@pytest.fixture
def found(endpoint: Endpoint) -> Scene:
    return scene(endpoint)


def service(endpoint: Endpoint, found: Scene, **more: Any) -> dict[str, Any]:
    """One that a load balancer is made for."""
    arn = balancer(endpoint, found)
    endpoint.pass_seconds(600)
    ec2 = endpoint.client("ec2")
    made = ec2.create_vpc_endpoint_service_configuration(NetworkLoadBalancerArns=[arn], **more)
    shown: dict[str, Any] = made["ServiceConfiguration"]
    return shown


def allowed(endpoint: Endpoint, key: str, *principals: str) -> None:
    endpoint.client("ec2").modify_vpc_endpoint_service_permissions(
        ServiceId=key, AddAllowedPrincipals=list(principals)
    )


def consumer(endpoint: Endpoint) -> tuple[str, str]:
    """A VPC of another account with the same network, and a subnet in the service's zone."""
    ec2 = endpoint.client("ec2", OTHER)
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.7.1.0/24", AvailabilityZone="us-east-1a")
    return vpc, subnet["Subnet"]["SubnetId"]


def connected(endpoint: Endpoint, found: Scene, **more: Any) -> tuple[str, str]:
    """Ids of a service, and of another account's endpoint."""
    made = service(endpoint, found, **more)
    allowed(endpoint, made["ServiceId"], ROOT)
    vpc, subnet = consumer(endpoint)
    key: str = endpoint.client("ec2", OTHER).create_vpc_endpoint(
        VpcEndpointType="Interface", VpcId=vpc, ServiceName=made["ServiceName"], SubnetIds=[subnet]
    )["VpcEndpoint"]["VpcEndpointId"]
    return made["ServiceId"], key


def states(endpoint: Endpoint) -> dict[str, str]:
    """Of the connections of the account's services."""
    found = endpoint.client("ec2").describe_vpc_endpoint_connections()["VpcEndpointConnections"]
    return {each["VpcEndpointId"]: each["VpcEndpointState"] for each in found}


def test_a_service_as_ec2_has_it(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    tags = [{"Key": "team", "Value": "net"}]
    made = service(
        endpoint,
        found,
        PrivateDnsName="orders.example.com",
        TagSpecifications=[{"ResourceType": "vpc-endpoint-service", "Tags": tags}],
    )
    (shown,) = ec2.describe_vpc_endpoint_service_configurations(ServiceIds=[made["ServiceId"]])[
        "ServiceConfigurations"
    ]
    assert shown == made
    key = shown["ServiceId"]
    (arn,) = shown.pop("NetworkLoadBalancerArns")
    assert arn.startswith(f"arn:aws:elasticloadbalancing:us-east-1:{ACCOUNT}:loadbalancer/net/")
    assert shown == {
        "ServiceType": [{"ServiceType": "Interface"}],
        "ServiceId": key,
        "ServiceName": f"com.amazonaws.vpce.us-east-1.{key}",
        "ServiceState": "Available",
        "AvailabilityZones": ["us-east-1a"],
        "AcceptanceRequired": True,
        "ManagesVpcEndpoints": False,
        "SupportedIpAddressTypes": ["ipv4"],
        "BaseEndpointDnsNames": [f"{key}.us-east-1.vpce.amazonaws.com"],
        "PrivateDnsName": "orders.example.com",
        "PrivateDnsNameConfiguration": {"State": "verified"},
        "Tags": tags,
    }
    (row,) = endpoint.region.region.tables.endpoint_services.values()
    assert (row.id, row.name) == (key, key)
    ec2.modify_vpc_endpoint_service_configuration(
        ServiceId=key, AcceptanceRequired=False, RemovePrivateDnsName=True
    )
    (shown,) = ec2.describe_vpc_endpoint_service_configurations()["ServiceConfigurations"]
    assert shown["AcceptanceRequired"] is False
    assert "PrivateDnsName" not in shown
    ec2.create_tags(Resources=[key], Tags=[{"Key": "a", "Value": "b"}])
    assert {each["ResourceType"] for each in ec2.describe_tags()["Tags"]} == {
        "vpc-endpoint-service"
    }
    other = endpoint.client("ec2", OTHER)
    assert other.describe_vpc_endpoint_service_configurations()["ServiceConfigurations"] == []
    assert refusal(other.describe_vpc_endpoint_service_configurations, ServiceIds=[key]) == (
        "InvalidVpcEndpointServiceId.NotFound",
        f"The VpcEndpointService Id '{key}' does not exist",
        400,
    )


def test_a_token_makes_one_service(endpoint: Endpoint, found: Scene) -> None:
    arn = balancer(endpoint, found)
    make = endpoint.client("ec2").create_vpc_endpoint_service_configuration
    first, again, another = (
        make(NetworkLoadBalancerArns=[arn], ClientToken=token)["ServiceConfiguration"]["ServiceId"]
        for token in ("one", "one", "two")
    )
    assert first == again != another


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({}, "MissingParameter"),
        ({"NetworkLoadBalancerArns": [NOWHERE]}, "LoadBalancerNotFound"),
        ({"NetworkLoadBalancerArns": [NOWHERE, NOWHERE]}, "UnsupportedOperation"),
        ({"GatewayLoadBalancerArns": [NOWHERE]}, "UnsupportedOperation"),
        (
            {"NetworkLoadBalancerArns": ["{front}"], "PrivateDnsName": "*.example.com"},
            "InvalidParameter",
        ),
    ],
)
def test_a_service_that_cannot_be(
    endpoint: Endpoint, found: Scene, more: dict[str, Any], code: str
) -> None:
    arns = more.get("NetworkLoadBalancerArns")
    if arns == ["{front}"]:
        more = {**more, "NetworkLoadBalancerArns": [balancer(endpoint, found)]}
    work = endpoint.client("ec2").create_vpc_endpoint_service_configuration
    assert refusal(work, **more)[0] == code
    assert endpoint.lab.client.get("/v1/endpoint-services") == []


def test_a_private_name_is_not_set_and_removed(endpoint: Endpoint, found: Scene) -> None:
    key = service(endpoint, found)["ServiceId"]
    work = endpoint.client("ec2").modify_vpc_endpoint_service_configuration
    refused = refusal(
        work, ServiceId=key, PrivateDnsName="a.example.com", RemovePrivateDnsName=True
    )
    assert refused[0] == "InvalidParameterCombination"


def test_principals_are_who_sees_it(endpoint: Endpoint, found: Scene) -> None:
    ec2, other = endpoint.client("ec2"), endpoint.client("ec2", OTHER)
    made = service(endpoint, found)
    key, name = made["ServiceId"], made["ServiceName"]
    assert other.describe_vpc_endpoint_services()["ServiceNames"] == []
    assert refusal(other.describe_vpc_endpoint_services, ServiceNames=[name]) == (
        "InvalidServiceName",
        f"The Vpc Endpoint Service '{name}' does not exist",
        400,
    )
    # The lab does not have that account yet.
    (added,) = ec2.modify_vpc_endpoint_service_permissions(
        ServiceId=key, AddAllowedPrincipals=[ROOT]
    )["AddedPrincipals"]
    assert (added["PrincipalType"], added["Principal"]) == ("Account", ROOT)
    allowed(endpoint, key, "*")
    principals = ec2.describe_vpc_endpoint_service_permissions(ServiceId=key)["AllowedPrincipals"]
    assert [each["Principal"] for each in principals] == ["*", ROOT]
    every = [{"Name": "principal-type", "Values": ["All"]}]
    (only,) = ec2.describe_vpc_endpoint_service_permissions(ServiceId=key, Filters=every)[
        "AllowedPrincipals"
    ]
    assert only["Principal"] == "*"
    seen = other.describe_vpc_endpoint_services(
        ServiceNames=[name], Filters=[{"Name": "service-type", "Values": ["Interface"]}]
    )
    assert seen["ServiceNames"] == [name]
    (detail,) = seen["ServiceDetails"]
    assert (detail["Owner"], detail["AcceptanceRequired"]) == (ACCOUNT, True)
    assert detail["AvailabilityZones"] == ["us-east-1a"]
    # Of one that is not among them nothing is taken.
    nobody = "arn:aws:iam::999988887777:root"
    ec2.modify_vpc_endpoint_service_permissions(
        ServiceId=key, RemoveAllowedPrincipals=[ROOT, "*", nobody]
    )
    assert other.describe_vpc_endpoint_services()["ServiceNames"] == []
    assert ec2.describe_vpc_endpoint_services()["ServiceNames"] == [name]
    work = ec2.modify_vpc_endpoint_service_permissions
    assert refusal(work, ServiceId=key, AddAllowedPrincipals=["shop"]) == (
        "InvalidPrincipal",
        "Invalid Principal: 'shop'",
        400,
    )
    role = f"arn:aws:iam::{OTHER}:role/r"
    assert refusal(work, ServiceId=key, AddAllowedPrincipals=[role])[0] == "UnsupportedOperation"


def test_asked_again_under_the_same_token_it_is_the_same(endpoint: Endpoint, found: Scene) -> None:
    """As a stack does it when the controller was away."""
    key = service(endpoint, found)["ServiceId"]
    allowed(endpoint, key, "*")
    said = {"ServiceId": key, "AddAllowedPrincipals": [ROOT], "RemoveAllowedPrincipals": ["*"]}
    for _ in range(2):
        Call(endpoint.lab, ACCOUNT, REAL, "token").perform(
            "ec2", "ModifyVpcEndpointServicePermissions", said
        )
    (kept,) = endpoint.region.region.tables.endpoint_services.values()
    assert kept.principals == (OTHER,)


def test_connections_are_accepted_and_rejected(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    key, mine = connected(endpoint, found)
    (shown,) = ec2.describe_vpc_endpoint_connections(
        Filters=[{"Name": "service-id", "Values": [key]}]
    )["VpcEndpointConnections"]
    assert (shown["VpcEndpointOwner"], shown["VpcEndpointState"]) == (OTHER, "pendingAcceptance")
    assert shown["DnsEntries"][0]["DnsName"].startswith(f"{mine}.{key}.")
    assert len(shown["NetworkLoadBalancerArns"]) == 1
    assert (
        endpoint.client("ec2", OTHER).describe_vpc_endpoint_connections()["VpcEndpointConnections"]
        == []
    )
    # What is not among them does not keep the others.
    failed = ec2.accept_vpc_endpoint_connections(ServiceId=key, VpcEndpointIds=["vpce-0", mine])
    assert failed["Unsuccessful"] == [
        {
            "ResourceId": "vpce-0",
            "Error": {
                "Code": "InvalidVpcEndpoint.NotFound",
                "Message": "The Vpc Endpoint Id 'vpce-0' does not exist",
            },
        }
    ]
    assert states(endpoint) == {mine: "pending"}
    endpoint.pass_seconds(600)
    assert states(endpoint) == {mine: "available"}
    (failed,) = ec2.accept_vpc_endpoint_connections(ServiceId=key, VpcEndpointIds=[mine])[
        "Unsuccessful"
    ]
    assert failed["Error"]["Code"] == "InvalidState"
    done = ec2.reject_vpc_endpoint_connections(ServiceId=key, VpcEndpointIds=[mine])
    assert done["Unsuccessful"] == []
    assert states(endpoint) == {mine: "rejected"}


def test_a_service_goes_without_connections(endpoint: Endpoint, found: Scene) -> None:
    ec2 = endpoint.client("ec2")
    key, mine = connected(endpoint, found, AcceptanceRequired=False)
    (arn,) = ec2.describe_vpc_endpoint_service_configurations()["ServiceConfigurations"][0][
        "NetworkLoadBalancerArns"
    ]
    elb = endpoint.client("elbv2")
    assert refusal(elb.delete_load_balancer, LoadBalancerArn=arn)[0] == "ResourceInUse"
    failed = ec2.delete_vpc_endpoint_service_configurations(ServiceIds=[key, "vpce-svc-0"])
    assert [(each["ResourceId"], each["Error"]) for each in failed["Unsuccessful"]] == [
        (
            key,
            {
                "Code": "ExistingVpcEndpointConnections",
                "Message": f"Service {key} has existing active VPC Endpoint connections!",
            },
        ),
        (
            "vpce-svc-0",
            {
                "Code": "InvalidVpcEndpointService.NotFound",
                "Message": "The VpcEndpointService Id 'vpce-svc-0' does not exist",
            },
        ),
    ]
    ec2.reject_vpc_endpoint_connections(ServiceId=key, VpcEndpointIds=[mine])
    # Its owner alone deletes it.
    other = endpoint.client("ec2", OTHER)
    (failed,) = other.delete_vpc_endpoint_service_configurations(ServiceIds=[key])["Unsuccessful"]
    assert failed["Error"]["Code"] == "InvalidVpcEndpointService.NotFound"
    done = ec2.delete_vpc_endpoint_service_configurations(ServiceIds=[key])
    assert done["Unsuccessful"] == []
    assert ec2.describe_vpc_endpoint_service_configurations()["ServiceConfigurations"] == []
    elb.delete_load_balancer(LoadBalancerArn=arn)
