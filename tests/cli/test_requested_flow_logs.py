# SPDX-License-Identifier: Apache-2.0
"""describe-flow-logs, create-flow-log, delete-flow-log."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import SHARED_INTERFACE, Run
from tests.cli.fake_api import FakeApi
from tests.cli.test_hosts import HOST

PATH = "/v1/flow-logs"
FLOW_LOG = {
    "FlowLogId": "fl-0123456789abcdef0",
    "ResourceId": "vpc-1",
    "ResourceType": "VPC",
    "VpcName": "bank",
    "SubnetName": None,
    "NetworkInterfaceId": None,
    "TrafficType": "REJECT",
    "Fields": ["version", "srcaddr"],
    "MaxAggregationInterval": 600,
    "LogGroupName": "refused",
}


def vpcs(api: FakeApi) -> None:
    api.answers[PATH] = FLOW_LOG
    api.answers["/v1/hosts"] = [HOST | {"NetworkInterfaceId": "eni-host"}]
    api.answers["/v1/vpcs"] = [{"VpcId": f"vpc-{name}", "VpcName": name} for name in ("bank", "b")]
    api.answers["/v1/subnets"] = [
        {"SubnetId": f"subnet-{vpc}-{name}", "SubnetName": name, "VpcName": vpc}
        for vpc, name in (("bank", "desk"), ("shop", "desk"), ("shop", "front"))
    ]


def test_they_are_listed(run: Run, api: FakeApi) -> None:
    subnet = FLOW_LOG | {"ResourceType": "Subnet", "SubnetName": "desk-a"}
    interface = FLOW_LOG | {"ResourceType": "NetworkInterface", "NetworkInterfaceId": "eni-1"}
    api.answers[PATH] = [FLOW_LOG, subnet, interface]
    _, first, second, third = run("describe-flow-logs").stdout.splitlines()
    assert first.split("\t") == [
        *("fl-0123456789abcdef0", "bank", "VPC", "bank", "REJECT", "refused", "600"),
        "version srcaddr",
    ]
    assert second.split("\t")[2:4] == ["Subnet", "desk-a"]
    assert third.split("\t")[2:4] == ["NetworkInterface", "eni-1"]
    found = json.loads(run("describe-flow-logs", "--json").stdout)
    assert found == [FLOW_LOG, subnet, interface]


@pytest.mark.parametrize(
    ("named", "resource"),
    [
        (("--vpc", "bank"), "vpc-bank"),
        (("--vpc", "vpc-b"), "vpc-b"),
        (("--subnet", "front"), "subnet-shop-front"),
        (("--subnet", "bank/desk"), "subnet-bank-desk"),
        (("--subnet", "subnet-shop-desk"), "subnet-shop-desk"),
        (("--interface", str(SHARED_INTERFACE["name"])), SHARED_INTERFACE["id"]),
        (("--interface", "eni-elsewhere"), "eni-elsewhere"),
        (("--host", str(HOST["HostName"])), "eni-host"),
    ],
)
def test_one_is_created_of_what_is_named(
    run: Run, api: FakeApi, named: tuple[str, str], resource: str
) -> None:
    vpcs(api)
    done = run("create-flow-log", *named, "--log-group", "refused")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "flow log fl-0123456789abcdef0 of VPC bank for log group refused\n"
    assert api.requests[-1] == f"POST {PATH}"
    assert api.bodies == [
        {
            "resource": resource,
            "traffic_type": "ALL",
            "aggregation_seconds": 600,
            "log_group": "refused",
        }
    ]


def test_it_has_the_fields_and_the_traffic_that_are_asked_for(run: Run, api: FakeApi) -> None:
    vpcs(api)
    done = run(
        *("create-flow-log", "--vpc", "bank", "--log-group", "g", "--traffic-type", "REJECT"),
        *("--aggregation-seconds", "60", "--fields", "version  srcaddr", "--json"),
    )
    assert json.loads(done.stdout) == FLOW_LOG
    assert api.bodies[0] == {
        "resource": "vpc-bank",
        "traffic_type": "REJECT",
        "aggregation_seconds": 60,
        "log_group": "g",
        "fields": ["version", "srcaddr"],
    }


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ((), "what is it to be of? (give one of --vpc"),
        (("--vpc", "bank", "--host", "db"), "what is it to be of? (give one of --vpc"),
        (("--vpc", "none"), "unknown vpc 'none'"),
        (("--subnet", "desk"), "there are 2 subnets 'desk' (say which: subnet-bank-desk, "),
        (("--vpc", "bank", "--aggregation-seconds", "61"), "'61' is not one of '60', '600'"),
    ],
)
def test_what_is_meant_must_be_clear(
    run: Run, api: FakeApi, named: tuple[str, ...], words: str
) -> None:
    vpcs(api)
    done = run("create-flow-log", "--log-group", "g", *named)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.split())
    assert api.bodies == []


def test_one_is_deleted(run: Run, api: FakeApi) -> None:
    api.answers[f"{PATH}/fl-1"] = {}
    done = run("delete-flow-log", "fl-1")
    assert (done.exit_code, done.stdout) == (0, "flow log fl-1 is deleted\n")
    assert run("delete-flow-log", "fl-1", "--json").stdout == "{}\n"
    assert api.requests == [f"DELETE {PATH}/fl-1"] * 2
