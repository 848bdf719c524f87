# SPDX-License-Identifier: Apache-2.0
"""The part of a plan that is about network ACLs: see `planner`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from hyperplane_nat.model.changes import Changes, by_name
from hyperplane_nat.model.entities import Subnet, Vpc
from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.network_acl_entities import NetworkAcl, NetworkAclEntry
from hyperplane_nat.model.network_acls import default_network_acl, network_acls_in
from hyperplane_nat.model.resources import NetworkAclResource, VpcResource

Line = Callable[[str, str, str, str], None]
"""Action, kind, name and detail of a line of the plan."""


class NetworkAclPlanner:
    """Those steps of one run."""

    def __init__(self, changes: Changes, line: Line) -> None:
        self._acls = changes.acls
        self._tables = changes.tables
        self._line = line

    def make(
        self, vpc: Vpc, wanted: VpcResource, subnets: Mapping[tuple[str, str], Subnet]
    ) -> None:
        """The network ACLs of a VPC. The default one is there; a declaration may name it."""
        for item in wanted.network_acls:
            name = f"{vpc.name}/{item.name}"
            former = self._named(vpc, item)
            try:
                acl = former or self._acls.make(vpc, item.name)
            except ModelError as error:
                raise error.at(entry_of("network-acl", name)) from None
            made = replace(
                acl,
                name=item.name,
                ingress=_ordered(item.ingress),
                egress=_ordered(item.egress),
                declared=True,
            )
            self._tables.put(made)
            ids = tuple(subnets[vpc.name, each].id for each in item.subnets)
            if item.default:
                # Whoever is named has it of no other.
                self._acls.associate(made, ids)
            else:
                made = self._acls.associate(made, ids)
            detail = f"{len(made.ingress)} ingress, {len(made.egress)} egress rules"
            if former is None:
                self._line("create", "network-acl", name, detail)
            elif replace(former, declared=True) != made:
                self._line("change", "network-acl", name, detail)

    def _named(self, vpc: Vpc, item: NetworkAclResource) -> NetworkAcl | None:
        if item.default:
            return default_network_acl(self._tables, vpc)
        known = network_acls_in(self._tables, vpc)[1:]
        return next((acl for acl in known if acl.name == item.name), None)

    def delete_unused(self, wanted: Mapping[str, VpcResource]) -> None:
        """What no declaration names any more; `wanted` are VPCs that stay, by id."""
        for acl in by_name(self._tables.network_acls.values()):
            vpc = wanted.get(acl.vpc_id)
            items = () if vpc is None else vpc.network_acls
            named = any(
                item.default if acl.default else item.name == acl.name and not item.default
                for item in items
            )
            if not acl.declared or named:
                continue
            name = f"{self._tables.vpcs[acl.vpc_id].name}/{acl.name}"
            # A default one is again what it was when its VPC was made.
            self._tables.remove(acl)
            self._line("delete", "network-acl", name, "")


def _ordered(entries: tuple[NetworkAclEntry, ...]) -> tuple[NetworkAclEntry, ...]:
    return tuple(sorted(entries, key=lambda each: each.rule_number))
