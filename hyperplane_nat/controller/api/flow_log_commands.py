# SPDX-License-Identifier: Apache-2.0
"""Flow logs through the control API: see `commands`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from hyperplane_nat.controller.api import descriptions
from hyperplane_nat.controller.api.command import (
    Command,
    CommandRequest,
    Listing,
    Named,
    delete_command,
)
from hyperplane_nat.flow_logs.fields import FIELDS, VERSION_2
from hyperplane_nat.model.commands import Commands
from hyperplane_nat.model.entities import Resource
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.flow_log_description import describe_flow_logs
from hyperplane_nat.model.flow_log_entities import Traffic

LogGroup = Annotated[str, StringConstraints(pattern=r"^[.\-_/#A-Za-z0-9]{1,512}$")]
"""CloudWatch Logs API, `logGroupName`."""


class CreateFlowLog(CommandRequest):
    """POST /v1/flow-logs (EC2 API, CreateFlowLogs): of one resource, for a group of Logs."""

    resource: Named
    traffic_type: Traffic = Traffic.ALL
    fields: list[str] = Field(
        default=list(VERSION_2), description="As in `flow_logs.fields`.", min_length=1
    )
    aggregation_seconds: Literal[60, 600] = Field(
        default=600, description="No less than `flow_logs.aggregation_seconds`."
    )
    log_group: LogGroup


def _create(commands: Commands, asked: CreateFlowLog) -> Resource:
    unknown = [each for each in asked.fields if each not in FIELDS]
    if unknown or len(set(asked.fields)) < len(asked.fields):
        raise ModelError(
            "InvalidParameter",
            f"Unknown fields provided: {', '.join(unknown)}"
            if unknown
            else "A field is provided twice",
            "see docs/flow-logs.md",
        )
    return commands.create_flow_log(
        asked.resource,
        asked.traffic_type,
        asked.fields,
        asked.aggregation_seconds,
        asked.log_group,
    )


FLOW_LOG_COMMANDS: tuple[Command[Any], ...] = (
    Command(
        "post",
        "/v1/flow-logs",
        "Create a flow log of a VPC, a subnet or a network interface",
        CreateFlowLog,
        descriptions.FlowLogDescription,
        lambda commands, _name, asked: _create(commands, asked),
    ),
    delete_command(
        "/v1/flow-logs", "a flow log: what it has written stays", Commands.delete_flow_log
    ),
)

FLOW_LOG_LISTS = (
    Listing("/v1/flow-logs", "Flow logs", describe_flow_logs, descriptions.FlowLogDescription),
)
