# SPDX-License-Identifier: Apache-2.0
"""Endpoints, and endpoint services, whose owner accepts and rejects endpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError
from hyperplane_nat.cli.tables import Column, Table
from hyperplane_nat.client import Client

SERVICES = "/v1/endpoint-services"

AcceptOption = Annotated[
    list[str] | None,
    typer.Option("--accept", metavar="ENDPOINT", help="Accept it: its id, VPC/name or name."),
]
RejectOption = Annotated[
    list[str] | None,
    typer.Option("--reject", metavar="ENDPOINT", help="Reject it: nothing passes it any more."),
]


def endpoints(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the endpoints of VPCs, interface and gateway endpoints."""
    connection = common.client(ctx, lab)
    answer = [
        *common.rows(connection.get("/v1/endpoints")),
        *common.rows(connection.get("/v1/gateway-endpoints")),
    ]
    if as_json:
        common.print_json(answer)
        return
    result = Table(
        None,
        [
            Column("VPC"),
            Column("endpoint"),
            Column("type"),
            Column("state"),
            Column("service"),
            Column("zone", rank=1),
            Column("address or route table"),
            Column("security groups", rank=2),
            Column("private DNS", rank=1),
            Column("id", rank=2),
        ],
    )
    for row in answer:
        if row["VpcEndpointType"] == "Gateway":
            result.add_row(*_gateway_endpoint(row), end_section=True)
            continue
        subnets = row["Subnets"]
        result.add_row(
            row["VpcName"],
            row["Name"],
            row["VpcEndpointType"],
            row["State"],
            row["EndpointService"] or row["ServiceName"],
            "\n".join(each["ZoneName"] for each in subnets),
            "\n".join(each["PrivateIPv4Address"] for each in subnets),
            ", ".join(each["GroupName"] for each in row["Groups"]) or "-",
            (row["PrivateDnsName"] if row["PrivateDnsEnabled"] else None) or "-",
            row["VpcEndpointId"],
            end_section=True,
        )
    common.console().print(result)


def _gateway_endpoint(row: Mapping[str, Any]) -> tuple[str, ...]:
    tables = "\n".join(each["RouteTableName"] for each in row["RouteTables"])
    return (
        row["VpcName"],
        row["Name"],
        row["VpcEndpointType"],
        row["State"],
        row["ServiceName"],
        "-",
        tables or "-",
        "-",
        "-",
        row["VpcEndpointId"],
    )


def endpoint_services(
    ctx: typer.Context,
    accept: AcceptOption = None,
    reject: RejectOption = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the endpoint services with their endpoints; accept or reject some first."""
    connection = common.client(ctx, lab)
    for word, named in (("accept", accept or ()), ("reject", reject or ())):
        for service, ids in _by_service(connection, named).items():
            connection.patch(f"{SERVICES}/{service}", {word: ids})
    answer = connection.get(SERVICES)
    if as_json:
        common.print_json(answer)
        return
    result = Table(
        None,
        [
            Column("VPC"),
            Column("service"),
            Column("load balancer", rank=1),
            Column("acceptance", rank=2),
            Column("allowed", rank=2),
            Column("endpoint"),
            Column("state"),
            Column("service name", rank=1),
        ],
    )
    for row in common.rows(answer):
        connections = row["Connections"]
        result.add_row(
            row["VpcName"],
            row["Name"],
            row["LoadBalancerName"] or "-",
            "required" if row["AcceptanceRequired"] else "-",
            "\n".join(row["AllowedPrincipals"]) or "-",
            "\n".join(f"{each['VpcName']}/{each['VpcEndpointName']}" for each in connections)
            or "-",
            "\n".join(each["VpcEndpointState"] for each in connections) or "-",
            row["ServiceName"],
            end_section=True,
        )
    common.console().print(result)


def _by_service(connection: Client, named: Iterable[str]) -> dict[str, list[str]]:
    """The ids of endpoints, by that of their service."""
    wanted = list(named)
    if not wanted:
        return {}
    services = common.rows(connection.get(SERVICES))
    found: dict[str, list[str]] = {}
    for name in wanted:
        own = [
            (service["ServiceId"], each["VpcEndpointId"])
            for service in services
            for each in service["Connections"]
            if name in _names(each)
        ]
        if len(own) != 1:
            raise UserError(
                f"there {'is no endpoint' if not own else f'are {len(own)} endpoints'} {name!r} "
                "of an endpoint service",
                "hyperplane-nat endpoints lists those there are",
            )
        found.setdefault(own[0][0], []).append(own[0][1])
    return found


def _names(connection: Mapping[str, Any]) -> tuple[str, ...]:
    id_, name = connection["VpcEndpointId"], connection["VpcEndpointName"]
    return id_, name, f"{connection['VpcName']}/{name}"
