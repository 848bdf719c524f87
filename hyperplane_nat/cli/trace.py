# SPDX-License-Identifier: Apache-2.0
"""`trace`: whether somebody reaches somebody, and by which rules."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption, UserError
from hyperplane_nat.cli.tables import Column, Remark, Table

_UNREACHABLE = 1
_TARGET = re.compile(r"([A-Za-z0-9_.-]{1,253})(?::([0-9]{1,5}))?", re.ASCII)


class Protocol(StrEnum):
    """What is sent."""

    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"


def trace(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="ENVIRONMENT|HOST|FUNCTION",
            help="Who sends: env-1, a host's name, VPC/name or id, or a function.",
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="ADDRESS|NAME[:PORT]", help="To whom; without a port by ICMP."),
    ],
    protocol: Annotated[
        Protocol | None, typer.Option("--protocol", help="tcp where there is a port, else icmp.")
    ] = None,
    lab: LabOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell whether somebody reaches an address or name, and which rules decide. Exit 1 if not."""
    matched = _TARGET.fullmatch(target)
    if matched is None or not 0 < int(matched[2] or 1) <= 65535:
        raise UserError(f"{target!r} is no target (write ADDRESS, NAME, or either with :PORT)")
    query = {
        "source": source,
        "target": matched[1],
        "port": matched[2],
        "protocol": None if protocol is None else protocol.value,
    }
    answer = common.mapping(common.client(ctx, lab).get("/v1/trace", query))
    if as_json:
        common.print_json(answer)
    else:
        result = Table(None, [Column("step"), Column("outcome"), Column("what, and by which rule")])
        for row in answer["steps"]:
            what = "\n".join(filter(None, (row["text"], row["rule"])))
            result.add_row(row["step"], row["outcome"], what)
        console = common.console()
        console.print(result)
        console.print(Remark(answer["verdict"]), soft_wrap=True)
    if not answer["reachable"]:
        raise typer.Exit(_UNREACHABLE)
