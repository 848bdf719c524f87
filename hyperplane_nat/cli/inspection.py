# SPDX-License-Identifier: Apache-2.0
"""Commands that show a running lab."""

from __future__ import annotations

from typing import Any

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption
from hyperplane_nat.cli.tables import Column, Table

_AWS = "AWS/endpoint"
"""AWS's endpoint among the services of a lab."""


def status(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """Show what is up: processes, flows, drops."""
    answer = common.mapping(common.client(ctx, lab).get("/v1/status"))
    if as_json:
        common.print_json(answer)
        return
    console = common.console()
    console.print(status_table(answer))
    if answer["drops"]:
        console.print(drops_table(answer["drops"]))


def status_table(answer: dict[str, Any]) -> Table:
    """The answer of /v1/status as a table of two columns."""
    forwarder, flows, state = answer["forwarder"], answer["flows"], answer["state_file"]
    active = sum(flows[protocol] for protocol in ("tcp", "udp", "icmp"))
    grid = Table(f"lab {answer['lab']}: {answer['state']}", [Column(""), Column("")])
    grid.add_row("environments", str(answer["environments"]))
    grid.add_row("interfaces", f"{answer['interfaces']} in {answer['vpcs']} VPC(s)")
    if hosts := answer.get("hosts"):
        grid.add_row("hosts", str(hosts))
    grid.add_row(
        "flows",
        f"{active} of {flows['max']} "
        f"(tcp {flows['tcp']}, udp {flows['udp']}, icmp {flows['icmp']})",
    )
    grid.add_row(
        "controller", f"pid {answer['pid']}, up {common.duration(answer['uptime_seconds'])}"
    )
    grid.add_row("forwarder", _forwarder(forwarder))
    grid.add_row("privileges", _privileges(answer.get("privileges", {})))
    grid.add_row(
        "state file",
        f"{state['path']}, {common.byte_count(state['bytes'])} "
        f"({state['bytes_per_flow']:.0f} bytes per flow)",
    )
    if ahead := answer.get("clock_offset_seconds"):
        grid.add_row("clock", f"{common.duration(ahead)} ahead of the host's")
    if endpoint := answer.get("aws_endpoint"):
        grid.add_row("AWS", _aws(endpoint, answer["services"].get(_AWS)))
    grid.add_row("metrics", common.metrics(answer))
    return grid


def _aws(endpoint: str, process: dict[str, Any] | None) -> str:
    if process is None or not process["up"]:
        return f"{endpoint}, not running"
    return f"{endpoint}, restarts {process['restarts']}"


def _privileges(processes: dict[str, dict[str, Any]]) -> str:
    """Who has what, those without any first."""
    told: dict[str, list[str]] = {}
    for name, has in sorted(processes.items(), key=lambda item: not item[1]["dropped"]):
        what = "none" if has["dropped"] else f"capabilities {has['capabilities']}"
        told.setdefault(f"{what} (user {has['uid']})", []).append(name)
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in told.items()) or "-"


def _cached(cache: dict[str, Any]) -> str:
    if cache["problem"]:
        return f"caches no flow: {cache['problem']}"
    return (
        f"{cache['flows']} of at most {cache['room']} flows cached, "
        f"{cache['hit_ratio']:.0%} of all packets by the cache"
    )


def _forwarder(forwarder: dict[str, Any]) -> str:
    if forwarder.get("pid") is None:
        return f"not running, restarts {forwarder['restarts']}"
    text = f"pid {forwarder['pid']}, restarts {forwarder['restarts']}"
    if forwarder.get("uptime_seconds") is not None:
        text += f", up {common.duration(forwarder['uptime_seconds'])}"
    if forwarder.get("rss_bytes") is not None:
        text += f", {common.byte_count(forwarder['rss_bytes'])}"
    if forwarder.get("punt_link"):
        text += ", receives by the punt link"
    if cache := forwarder.get("flow_cache"):
        text += f", {_cached(cache)}"
    if forwarder.get("problem"):
        text += f", not up: {forwarder['problem']}"
    return text


def drops_table(drops: dict[str, int]) -> Table:
    """Drops by reason, the most frequent first."""
    result = Table("drops", [Column("reason"), Column("packets", numeric=True)])
    for reason, count in sorted(drops.items(), key=lambda item: (-item[1], item[0])):
        result.add_row(reason, str(count))
    return result


def environments(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the execution environments."""
    answer = common.client(ctx, lab).get("/v1/environments")
    if as_json:
        common.print_json(answer)
        return
    result = Table(
        None,
        [
            Column("environment"),
            Column("state"),
            Column("function", rank=1),
            Column("namespace", rank=6),
            Column("address", rank=5),
            Column("interface", rank=2),
            Column("SNAT address", rank=1),
            Column("packets out", numeric=True, rank=4),
            Column("bytes out", numeric=True, rank=3),
            Column("packets in", numeric=True, rank=4),
            Column("bytes in", numeric=True, rank=3),
            Column("drops", numeric=True, rank=2),
        ],
    )
    for row in common.rows(answer):
        result.add_row(
            row["name"],
            row.get("state") or "-",
            row.get("function") or "-",
            row["namespace"],
            row["address"],
            row["interface"] or "-",
            row["interface_address"] or "-",
            str(row["packets_out"]),
            str(row["bytes_out"]),
            str(row["packets_in"]),
            str(row["bytes_in"]),
            str(row["drops"]),
        )
    common.console().print(result)


def interfaces(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the network interfaces that environments share."""
    answer = common.client(ctx, lab).get("/v1/interfaces")
    if as_json:
        common.print_json(answer)
        return
    result = Table(
        None,
        [
            Column("interface"),
            Column("id", rank=3),
            Column("kind", rank=2),
            Column("status", rank=2),
            Column("VPC", rank=1),
            Column("subnet", rank=4),
            Column("address"),
            Column("MAC", rank=6),
            Column("security groups", rank=5),
            Column("environments", numeric=True, rank=1),
            Column("flows", numeric=True, rank=1),
        ],
    )
    for row in common.rows(answer):
        result.add_row(
            row["name"],
            row.get("id") or "-",
            row.get("kind") or "-",
            row.get("status") or "-",
            row["vpc"],
            row["subnet"] or "-",
            row["address"],
            row["mac"] or "-",
            ", ".join(row.get("groups") or []) or "-",
            str(row["environments"]),
            str(row["flows"]),
        )
    common.console().print(result)


def verify(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """Check that the flow table is consistent; exit 1 if not."""
    answer = common.mapping(common.client(ctx, lab).verify())
    problems = answer["problems"]
    if as_json:
        common.print_json(answer)
    elif problems:
        for problem in problems:
            typer.echo(problem)
    else:
        typer.echo(f"{answer['entries']} entries, no problem found")
    if problems:
        raise typer.Exit(1)
