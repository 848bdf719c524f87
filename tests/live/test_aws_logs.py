# SPDX-License-Identifier: Apache-2.0
"""CloudWatch Logs with what packets and functions leave there, over a kill of the endpoint."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.live.conftest import Launch
from tests.live.lab import Lab, require_program, wait_until
from tests.live.test_aws import serving

pytestmark = pytest.mark.live

POSTS = "arn:aws:iam::111122223333:role/logs"
FORMAT = "${interface-id} ${vpc-id} ${srcaddr} ${dstaddr} ${packets} ${start} ${action}"
PINGS = 3


def toml(directory: Path) -> str:
    """An interval takes a second; a VPC that has nothing of it."""
    return f"""
[timeouts]
time_scale = 60

[lifecycle]
time_scale = 1000.0

[flow_logs]
enabled = true
directory = "{directory}"
aggregation_seconds = 60

[pool]
size = 2

[[vpc]]
name = "bare"
cidr = "10.9.0.0/16"
"""


@pytest.fixture
def lab(launch: Launch, tmp_path: Path) -> Lab:
    return launch(environments=0, toml=toml(tmp_path / "logs"))


def pair(ec2: Any) -> tuple[str, list[dict[str, Any]]]:
    """A VPC and two instances in it, which reach each other by ping alone."""
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24")["Subnet"]["SubnetId"]
    group = ec2.create_security_group(VpcId=vpc, GroupName="ping", Description="ping")["GroupId"]
    ping = {"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1}
    ec2.authorize_security_group_ingress(
        GroupId=group, IpPermissions=[{**ping, "IpRanges": [{"CidrIp": "10.0.1.0/24"}]}]
    )
    made = []
    for name in ("one", "two"):
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}]
        made += ec2.run_instances(
            ImageId="ami-0123456789abcdef0",
            MinCount=1,
            MaxCount=1,
            SubnetId=subnet,
            SecurityGroupIds=[group],
            TagSpecifications=tags,
        )["Instances"]
    return vpc, made


@pytest.mark.races
def test_packets_are_events_of_a_log_group_once(lab: Lab) -> None:
    require_program("ping", "iputils-ping")
    with serving(lab) as endpoint:
        ec2, logs = endpoint.client("ec2"), endpoint.client("logs")
        vpc, (one, two) = pair(ec2)
        made = ec2.create_flow_logs(
            ResourceIds=[vpc],
            ResourceType="VPC",
            TrafficType="ALL",
            LogGroupName="/flows",
            LogFormat=FORMAT,
            MaxAggregationInterval=60,
            DeliverLogsPermissionArn=POSTS,
        )
        assert made["Unsuccessful"] == []
        described = ec2.describe_flow_logs()["FlowLogs"]
        there, back = one["PrivateIpAddress"], two["PrivateIpAddress"]
        lab.cli("exec", "one", "--", "ping", "-c", str(PINGS), "-i", "0.2", "-q", back)
        refused = f"import socket; socket.socket(2, 2).sendto(b'x', ('{back}', 9))"
        lab.cli("exec", "one", "--", sys.executable, "-c", refused)

        def events(of: Any) -> list[dict[str, Any]]:
            try:
                pages = of.get_paginator("filter_log_events").paginate(logGroupName="/flows")
                return [each for page in pages for each in page["events"]]
            except of.exceptions.ResourceNotFoundException:
                return []

        def packets(source: str, target: str, action: str) -> dict[str, int]:
            """By stream."""
            found: dict[str, int] = {}
            for event in events(logs):
                interface, of, src, dst, count, start, said = event["message"].split()
                if (src, dst, said) == (source, target, action):
                    assert of == vpc
                    assert event["logStreamName"] == f"{interface}-all"
                    assert event["timestamp"] == int(start) * 1000
                    found[interface] = found.get(interface, 0) + int(count)
            return found

        ends = [each["NetworkInterfaces"][0]["NetworkInterfaceId"] for each in (one, two)]
        both = dict.fromkeys(ends, PINGS)
        wait_until(lambda: packets(back, there, "ACCEPT") == both, "the answers are logged")
        wait_until(
            lambda: packets(there, back, "REJECT") == {ends[1]: 1}, "the refused one is logged"
        )
        # It has passed the group of its sender.
        wanted = {ends[0]: PINGS + 1, ends[1]: PINGS}
        wait_until(lambda: packets(there, back, "ACCEPT") == wanted, "the rest is logged")
        ec2.delete_flow_logs(FlowLogIds=made["FlowLogIds"])
        kept = ec2.create_flow_logs(
            ResourceIds=[vpc],
            ResourceType="VPC",
            TrafficType="REJECT",
            LogGroupName="/refused",
            DeliverLogsPermissionArn=POSTS,
        )
        assert kept["Unsuccessful"] == []
        described = ec2.describe_flow_logs()["FlowLogs"]
        logs.put_retention_policy(logGroupName="/flows", retentionInDays=7)
        before = [{**each, "eventId": ""} for each in events(logs)]
        groups = logs.describe_log_groups(logGroupNamePrefix="/flows")["logGroups"]
        endpoint.process.kill()
        endpoint.process.wait()
    with serving(lab) as endpoint:
        logs, ec2 = endpoint.client("logs"), endpoint.client("ec2")
        assert ec2.describe_flow_logs()["FlowLogs"] == described
        # The group is one of the requests that are repeated, its events come from the files; the
        # interval in which the flow log was deleted may have been written since.
        after = [{**each, "eventId": ""} for each in events(logs)]
        assert after[: len(before)] == before
        again = logs.describe_log_groups(logGroupNamePrefix="/flows")["logGroups"]
        for each in (*groups, *again):
            each.pop("storedBytes")
        assert again == groups


def test_functions_write_into_their_group(lab: Lab) -> None:
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("app.py", "def handler(event, context):\n    print(event)\n")
    with serving(lab) as endpoint:
        functions, logs = endpoint.client("lambda"), endpoint.client("logs")
        functions.create_function(
            FunctionName="say",
            Runtime=f"python3.{sys.version_info.minor}",
            Handler="app.handler",
            Role="arn:aws:iam::111122223333:role/r",
            Code={"ZipFile": code.getvalue()},
        )
        functions.get_waiter("function_active_v2").wait(
            FunctionName="say", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
        answer = functions.invoke(FunctionName="say", Payload=json.dumps("hello"))
        assert answer["StatusCode"] == 200

        def written() -> list[str]:
            try:
                found = logs.filter_log_events(logGroupName="/aws/lambda/say")["events"]
            except logs.exceptions.ResourceNotFoundException:
                return []
            return [str(each["message"]) for each in found]

        wait_until(lambda: any(each.startswith("REPORT ") for each in written()), "the report")
        words = [each.split()[0] for each in written()]
        assert words[-4:] == ["START", "hello", "END", "REPORT"]
