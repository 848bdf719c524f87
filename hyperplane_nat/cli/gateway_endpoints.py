# SPDX-License-Identifier: Apache-2.0
"""Gateway endpoints that are made, changed and deleted; `endpoints` lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import quote

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError

PATH = "/v1/gateway-endpoints"

EndpointArgument = Annotated[
    str,
    typer.Argument(
        metavar="ENDPOINT", help="Its name, VPC/name or id (see: endpoints).", show_default=False
    ),
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy", metavar="JSON|@FILE", help="Its policy, which is kept; nothing asks for it."
    ),
]


def create_gateway_endpoint(
    ctx: typer.Context,
    vpc: Annotated[
        str, typer.Argument(metavar="VPC", help="VPC, by name or id.", show_default=False)
    ],
    service: Annotated[
        str,
        typer.Argument(
            metavar="SERVICE",
            help="s3, dynamodb, or the whole name, com.amazonaws.REGION.s3.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Name of the endpoint; its id if absent."),
    ] = None,
    route_table: Annotated[
        list[str] | None,
        typer.Option(
            "--route-table", metavar="TABLE", help="Table that gets a route to it; repeatable."
        ),
    ] = None,
    policy: PolicyOption = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create a gateway endpoint of a VPC, to S3 or DynamoDB."""
    body = {
        "vpc": vpc,
        "service": service,
        "name": name,
        "route_tables": route_table or [],
        "policy": _policy(policy) or "",
    }
    _tell(common.mapping(common.client(ctx, lab).post(PATH, body)), as_json=as_json)


def modify_gateway_endpoint(
    ctx: typer.Context,
    endpoint: EndpointArgument,
    add_route_table: Annotated[
        list[str] | None,
        typer.Option("--add-route-table", metavar="TABLE", help="It gets a route; repeatable."),
    ] = None,
    remove_route_table: Annotated[
        list[str] | None,
        typer.Option("--remove-route-table", metavar="TABLE", help="It loses it; repeatable."),
    ] = None,
    policy: PolicyOption = None,
    reset_policy: Annotated[
        bool, typer.Option("--reset-policy", help="It has none any more.")
    ] = False,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change the route tables and the policy of a gateway endpoint."""
    if policy is not None and reset_policy:
        raise UserError("--policy and --reset-policy exclude each other (give one of them)")
    body = {
        "add_route_tables": add_route_table or [],
        "remove_route_tables": remove_route_table or [],
        "policy": "" if reset_policy else _policy(policy),
    }
    if not any(body.values()) and body["policy"] is None:
        raise UserError(
            "what is to be changed? (give --add-route-table, --remove-route-table, --policy or "
            "--reset-policy)"
        )
    answer = common.client(ctx, lab).patch(_path(endpoint), body)
    _tell(common.mapping(answer), as_json=as_json)


def delete_gateway_endpoint(
    ctx: typer.Context,
    endpoint: EndpointArgument,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete a gateway endpoint with its routes; connections by it end."""
    answer = common.client(ctx, lab).delete(_path(endpoint))
    if as_json:
        common.print_json(answer)
        return
    typer.echo(f"gateway endpoint {endpoint} is deleted")


def _path(endpoint: str) -> str:
    return f"{PATH}/{quote(endpoint, safe='')}"


def _policy(text: str | None) -> str | None:
    return None if text is None else common.text_or_file("--policy", text)


def _tell(made: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        common.print_json(made)
        return
    tables = ", ".join(each["RouteTableName"] for each in made["RouteTables"]) or "none"
    typer.echo(
        f"gateway endpoint {made['VpcName']}/{made['Name']} ({made['VpcEndpointId']}) to "
        f"{made['ServiceName']}; route tables: {tables}"
    )
