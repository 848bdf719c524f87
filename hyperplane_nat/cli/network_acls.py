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
    result = Table(
        None,
        [
            Column("VPC"),
            Column("network ACL"),
            Column("subnets"),
            Column("direction"),
            Column("rule", numeric=True),
            Column("action"),
            Column("protocol"),
            Column("ports"),
            Column("other side"),
            Column("id", rank=1),
        ],
    )
    for row in common.rows(answer):
        entries = row["Entries"]
        result.add_row(
            row["VpcName"],
            row["NetworkAclName"],
            "\n".join(each["SubnetName"] for each in row["Associations"]) or "-",
            _column("ingress" if not each["Egress"] else "egress" for each in entries),
            _column(
                "*" if each["RuleNumber"] == _LAST else str(each["RuleNumber"]) for each in entries
            ),
            _column(each["RuleAction"] for each in entries),
            _column(_PROTOCOLS.get(each["Protocol"], each["Protocol"]) for each in entries),
            _column(_ports(each) for each in entries),
            _column(each["CidrBlock"] for each in entries),
            row["NetworkAclId"],
            end_section=True,
        )
    common.console().print(result)


def _column(texts: Iterable[str]) -> str:
    return "\n".join(texts)


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
