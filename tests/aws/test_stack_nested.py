# SPDX-License-Identifier: Apache-2.0
"""Nested stacks: made, changed, taken back and deleted with the stack that has them."""

from __future__ import annotations

import json
import secrets
from copy import deepcopy
from typing import Any

import pytest

from hyperplane_nat.aws import stack_threads
from hyperplane_nat.aws.call import Call
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.operations import REAL
from hyperplane_nat.aws.stack_making import PARENT
from tests.aws.stack_support import LOG_GROUP, VPC, Stacks, body, everything
from tests.aws.support import ACCOUNT, lab_in

SUBNET: dict[str, Any] = {
    "Type": "AWS::EC2::Subnet",
    "Properties": {
        "VpcId": {"Fn::GetAtt": ["Child", "Outputs.Vpc"]},
        "CidrBlock": {"Fn::Join": ["", [{"Fn::GetAtt": "Child.Outputs.Begin"}, ".0/24"]]},
    },
}
BAD: dict[str, Any] = {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "x"}}
GONE_WORKER = [2**22 + 1, 1]
"""A process that is no more."""


def child(**more: Any) -> dict[str, Any]:
    """A template with a VPC whose addresses begin with a parameter."""
    cidr = {"Fn::Sub": "${Begin}.0/16"}
    return {
        "Parameters": {"Begin": {"Type": "String", "Default": "10.6.0"}},
        "Resources": {"Vpc": {**VPC, "Properties": {"CidrBlock": cidr}}, **more},
        "Outputs": {"Vpc": {"Value": {"Ref": "Vpc"}}, "Begin": {"Value": {"Ref": "Begin"}}},
    }


def put(stacks: Stacks, template: dict[str, Any]) -> str:
    """The address of a template in a bucket of the endpoint."""
    bucket, s3 = secrets.token_hex(8), stacks.endpoint.client("s3")
    s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="t.json", Body=json.dumps(template))
    return f"https://{bucket}.s3.us-east-1.amazonaws.com/t.json"


def nested(url: str, **parameters: Any) -> dict[str, Any]:
    """A resource that is a stack."""
    properties: dict[str, Any] = {"TemplateURL": url}
    if parameters:
        properties["Parameters"] = parameters
    return {"Type": "AWS::CloudFormation::Stack", "Properties": properties}


def described(stacks: Stacks, key: str) -> dict[str, Any]:
    (found,) = stacks.client.describe_stacks(StackName=key)["Stacks"]
    return dict(found)


def test_a_stack_in_a_stack_is_made_and_deleted_with_it(stacks: Stacks) -> None:
    before = everything(stacks.endpoint)
    inner = put(stacks, {"Resources": {"L": LOG_GROUP}})
    url = put(stacks, child(Inner=nested(inner)))
    tags = [{"Key": "team", "Value": "x"}]
    template = body(Resources={"Child": nested(url, Begin="10.5.0"), "Subnet": SUBNET})
    stacks.client.create_stack(StackName="net", Tags=tags, **template)
    made = stacks.settled("net")
    assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("net")[:6]
    ids = stacks.resources("net")
    found = described(stacks, ids["Child"])
    assert found["StackName"].startswith("net-Child-")
    assert (found["StackStatus"], found["ParentId"], found["RootId"]) == (
        "CREATE_COMPLETE",
        made["StackId"],
        made["StackId"],
    )
    assert found["Tags"] == tags
    below = stacks.resources(ids["Child"])
    innermost = described(stacks, below["Inner"])
    assert (innermost["ParentId"], innermost["RootId"]) == (ids["Child"], made["StackId"])
    ec2 = stacks.endpoint.client("ec2")
    (subnet,) = ec2.describe_subnets(SubnetIds=[ids["Subnet"]])["Subnets"]
    assert (subnet["VpcId"], subnet["CidrBlock"]) == (below["Vpc"], "10.5.0.0/24")
    (vpc,) = ec2.describe_vpcs(VpcIds=[below["Vpc"]])["Vpcs"]
    assert {"Key": "team", "Value": "x"} in vpc["Tags"]
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE", stacks.told(made["StackId"])
    assert everything(stacks.endpoint) == before
    for key in (ids["Child"], below["Inner"]):
        assert described(stacks, key)["StackStatus"] == "DELETE_COMPLETE"


def test_one_that_cannot_be_made_takes_all_with_it(stacks: Stacks) -> None:
    before = everything(stacks.endpoint)
    url = put(stacks, child(Bad=BAD))
    made = stacks.create("net", Resources={"Child": nested(url), "More": VPC})
    assert made["StackStatus"] == "ROLLBACK_COMPLETE", stacks.told("net")[:6]
    ((name, _, reason),) = [each for each in stacks.told("net") if each[1] == "CREATE_FAILED"]
    assert name == "Child"
    assert str(reason).startswith("Embedded stack arn:aws:cloudformation:us-east-1:111122223333:")
    assert str(reason).endswith(
        "was not successfully created: The following resource(s) failed to create: [Bad]."
    )
    assert everything(stacks.endpoint) == before
    assert stacks.client.describe_stacks()["Stacks"][0]["StackId"] == made["StackId"]
    assert len(stacks.client.describe_stacks()["Stacks"]) == 1


@pytest.mark.parametrize(
    ("resource", "reason"),
    [
        (nested("https://s3.amazonaws.com/no-bucket/t"), "The specified key does not exist."),
        (
            {"Type": "AWS::CloudFormation::Stack", "Properties": {"TemplateURL": "x", "More": 1}},
            "The property More is not emulated.",
        ),
        ({"Type": "AWS::CloudFormation::Stack"}, "must contain the parameter templateURL"),
    ],
)
def test_one_that_says_nothing_of_use_fails(
    stacks: Stacks, resource: dict[str, Any], reason: str
) -> None:
    made = stacks.create("net", Resources={"Child": resource})
    assert made["StackStatus"] == "ROLLBACK_COMPLETE"
    assert any(reason in str(each[2]) for each in stacks.told("net"))


def test_roles_below_are_acknowledged_above(stacks: Stacks) -> None:
    trust = {"AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": []}}
    url = put(stacks, {"Resources": {"Role": {"Type": "AWS::IAM::Role", "Properties": trust}}})
    template = json.dumps({"Resources": {"Child": nested(url)}})
    stacks.client.create_stack(StackName="no", TemplateBody=template)
    assert stacks.settled("no")["StackStatus"] == "ROLLBACK_COMPLETE"
    assert any("Requires capabilities" in str(each[2]) for each in stacks.told("no"))
    capabilities = ["CAPABILITY_IAM"]
    stacks.client.create_stack(StackName="yes", TemplateBody=template, Capabilities=capabilities)
    made = stacks.settled("yes")
    assert made["StackStatus"] == "CREATE_COMPLETE"
    stacks.delete(made)


def test_it_is_changed_with_its_parent(stacks: Stacks) -> None:
    first, second = (put(stacks, child(**more)) for more in ({"Old": LOG_GROUP}, {"New": VPC}))
    stacks.create("net", Resources={"Child": nested(first)})
    key = stacks.resources("net")["Child"]
    before = stacks.resources(key)
    found = stacks.update("net", Resources={"Child": nested(second), "More": LOG_GROUP})
    assert found["StackStatus"] == "UPDATE_COMPLETE", stacks.told("net")[:6]
    assert stacks.resources("net")["Child"] == key
    assert described(stacks, key)["StackStatus"] == "UPDATE_COMPLETE"
    after = stacks.resources(key)
    assert (set(after), after["Vpc"]) == ({"Vpc", "New"}, before["Vpc"])
    # The same template elsewhere is no change of it.
    again = stacks.update("net", Resources={"Child": nested(put(stacks, child(New=VPC)))})
    assert again["StackStatus"] == "UPDATE_COMPLETE"
    assert stacks.resources(key) == after
    # By itself it is a stack like others.
    assert stacks.update(key, **child())["StackStatus"] == "UPDATE_COMPLETE"
    assert stacks.resources(key).keys() == {"Vpc"}
    # Without it in the template it goes.
    assert stacks.update("net", Resources={"L": LOG_GROUP})["StackStatus"] == "UPDATE_COMPLETE"
    assert described(stacks, key)["StackStatus"] == "DELETE_COMPLETE"


def test_its_change_is_taken_back_with_its_parents(stacks: Stacks) -> None:
    first, second = (put(stacks, child(**more)) for more in ({"Old": VPC}, {"New": VPC}))
    stacks.create("net", Resources={"Child": nested(first)})
    key, before = stacks.resources("net")["Child"], everything(stacks.endpoint)
    ids = stacks.resources(key)
    bad = {**BAD, "DependsOn": "Child"}
    found = stacks.update("net", Resources={"Child": nested(second), "Bad": bad})
    assert found["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE", stacks.told("net")[:6]
    assert described(stacks, key)["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    assert (stacks.resources(key), everything(stacks.endpoint)) == (ids, before)
    # What fails in it is its own failure, and its parent's.
    third = put(stacks, child(New=VPC, Bad={**BAD, "DependsOn": "New"}))
    found = stacks.update("net", Resources={"Child": nested(third)})
    assert found["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE", stacks.told("net")[:6]
    assert any(
        each[:2] == ("Child", "UPDATE_FAILED") and "was not successfully updated" in str(each[2])
        for each in stacks.told("net")
    )
    assert (stacks.resources(key), everything(stacks.endpoint)) == (ids, before)
    # What was taken back is no failure of what comes next.
    found = stacks.update("net", Resources={"Child": nested(first), "L": LOG_GROUP})
    assert found["StackStatus"] == "UPDATE_COMPLETE"


def test_one_that_cannot_be_deleted_is_its_parents_failure(
    stacks: Stacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = child()
    exported["Outputs"]["Vpc"]["Export"] = {"Name": "of-child"}
    made = stacks.create("net", Resources={"Child": nested(put(stacks, exported))})
    key = stacks.resources("net")["Child"]
    ec2, vpc = stacks.endpoint.client("ec2"), stacks.resources(key)["Vpc"]
    other = {**SUBNET, "Properties": {"VpcId": {"Fn::ImportValue": "of-child"}}}
    other["Properties"]["CidrBlock"] = "10.6.1.0/24"
    user = stacks.create("user", Resources={"S": other})
    assert stacks.delete(made)["StackStatus"] == "DELETE_FAILED"
    assert any("it is in use by user" in str(each[2]) for each in stacks.told("net"))
    stacks.delete(user)
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.6.0.0/24")["Subnet"]["SubnetId"]
    with monkeypatch.context() as patched:
        patched.setattr("hyperplane_nat.aws.stack_work.WAIT_SECONDS_MIN", 0.5)
        patched.setattr("hyperplane_nat.aws.stack_work.WAIT_SECONDS", 0.5)
        assert stacks.delete(made)["StackStatus"] == "DELETE_FAILED"
    said = [str(each[2]) for each in stacks.told("net") if each[:2] == ("Child", "DELETE_FAILED")]
    assert "was not successfully deleted: The following resource(s) failed" in said[0]
    ec2.delete_subnet(SubnetId=subnet)
    assert stacks.delete(made)["StackStatus"] == "DELETE_COMPLETE", stacks.told("net")[:6]
    assert described(stacks, key)["StackStatus"] == "DELETE_COMPLETE"


@pytest.mark.parametrize(
    ("status", "below", "end"),
    [
        ("CREATE_IN_PROGRESS", "CREATE_IN_PROGRESS", "ROLLBACK_COMPLETE"),
        ("CREATE_IN_PROGRESS", "CREATE_COMPLETE", "ROLLBACK_COMPLETE"),
        ("DELETE_IN_PROGRESS", "DELETE_IN_PROGRESS", "DELETE_COMPLETE"),
        ("UPDATE_IN_PROGRESS", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE"),
        ("UPDATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE"),
        (
            "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
            "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS",
            "UPDATE_COMPLETE",
        ),
    ],
)
def test_what_a_killed_endpoint_has_begun_is_ended(
    stacks: Stacks, status: str, below: str, end: str
) -> None:
    empty = everything(stacks.endpoint)
    made = stacks.create("net", Resources={"Child": nested(put(stacks, child()))})
    key, before = stacks.resources("net")["Child"], everything(stacks.endpoint)
    lab = lab_in(stacks.endpoint.directory)
    with lab.notes.stacks.changing() as known:
        parent, inner = (deepcopy(known[each]) for each in (made["StackId"], key))
        parent |= {"StackStatus": status, "Worker": GONE_WORKER}
        inner |= {"StackStatus": below, "Worker": GONE_WORKER, "Held": True}
        if status.startswith("UPDATE"):
            parent["Undo"] = [["Child", "updated", deepcopy(parent["Resources"]["Child"])]]
            # It was made by the change.
            inner["Undo"] = [["Vpc", "created", {"Type": "AWS::EC2::VPC", "PhysicalId": ""}]]
            for each in (parent, inner):
                each["Former"] = {"TemplateBody": each["TemplateBody"]}
        known |= {made["StackId"]: parent, key: inner}
    stack_threads.take_over(lambda account: Call(lab, account, REAL))
    assert stacks.settled(made["StackId"])["StackStatus"] == end, stacks.told(made["StackId"])
    found = described(stacks, key)
    if end == "UPDATE_COMPLETE":
        assert (found["StackStatus"], everything(stacks.endpoint)) == (end, before)
    elif end == "UPDATE_ROLLBACK_COMPLETE":
        assert (found["StackStatus"], everything(stacks.endpoint)) == (end, empty)
    else:
        assert (found["StackStatus"], everything(stacks.endpoint)) == ("DELETE_COMPLETE", empty)


def test_no_request_can_say_that_it_is_a_parents(stacks: Stacks) -> None:
    made = stacks.create("net", Resources={"L": LOG_GROUP})
    lab = lab_in(stacks.endpoint.directory)
    call = Call(lab, ACCOUNT, REAL)
    for name in ("CreateStack", "UpdateStack", "DeleteStack"):
        with pytest.raises(AwsError, match="The parameter Parent is not emulated"):
            REAL["cloudformation"][name].run(call, {"StackName": "net", PARENT: made["StackId"]})
    assert "ParentId" not in made
    stacks.delete(made)
