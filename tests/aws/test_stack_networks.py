# SPDX-License-Identifier: Apache-2.0
"""Network ACLs, flow logs, addresses of instances and permissions of functions, made by stacks."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tests.aws.stack_support import SUBNET, TEMPLATE, VPC, Stacks
from tests.aws.support import ROLE, Endpoint, refusal


def _entry(number: int, **more: Any) -> dict[str, Any]:
    properties = {
        "NetworkAclId": {"Ref": "Acl"},
        "RuleNumber": number,
        "Protocol": 6,
        "RuleAction": "allow",
        "CidrBlock": "0.0.0.0/0",
        "PortRange": {"From": "80", "To": 80},
        **more,
    }
    return {"Type": "AWS::EC2::NetworkAclEntry", "Properties": properties}


def test_a_subnet_has_the_stacks_acl_and_then_the_default_one_again(stacks: Stacks) -> None:
    ec2 = stacks.endpoint.client("ec2")
    resources: dict[str, Any] = {
        "Vpc": VPC,
        "Subnet": SUBNET,
        "Acl": {
            "Type": "AWS::EC2::NetworkAcl",
            "Properties": {"VpcId": {"Ref": "Vpc"}, "Tags": [{"Key": "Name", "Value": "front"}]},
        },
        "In": _entry(100),
        "Out": _entry(100, Egress="true", Protocol="-1", PortRange={}),
        "Ping": _entry(200, Protocol=1, PortRange={}, Icmp={"Type": 8, "Code": -1}),
        "Of": {
            "Type": "AWS::EC2::SubnetNetworkAclAssociation",
            "Properties": {"SubnetId": {"Ref": "Subnet"}, "NetworkAclId": {"Ref": "Acl"}},
        },
    }
    outputs = {"Of": {"Value": {"Fn::GetAtt": ["Of", "AssociationId"]}}}
    made = stacks.create("acl", Resources=resources, Outputs=outputs)
    assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("acl")[:4]
    ids = stacks.resources("acl")

    def acl() -> Any:
        (found,) = ec2.describe_network_acls(NetworkAclIds=[ids["Acl"]])["NetworkAcls"]
        return found

    assert {"Key": "Name", "Value": "front"} in acl()["Tags"]
    (association,) = acl()["Associations"]
    assert association["SubnetId"] == ids["Subnet"]
    assert association["NetworkAclAssociationId"] == ids["Of"]
    assert made["Outputs"][0]["OutputValue"] == ids["Of"]
    rules = {(each["RuleNumber"], each["Egress"]): each for each in acl()["Entries"]}
    assert rules[100, False]["PortRange"] == {"From": 80, "To": 80}
    assert rules[100, True]["Protocol"] == "-1"
    assert rules[200, False]["IcmpTypeCode"]["Type"] == 8
    changed = deepcopy(resources)
    changed["In"] = _entry(100, PortRange={"From": 443, "To": 443})
    del changed["Ping"]
    assert stacks.update("acl", Resources=changed)["StackStatus"] == "UPDATE_COMPLETE"
    rules = {(each["RuleNumber"], each["Egress"]): each for each in acl()["Entries"]}
    assert rules[100, False]["PortRange"] == {"From": 443, "To": 443}
    assert (200, False) not in rules
    # Without the association the subnet has what every subnet begins with.
    del changed["Of"]
    assert stacks.update("acl", Resources=changed)["StackStatus"] == "UPDATE_COMPLETE"
    assert acl()["Associations"] == []
    of_subnet = [{"Name": "association.subnet-id", "Values": [ids["Subnet"]]}]
    (found,) = ec2.describe_network_acls(Filters=of_subnet)["NetworkAcls"]
    assert found["IsDefault"] is True
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE", stacks.told("acl")[:4]


def test_a_stack_has_flow_logs_of_its_vpc(writing: Endpoint, stacks: Stacks) -> None:
    ec2 = writing.client("ec2")
    resources: dict[str, Any] = {
        "Vpc": VPC,
        "Logs": {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": 7}},
        "FlowLog": {
            "Type": "AWS::EC2::FlowLog",
            "Properties": {
                "ResourceId": {"Ref": "Vpc"},
                "ResourceType": "VPC",
                "TrafficType": "ALL",
                "LogGroupName": {"Ref": "Logs"},
                "DeliverLogsPermissionArn": ROLE,
                "Tags": [{"Key": "a", "Value": "b"}],
            },
        },
    }
    made = stacks.create("flow", Resources=resources)
    assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("flow")[:4]
    ids = stacks.resources("flow")
    (found,) = ec2.describe_flow_logs(FlowLogIds=[ids["FlowLog"]])["FlowLogs"]
    assert (found["ResourceId"], found["LogGroupName"]) == (ids["Vpc"], ids["Logs"])
    assert {"Key": "a", "Value": "b"} in found["Tags"]
    # What is refused of one resource is the stack's failure.
    twice = {**resources, "Again": resources["FlowLog"]}
    assert stacks.update("flow", Resources=twice)["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert any("FlowLogAlreadyExists" in (why or "") for _, _, why in stacks.told("flow"))
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE", stacks.told("flow")[:4]
    assert ec2.describe_flow_logs()["FlowLogs"] == []


def test_an_address_is_given_to_an_instance_and_taken_back(stacks: Stacks) -> None:
    ec2 = stacks.endpoint.client("ec2")
    resources: dict[str, Any] = {
        "Vpc": VPC,
        "Gateway": {"Type": "AWS::EC2::InternetGateway"},
        "Attachment": {
            "Type": "AWS::EC2::VPCGatewayAttachment",
            "Properties": {"VpcId": {"Ref": "Vpc"}, "InternetGatewayId": {"Ref": "Gateway"}},
        },
        "Subnet": SUBNET,
        "Profile": {"Type": "AWS::IAM::InstanceProfile", "Properties": {"Roles": []}},
        "Host": {
            "Type": "AWS::EC2::Instance",
            "Properties": {
                "ImageId": "ami-1",
                "SubnetId": {"Ref": "Subnet"},
                "IamInstanceProfile": {"Ref": "Profile"},
            },
        },
        "Address": {"Type": "AWS::EC2::EIP", "DependsOn": "Attachment"},
        "Given": {
            "Type": "AWS::EC2::EIPAssociation",
            "Properties": {
                "AllocationId": {"Fn::GetAtt": ["Address", "AllocationId"]},
                "InstanceId": {"Ref": "Host"},
            },
        },
    }
    made = stacks.create("eip", Resources=resources)
    assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("eip")[:4]
    ids = stacks.resources("eip")
    (found,) = ec2.describe_addresses(PublicIps=[ids["Address"]])["Addresses"]
    assert (found["InstanceId"], found["AssociationId"]) == (ids["Host"], ids["Given"])
    (host,) = ec2.describe_instances(InstanceIds=[ids["Host"]])["Reservations"][0]["Instances"]
    assert host["IamInstanceProfile"]["Arn"].endswith(f"/{ids['Profile']}")
    changed = deepcopy(resources)
    # By the address itself, as templates that are older have it: another association.
    changed["Given"]["Properties"] = {"EIP": {"Ref": "Address"}, "InstanceId": {"Ref": "Host"}}
    del resources["Given"]
    assert stacks.update("eip", Resources=resources)["StackStatus"] == "UPDATE_COMPLETE"
    (found,) = ec2.describe_addresses(PublicIps=[ids["Address"]])["Addresses"]
    assert "AssociationId" not in found
    assert stacks.update("eip", Resources=changed)["StackStatus"] == "UPDATE_COMPLETE"
    (found,) = ec2.describe_addresses(PublicIps=[ids["Address"]])["Addresses"]
    assert found["InstanceId"] == ids["Host"]
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE", stacks.told("eip")[:4]


def test_permissions_of_a_function_are_noted(stacks: Stacks) -> None:
    client = stacks.endpoint.client("lambda")
    template = deepcopy(TEMPLATE)
    template["Resources"]["May"] = {
        "Type": "AWS::Lambda::Permission",
        "Properties": {
            "FunctionName": {"Fn::GetAtt": ["Function", "Arn"]},
            "Action": "lambda:InvokeFunction",
            "Principal": "s3.amazonaws.com",
            "SourceAccount": {"Ref": "AWS::AccountId"},
        },
    }
    made = stacks.create("may", **template)
    assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("may")[:4]
    ids = stacks.resources("may")
    policy = client.get_policy(FunctionName=ids["Function"])["Policy"]
    assert ids["May"] in policy
    assert "s3.amazonaws.com" in policy
    del template["Resources"]["May"]
    assert stacks.update("may", **template)["StackStatus"] == "UPDATE_COMPLETE"
    assert refusal(client.get_policy, FunctionName=ids["Function"])[2] == 404
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE", stacks.told("may")[:4]
