# SPDX-License-Identifier: Apache-2.0
"""What customers own, as `apply` has made it: functions and security groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption
from hyperplane_nat.cli.tables import Column, Table

EVERY_PROTOCOL = "-1"
"""EC2 API, `IpProtocol`: all protocols."""


def functions(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the functions."""
    answer = common.client(ctx, lab).get("/v1/functions")
    if as_json:
        common.print_json(answer)
        return
    result = Table(
        None,
        [
            Column("function"),
            Column("account", rank=4),
            Column("networking", rank=2),
            Column("state"),
            Column("aliases", rank=3),
            Column("last update", rank=3),
            Column("VPC", rank=2),
            Column("interfaces", rank=1),
            Column("environments", numeric=True, rank=1),
            Column("memory (MB)", numeric=True, rank=5),
        ],
    )
    for row in common.rows(answer):
        result.add_row(
            row["FunctionName"],
            row["Account"],
            row["Networking"],
            _with_reason(row["State"], row["StateReasonCode"]),
            _aliases(row),
            _with_reason(row["LastUpdateStatus"], row["LastUpdateStatusReasonCode"]),
            (row["VpcConfig"] or {}).get("VpcName", "-"),
            "\n".join(row["NetworkInterfaceIds"]) or "-",
            str(row["Environments"]),
            str(row["MemorySize"]),
        )
    common.console().print(result)


def _aliases(row: Mapping[str, Any]) -> str:
    """One a line, with how much of its provisioned concurrency is there."""
    lines = []
    for alias in row["Aliases"]:
        line = f"{alias['Name']}: {alias['FunctionVersion']}"
        for version, weight in alias["RoutingConfig"]["AdditionalVersionWeights"].items():
            line += f", {weight:.4g} of it {version}"
        if found := alias["ProvisionedConcurrency"]:
            available = found["AvailableProvisionedConcurrentExecutions"]
            requested = found["RequestedProvisionedConcurrentExecutions"]
            failed = " FAILED" if found["Status"] == "FAILED" else ""
            line += f" ({available}/{requested}{failed})"
        lines.append(line)
    return "\n".join(lines) or "-"


def _with_reason(state: str, code: str | None) -> str:
    return f"{state} ({code})" if code else state


def security_groups(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the security groups with their rules."""
    answer = common.client(ctx, lab).get("/v1/security-groups")
    if as_json:
        common.print_json(answer)
        return
    rows = common.rows(answer)
    names = {row["GroupId"]: row["GroupName"] for row in rows}
    result = Table(
        None,
        [
            Column("VPC", rank=1),
            Column("group"),
            Column("id", rank=2),
            Column("ingress"),
            Column("egress"),
            Column("interfaces", numeric=True, rank=1),
        ],
    )
    for row in rows:
        result.add_row(
            row["VpcName"],
            row["GroupName"],
            row["GroupId"],
            _rules(row["IpPermissions"], "from", names),
            _rules(row["IpPermissionsEgress"], "to", names),
            str(len(row["NetworkInterfaceIds"])),
        )
    common.console().print(result)


def _rules(permissions: list[Mapping[str, Any]], preposition: str, names: Mapping[str, str]) -> str:
    """A rule a line."""
    lines = [f"{_traffic(rule)} {preposition} {_peers(rule, names)}" for rule in permissions]
    return "\n".join(lines) or "nothing"


def _traffic(rule: Mapping[str, Any]) -> str:
    protocol: str = rule["IpProtocol"]
    if protocol == EVERY_PROTOCOL:
        return "everything"
    if "FromPort" not in rule:
        return protocol
    first, last = rule["FromPort"], rule["ToPort"]
    if (first, last) == (0, 65535):
        return protocol
    return f"{protocol} {first}" if first == last else f"{protocol} {first}-{last}"


def _peers(rule: Mapping[str, Any], names: Mapping[str, str]) -> str:
    networks = [item["CidrIp"] for item in rule.get("IpRanges", [])]
    groups = [item["GroupId"] for item in rule.get("UserIdGroupPairs", [])]
    lists = [item["PrefixListName"] for item in rule.get("PrefixListIds", [])]
    named = [f"group {names.get(group, group)}" for group in groups]
    return ", ".join(networks + named + [f"prefix list {name}" for name in lists])
