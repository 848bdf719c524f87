# SPDX-License-Identifier: Apache-2.0
"""Flow logs in the field names of the EC2 API (`DescribeFlowLogs`): see `description`."""

from __future__ import annotations

from typing import Any

from hyperplane_nat.model.flow_log_entities import FlowLog
from hyperplane_nat.model.flow_logs import about
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.tables import Tables


def describe_flow_logs(region: Region) -> list[dict[str, Any]]:
    """All flow logs, in the order in which they were made."""
    tables = region.tables
    found = sorted(tables.flow_logs.values(), key=lambda each: (each.created, each.id))
    return [flow_log(tables, each) for each in found if about(tables, each.resource_id)]


def flow_log(tables: Tables, item: FlowLog) -> dict[str, Any]:
    """One, of a resource that is there."""
    found = about(tables, item.resource_id)
    assert found is not None
    subnet = None if found.subnet_id is None else tables.subnets[found.subnet_id]
    return {
        "FlowLogId": item.id,
        "OwnerId": item.account_id,
        "ResourceId": item.resource_id,
        "ResourceType": found.kind,
        "VpcName": tables.vpcs[found.vpc_id].name,
        "SubnetName": None if subnet is None else subnet.name,
        "NetworkInterfaceId": found.interface_id,
        "TrafficType": str(item.traffic),
        "Fields": list(item.fields),
        "MaxAggregationInterval": item.aggregation_seconds,
        "LogGroupName": item.log_group,
        "CreationTime": item.created,
    }
