# SPDX-License-Identifier: Apache-2.0
"""Flow logs of resources through the control API."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from hyperplane_nat.flow_logs.fields import VERSION_2
from hyperplane_nat.model.documents import document_of, tables_of
from tests.controller.region_lab import RegionLab, talk
from tests.controller.test_api_commands import ask, done, refused

FLOW_LOGS = "/v1/flow-logs"


@pytest.fixture
def lab() -> RegionLab:
    return writing(RegionLab(), 60)


def writing(lab: RegionLab, seconds: int | None) -> RegionLab:
    """The lab, as if its file had flow logs every so many seconds."""
    lifecycle = lab.region._lifecycle
    lifecycle.settings = replace(lifecycle.settings, flow_log_aggregation_seconds=seconds)
    return lab


def ids(lab: RegionLab) -> tuple[str, str, str]:
    """VPC, subnet and interface."""
    tables = lab.region.tables
    vpc = next(each for each in tables.vpcs.values() if each.name == "customer")
    subnet = next(each for each in tables.subnets.values() if each.name == "a")
    return vpc.id, subnet.id, next(each for each in tables.interfaces if each != "eni-a")


def test_a_flow_log_from_its_first_request_to_its_last(directory: Path, lab: RegionLab) -> None:
    vpc, subnet, interface = ids(lab)

    async def work(client: aiohttp.ClientSession) -> None:
        made = await done(client, "POST", FLOW_LOGS, {"resource": vpc, "log_group": "/g"})
        assert made == {
            "FlowLogId": made["FlowLogId"],
            "OwnerId": next(iter(lab.region.tables.accounts)),
            "ResourceId": vpc,
            "ResourceType": "VPC",
            "VpcName": "customer",
            "SubnetName": None,
            "NetworkInterfaceId": None,
            "TrafficType": "ALL",
            "Fields": list(VERSION_2),
            "MaxAggregationInterval": 600,
            "LogGroupName": "/g",
            "CreationTime": lab.clock(),
        }
        lab.clock.pass_seconds(1)
        body = {"fields": ["start", "end"], "aggregation_seconds": 60, "traffic_type": "REJECT"}
        others = [
            await done(client, "POST", FLOW_LOGS, {**body, "resource": each, "log_group": "/g"})
            for each in (subnet, interface)
        ]
        assert [each["ResourceType"] for each in others] == ["Subnet", "NetworkInterface"]
        assert (others[0]["SubnetName"], others[1]["NetworkInterfaceId"]) == ("a", interface)
        _, listed = await ask(client, "GET", FLOW_LOGS)
        assert sorted(each["FlowLogId"] for each in listed) == sorted(
            each["FlowLogId"] for each in (made, *others)
        )
        # A controller that takes over knows them.
        assert tables_of(document_of(lab.region.tables)).flow_logs == lab.region.tables.flow_logs
        await done(client, "DELETE", f"{FLOW_LOGS}/{made['FlowLogId']}")
        assert await refused(client, "DELETE", f"{FLOW_LOGS}/{made['FlowLogId']}") == (
            400,
            "InvalidFlowLogId.NotFound",
        )

    talk(directory, lab, work)


def test_it_goes_with_its_resource(directory: Path, lab: RegionLab) -> None:
    async def work(client: aiohttp.ClientSession) -> None:
        body = {"cidr": "10.7.0.0/16", "name": "two"}
        vpc = (await done(client, "POST", "/v1/vpcs", body))["VpcId"]
        made = await done(client, "POST", FLOW_LOGS, {"resource": vpc, "log_group": "/g"})
        await done(client, "DELETE", f"/v1/vpcs/{vpc}")
        assert (await ask(client, "GET", FLOW_LOGS))[1] == []
        path = f"{FLOW_LOGS}/{made['FlowLogId']}"
        assert (await refused(client, "DELETE", path))[1] == "InvalidFlowLogId.NotFound"
        await done(client, "POST", FLOW_LOGS, {"resource": ids(lab)[0], "log_group": "/g"})
        assert made["FlowLogId"] not in lab.region.tables.flow_logs

    talk(directory, lab, work)


def test_what_is_refused(directory: Path, lab: RegionLab) -> None:
    vpc, _, _ = ids(lab)
    body: dict[str, Any] = {"resource": vpc, "log_group": "/g"}

    async def work(client: aiohttp.ClientSession) -> None:
        await done(client, "POST", FLOW_LOGS, body)
        for wrong, code in (
            ({}, "FlowLogAlreadyExists"),
            ({"resource": "vpc-0"}, "InvalidVpcID.NotFound"),
            ({"resource": "subnet-0"}, "InvalidSubnetID.NotFound"),
            ({"resource": "eni-0"}, "InvalidNetworkInterfaceID.NotFound"),
            ({"fields": ["start", "nothing"]}, "InvalidParameter"),
            ({"fields": ["start", "start"]}, "InvalidParameter"),
        ):
            assert await refused(client, "POST", FLOW_LOGS, body | wrong) == (400, code)
        malformed: list[dict[str, Any]] = [
            {"fields": []},
            {"log_group": "a b"},
            {"aggregation_seconds": 61},
        ]
        for each in malformed:
            assert (await ask(client, "POST", FLOW_LOGS, body | each))[0] == 400

    talk(directory, lab, work)


@pytest.mark.parametrize("written", [None, 600])
def test_a_lab_that_does_not_write_them_so_often_says_so(
    directory: Path, lab: RegionLab, written: int | None
) -> None:
    writing(lab, written)

    async def work(client: aiohttp.ClientSession) -> None:
        body = {"resource": ids(lab)[0], "log_group": "/g", "aggregation_seconds": 60}
        status, answer = await ask(client, "POST", FLOW_LOGS, body)
        assert (status, answer["error"]) == (400, "UnsupportedOperation")
        assert "flow_logs." in answer["message"]

    talk(directory, lab, work)
