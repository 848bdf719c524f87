# SPDX-License-Identifier: Apache-2.0
"""Load balancers with their listeners, and the health of their targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from hyperplane_nat.cli import common
from hyperplane_nat.cli.common import JsonOption, LabOption
from hyperplane_nat.cli.tables import Column, Table


def load_balancers(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the load balancers with their nodes and listeners."""
    answer = common.client(ctx, lab).get("/v1/load-balancers")
    if as_json:
        common.print_json(answer)
        return
    result = Table(
        None,
        [
            Column("VPC"),
            Column("load balancer"),
            Column("state"),
            Column("zone", rank=1),
            Column("address"),
            Column("public address", rank=1),
            Column("listener"),
            Column("target group"),
            Column("cross-zone", rank=2),
            Column("name in DNS", rank=1),
        ],
    )
    for row in common.rows(answer):
        nodes, listeners = row["AvailabilityZones"], row["Listeners"]
        result.add_row(
            row["VpcName"],
            row["LoadBalancerName"],
            row["State"],
            "\n".join(each["ZoneName"] for each in nodes),
            "\n".join(each["PrivateIPv4Address"] for each in nodes),
            "\n".join(each["IpAddress"] or "-" for each in nodes),
            "\n".join(f"{each['Protocol']} {each['Port']}" for each in listeners) or "-",
            "\n".join(each["TargetGroupName"] for each in listeners) or "-",
            row["Attributes"]["load_balancing.cross_zone.enabled"],
            row["DNSName"],
            end_section=True,
        )
    common.console().print(result)


def target_health(ctx: typer.Context, lab: LabOption = None, as_json: JsonOption = False) -> None:
    """List the targets of load balancers with their health."""
    answer = common.client(ctx, lab).get("/v1/target-health")
    if as_json:
        common.print_json(answer)
        return
    result = Table(
        None,
        [
            Column("VPC", rank=1),
            Column("target group"),
            Column("load balancer", rank=1),
            Column("target"),
            Column("address", rank=1),
            Column("port", numeric=True),
            Column("zone", rank=2),
            Column("state"),
            Column("reason"),
            Column("description", rank=3),
        ],
    )
    for row in common.rows(answer):
        result.add_row(
            row["VpcName"],
            row["TargetGroupName"],
            row["LoadBalancerName"] or "-",
            _target(row),
            row["Address"],
            str(row["Port"]),
            row["AvailabilityZone"],
            row["State"],
            row["Reason"] or "-",
            row["Description"] or "-",
        )
    common.console().print(result)


def _target(row: Mapping[str, Any]) -> str:
    return str(row["HostName"] or row["Id"])
