# SPDX-License-Identifier: Apache-2.0
"""CloudFormation by the aws command line: a network and a function, packets through both."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import Launch
from tests.live.lab import Lab, wait_until
from tests.live.test_aws import CODE, TOML, Endpoint, serving

pytestmark = pytest.mark.live

NETWORK = """
AWSTemplateFormatVersion: 2010-09-09
Parameters:
  Seconds: {Type: Number, Default: 10}
Resources:
  Vpc:
    Type: AWS::EC2::VPC
    Properties: {CidrBlock: 10.0.0.0/16}
  Gateway:
    Type: AWS::EC2::InternetGateway
  Attachment:
    Type: AWS::EC2::VPCGatewayAttachment
    Properties: {VpcId: !Ref Vpc, InternetGatewayId: !Ref Gateway}
  Public:
    Type: AWS::EC2::Subnet
    Properties: {VpcId: !Ref Vpc, CidrBlock: !Select [0, !Cidr [!GetAtt Vpc.CidrBlock, 2, 8]]}
  Private:
    Type: AWS::EC2::Subnet
    Properties: {VpcId: !Ref Vpc, CidrBlock: !Select [1, !Cidr [!GetAtt Vpc.CidrBlock, 2, 8]]}
  PublicTable:
    Type: AWS::EC2::RouteTable
    Properties: {VpcId: !Ref Vpc}
  PublicRoute:
    Type: AWS::EC2::Route
    DependsOn: Attachment
    Properties:
      RouteTableId: !Ref PublicTable
      DestinationCidrBlock: 0.0.0.0/0
      GatewayId: !Ref Gateway
  PublicAssociation:
    Type: AWS::EC2::SubnetRouteTableAssociation
    Properties: {RouteTableId: !Ref PublicTable, SubnetId: !Ref Public}
  Address:
    Type: AWS::EC2::EIP
    DependsOn: Attachment
    Properties: {Domain: vpc}
  Nat:
    Type: AWS::EC2::NatGateway
    Properties: {SubnetId: !Ref Public, AllocationId: !GetAtt Address.AllocationId}
  Table:
    Type: AWS::EC2::RouteTable
    Properties: {VpcId: !Ref Vpc}
  Route:
    Type: AWS::EC2::Route
    Properties:
      RouteTableId: !Ref Table
      DestinationCidrBlock: 0.0.0.0/0
      NatGatewayId: !Ref Nat
  Association:
    Type: AWS::EC2::SubnetRouteTableAssociation
    Properties: {RouteTableId: !Ref Table, SubnetId: !Ref Private}
  Group:
    Type: AWS::EC2::SecurityGroup
    Properties:
      GroupDescription: of functions
      VpcId: !Ref Vpc
      SecurityGroupEgress: EGRESS
"""
FUNCTION = f"""
  Role:
    Type: AWS::IAM::Role
    Properties:
      AssumeRolePolicyDocument:
        Version: 2012-10-17
        Statement:
          - {{Effect: Allow, Principal: {{Service: lambda.amazonaws.com}}, Action: sts:AssumeRole}}
  Function:
    Type: AWS::Lambda::Function
    DependsOn: [Route, Association, PublicRoute, PublicAssociation]
    Properties:
      FunctionName: fetch
      Runtime: python3.{sys.version_info.minor}
      Handler: index.handler
      Role: !GetAtt Role.Arn
      Timeout: !Ref Seconds
      VpcConfig: {{SubnetIds: [!Ref Private], SecurityGroupIds: [!Ref Group]}}
      Code:
        ZipFile: |
          {CODE.strip().replace(chr(10), chr(10) + " " * 10)}
"""
OUTPUTS = """
Outputs:
  Address: {Value: !Ref Address}
  Name: {Value: !Ref Function}
"""
TEMPLATE = NETWORK + FUNCTION + OUTPUTS
STACK_SECONDS = 180.0
"""Some twenty resources, a request or more each."""

ANYWHERE = "[{IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIp: 0.0.0.0/0}]"
NOWHERE = "[{IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIp: 10.0.0.0/16}]"


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return launch_shared(environments=0, toml=TOML)


def changed(endpoint: Endpoint, template: str, *more: str) -> str:
    """`aws cloudformation update-stack`, to its end: the stack's status."""
    endpoint.aws(
        *("cloudformation", "update-stack", "--stack-name", "net", "--template-body", template),
        *("--capabilities", "CAPABILITY_IAM", *more),
    )
    return settled(endpoint)


def settled(endpoint: Endpoint) -> str:
    """The status of the stack, once nothing is done with it any more."""
    stacks = endpoint.client("cloudformation")

    def status() -> str:
        return str(stacks.describe_stacks(StackName="net")["Stacks"][0]["StackStatus"])

    wait_until(lambda: not status().endswith("IN_PROGRESS"), "the stack is settled", STACK_SECONDS)
    return status()


def deleted(endpoint: Endpoint) -> None:
    """`aws cloudformation delete-stack`, to its end."""
    endpoint.run("cloudformation", "delete-stack", "--stack-name", "net")
    stacks = endpoint.client("cloudformation")
    wait_until(lambda: not stacks.describe_stacks()["Stacks"], "it is deleted", STACK_SECONDS)


def invoked(endpoint: Endpoint, **event: object) -> tuple[str | None, Any]:
    answer = endpoint.client("lambda").invoke(FunctionName="fetch", Payload=json.dumps(event))
    return answer.get("FunctionError"), json.loads(answer["Payload"].read())


def nothing_left(lab: Lab) -> None:
    """Of all that the stack has made; NAT gateways are listed for an hour of AWS's."""
    assert {row["VpcName"] for row in lab.rows("vpcs")} <= {"bare", "internet"}
    assert {row["State"] for row in lab.rows("nat-gateways")} <= {"deleted"}
    for kind in ("functions", "addresses", "internet-gateways"):
        assert lab.rows(kind) == [], kind
    assert lab.verify() == []


@pytest.mark.slow
def test_a_stack_is_deployed_changed_and_deleted(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    path.write_text(TEMPLATE.replace("EGRESS", ANYWHERE), encoding="utf-8")
    deploy = (
        *("cloudformation", "deploy", "--stack-name", "net", "--template-file", str(path)),
        *("--capabilities", "CAPABILITY_IAM", "--no-fail-on-empty-changeset"),
    )
    with serving(lab) as endpoint:
        # Its waiter asks every 30 seconds.
        assert "Successfully created/updated stack - net" in endpoint.run(*deploy)
        shown = endpoint.aws("cloudformation", "describe-stacks", "--stack-name", "net")
        outputs = shown["Stacks"][0]["Outputs"]
        address = {each["OutputKey"]: each["OutputValue"] for each in outputs}["Address"]
        assert invoked(endpoint) == (None, address)
        assert "No changes to deploy" in endpoint.run(*deploy)
        # Another group lets nothing out.
        template = TEMPLATE.replace("EGRESS", NOWHERE)
        assert changed(endpoint, template) == "UPDATE_COMPLETE"
        error, _ = invoked(endpoint, timeout=1)
        assert error == "Unhandled"
        # What fails is taken back, and packets go as they did before.
        template = TEMPLATE.replace("EGRESS", ANYWHERE)
        assert changed(endpoint, template) == "UPDATE_COMPLETE"
        template = TEMPLATE.replace("EGRESS", NOWHERE)
        seconds = ("--parameters", "ParameterKey=Seconds,ParameterValue=9000")
        assert changed(endpoint, template, *seconds) == "UPDATE_ROLLBACK_COMPLETE"
        assert invoked(endpoint) == (None, address)
        deleted(endpoint)
    nothing_left(lab)


@pytest.mark.races
def test_a_stack_whose_endpoint_is_killed_is_taken_back(lab: Lab) -> None:
    with serving(lab) as endpoint:
        endpoint.client("cloudformation").create_stack(
            StackName="net",
            TemplateBody=TEMPLATE.replace("EGRESS", ANYWHERE),
            Capabilities=["CAPABILITY_IAM"],
        )
        wait_until(lambda: len(lab.rows("route-tables")) > 2, "the first resources are there")
        endpoint.process.kill()
        endpoint.process.wait()
    with serving(lab) as endpoint:
        # It may have been done by then.
        assert settled(endpoint) in ("ROLLBACK_COMPLETE", "CREATE_COMPLETE")
        deleted(endpoint)
    nothing_left(lab)
