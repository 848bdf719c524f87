# SPDX-License-Identifier: Apache-2.0
"""Hosts of VPCs: `hosts` lists them, `attach` and `detach` make other people's namespaces some."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError
from hyperplane_nat.client import Client
from netns.names import host_namespace

PATH = "/v1/hosts"

_NAME = re.compile(r"[a-z][a-z0-9-]{0,14}")

HostArgument = Annotated[str, typer.Argument(metavar="HOST", help="Its name, VPC/name or id.")]


def hosts(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the hosts of VPCs."""
    connection = common.client(ctx, lab)
    answer = connection.get(PATH)
    if as_json:
        common.print_json(answer)
        return
    # Here, not above: `exec` needs none of it.
    from hyperplane_nat.cli.tables import Column, Table

    result = Table(
        None,
        [
            Column("VPC"),
            Column("host"),
            Column("address"),
            Column("public address", rank=1),
            Column("subnet", rank=1),
            Column("security groups", rank=1),
            Column("services", rank=2),
            Column("packets out", numeric=True, rank=3),
            Column("packets in", numeric=True, rank=3),
            Column("drops", numeric=True, rank=2),
            Column("namespace", rank=2),
            Column("attached", rank=3),
            Column("id", rank=4),
            Column("description", rank=5),
        ],
    )
    for row in common.rows(answer):
        result.add_row(
            row["VpcName"],
            row["HostName"],
            row["PrivateIpAddress"],
            row["PublicIpAddress"] or "-",
            row["SubnetName"],
            ", ".join(group["GroupName"] for group in row["Groups"]) or "-",
            ", ".join(row["Services"]) or "-",
            str(row["packets_out"]),
            str(row["packets_in"]),
            str(row["drops"]),
            host_namespace(connection.lab, row["Number"]),
            row["Attached"] or "-",
            row["InstanceId"],
            row["Description"] or "-",
        )
    common.console().print(result)


def attach(
    ctx: typer.Context,
    vpc: Annotated[str, typer.Option("--vpc", metavar="VPC", help="VPC, by name or id.")],
    subnet: Annotated[str, typer.Option("--subnet", metavar="SUBNET", help="Subnet of it.")],
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Name of the host; that of the namespace if absent."),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", metavar="NAMESPACE", help="As ip netns lists it.")
    ] = None,
    pid: Annotated[
        int | None, typer.Option("--pid", metavar="PID", help="A process in the namespace.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="ADDRESS", help="A free one if absent.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", metavar="GROUP", help="Security group of the VPC; repeatable."),
    ] = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a network namespace that there is a host of a VPC."""
    connection = common.client(ctx, lab)
    if (namespace is None) == (pid is None):
        raise UserError("which namespace is meant? (give --namespace NAME or --pid PID)")
    name = name or namespace or f"pid-{pid}"
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be the name of a host (give one behind the options: 1 to 15 "
            "lower-case letters, digits and dashes, starting with a letter)"
        )
    body = {
        "name": name,
        "vpc": vpc,
        "subnet": subnet,
        "address": address,
        "security_groups": group or [],
        "namespace": namespace,
        "pid": pid,
    }
    made = common.mapping(connection.post(PATH, body))
    if as_json:
        common.print_json(made)
        return
    typer.echo(
        f"{made['Attached']} is host {made['VpcName']}/{made['HostName']} with "
        f"{made['PrivateIpAddress']}"
    )


def detach(
    ctx: typer.Context, host: HostArgument, lab: LabOption = None, as_json: JsonOption = False
) -> None:
    """Give an attached namespace back: its link is removed, what runs in it goes on."""
    connection = common.client(ctx, lab)
    found = find(connection, host)
    if found["Attached"] is None:
        raise UserError(
            f"host {host!r} is the lab's own, nothing was attached (leave it out of the lab file "
            "and apply that)"
        )
    connection.delete(f"{PATH}/{found['InstanceId']}")
    if as_json:
        common.print_json(found)
        return
    typer.echo(f"{found['Attached']} is given back")


def find(connection: Client, named: str) -> dict[str, Any]:
    """The host that is meant; UserError says which there are."""
    rows = common.rows(connection.get(PATH))
    meant = [
        row
        for row in rows
        if named in (row["HostName"], f"{row['VpcName']}/{row['HostName']}", row["InstanceId"])
    ]
    if len(meant) == 1:
        return meant[0]
    if meant:
        known = ", ".join(f"{row['VpcName']}/{row['HostName']}" for row in meant)
        raise UserError(f"there are {len(meant)} hosts {named!r} (say which: {known})")
    raise UserError(
        f"unknown host {named!r} "
        + (
            f"(lab {connection.lab!r} has {rows[0]['VpcName']}/{rows[0]['HostName']}"
            + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
            + "; see: hyperplane-nat hosts)"
            if rows
            else f"(lab {connection.lab!r} has none)"
        )
    )
