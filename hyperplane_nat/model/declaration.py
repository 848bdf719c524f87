# SPDX-License-Identifier: Apache-2.0
"""What a region holds, as a declaration would name it: the checks of `validation` look at that."""

from __future__ import annotations

from hyperplane_nat.model.changes import parts_of
from hyperplane_nat.model.entities import Vpc
from hyperplane_nat.model.resources import (
    HostResource,
    SecurityGroupResource,
    ServiceResource,
    SubnetResource,
    VpcResource,
)
from hyperplane_nat.model.tables import Tables


def vpc_resource(tables: Tables, vpc: Vpc) -> VpcResource:
    """A VPC as a declaration would name it, but for the rules of its groups."""
    names = tables.groups
    return VpcResource(
        name=vpc.name,
        cidr=vpc.cidr,
        account=vpc.account_id,
        subnets=tuple(
            SubnetResource(each.name, each.cidr, each.availability_zone)
            for each in parts_of(vpc, tables.subnets)
        ),
        security_groups=tuple(SecurityGroupResource(each.name) for each in parts_of(vpc, names)),
        services=tuple(
            ServiceResource(
                each.name,
                each.kind,
                None if each.host_id else each.address,
                each.port,
                each.size_bytes,
                tuple(names[group_id].name for group_id in each.group_ids),
                tables.hosts[each.host_id].name if each.host_id else None,
                each.aws_service,
            )
            for each in parts_of(vpc, tables.services)
        ),
        hosts=tuple(
            HostResource(
                each.name,
                tables.subnets[each.subnet_id].name,
                each.address,
                tuple(names[group_id].name for group_id in each.group_ids),
                each.description,
            )
            for each in parts_of(vpc, tables.hosts)
        ),
        enable_dns_support=vpc.enable_dns_support,
        enable_dns_hostnames=vpc.enable_dns_hostnames,
    )
