# SPDX-License-Identifier: Apache-2.0
"""Flow logs into CloudWatch Logs: made in the region, whose writer writes their lines.

`log_delivery` has these be events of Logs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from hyperplane_nat.aws.call import (
    FLOW_LOG,
    SUBNET,
    VPC,
    Call,
    Kind,
    Operation,
    Params,
    Row,
    operation,
    utc,
)
from hyperplane_nat.aws.errors import AwsError, missing, unsuccessful, unsupported
from hyperplane_nat.aws.filters import answer
from hyperplane_nat.aws.interfaces import INTERFACE, interfaces_of
from hyperplane_nat.flow_logs.fields import FIELDS, VERSION_2
from hyperplane_nat.model.flow_log_entities import Traffic

CLOUD_WATCH_LOGS = "cloud-watch-logs"

KINDS: Mapping[str, Kind] = {"VPC": VPC, "Subnet": SUBNET, "NetworkInterface": INTERFACE}
"""By `ResourceType`."""

TRAFFIC = tuple(each.value for each in Traffic)

INTERVALS = (60, 600)
"""Of `MaxAggregationInterval`."""

RESOURCES_MAX = 25
"""Of one request (EC2 API, CreateFlowLogs)."""

FLOW_LOG_FILTERS = {
    "deliver-log-status": "DeliverLogsStatus",
    "flow-log-id": "FlowLogId",
    "log-destination-type": "LogDestinationType",
    "log-group-name": "LogGroupName",
    "resource-id": "ResourceId",
    "traffic-type": "TrafficType",
}

_FIELD = re.compile(r"\$\{([a-z-]+)\}")
_GROUP_ARN = re.compile(
    r"arn:aws[a-z-]*:logs:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):log-group:"
    r"(?P<name>[.\-_/#A-Za-z0-9]{1,512})(?::\*)?"
)


def create_flow_logs(call: Call, params: Params) -> Row:
    """
    CreateFlowLogs: FlowLogAlreadyExists and the NotFound of each kind as unsuccessful items;
    InvalidParameter, UnsupportedOperation for another destination than Logs.
    """
    kind = params.get("ResourceType") or ""
    if kind in ("TransitGateway", "TransitGatewayAttachment", "RegionalNatGateway"):
        raise unsupported(f"Flow logs of a {kind} are not emulated.")
    if kind not in KINDS:
        raise _invalid(f"Value ({kind}) for parameter resourceType is invalid.")
    wanted = params.get("ResourceIds") or []
    if not wanted:
        raise missing("ResourceId")
    if len(wanted) > RESOURCES_MAX:
        raise _invalid(f"The request has more than {RESOURCES_MAX} resources.")
    traffic = params.get("TrafficType")
    if traffic is None:
        raise _invalid("TrafficType can't be empty if ResourceType is not TransitGateway.")
    if traffic not in TRAFFIC:
        raise _invalid(f"Value ({traffic}) for parameter trafficType is invalid.")
    interval = params.get("MaxAggregationInterval") or INTERVALS[-1]
    if interval not in INTERVALS:
        raise _invalid("Invalid Flow Log Max Aggregation Interval")
    group = _group(call, params)
    body = {
        "traffic_type": traffic,
        "fields": _fields(params.get("LogFormat")),
        "aggregation_seconds": interval,
        "log_group": group,
    }
    if params.get("ClientToken"):
        call.token = params["ClientToken"]
    of = KINDS[kind]
    known = interfaces_of(call) if of is INTERFACE else call.own(of)
    there = {row[of.key] for row in known}
    made: list[str] = []

    def create(resource: str) -> None:
        if resource not in there:
            raise of.absent(resource)
        row = call.post(FLOW_LOG.path, {"resource": resource, **body})
        key = row["FlowLogId"]
        note: Row = {
            "LogGroupName": group,
            "OwnerId": call.account,
            "LogFormat": params.get("LogFormat"),
            "DeliverLogsPermissionArn": params.get("DeliverLogsPermissionArn"),
        }
        call.notes.put(key, {"FlowLog": note})
        call.tag_new(key, "vpc-flow-log", params)
        made.append(key)

    refused = unsuccessful(wanted, create, "ec2", "CreateFlowLogs")["Unsuccessful"]
    for each in refused:
        if each["Error"]["Code"] == "UnsupportedOperation":
            raise unsupported(each["Error"]["Message"])
    return {
        "ClientToken": params.get("ClientToken"),
        "FlowLogIds": made,
        "Unsuccessful": refused,
    }


def describe_flow_logs(call: Call, params: Params) -> Row:
    """DescribeFlowLogs: InvalidFlowLogId.NotFound."""
    rows = call.select(FLOW_LOG, params.get("FlowLogIds"))
    return answer(params, "FlowLogs", [_flow_log(call, row) for row in rows], FLOW_LOG_FILTERS)


def delete_flow_logs(call: Call, params: Params) -> Row:
    """DeleteFlowLogs: those that are not there are unsuccessful items."""
    wanted = params.get("FlowLogIds") or []
    if not wanted:
        raise missing("FlowLogId")

    def delete(key: str) -> None:
        call.find(FLOW_LOG, key)
        # What it has written is still to be delivered.
        call.delete(FLOW_LOG.path, key, forget=False)
        call.notes.untag([key], None)

    return unsuccessful(wanted, delete, "ec2", "DeleteFlowLogs")


# -- what a request says


def _invalid(message: str) -> AwsError:
    return AwsError("InvalidParameter", message)


def _group(call: Call, params: Params) -> str:
    kind = params.get("LogDestinationType") or CLOUD_WATCH_LOGS
    name, destination = params.get("LogGroupName"), params.get("LogDestination")
    if kind != CLOUD_WATCH_LOGS:
        raise unsupported(
            f"Flow logs are delivered to {CLOUD_WATCH_LOGS}, not to {kind}; files of the whole lab "
            "are in its flow_logs.directory."
        )
    if not params.get("DeliverLogsPermissionArn"):
        raise _invalid(f"DeliverLogsPermissionArn can't be empty if LogDestinationType is {kind}.")
    if name and destination:
        raise _invalid("Please only provide LogGroupName or only provide LogDestination.")
    if name:
        return str(name)
    if not destination:
        raise _invalid(f"LogGroupName can't be empty if LogDestinationType is {kind}.")
    found = _GROUP_ARN.fullmatch(destination)
    if found is None or found["account"] != call.account:
        raise _invalid(f"LogDestination: {destination} is not a log group of the account.")
    return found["name"]


def _fields(said: str | None) -> list[str]:
    if not said:
        return list(VERSION_2)
    found = _FIELD.findall(said)
    if not found or _FIELD.sub("", said).strip():
        raise _invalid(f"LogFormat: {said} is not a list of fields, ${{field}} each.")
    unknown = [each for each in found if each not in FIELDS or each == "environment"]
    if unknown:
        raise _invalid(f"Unknown fields provided: [{', '.join(unknown)}]")
    if len(set(found)) < len(found):
        raise _invalid("LogFormat has a field more than once.")
    return found


# -- forms


def _flow_log(call: Call, row: Row) -> Row:
    key = row["FlowLogId"]
    note = call.notes.of(key).get("FlowLog") or {}
    fields = " ".join(f"${{{each}}}" for each in row["Fields"])
    return {
        "CreationTime": utc(row["CreationTime"]),
        "DeliverLogsPermissionArn": note.get("DeliverLogsPermissionArn"),
        "DeliverLogsStatus": "SUCCESS",
        "FlowLogId": key,
        "FlowLogStatus": "ACTIVE",
        "LogDestination": call.arn("logs", f"log-group:{row['LogGroupName']}"),
        "LogDestinationType": CLOUD_WATCH_LOGS,
        "LogFormat": note.get("LogFormat") or fields,
        "LogGroupName": row["LogGroupName"],
        "MaxAggregationInterval": row["MaxAggregationInterval"],
        "ResourceId": row["ResourceId"],
        "Tags": call.tags(key),
        "TrafficType": row["TrafficType"],
    }


OPERATIONS: Mapping[str, Operation] = {
    "CreateFlowLogs": operation(
        create_flow_logs,
        "DeliverLogsPermissionArn LogDestination LogDestinationType LogFormat LogGroupName "
        "MaxAggregationInterval ResourceIds ResourceType TagSpecifications TrafficType",
        makes="vpc-flow-log",
    ),
    "DeleteFlowLogs": operation(delete_flow_logs, "FlowLogIds"),
    "DescribeFlowLogs": operation(describe_flow_logs, "FlowLogIds"),
}
