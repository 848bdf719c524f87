# SPDX-License-Identifier: Apache-2.0
"""Endpoint services and endpoints of stacks."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tests.aws.stack_support import Stacks


def test_a_stack_has_a_service_and_an_endpoint(stacks: Stacks) -> None:
    """Of one account, so that one stack can have both."""
    of_v2 = "AWS::ElasticLoadBalancingV2::"
    other = "arn:aws:iam::444455556666:root"
    resources: dict[str, Any] = {
        "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.6.0.0/16"}},
        "Subnet": {
            "Type": "AWS::EC2::Subnet",
            "Properties": {
                "VpcId": {"Ref": "Vpc"},
                "CidrBlock": "10.6.0.0/24",
                "AvailabilityZone": "us-east-1a",
            },
        },
        "Group": {
            "Type": "AWS::EC2::SecurityGroup",
            "Properties": {"GroupDescription": "of endpoints", "VpcId": {"Ref": "Vpc"}},
        },
        "Balancer": {
            "Type": f"{of_v2}LoadBalancer",
            "Properties": {
                "Type": "network",
                "Scheme": "internal",
                "Subnets": [{"Ref": "Subnet"}],
            },
        },
        "Service": {
            "Type": "AWS::EC2::VPCEndpointService",
            "Properties": {
                "AcceptanceRequired": "false",
                "NetworkLoadBalancerArns": [{"Ref": "Balancer"}],
            },
        },
        "Permissions": {
            "Type": "AWS::EC2::VPCEndpointServicePermissions",
            "Properties": {"ServiceId": {"Ref": "Service"}, "AllowedPrincipals": ["*"]},
        },
        "Endpoint": {
            "Type": "AWS::EC2::VPCEndpoint",
            "Properties": {
                "VpcEndpointType": "Interface",
                "VpcId": {"Ref": "Vpc"},
                "SubnetIds": [{"Ref": "Subnet"}],
                "ServiceName": {"Fn::Sub": "com.amazonaws.vpce.${AWS::Region}.${Service}"},
            },
        },
    }
    outputs = {
        "Name": {
            "Value": {
                "Fn::Select": [
                    1,
                    {
                        "Fn::Split": [
                            ":",
                            {"Fn::Select": [0, {"Fn::GetAtt": "Endpoint.DnsEntries"}]},
                        ]
                    },
                ]
            }
        },
        "Service": {"Value": {"Fn::GetAtt": ["Service", "ServiceId"]}},
    }
    made = stacks.create("net", Resources=resources, Outputs=outputs)
    assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("net")[:4]
    ec2, ids = stacks.endpoint.client("ec2"), stacks.resources("net")
    said = {each["OutputKey"]: each["OutputValue"] for each in made["Outputs"]}
    (found,) = ec2.describe_vpc_endpoints(VpcEndpointIds=[ids["Endpoint"]])["VpcEndpoints"]
    assert (found["State"], found["PrivateDnsEnabled"]) == ("available", False)
    assert said == {"Name": found["DnsEntries"][0]["DnsName"], "Service": ids["Service"]}
    assert "aws:cloudformation:stack-name" in {each["Key"] for each in found["Tags"]}
    changed = deepcopy(resources)
    changed["Service"]["Properties"]["AcceptanceRequired"] = True
    changed["Permissions"]["Properties"]["AllowedPrincipals"] = [other]
    changed["Endpoint"]["Properties"]["SecurityGroupIds"] = [{"Ref": "Group"}]
    assert stacks.update("net", Resources=changed)["StackStatus"] == "UPDATE_COMPLETE"
    assert stacks.resources("net") == ids
    (found,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    assert [each["GroupId"] for each in found["Groups"]] == [ids["Group"]]
    (service,) = ec2.describe_vpc_endpoint_service_configurations()["ServiceConfigurations"]
    assert service["AcceptanceRequired"]
    (allowed,) = ec2.describe_vpc_endpoint_service_permissions(ServiceId=ids["Service"])[
        "AllowedPrincipals"
    ]
    assert allowed["Principal"] == other
    del changed["Endpoint"]["Properties"]["SecurityGroupIds"]
    assert stacks.update("net", Resources=changed)["StackStatus"] == "UPDATE_COMPLETE"
    (found,) = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    assert [each["GroupName"] for each in found["Groups"]] == ["default"]
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE", stacks.told("net")[:4]
    assert ec2.describe_vpc_endpoint_service_configurations()["ServiceConfigurations"] == []
    assert ec2.describe_vpc_endpoints()["VpcEndpoints"] == []
