# SPDX-License-Identifier: Apache-2.0
"""`ports`: which source ports are taken, towards what, and who has them."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType

from hyperplane_nat.cli import common, watching
from hyperplane_nat.cli.common import JsonOption, LabOption
from hyperplane_nat.cli.tables import Column, Table
from hyperplane_nat.cli.watching import WatchOption

HOLDERS_SHOWN = 3
"""Of the environments and functions that the control API names for a row."""

_FIGURES = (
    Column("in use", numeric=True),
    Column("held", numeric=True, rank=3),
    Column("limit", numeric=True, rank=4),
    Column("%", numeric=True),
)
_TROUBLE = (
    Column("errors", numeric=True, rank=2),
    Column("last error", rank=6),
    Column("held by", rank=1),
)


def ports(
    ctx: typer.Context,
    top: Annotated[
        int | None,
        typer.Option("--top", min=1, max=1000, help="Remote endpoints to show; default: 20."),
    ] = None,
    interface: Annotated[
        str | None, typer.Option(metavar="INTERFACE", help="Only this interface: its name or id.")
    ] = None,
    remote: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS[:PORT]", help="Only ports towards this remote endpoint."),
    ] = None,
    watch: WatchOption = False,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who takes which source ports, and towards what."""
    watching.refuse_json(watch, as_json)
    connection = common.client(ctx, lab)
    query = {"top": top, "interface": interface, "remote": remote}

    def ask() -> dict[str, Any]:
        return common.mapping(connection.get("/v1/ports", query))

    if as_json:
        common.print_json(ask())
        return
    watching.show(lambda: pictures(ask()), watch)


def pictures(answer: dict[str, Any]) -> RenderableType:
    """The answer of /v1/ports as tables of interfaces and of remote endpoints."""
    return Group(_interfaces(answer["interfaces"]), _remotes(answer["remotes"]))


def _interfaces(rows: list[dict[str, Any]]) -> Table:
    columns = [Column("interface"), Column("address", rank=5), *_FIGURES, *_TROUBLE]
    result = Table("connections of interfaces, held ports included", columns)
    for row in rows:
        result.add_row(row["interface"], row["address"], *_figures(row), *_trouble(row))
    return result


def _remotes(rows: list[dict[str, Any]]) -> Table:
    columns = [
        Column("interface", rank=3),
        Column("address", rank=5),
        Column("protocol", rank=2),
        Column("remote"),
        *_FIGURES,
        Column("high water", numeric=True, rank=7),
        *_TROUBLE,
    ]
    result = Table("ports by remote endpoint, the fullest first", columns)
    for row in rows:
        result.add_row(
            row["interface"],
            row["address"],
            row["protocol"],
            remote_name(row["remote_address"], row["remote_port"]),
            *_figures(row),
            str(row["high_water"]),
            *_trouble(row),
        )
    return result


def remote_name(address: str, port: int) -> str:
    """A remote endpoint for people; a mapping's port is one towards any."""
    return "any" if (address, port) == ("0.0.0.0", 0) else f"{address}:{port}"


def _figures(row: dict[str, Any]) -> tuple[str, ...]:
    limit, percent = row["limit"], row["used_percent"]
    return (
        str(row["in_use"]),
        str(row["held"]),
        "-" if limit is None else str(limit),
        "-" if percent is None else f"{percent:.1f}",
    )


def _trouble(row: dict[str, Any]) -> tuple[str, ...]:
    last = "-"
    if row["last_error_seconds"] is not None:
        last = f"{common.duration(row['last_error_seconds'])} ago, {row['last_error_reason']}"
    return str(row["allocation_errors"]), last, _holders(row)


def _holders(row: dict[str, Any]) -> str:
    """Functions first; environments by name where no function is behind them."""
    named = [
        f"{each['function']} {each['in_use'] + each['held']}"
        for each in row["functions"]
        if each["function"] is not None
    ]
    named += [
        f"{each['environment'] or each['host'] or 'removed ones'} {each['in_use'] + each['held']}"
        for each in row["environments"]
        if each["function"] is None
    ]
    more = ", ..." if len(named) > HOLDERS_SHOWN else ""
    return (", ".join(named[:HOLDERS_SHOWN]) or "-") + more
