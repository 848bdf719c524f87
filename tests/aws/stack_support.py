# SPDX-License-Identifier: Apache-2.0
"""A template with a network and a function, and CloudFormation over a region without a network."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from hyperplane_nat.runtime.code import OWN_RUNTIME
from tests.aws.support import Endpoint, lab_in

WAIT_SECONDS = 180.0

NETWORK: dict[str, Any] = {
    "Vpc": {
        "Type": "AWS::EC2::VPC",
        "Properties": {
            "CidrBlock": {"Ref": "Cidr"},
            "EnableDnsHostnames": "true",
            "Tags": [{"Key": "Name", "Value": {"Fn::Sub": "${AWS::StackName}-vpc"}}],
        },
    },
    "Gateway": {"Type": "AWS::EC2::InternetGateway"},
    "Attachment": {
        "Type": "AWS::EC2::VPCGatewayAttachment",
        "Properties": {"VpcId": {"Ref": "Vpc"}, "InternetGatewayId": {"Ref": "Gateway"}},
    },
    "Public": {
        "Type": "AWS::EC2::Subnet",
        "Properties": {
            "VpcId": {"Ref": "Vpc"},
            "CidrBlock": {"Fn::Select": [0, {"Fn::Cidr": [{"Ref": "Cidr"}, 2, 8]}]},
            "AvailabilityZone": {"Fn::Select": ["1", {"Fn::GetAZs": ""}]},
            "MapPublicIpOnLaunch": True,
        },
    },
    "Private": {
        "Type": "AWS::EC2::Subnet",
        "Properties": {
            "VpcId": {"Ref": "Vpc"},
            "CidrBlock": {"Fn::Select": [1, {"Fn::Cidr": [{"Ref": "Cidr"}, 2, 8]}]},
        },
    },
    "Address": {
        "Type": "AWS::EC2::EIP",
        "DependsOn": "Attachment",
        "Properties": {"Domain": "vpc"},
    },
    "Nat": {
        "Type": "AWS::EC2::NatGateway",
        "Properties": {
            "SubnetId": {"Ref": "Public"},
            "AllocationId": {"Fn::GetAtt": ["Address", "AllocationId"]},
        },
    },
    "Table": {"Type": "AWS::EC2::RouteTable", "Properties": {"VpcId": {"Ref": "Vpc"}}},
    "Route": {
        "Type": "AWS::EC2::Route",
        "DependsOn": "Attachment",
        "Properties": {
            "RouteTableId": {"Ref": "Table"},
            "DestinationCidrBlock": "0.0.0.0/0",
            "NatGatewayId": {"Ref": "Nat"},
        },
    },
    "Association": {
        "Type": "AWS::EC2::SubnetRouteTableAssociation",
        "Properties": {"RouteTableId": {"Ref": "Table"}, "SubnetId": {"Ref": "Private"}},
    },
    "Group": {
        "Type": "AWS::EC2::SecurityGroup",
        "Properties": {
            "GroupDescription": "of functions",
            "VpcId": {"Ref": "Vpc"},
            "SecurityGroupIngress": [
                {"IpProtocol": "tcp", "FromPort": "80", "ToPort": 80, "CidrIp": "0.0.0.0/0"}
            ],
        },
    },
    "Rule": {
        "Type": "AWS::EC2::SecurityGroupIngress",
        "Properties": {
            "GroupId": {"Fn::GetAtt": ["Group", "GroupId"]},
            "IpProtocol": "tcp",
            "FromPort": 443,
            "ToPort": 443,
            "SourceSecurityGroupId": {"Ref": "Group"},
        },
    },
    "Role": {
        "Type": "AWS::IAM::Role",
        "Properties": {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}},
    },
    "Function": {
        "Type": "AWS::Lambda::Function",
        "Properties": {
            "Runtime": OWN_RUNTIME,
            "Handler": "index.handler",
            "Role": {"Fn::GetAtt": ["Role", "Arn"]},
            "Timeout": "7",
            "Code": {"ZipFile": "def handler(event, context): return event"},
            "VpcConfig": {
                "SubnetIds": [{"Ref": "Private"}],
                "SecurityGroupIds": [{"Ref": "Group"}],
            },
        },
    },
}
TEMPLATE: dict[str, Any] = {
    "Description": "a network with a function",
    "Parameters": {"Cidr": {"Type": "String", "Default": "10.7.0.0/16"}},
    "Resources": NETWORK,
    "Outputs": {
        "Address": {"Value": {"Ref": "Address"}},
        "Function": {"Value": {"Fn::GetAtt": ["Function", "Arn"]}, "Export": {"Name": "fetch"}},
    },
}
LOG_GROUP: dict[str, Any] = {"Type": "AWS::Logs::LogGroup", "Properties": {}}
VPC: dict[str, Any] = {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.6.0.0/16"}}
SUBNET: dict[str, Any] = {
    "Type": "AWS::EC2::Subnet",
    "Properties": {"VpcId": {"Ref": "Vpc"}, "CidrBlock": "10.6.0.0/24"},
}


class Stacks:
    """CloudFormation of an endpoint, whose region's time passes while it is waited for."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.client = endpoint.client("cloudformation")
        self._lab = lab_in(endpoint.directory)

    def settled(self, name: str) -> Mapping[str, Any]:
        """A stack, once nothing is done with it any more."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            self._lab.client.post("/v1/advance", {"seconds": 60})
            (found,) = self.client.describe_stacks(StackName=name)["Stacks"]
            if not found["StackStatus"].endswith("IN_PROGRESS"):
                return dict(found)
            assert time.monotonic() < deadline, self.told(name)[:9]

    def create(self, name: str = "", **sections: Any) -> Mapping[str, Any]:
        """A stack of a template, to its end."""
        name = name or f"s{secrets.token_hex(4)}"
        made = self.client.create_stack(StackName=name, **body(**sections))
        return self.settled(made["StackId"])

    def update(self, name: str, **sections: Any) -> Mapping[str, Any]:
        """A stack of another template, to its end."""
        self.client.update_stack(StackName=name, **body(**sections))
        return self.settled(name)

    def delete(self, stack: Mapping[str, Any]) -> Mapping[str, Any]:
        """It is deleted, to its end."""
        self.client.delete_stack(StackName=stack["StackName"])
        return self.settled(stack["StackId"])

    def resources(self, name: str) -> dict[str, str]:
        """Physical ids."""
        found = self.client.describe_stack_resources(StackName=name)["StackResources"]
        return {each["LogicalResourceId"]: each["PhysicalResourceId"] for each in found}

    def told(self, name: str) -> list[tuple[str, str, str | None]]:
        """Events, the latest first."""
        found = self.client.get_paginator("describe_stack_events").paginate(StackName=name)
        return [
            (each["LogicalResourceId"], each["ResourceStatus"], each.get("ResourceStatusReason"))
            for page in found
            for each in page["StackEvents"]
        ]


def body(**sections: Any) -> dict[str, Any]:
    template = sections or TEMPLATE
    return {"TemplateBody": json.dumps(template), "Capabilities": ["CAPABILITY_IAM"]}


def everything(endpoint: Endpoint) -> dict[str, Any]:
    """What there is of all that the template names."""
    ec2 = endpoint.client("ec2")
    groups = ec2.describe_security_groups()["SecurityGroups"]
    for each in groups:
        each["IpPermissions"].sort(key=str)
    return {
        "vpcs": ec2.describe_vpcs()["Vpcs"],
        "subnets": ec2.describe_subnets()["Subnets"],
        "groups": groups,
        "tables": ec2.describe_route_tables()["RouteTables"],
        "gateways": ec2.describe_internet_gateways()["InternetGateways"],
        "addresses": ec2.describe_addresses()["Addresses"],
        "tags": [
            each for each in ec2.describe_tags()["Tags"] if each["ResourceType"] != "natgateway"
        ],
        "functions": endpoint.client("lambda").list_functions()["Functions"],
        "roles": [
            each["RoleName"]
            for each in endpoint.client("iam").list_roles()["Roles"]
            if "-Role-" in each["RoleName"]
        ],
    }


def changed(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """The template with other properties of resources."""
    found = deepcopy(TEMPLATE)
    for name, values in properties.items():
        found["Resources"][name].setdefault("Properties", {}).update(values)
    return found
