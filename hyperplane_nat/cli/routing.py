# SPDX-License-Identifier: Apache-2.0
"""The ways out of VPCs: route tables with their routes, NAT gateways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption
from hyperplane_nat.cli.tables import Column, Table

_TARGETS = ("GatewayId", "NatGatewayId", "InstanceId")


def route_tables(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the route tables with their routes."""
    connection = common.client(ctx, lab)
    answer = connection.get("/v1/route-tables")
    if as_json:
        common.print_json(answer)
        return
    names = {
        row["InstanceId"]: f"host {row['HostName']}"
        for row in common.rows(connection.get("/v1/hosts"))
    }
    names |= {
        row["NatGatewayId"]: f"NAT gateway {row['NatGatewayName']}"
        for row in common.rows(connection.get("/v1/nat-gateways"))
    }
    names |= {
        row["VpcEndpointId"]: f"gateway endpoint {row['Name']}"
        for row in common.rows(connection.get("/v1/gateway-endpoints"))
    }
    result = Table(
        None,
        [
            Column("VPC"),
            Column("route table"),
            Column("subnets"),
            Column("destination"),
            Column("target"),
            Column("state"),
            Column("id", rank=1),
        ],
    )
    for row in common.rows(answer):
        routes = row["Routes"]
        result.add_row(
            row["VpcName"],
            row["RouteTableName"],
            _subnets(row),
            "\n".join(_destination(route) for route in routes),
            "\n".join(_target(route, names) for route in routes),
            "\n".join(route["State"] for route in routes),
            row["RouteTableId"],
            end_section=True,
        )
    common.console().print(result)


def nat_gateways(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the NAT gateways with their addresses."""
    answer = common.client(ctx, lab).get("/v1/nat-gateways")
    if as_json:
        common.print_json(answer)
        return
    result = Table(
        None,
        [
            Column("VPC"),
            Column("NAT gateway"),
            Column("subnet"),
            Column("zone", rank=2),
            Column("connectivity", rank=1),
            Column("state"),
            Column("private address"),
            Column("public address"),
            Column("status", rank=1),
            Column("interface", rank=2),
            Column("id", rank=1),
        ],
    )
    for row in common.rows(answer):
        addresses = row["NatGatewayAddresses"]
        result.add_row(
            row["VpcName"],
            row["NatGatewayName"],
            row["SubnetName"],
            row["AvailabilityZone"],
            row["ConnectivityType"],
            _state(row),
            "\n".join(each["PrivateIp"] for each in addresses) or "-",
            "\n".join(each["PublicIp"] or "-" for each in addresses) or "-",
            "\n".join(each["Status"] for each in addresses) or "-",
            row["NetworkInterfaceId"] or "-",
            row["NatGatewayId"],
            end_section=True,
        )
    common.console().print(result)


def _state(row: Mapping[str, Any]) -> str:
    if row["State"] == "failed":
        return f"failed ({row['FailureCode']}: {row['FailureMessage']})"
    return str(row["State"])


def _subnets(row: Mapping[str, Any]) -> str:
    names = [each["SubnetName"] for each in row["Associations"]]
    return "\n".join([*names, *(["all others"] if row["Main"] else [])]) or "-"


def _destination(route: Mapping[str, Any]) -> str:
    listed = route.get("DestinationPrefixListId")
    if listed is None:
        return str(route["DestinationCidrBlock"])
    return f"{listed} ({route['DestinationPrefixListName'].rpartition('.')[2]})"


def _target(route: Mapping[str, Any], names: Mapping[str, str]) -> str:
    target = next(route[each] for each in _TARGETS if route.get(each) is not None)
    return names.get(target, str(target))
