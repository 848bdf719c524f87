# SPDX-License-Identifier: Apache-2.0
"""Stacks whose controller or endpoint goes away meanwhile."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.aws import call, stack_threads
from hyperplane_nat.aws.call import Call
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.operations import REAL
from hyperplane_nat.client import Client, ClientError
from tests.aws.stack_support import (
    NETWORK,
    SUBNET,
    TEMPLATE,
    VPC,
    WAIT_SECONDS,
    Stacks,
    body,
    everything,
)
from tests.aws.support import client_of, lab_in, running
from tests.controller.region_lab import RegionLab, served


@pytest.mark.races
def test_a_controller_that_is_away_meanwhile_is_waited_for() -> None:
    with tempfile.TemporaryDirectory(prefix="hp", dir="/dev/shm") as name:
        directory, region = Path(name), RegionLab()
        socket = directory / "control.sock"
        with running(lab_in(directory)) as url:
            client = client_of("cloudformation", url)
            with served(socket, region):
                # A function is Pending until time passes, and then there is nobody to ask.
                client.create_stack(StackName="net", **body())
                assert client.describe_stacks()["Stacks"][0]["StackStatus"] == "CREATE_IN_PROGRESS"
            deadline = time.monotonic() + WAIT_SECONDS
            with served(socket, region):
                here = Client(directory.name, runtime_directory=directory.parent)
                while (
                    status := client.describe_stacks()["Stacks"][0]["StackStatus"]
                ) == "CREATE_IN_PROGRESS":
                    assert time.monotonic() < deadline
                    here.post("/v1/advance", {"seconds": 60})
            assert status == "CREATE_COMPLETE"


TABLE: dict[str, Any] = {"Type": "AWS::EC2::RouteTable", "Properties": {"VpcId": {"Ref": "Vpc"}}}
HOSTS: dict[str, Any] = {
    "Vpc": VPC,
    "Gateway": {"Type": "AWS::EC2::InternetGateway", "Properties": {}},
    "Attachment": {
        "Type": "AWS::EC2::VPCGatewayAttachment",
        "Properties": {"VpcId": {"Ref": "Vpc"}, "InternetGatewayId": {"Ref": "Gateway"}},
    },
    "Subnet": SUBNET,
    "Named": {
        "Type": "AWS::EC2::Instance",
        "Properties": {
            "ImageId": "ami-1",
            "SubnetId": {"Ref": "Subnet"},
            "Tags": [{"Key": "Name", "Value": "store"}],
        },
    },
    "Nameless": {
        "Type": "AWS::EC2::Instance",
        "Properties": {"ImageId": "ami-1", "SubnetId": {"Ref": "Subnet"}},
    },
    "Address": {
        "Type": "AWS::EC2::EIP",
        "DependsOn": "Attachment",
        "Properties": {"InstanceId": {"Ref": "Named"}},
    },
}
ASSOCIATED: dict[str, Any] = {
    "Vpc": VPC,
    "Subnet": SUBNET,
    "First": TABLE,
    "Second": TABLE,
    "Routed": {
        "Type": "AWS::EC2::SubnetRouteTableAssociation",
        "Properties": {"SubnetId": {"Ref": "Subnet"}, "RouteTableId": {"Ref": "First"}},
    },
    "Acl": {"Type": "AWS::EC2::NetworkAcl", "Properties": {"VpcId": {"Ref": "Vpc"}}},
    "Guarded": {
        "Type": "AWS::EC2::SubnetNetworkAclAssociation",
        "Properties": {"SubnetId": {"Ref": "Subnet"}, "NetworkAclId": {"Ref": "Acl"}},
    },
}
REROUTED = deepcopy(ASSOCIATED)
REROUTED["Routed"]["Properties"]["RouteTableId"] = {"Ref": "Second"}


@pytest.mark.parametrize(
    ("resources", "changed"), [(NETWORK, None), (HOSTS, None), (ASSOCIATED, REROUTED)]
)
def test_a_controller_that_breaks_off_what_it_is_asked_for_a_stack(
    stacks: Stacks, monkeypatch: pytest.MonkeyPatch, resources: Any, changed: Any
) -> None:
    """Each answer to a change breaks off once, after it is done or before it, by turns; of those to
    GET one of eight.
    """
    draw, asked, broken = random.Random(1), set[object](), Counter[str]()
    passes: list[object] = []
    stream = Client.stream

    def breaks_off(client: Client, method: str, path: str, *rest: Any, **named: Any) -> Any:
        if threading.current_thread().name.startswith("stack"):
            command = (method, path, str(named.get("body")))
            if draw.random() < 0.125 if method == "GET" else command not in asked:
                asked.add(command)
                broken[method] += 1
                if (broken[method] + len(passes)) % 2:
                    b"".join(stream(client, method, path, *rest, **named))
                raise ClientError("the controller broke off its answer")
        yield from stream(client, method, path, *rest, **named)

    beside = {"Parameters": TEMPLATE["Parameters"], "Outputs": {}}
    before = everything(stacks.endpoint)
    with monkeypatch.context() as patched:
        patched.setattr(Client, "stream", breaks_off)
        patched.setattr(call, "AWAY_PAUSE", 0.01)
        while len(passes) < 2:
            made = stacks.create("net", Resources=resources, **beside)
            passes.append(made)
            assert made["StackStatus"] == "CREATE_COMPLETE", stacks.told("net")
            if changed is not None:
                done = stacks.update("net", Resources=changed, **beside)
                assert done["StackStatus"] == "UPDATE_COMPLETE", stacks.told("net")
            gone = stacks.delete(made)
            assert gone["StackStatus"] == "DELETE_COMPLETE", stacks.told("net")
            assert everything(stacks.endpoint) == before
    assert min(broken[each] for each in ("GET", "POST", "PATCH", "DELETE")) >= 2


@pytest.mark.parametrize(
    ("status", "end"),
    [
        ("CREATE_IN_PROGRESS", "ROLLBACK_COMPLETE"),
        ("UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_COMPLETE"),
        ("DELETE_IN_PROGRESS", "DELETE_COMPLETE"),
    ],
)
def test_what_a_killed_endpoint_has_begun_is_ended(
    stacks: Stacks, status: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(stacks.endpoint)
    made = stacks.create("net")
    lab = lab_in(stacks.endpoint.directory)
    with lab.notes.stacks.changing() as known:
        record = deepcopy(known[made["StackId"]])
        # Of a process that is no more; its change had got as far as the function's timeout.
        record |= {"StackStatus": status, "Worker": [2**22 + 1, 1]}
        if status == "UPDATE_IN_PROGRESS":
            former = deepcopy(record["Resources"]["Function"])
            record["Undo"] = [["Function", "updated", former]]
            record["Former"] = {"TemplateBody": record["TemplateBody"]}
            record["Resources"]["Function"]["Properties"]["Timeout"] = 11
        known[made["StackId"]] = record
    name = stacks.resources("net")["Function"]
    functions = stacks.endpoint.client("lambda")
    if status == "UPDATE_IN_PROGRESS":
        functions.update_function_configuration(FunctionName=name, Timeout=11)

    def other_is_faster(*_: object) -> None:
        raise AwsError("ValidationError", "Stack is in another's hands.")

    with monkeypatch.context() as patched:
        patched.setattr(stack_threads, "begin", other_is_faster)
        stack_threads.take_over(lambda account: Call(lab, account, REAL))
    stack_threads.take_over(lambda account: Call(lab, account, REAL))
    assert stacks.settled(made["StackId"])["StackStatus"] == end
    if status == "UPDATE_IN_PROGRESS":
        found = functions.get_function_configuration(FunctionName=name)
        assert found["Timeout"] == 7
    if end in ("ROLLBACK_COMPLETE", "DELETE_COMPLETE"):
        assert everything(stacks.endpoint) == before
    else:
        stacks.delete(made)
        assert everything(stacks.endpoint) == before
