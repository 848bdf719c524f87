# SPDX-License-Identifier: Apache-2.0
"""Flow logs of one VPC, subnet or interface: listed, made and deleted; `flow-logs` prints lines."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer

from hyperplane_nat.cli import common, hosts
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError
from hyperplane_nat.client import Client
from hyperplane_nat.model.flow_log_entities import Traffic

PATH = "/v1/flow-logs"


class Seconds(StrEnum):
    """EC2 API, `MaxAggregationInterval`."""

    MINUTE = "60"
    TEN_MINUTES = "600"


def describe_flow_logs(
    ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False
) -> None:
    """List the flow logs of VPCs, subnets and interfaces."""
    answer = common.client(ctx, lab).get(PATH)
    if as_json:
        common.print_json(answer)
        return
    from hyperplane_nat.cli.tables import Column, Table

    result = Table(
        None,
        [
            Column("flow log"),
            Column("VPC"),
            Column("of"),
            Column("resource"),
            Column("traffic"),
            Column("log group"),
            Column("seconds", numeric=True, rank=1),
            Column("fields", rank=2),
        ],
    )
    for row in common.rows(answer):
        result.add_row(
            row["FlowLogId"],
            row["VpcName"],
            row["ResourceType"],
            _of(row),
            row["TrafficType"],
            row["LogGroupName"],
            str(row["MaxAggregationInterval"]),
            " ".join(row["Fields"]),
        )
    common.console().print(result)


def create_flow_log(
    ctx: typer.Context,
    log_group: Annotated[
        str, typer.Option("--log-group", metavar="GROUP", help="Of CloudWatch Logs.")
    ],
    vpc: Annotated[
        str | None, typer.Option("--vpc", metavar="VPC", help="Of this VPC: its name or id.")
    ] = None,
    subnet: Annotated[
        str | None,
        typer.Option("--subnet", metavar="SUBNET", help="Of this one: its name, VPC/name or id."),
    ] = None,
    interface: Annotated[
        str | None,
        typer.Option("--interface", metavar="INTERFACE", help="Of this one: its name or id."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="HOST", help="Of this one's: its name, VPC/name or id."),
    ] = None,
    traffic_type: Annotated[
        Traffic, typer.Option("--traffic-type", help="What was let pass, was refused, or both.")
    ] = Traffic.ALL,
    aggregation_seconds: Annotated[
        Seconds, typer.Option("--aggregation-seconds", help="How long an interval is.")
    ] = Seconds.TEN_MINUTES,
    fields: Annotated[
        str | None,
        typer.Option(
            "--fields",
            metavar='"FIELD ..."',
            help="In this order, with blanks between; those of version 2 if absent.",
        ),
    ] = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a flow log of a VPC, a subnet or an interface."""
    given = [each for each in (vpc, subnet, interface, host) if each is not None]
    if len(given) != 1:
        raise UserError("what is it to be of? (give one of --vpc, --subnet, --interface, --host)")
    connection = common.client(ctx, lab)
    if vpc is not None:
        resource = _id(connection, "vpc", vpc)
    elif subnet is not None:
        resource = _id(connection, "subnet", subnet)
    elif interface is not None:
        resource = _interface(connection, interface)
    else:
        resource = hosts.find(connection, str(host))["NetworkInterfaceId"]
    body: dict[str, object] = {
        "resource": resource,
        "traffic_type": traffic_type.value,
        "aggregation_seconds": int(aggregation_seconds.value),
        "log_group": log_group,
    }
    if fields is not None:
        body["fields"] = fields.split()
    made = common.mapping(connection.post(PATH, body))
    if as_json:
        common.print_json(made)
        return
    typer.echo(
        f"flow log {made['FlowLogId']} of {made['ResourceType']} {_of(made)} for log group "
        f"{made['LogGroupName']}"
    )


def delete_flow_log(
    ctx: typer.Context,
    flow_log: Annotated[
        str,
        typer.Argument(
            metavar="FLOW-LOG", help="Its id (see: describe-flow-logs).", show_default=False
        ),
    ],
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a flow log; what it has written stays."""
    answer = common.client(ctx, lab).delete(f"{PATH}/{quote(flow_log, safe='')}")
    if as_json:
        common.print_json(answer)
        return
    typer.echo(f"flow log {flow_log} is deleted")


def _of(row: Mapping[str, Any]) -> str:
    kind = row["ResourceType"]
    if kind == "VPC":
        return str(row["VpcName"])
    return str(row["SubnetName"] if kind == "Subnet" else row["NetworkInterfaceId"])


_NAMES = {"vpc": ("VpcId", "VpcName"), "subnet": ("SubnetId", "SubnetName")}


def _id(connection: Client, kind: str, named: str) -> str:
    """The id of a VPC or subnet; UserError."""
    id_, name = _NAMES[kind]
    meant = [
        str(row[id_])
        for row in common.rows(connection.get(f"/v1/{kind}s"))
        if named in (row[id_], row[name], f"{row['VpcName']}/{row[name]}")
    ]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise UserError(f"there are {len(meant)} {kind}s {named!r} (say which: {', '.join(meant)})")
    raise UserError(f"unknown {kind} {named!r} (name one of the lab file)")


def _interface(connection: Client, named: str) -> str:
    for row in common.rows(connection.get("/v1/interfaces")):
        if named in (row["name"], row.get("id")):
            return str(row.get("id") or row["name"])
    # A host's is in no list but that of hosts.
    return named
