# SPDX-License-Identifier: Apache-2.0
"""Network ACLs with their rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption
from hyperplane_nat.cli.tables import Column, Table

_LAST = 32767
_PROTOCOLS = {"-1": "all", "1": "icmp", "6": "tcp", "17": "udp"}
_ANY = -1


def network_acls(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the network ACLs with their rules."""
    answer = common.client(ctx, lab).get("/v1/network-acls")
    if as_json:
        common.print_json(answer)
        return
    common.console().print(picture(common.rows(answer)))


def picture(acls: Iterable[Mapping[str, Any]]) -> Table:
    """The table of these rows of `/v1/network-acls`, with a line for each rule."""
    result = Table(
        None,
        [
            Column("VPC"),
            Column("ACL"),
            Column("rules"),
            Column("subnets", rank=1),
            Column("id", rank=2),
        ],
    )
    for row in acls:
        result.add_row(
            row["VpcName"],
            row["NetworkAclName"],
            "\n".join(map(_rule, row["Entries"])),
            "\n".join(each["SubnetName"] for each in row["Associations"]) or "-",
            row["NetworkAclId"],
            end_section=True,
        )
    return result


def _rule(entry: Mapping[str, Any]) -> str:
    number = "*" if entry["RuleNumber"] == _LAST else entry["RuleNumber"]
    direction, side = ("egress", "to") if entry["Egress"] else ("ingress", "from")
    protocol, ports = _PROTOCOLS.get(entry["Protocol"], entry["Protocol"]), _ports(entry)
    what = protocol if ports == "all" else f"{protocol} {ports}"
    return f"{direction} {number} {entry['RuleAction']} {what} {side} {entry['CidrBlock']}"


def _ports(entry: Mapping[str, Any]) -> str:
    if (ports := entry.get("PortRange")) is not None:
        first, last = ports["From"], ports["To"]
        if (first, last) == (0, 65535):
            return "all"
        return str(first) if first == last else f"{first}-{last}"
    if (icmp := entry.get("IcmpTypeCode")) is not None and icmp["Type"] != _ANY:
        code = "" if icmp["Code"] == _ANY else f", code {icmp['Code']}"
        return f"type {icmp['Type']}{code}"
    return "all"
