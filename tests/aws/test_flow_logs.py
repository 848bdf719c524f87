# SPDX-License-Identifier: Apache-2.0
"""Flow logs of EC2, and what they and functions write in CloudWatch Logs."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperplane_nat.aws import log_delivery
from hyperplane_nat.aws.errors import AwsError
from hyperplane_nat.aws.log_delivery import LogDelivery, Tail
from hyperplane_nat.flow_logs.fields import VERSION_2
from hyperplane_nat.flow_logs.requested import spool
from hyperplane_nat.runtime.logs import log_path
from tests.aws.support import ACCOUNT, OTHER, Endpoint, refusal, scene

POSTS = "arn:aws:iam::111122223333:role/logs"
START = 1_795_000_000_000


@pytest.fixture
def spools(writing: Endpoint) -> Iterator[Path]:
    """Where the lab's writer writes; the test is the writer."""
    # Ids are the same in every region of a test.
    found = writing.directory / f"flow-logs-{secrets.token_hex(4)}"
    # A frozen lab of one for all tests.
    object.__setattr__(writing.lab, "flow_logs", found)
    yield found
    object.__setattr__(writing.lab, "flow_logs", None)
    shutil.rmtree(found, ignore_errors=True)


def asked(vpc: str, group: str = "/flows", **more: Any) -> dict[str, Any]:
    return {
        "ResourceIds": [vpc],
        "ResourceType": "VPC",
        "TrafficType": "ALL",
        "LogGroupName": group,
        "DeliverLogsPermissionArn": POSTS,
        **more,
    }


def made(endpoint: Endpoint) -> str:
    vpc: str = endpoint.client("ec2").create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    return vpc


def messages(logs: Any, group: str, **more: Any) -> list[str]:
    found = logs.filter_log_events(logGroupName=group, **more)["events"]
    return [each["message"] for each in found]


def test_a_flow_log_as_ec2_has_it(writing: Endpoint) -> None:
    ec2, vpc = writing.client("ec2"), made(writing)
    tags = [{"ResourceType": "vpc-flow-log", "Tags": [{"Key": "a", "Value": "b"}]}]
    text = "${version} ${vpc-id} ${action}"
    answer = ec2.create_flow_logs(
        **asked(vpc, LogFormat=text, MaxAggregationInterval=60, TagSpecifications=tags)
    )
    (key,) = answer["FlowLogIds"]
    assert answer["Unsuccessful"] == []
    (found,) = ec2.describe_flow_logs(FlowLogIds=[key])["FlowLogs"]
    assert found.pop("CreationTime").timestamp() == pytest.approx(writing.region.clock())
    assert found == {
        "FlowLogId": key,
        "FlowLogStatus": "ACTIVE",
        "DeliverLogsPermissionArn": POSTS,
        "DeliverLogsStatus": "SUCCESS",
        "LogDestination": "arn:aws:logs:us-east-1:111122223333:log-group:/flows",
        "LogDestinationType": "cloud-watch-logs",
        "LogFormat": text,
        "LogGroupName": "/flows",
        "MaxAggregationInterval": 60,
        "ResourceId": vpc,
        "Tags": [{"Key": "a", "Value": "b"}],
        "TrafficType": "ALL",
    }
    wanted = [{"Name": "resource-id", "Values": [vpc]}, {"Name": "tag:a", "Values": ["b"]}]
    assert len(ec2.describe_flow_logs(Filter=wanted)["FlowLogs"]) == 1
    assert ec2.describe_tags()["Tags"] == [
        {"Key": "a", "Value": "b", "ResourceId": key, "ResourceType": "vpc-flow-log"}
    ]
    other = writing.client("ec2", OTHER)
    assert other.describe_flow_logs()["FlowLogs"] == []
    assert ec2.delete_flow_logs(FlowLogIds=[key])["Unsuccessful"] == []
    assert ec2.describe_flow_logs()["FlowLogs"] == []
    (gone,) = ec2.delete_flow_logs(FlowLogIds=[key])["Unsuccessful"]
    assert gone["Error"]["Code"] == "InvalidFlowLogId.NotFound"


def test_flow_logs_of_subnets_and_interfaces(writing: Endpoint) -> None:
    found, ec2 = scene(writing), writing.client("ec2")
    (interface, *_) = ec2.describe_network_interfaces()["NetworkInterfaces"]
    for kind, keys in (
        ("Subnet", [found.public, found.private]),
        ("NetworkInterface", [interface["NetworkInterfaceId"]]),
    ):
        request = asked(found.vpc) | {"ResourceType": kind, "ResourceIds": keys}
        assert len(ec2.create_flow_logs(**request)["FlowLogIds"]) == len(keys)
    rows: Any = writing.lab.client.get("/v1/flow-logs")
    assert len(rows) == 3
    assert all(tuple(row["Fields"]) == VERSION_2 for row in rows)


def test_a_request_that_comes_again_is_answered_again(writing: Endpoint) -> None:
    ec2, vpc = writing.client("ec2"), made(writing)
    request = asked(vpc, ClientToken="again")
    first, second = (ec2.create_flow_logs(**request) for _ in range(2))
    assert first["FlowLogIds"] == second["FlowLogIds"]
    assert second["Unsuccessful"] == []


def test_what_is_refused(writing: Endpoint) -> None:
    ec2, vpc = writing.client("ec2"), made(writing)
    ec2.create_flow_logs(**asked(vpc))
    (twice,) = ec2.create_flow_logs(**asked(vpc))["Unsuccessful"]
    assert twice == {
        "ResourceId": vpc,
        "Error": {
            "Code": "FlowLogAlreadyExists",
            "Message": "Error. There is an existing Flow Log with the same configuration and log "
            "destination.",
        },
    }
    (absent,) = ec2.create_flow_logs(**asked("vpc-0"))["Unsuccessful"]
    assert absent["Error"] == {
        "Code": "InvalidVpcID.NotFound",
        "Message": "The vpc ID 'vpc-0' does not exist",
    }
    (others,) = writing.client("ec2", OTHER).create_flow_logs(**asked(vpc))["Unsuccessful"]
    assert others["Error"]["Code"] == "InvalidVpcID.NotFound"
    for wrong, code, text in (
        ({"LogFormat": "${version} ${nothing}"}, "InvalidParameter", "Unknown fields provided"),
        ({"LogFormat": "${environment}"}, "InvalidParameter", "Unknown fields provided"),
        ({"LogFormat": "version"}, "InvalidParameter", "LogFormat"),
        ({"LogFormat": "${version} ${version}"}, "InvalidParameter", "more than once"),
        ({"MaxAggregationInterval": 61}, "InvalidParameter", "Max Aggregation Interval"),
        ({"TrafficType": "SOME"}, "InvalidParameter", "trafficType"),
        ({"TrafficType": None}, "InvalidParameter", "TrafficType can't be empty"),
        ({"ResourceType": "Planet"}, "InvalidParameter", "resourceType"),
        ({"ResourceType": "TransitGateway"}, "UnsupportedOperation", "TransitGateway"),
        ({"ResourceIds": []}, "MissingParameter", "resourceId"),
        ({"DeliverLogsPermissionArn": None}, "InvalidParameter", "DeliverLogsPermissionArn"),
        ({"LogGroupName": None}, "InvalidParameter", "LogGroupName can't be empty"),
        ({"LogDestination": "arn:x"}, "InvalidParameter", "only provide LogDestination"),
        ({"LogGroupName": None, "LogDestination": "arn:x"}, "InvalidParameter", "arn:x"),
        (
            {"LogDestinationType": "s3", "LogGroupName": None, "LogDestination": "arn:aws:s3:::b"},
            "UnsupportedOperation",
            "not to s3",
        ),
    ):
        request = {key: value for key, value in (asked(vpc) | wrong).items() if value is not None}
        answer = refusal(ec2.create_flow_logs, **request)
        assert (answer[0], text in answer[1]) == (code, True), answer
    assert refusal(ec2.delete_flow_logs, FlowLogIds=[])[0] == "MissingParameter"
    assert refusal(ec2.describe_flow_logs, FlowLogIds=["fl-0"])[0] == "InvalidFlowLogId.NotFound"


def test_a_lab_that_writes_none_says_so(endpoint: Endpoint) -> None:
    vpc = made(endpoint)
    code, text, _ = refusal(endpoint.client("ec2").create_flow_logs, **asked(vpc))
    assert code == "UnsupportedOperation"
    assert "flow_logs.enabled" in text


def test_a_group_named_by_its_arn(writing: Endpoint) -> None:
    ec2, vpc = writing.client("ec2"), made(writing)
    arn = "arn:aws:logs:us-east-1:111122223333:log-group:/named:*"
    request = asked(vpc) | {"LogDestination": arn}
    del request["LogGroupName"]
    ec2.create_flow_logs(**request)
    (found,) = ec2.describe_flow_logs()["FlowLogs"]
    assert found["LogGroupName"] == "/named"


def write(spools: Path, key: str, *lines: str, interface: str = "eni-1") -> None:
    path = spool(spools, key, interface)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_lines_become_events_once(writing: Endpoint, spools: Path) -> None:
    ec2, logs, group = writing.client("ec2"), writing.client("logs"), "/once"
    vpc = made(writing)
    (key,) = ec2.create_flow_logs(**asked(vpc, group))["FlowLogIds"]
    write(spools, key, f"{START} {START + 9} one", f"{START + 1} {START + 9} two")
    assert messages(logs, group) == messages(logs, group) == ["one", "two"]
    (stream,) = logs.describe_log_streams(logGroupName=group)["logStreams"]
    assert stream["logStreamName"] == "eni-1-all"
    assert stream["firstEventTimestamp"] == START
    assert stream["lastIngestionTime"] == START + 9
    events = logs.get_log_events(logGroupName=group, logStreamName="eni-1-all", startFromHead=True)[
        "events"
    ]
    assert events == [
        {"timestamp": START + n, "message": text, "ingestionTime": START + 9}
        for n, text in enumerate(("one", "two"))
    ]
    # A line that is not whole yet is one when it is.
    path = spool(spools, key, "eni-1")
    with path.open("a") as file:
        file.write(f"{START + 2} {START + 10} thr")
    assert messages(logs, group) == ["one", "two"]
    with path.open("a") as file:
        file.write("ee\n")
    assert messages(logs, group, startTime=START + 2) == ["three"]
    # What was written by one that is deleted is delivered, too.
    write(spools, key, f"{START + 3} {START + 11} four", interface="eni-2")
    ec2.delete_flow_logs(FlowLogIds=[key])
    assert messages(logs, group, logStreamNames=["eni-2-all"]) == ["four"]
    assert messages(writing.client("logs"), group, filterPattern="three") == ["three"]
    assert key in writing.lab.notes.all()
    shutil.rmtree(spool(spools, key, "eni-1").parent)
    logs.describe_log_groups()
    assert key not in writing.lab.notes.all()


def test_a_line_that_is_none_costs_no_other(writing: Endpoint, spools: Path) -> None:
    ec2, logs, group = writing.client("ec2"), writing.client("logs"), "/damaged"
    (key,) = ec2.create_flow_logs(**asked(made(writing), group))["FlowLogIds"]
    write(spools, key, "half", f"{START} {START} one", "", f"{START}", f"{START} {START} two")
    assert messages(logs, group) == ["one", "two"]


def test_without_room_for_a_group_lines_wait(
    writing: Endpoint, spools: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ec2, logs, group = writing.client("ec2"), writing.client("logs"), "/waiting"
    (key,) = ec2.create_flow_logs(**asked(made(writing), group))["FlowLogIds"]
    write(spools, key, f"{START} {START} one")

    def refuse(*_: object) -> Any:
        raise AwsError("LimitExceeded", "There is no room.")

    found = LogDelivery(writing.lab, refuse)
    for _ in range(2):
        found.deliver(ACCOUNT)
    write(spools, key, f"{START} {START + 1} two")
    told = [each.getMessage() for each in caplog.records if "log group" in each.getMessage()]
    assert told == [f"no log group {group}: There is no room."]
    # Room is made by whoever made none before.
    from moto.logs.models import logs_backends

    logs_backends[ACCOUNT]["us-east-1"].create_log_group(group, {})
    found.deliver(ACCOUNT)
    (stream,) = logs_backends[ACCOUNT]["us-east-1"].groups[group].streams.values()
    assert [each.message for each in stream.events] == ["one", "two"]
    logs.delete_log_group(logGroupName=group)


def test_the_oldest_events_of_a_stream_go(
    writing: Endpoint, spools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2, logs, group = writing.client("ec2"), writing.client("logs"), "/many"
    (key,) = ec2.create_flow_logs(**asked(made(writing), group))["FlowLogIds"]
    monkeypatch.setattr(log_delivery, "EVENTS_MAX", 3)
    monkeypatch.setattr(log_delivery, "STREAM_BYTES_MAX", 10)
    write(spools, key, *(f"{START} {START} {n}" for n in range(5)))
    assert messages(logs, group) == ["2", "3", "4"]
    write(spools, key, f"{START} {START} 123456789")
    assert messages(logs, group) == ["4", "123456789"]
    write(spools, key, f"{START} {START} longer than that")
    assert messages(logs, group) == ["longer than that"]


def test_of_a_group_without_deliveries_nothing_is_noted(writing: Endpoint, spools: Path) -> None:
    logs = writing.client("logs")
    logs.create_log_group(logGroupName="/a-clients-own")
    before = dict(writing.lab.notes.all())
    logs.delete_log_group(logGroupName="/a-clients-own")
    assert writing.lab.notes.all() == before


def delivery_of(endpoint: Endpoint) -> LogDelivery:
    """Another endpoint's, which knows nothing yet; moto's memory is this one's."""

    def refuse(*_: object) -> Any:
        raise AssertionError("the group is there")

    return LogDelivery(endpoint.lab, refuse)


def test_what_was_deleted_is_not_delivered_by_the_next_endpoint(
    writing: Endpoint, spools: Path
) -> None:
    ec2, logs, group = writing.client("ec2"), writing.client("logs"), "/deleted"
    (key,) = ec2.create_flow_logs(**asked(made(writing), group))["FlowLogIds"]
    write(spools, key, f"{START} {START} old")
    write(spools, key, f"{START} {START} kept", interface="eni-2")
    assert sorted(messages(logs, group)) == ["kept", "old"]
    logs.delete_log_stream(logGroupName=group, logStreamName="eni-1-all")
    write(spools, key, f"{START + 1} {START + 1} new")
    assert sorted(messages(logs, group)) == ["kept", "new"]
    logs.delete_log_group(logGroupName=group)
    logs.create_log_group(logGroupName=group)
    delivery_of(writing).deliver("111122223333")
    assert messages(logs, group) == []
    write(spools, key, f"{START + 2} {START + 2} newer")
    assert messages(logs, group) == ["newer"]


def test_functions_have_their_groups(endpoint: Endpoint) -> None:
    scene(endpoint)
    logs = endpoint.client("logs")
    path = log_path(endpoint.directory, "fetch")
    day = "2026-11-28T20:28:52"
    path.write_text(
        f"{day}.100Z env-7 INIT_START Runtime Version: python\n"
        f"{day}.200Z env-7 START RequestId: 1-2 Version: 3\n"
        f"{day}.300Z env-7 hello\n"
        f"{day}.300Z env-9 no version is known of this one\n"
        "something else\n"
    )
    group = "/aws/lambda/fetch"
    try:
        assert messages(logs, group, filterPattern="hello") == ["hello"]
        streams = logs.describe_log_streams(logGroupName=group)["logStreams"]
        names = {each["logStreamName"]: each.get("firstEventTimestamp") for each in streams}
        assert names == {
            "2026/11/28/[$LATEST]env-7": 1_795_897_732_100,
            "2026/11/28/[3]env-7": 1_795_897_732_200,
            "2026/11/28/[$LATEST]env-9": 1_795_897_732_300,
        }
        assert endpoint.client("logs", OTHER).describe_log_groups()["logGroups"] == []
    finally:
        path.unlink()


def test_a_log_that_turns_over_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    former = tmp_path / "x.log.1"
    tail = Tail(path)
    assert tail.lines() == []
    former.write_text("a\n")
    path.write_text("b\nc")
    assert tail.lines() == [b"a", b"b"]
    with path.open("a") as file:
        file.write("\nd\n")
    path.replace(former)
    path.write_text("e\n")
    assert tail.lines() == [b"c", b"d", b"e"]
    assert tail.lines() == []


def test_a_log_that_turns_over_twice_is_another_one(tmp_path: Path) -> None:
    path, former = tmp_path / "x.log", tmp_path / "x.log.1"
    spare = tmp_path / "spare"
    tail = Tail(path)
    path.write_text("1 first\n")
    assert tail.lines() == [b"1 first"]
    # As on ext4, where a file that is made has the inode of the one that went last.
    path.rename(spare)
    former.write_text("2 second\n")
    spare.write_text("3 third\n4 fourth\n")
    spare.rename(path)
    assert tail.lines() == [b"2 second", b"3 third", b"4 fourth"]
    assert tail.lines() == []
