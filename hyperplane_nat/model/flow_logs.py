# SPDX-License-Identifier: Apache-2.0
"""What a flow log is about.

A flow log goes with its resource: one whose resource is gone is in no list, and the next command
that makes one forgets it.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperplane_nat.model.tables import Tables


@dataclass(frozen=True, slots=True)
class About:
    """A VPC, or a subnet or network interface in one."""

    kind: str
    """EC2 API, `FlowLogsResourceType`."""
    vpc_id: str
    subnet_id: str | None = None
    interface_id: str | None = None


def about(tables: Tables, resource_id: str) -> About | None:
    """What an id is of; None where there is none of it."""
    if resource_id in tables.vpcs:
        return About("VPC", resource_id)
    if (subnet := tables.subnets.get(resource_id)) is not None:
        return About("Subnet", subnet.vpc_id, subnet.id)
    if (interface := tables.interfaces.get(resource_id)) is not None:
        return About("NetworkInterface", interface.vpc_id, None, interface.id)
    for host in tables.hosts.values():
        if host.interface_id == resource_id:
            return About("NetworkInterface", host.vpc_id, None, resource_id)
    return None
