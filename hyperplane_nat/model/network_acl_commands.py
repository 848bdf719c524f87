# SPDX-License-Identifier: Apache-2.0
"""Commands on network ACLs: see `commands`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hyperplane_nat.model.changes import by_name
from hyperplane_nat.model.errors import ModelError
from hyperplane_nat.model.lookups import Lookups
from hyperplane_nat.model.network_acl_checks import already_exists, check_entries, check_entry
from hyperplane_nat.model.network_acl_entities import NetworkAcl, NetworkAclEntry
from hyperplane_nat.model.network_acls import default_network_acl, network_acls_in


class NetworkAclCommands(Lookups):
    """Those commands on one region."""

    def network_acl(self, named: str) -> NetworkAcl:
        """By id, VPC/name or name. InvalidNetworkAclID.NotFound."""
        known = {
            acl.id: acl
            for vpc in by_name(self._tables.vpcs.values())
            for acl in network_acls_in(self._tables, vpc)
        }
        return self._part(known, named, "InvalidNetworkAclID.NotFound", "networkAcl ID")

    def create_network_acl(self, vpc: str, name: str | None = None) -> NetworkAcl:
        """CreateNetworkAcl, of one that refuses everything: InvalidVpcID.NotFound,
        NetworkAclLimitExceeded.
        """
        found = self._customer_vpc(vpc)
        known = {acl.id: acl for acl in network_acls_in(self._tables, found)}
        self._unique(known, found, "InvalidParameterValue", "network ACL", name)
        acl = self._acls.make(found, name or "")
        return self._named(acl) if name is None else acl

    def delete_network_acl(self, acl: str) -> None:
        """DeleteNetworkAcl: InvalidNetworkAclID.NotFound, DependencyViolation, and
        InvalidParameterValue for a default one.
        """
        found = self.network_acl(acl)
        if found.default:
            raise ModelError(
                "InvalidParameterValue",
                f"cannot delete default network ACL {found.id}",
                "it goes with its VPC",
            )
        if found.subnet_ids:
            raise ModelError(
                "DependencyViolation",
                f"The networkAcl '{found.id}' has dependencies and cannot be deleted.",
                "give its subnets another one first",
            )
        self._tables.remove(found)

    def create_network_acl_entry(
        self, acl: str, entry: NetworkAclEntry, *, egress: bool
    ) -> NetworkAcl:
        """
        CreateNetworkAclEntry: InvalidNetworkAclID.NotFound, NetworkAclEntryAlreadyExists,
        NetworkAclEntryLimitExceeded, InvalidParameterValue.
        """
        found = self.network_acl(acl)
        check_entry(entry)
        entries = found.egress if egress else found.ingress
        if any(each.rule_number == entry.rule_number for each in entries):
            raise already_exists(entry.rule_number)
        check_entries(found.name, (*entries, entry), self._lifecycle.settings)
        return self._put_entries(found, (*entries, entry), egress=egress)

    def replace_network_acl_entry(
        self, acl: str, entry: NetworkAclEntry, *, egress: bool
    ) -> NetworkAcl:
        """ReplaceNetworkAclEntry: InvalidNetworkAclEntry.NotFound, and those of the other two."""
        self.delete_network_acl_entry(acl, entry.rule_number, egress=egress)
        return self.create_network_acl_entry(acl, entry, egress=egress)

    def delete_network_acl_entry(self, acl: str, rule_number: int, *, egress: bool) -> NetworkAcl:
        """DeleteNetworkAclEntry: InvalidNetworkAclID.NotFound, InvalidNetworkAclEntry.NotFound."""
        found = self.network_acl(acl)
        entries = found.egress if egress else found.ingress
        left = tuple(each for each in entries if each.rule_number != rule_number)
        if left == entries:
            direction = "egress" if egress else "ingress"
            raise ModelError(
                "InvalidNetworkAclEntry.NotFound",
                f"The specified {direction} entry (rule number {rule_number}) does not exist in "
                f"network ACL {found.id}",
                "hyperplane-nat network-acls lists those there are",
            )
        return self._put_entries(found, left, egress=egress)

    def associate_network_acl(self, acl: str, subnets: Sequence[str]) -> NetworkAcl:
        """ReplaceNetworkAclAssociation, of several subnets: InvalidSubnetID.NotFound."""
        found = self.network_acl(acl)
        vpc = self._tables.vpcs[found.vpc_id]
        ids = set(found.subnet_ids)
        for _, key in self._in(vpc, self._tables.subnets, subnets):
            subnet = self.subnet(key)
            if subnet.vpc_id != found.vpc_id:
                raise ModelError(
                    "InvalidParameterValue",
                    f"network ACL {found.id} and subnet {subnet.id} belong to different networks",
                    "name one of its VPC",
                )
            ids.add(subnet.id)
        self._acls.associate(found, tuple(ids))
        return self.network_acl(found.id)

    def disassociate_network_acl(self, acl: str, subnets: Sequence[str]) -> NetworkAcl:
        """The same with the default one: InvalidAssociationID.NotFound for a subnet of another."""
        found = self.network_acl(acl)
        vpc = self._tables.vpcs[found.vpc_id]
        for _, key in self._in(vpc, self._tables.subnets, subnets):
            if key not in found.subnet_ids:
                raise ModelError(
                    "InvalidAssociationID.NotFound",
                    f"subnet {key} is not associated with network ACL {found.id}",
                    "hyperplane-nat network-acls lists those that are",
                )
            self._acls.associate(default_network_acl(self._tables, vpc), (key,))
        return self.network_acl(found.id)

    def _put_entries(
        self, acl: NetworkAcl, entries: tuple[NetworkAclEntry, ...], *, egress: bool
    ) -> NetworkAcl:
        ordered = tuple(sorted(entries, key=lambda each: each.rule_number))
        changed = replace(acl, egress=ordered) if egress else replace(acl, ingress=ordered)
        self._tables.put(changed)
        return changed
