# SPDX-License-Identifier: Apache-2.0
"""`flows`: the flows as they are translated, selected and sorted by the controller."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, get_args

import typer
from rich.console import Group, RenderableType

from hyperplane_nat.cli import common, tables, watching
from hyperplane_nat.cli.common import JsonOption, LabOption
from hyperplane_nat.cli.tables import Column
from hyperplane_nat.cli.watching import WatchOption
from hyperplane_nat.client import Client
from hyperplane_nat.flow_query import FlowField, FlowState, Protocol

FLOWS_SHOWN = 100
"""Flows in the table without --limit. JSON has no limit: it is streamed."""

PROTOCOLS, STATES, FIELDS = get_args(Protocol), get_args(FlowState), get_args(FlowField)


def flows(
    ctx: typer.Context,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help=f"Flows to show; default: {FLOWS_SHOWN}, with --json all."),
    ] = None,
    environment: Annotated[
        str | None, typer.Option(metavar="ENVIRONMENT", help="Only this environment's: env-1.")
    ] = None,
    function: Annotated[
        str | None, typer.Option(metavar="FUNCTION", help="Only of this function's environments.")
    ] = None,
    interface: Annotated[
        str | None, typer.Option(metavar="INTERFACE", help="Only by this one: its name or id.")
    ] = None,
    remote: Annotated[
        str | None, typer.Option(metavar="ADDRESS[:PORT]", help="Only to this remote endpoint.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(metavar="tcp|udp|icmp", help="Only this protocol's.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help=f"Only in it: {', '.join(STATES)}.")
    ] = None,
    min_age: Annotated[
        int | None, typer.Option(min=0, metavar="SECONDS", help="Only as old as this, or older.")
    ] = None,
    max_age: Annotated[
        int | None, typer.Option(min=0, metavar="SECONDS", help="Only as old as this, or younger.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help=f"The largest first, by: {', '.join(FIELDS)}."),
    ] = None,
    reverse: Annotated[
        bool, typer.Option("--reverse", help="With --sort: the smallest first.")
    ] = False,
    watch: WatchOption = False,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """List flows, as they are translated."""
    watching.refuse_json(watch, as_json)
    query = {
        "environment": environment,
        "function": function,
        "interface": interface,
        "remote": remote,
        "protocol": one_of(protocol, "protocol", PROTOCOLS),
        "state": one_of(state and state.upper().replace("-", "_"), "state", STATES),
        "min_age": min_age,
        "max_age": max_age,
        "sort": one_of(sort and sort.replace("-", "_"), "field", FIELDS),
        "reverse": _reverse(reverse, sort),
    }
    connection = common.client(ctx, lab)
    if as_json:
        _stream(connection, query | {"limit": limit})
        return
    shown = limit or FLOWS_SHOWN
    # One more than is shown, to know whether there are more.
    query["limit"] = shown + 1
    watching.show(lambda: picture(common.rows(connection.get("/v1/flows", query)), shown), watch)


def one_of(value: str | None, what: str, known: tuple[str, ...]) -> str | None:
    """`value` if it is known; UserError with those that are."""
    if value is not None and value not in known:
        raise common.UserError(f"unknown {what} {value!r} (one of: {', '.join(known)})")
    return value


def _reverse(reverse: bool, sort: str | None) -> str | None:
    if reverse and sort is None:
        raise common.UserError("--reverse without --sort (say by which field)")
    return "true" if reverse else None


def _stream(connection: Client, query: Mapping[str, object]) -> None:
    piece = b""
    for piece in connection.stream("GET", "/v1/flows", query):
        sys.stdout.buffer.write(piece)
    if not piece.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def picture(found: list[dict[str, Any]], shown: int) -> RenderableType:
    """At most `shown` flows as a table, and whether there are more."""
    result = _table(found[:shown])
    if len(found) <= shown:
        return result
    more = f"more than {shown} flows; see --limit, --sort, the filters, --json"
    return Group(result, tables.Remark(more))


def _table(rows: list[dict[str, Any]]) -> tables.Table:
    result = tables.Table(
        None,
        [
            Column("protocol", rank=2),
            Column("state", rank=3),
            Column("environment"),
            Column("inside", rank=4),
            Column("SNAT address"),
            Column("remote"),
            Column("age", numeric=True, rank=6),
            Column("idle", numeric=True, rank=5),
            Column("packets out", numeric=True, rank=7),
            Column("bytes out", numeric=True, rank=8),
            Column("packets in", numeric=True, rank=7),
            Column("bytes in", numeric=True, rank=8),
        ],
    )
    for row in rows:
        result.add_row(
            row["protocol"],
            row["state"],
            # A host's flow, or one to it from the router of its VPC.
            row["environment"] or row["host"] or "-",
            f"{row['inside_address']}:{row['inside_port']}",
            f"{row['nat_address']}:{row['nat_port']}",
            f"{row['remote_address']}:{row['remote_port']}",
            common.duration(row["age_seconds"]),
            common.duration(row["idle_seconds"]),
            str(row["packets_out"]),
            str(row["bytes_out"]),
            str(row["packets_in"]),
            str(row["bytes_in"]),
        )
    return result
