# SPDX-License-Identifier: Apache-2.0
"""Custom resources whose functions are the lab's: they answer through the networks they have."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from hyperplane_nat.aws.responses import NAME, VPC
from hyperplane_nat.unix_socket import mailbox
from tests.live.conftest import Launch
from tests.live.lab import Lab, wait_until
from tests.live.test_aws import TOML, Endpoint, serving
from tests.live.test_aws_stacks import ANYWHERE, NETWORK, STACK_SECONDS, nothing_left, settled
from tests.live.test_versions import node_major

pytestmark = [pytest.mark.live, pytest.mark.slow]

# What is in the guide: nothing of it knows of the lab.
PYTHON = """
import cfnresponse
def handler(event, context):
    if event["RequestType"] == "Delete":
        return cfnresponse.send(event, context, cfnresponse.SUCCESS, {}, "made")
    wanted = event["ResourceProperties"]["Say"]
    status = cfnresponse.FAILED if wanted == "no" else cfnresponse.SUCCESS
    cfnresponse.send(event, context, status, {"Said": wanted * 2}, "made", reason="said no")
"""
NODE = """
const response = require("cfn-response");
exports.handler = (event, context) => {
  const said = event.ResourceProperties ? event.ResourceProperties.Say : "";
  response.send(event, context, response.SUCCESS, { Said: said + said }, "made");
};
"""

# In the VPC it is asked once it has a way out, and goes before that does.
MAKER = """
  Maker:
    Type: AWS::Lambda::Function
    DependsOn: [Route, Association, PublicRoute, PublicAssociation]
    Properties:
      Runtime: RUNTIME
      Handler: index.handler
      Role: arn:aws:iam::111122223333:role/r
      Timeout: 30
      VpcConfig: {SubnetIds: [!Ref Private], SecurityGroupIds: [!Ref Group]}
      Code:
        ZipFile: CODE
  Thing:
    Type: Custom::Thing
    Properties: {ServiceToken: !GetAtt Maker.Arn, Say: !Ref Say, ServiceTimeout: 100}
Outputs:
  Said: {Value: !GetAtt Thing.Said}
  Key: {Value: !Ref Thing}
"""


def template(code: str, runtime: str, *, vpc: bool) -> str:
    maker = MAKER.replace("RUNTIME", runtime).replace("CODE", json.dumps(code))
    if vpc:
        head = NETWORK.replace("EGRESS", ANYWHERE)
    else:
        lines = maker.splitlines(keepends=True)
        maker = "".join(each for each in lines if "DependsOn" not in each and "Vpc" not in each)
        head = "Parameters:\n  Seconds: {Type: Number, Default: 10}\nResources:\n"
    return head.replace("Parameters:\n", "Parameters:\n  Say: {Type: String, Default: a}\n") + maker


@pytest.fixture(scope="module")
def lab(launch_shared: Launch) -> Lab:
    return launch_shared(environments=0, toml=TOML)


@pytest.fixture(scope="module")
def endpoint(lab: Lab) -> Iterator[Endpoint]:
    with serving(lab) as found:
        yield found
    nothing_left(lab)


def stack(endpoint: Endpoint) -> dict[str, Any]:
    stacks = endpoint.client("cloudformation")
    (found,) = stacks.describe_stacks(StackName="net")["Stacks"]
    return dict(found)


def outputs(endpoint: Endpoint) -> dict[str, str]:
    return {each["OutputKey"]: each["OutputValue"] for each in stack(endpoint)["Outputs"]}


def deleted(endpoint: Endpoint, *retained: str) -> None:
    stacks = endpoint.client("cloudformation")
    stacks.delete_stack(StackName="net", RetainResources=[*retained])
    wait_until(
        lambda: not stacks.describe_stacks()["Stacks"], "the stack is deleted", STACK_SECONDS
    )


@pytest.mark.parametrize("vpc", [False, True])
def test_a_function_answers_by_the_network_it_has(endpoint: Endpoint, *, vpc: bool) -> None:
    stacks = endpoint.client("cloudformation")
    said = template(PYTHON, f"python3.{sys.version_info.minor}", vpc=vpc)
    stacks.create_stack(StackName="net", TemplateBody=said)
    assert settled(endpoint) == "CREATE_COMPLETE", stacks.describe_stack_events(StackName="net")
    assert outputs(endpoint) == {"Said": "aa", "Key": "made"}

    def changed(value: str) -> str:
        given = [{"ParameterKey": "Say", "ParameterValue": value}]
        stacks.update_stack(StackName="net", UsePreviousTemplate=True, Parameters=given)
        return settled(endpoint)

    assert changed("b") == "UPDATE_COMPLETE"
    assert outputs(endpoint)["Said"] == "bb"
    assert changed("no") == "UPDATE_ROLLBACK_COMPLETE"
    events = stacks.describe_stack_events(StackName="net")["StackEvents"]
    assert any("said no" in each.get("ResourceStatusReason", "") for each in events)
    assert outputs(endpoint)["Said"] == "bb"
    deleted(endpoint)


@pytest.mark.skipif(node_major() is None, reason="this host has no Node.js (apt: nodejs)")
def test_a_function_of_node_answers(endpoint: Endpoint) -> None:
    # A mailbox that somebody has deleted leaves nothing, and there is another one.
    reader = endpoint.lab.client.path.parent / mailbox(VPC, NAME)
    assert reader.is_socket()
    endpoint.lab.client.delete(f"/v1/services/{VPC}%2F{NAME}")
    wait_until(lambda: not reader.exists(), "the mailbox is gone")
    stacks = endpoint.client("cloudformation")
    said = template(NODE, f"nodejs{node_major()}.x", vpc=False)
    stacks.create_stack(StackName="net", TemplateBody=said)
    assert settled(endpoint) == "CREATE_COMPLETE", stacks.describe_stack_events(StackName="net")
    assert outputs(endpoint) == {"Said": "aa", "Key": "made"}
    deleted(endpoint)


def test_a_function_without_a_way_out_is_not_heard(endpoint: Endpoint) -> None:
    stacks = endpoint.client("cloudformation")
    said = template(PYTHON, f"python3.{sys.version_info.minor}", vpc=True)
    # The private subnet has the VPC's main table, which leads nowhere.
    begin = said.index("  Association:")
    said = said[:begin] + said[said.index("  Group:", begin) :]
    said = said.replace("Association, PublicRoute", "PublicRoute", 1)
    said = said.replace("ServiceTimeout: 100", "ServiceTimeout: 3")
    said = said.replace("      Timeout: 30", "      Timeout: 3")
    stacks.create_stack(StackName="net", TemplateBody=said)
    assert settled(endpoint) == "ROLLBACK_FAILED"
    events = stacks.describe_stack_events(StackName="net")["StackEvents"]
    reasons = [each.get("ResourceStatusReason", "") for each in events]
    assert any(each.startswith("CloudFormation did not receive") for each in reasons)
    # Nor is it when it is to delete what it has not made.
    stacks.delete_stack(StackName="net")
    assert settled(endpoint) == "DELETE_FAILED"
    deleted(endpoint, "Thing")
