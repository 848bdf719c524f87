# SPDX-License-Identifier: Apache-2.0
"""Network ACLs in the field names of the EC2 API (`DescribeNetworkAcls`): see `description`."""

from __future__ import annotations

from typing import Any

from hyperplane_nat.model.changes import by_name
from hyperplane_nat.model.network_acl_entities import CARRIED, NetworkAcl, NetworkAclEntry
from hyperplane_nat.model.network_acls import network_acls_in, subnets_of
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.resources import ANYWHERE
from hyperplane_nat.model.tables import Tables
from hyperplane_nat.model.validation import INTERNET

LAST_RULE = 32767
"""Number of the last entry, `*`, of each direction."""


def describe_network_acls(region: Region) -> list[dict[str, Any]]:
    """All network ACLs, by VPC and name, the default one first."""
    tables = region.tables
    return [
        network_acl(tables, acl)
        for vpc in by_name(tables.vpcs.values())
        if vpc.name != INTERNET
        for acl in network_acls_in(tables, vpc)
    ]


def network_acl(tables: Tables, acl: NetworkAcl) -> dict[str, Any]:
    """One, with the entry that denies what no other matches."""
    vpc = tables.vpcs[acl.vpc_id]
    last = NetworkAclEntry(LAST_RULE, False, -1, ANYWHERE)
    return {
        "NetworkAclId": acl.id,
        "NetworkAclName": acl.name,
        "OwnerId": vpc.account_id,
        "VpcId": vpc.id,
        "VpcName": vpc.name,
        "IsDefault": acl.default,
        "Associations": [
            {"SubnetId": each.id, "SubnetName": each.name} for each in subnets_of(tables, acl)
        ],
        "Entries": [
            _entry(each, egress=egress)
            for egress, entries in ((False, acl.ingress), (True, acl.egress))
            for each in (*entries, last)
        ],
        "Declared": acl.declared,
    }


def _entry(entry: NetworkAclEntry, *, egress: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "CidrBlock": str(entry.cidr),
        "Egress": egress,
        "Protocol": str(entry.protocol),
        "RuleAction": "allow" if entry.allow else "deny",
        "RuleNumber": entry.rule_number,
    }
    protocol = CARRIED.get(entry.protocol)
    if protocol in ("tcp", "udp"):
        described["PortRange"] = {"From": entry.first, "To": entry.last}
    elif protocol == "icmp":
        described["IcmpTypeCode"] = {"Type": entry.icmp_type, "Code": entry.icmp_code}
    return described
