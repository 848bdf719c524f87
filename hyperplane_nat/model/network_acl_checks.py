# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with wanted network ACLs by themselves: see `validation`.

Rules: VPC user guide, "Network ACL rules", and EC2 API, CreateNetworkAclEntry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hyperplane_nat.model.errors import ModelError, entry_of
from hyperplane_nat.model.network_acl_entities import ANY, CARRIED, NetworkAclEntry
from hyperplane_nat.model.resources import DEFAULT_NETWORK_ACL, NetworkAclResource, VpcResource
from hyperplane_nat.model.settings import LifecycleSettings

RULE_NUMBER_MAX = 32766
_PORT_MAX = 65535


def check_network_acls(vpc: VpcResource, settings: LifecycleSettings) -> None:
    """The network ACLs of a VPC, and that a subnet has one."""
    names = [acl.name for acl in vpc.network_acls]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise _wrong(f"two times network ACL {name!r} in VPC {vpc.name}", "keep one of them")
    defaults = [acl.name for acl in vpc.network_acls if acl.default]
    if len(defaults) > 1:
        raise _wrong(
            f"VPC {vpc.name} has {len(defaults)} default network ACLs: {', '.join(defaults)}",
            "keep one of them default",
            entry_of("network-acl", f"{vpc.name}/{defaults[1]}", "default"),
        )
    associated: dict[str, str] = {}
    for acl in vpc.network_acls:
        _check_acl(vpc, acl, settings)
        for name in acl.subnets:
            if (other := associated.setdefault(name, acl.name)) != acl.name:
                raise ModelError(
                    "Resource.AlreadyAssociated",
                    f"subnet {name} has network ACLs {other} and {acl.name}",
                    "a subnet has one: name it once",
                    entry_of("network-acl", f"{vpc.name}/{acl.name}", "subnets"),
                )


def _check_acl(vpc: VpcResource, acl: NetworkAclResource, settings: LifecycleSettings) -> None:
    entry = f"{vpc.name}/{acl.name}"
    if acl.name == DEFAULT_NETWORK_ACL and not acl.default:
        raise _wrong(
            f"network ACL {acl.name} of VPC {vpc.name} is not its default one",
            "the default one is called so: set default = true, or choose another name",
            entry_of("network-acl", entry, "name"),
        )
    subnets = {subnet.name for subnet in vpc.subnets}
    for name in acl.subnets:
        if name not in subnets:
            raise ModelError(
                "InvalidSubnetID.NotFound",
                f"subnet {name!r} of network ACL {acl.name} does not exist in VPC {vpc.name}",
                "name one of its own",
                entry_of("network-acl", entry, "subnets"),
            )
    for direction, entries in (("ingress", acl.ingress), ("egress", acl.egress)):
        try:
            check_entries(acl.name, entries, settings)
        except ModelError as error:
            raise error.at(entry_of("network-acl", entry, direction)) from None


def check_entries(
    acl: str, entries: Sequence[NetworkAclEntry], settings: LifecycleSettings
) -> None:
    """The entries of one direction: each right by itself, no number twice, and not too many."""
    for number, entry in enumerate(entries):
        check_entry(entry)
        if entry.rule_number in _numbers(entries[:number]):
            raise already_exists(entry.rule_number)
    if len(entries) > settings.network_acl_rules_per_direction:
        raise ModelError(
            "NetworkAclEntryLimitExceeded",
            f"network ACL {acl} has {len(entries)} rules in one direction",
            f"at most {settings.network_acl_rules_per_direction} are possible: merge some, or "
            "raise lifecycle.network_acl_rules_per_direction",
        )


def check_entry(entry: NetworkAclEntry) -> None:
    """InvalidParameterValue for a number, a protocol, ports or an ICMP type that cannot be."""
    if not 1 <= entry.rule_number <= RULE_NUMBER_MAX:
        raise _wrong(f"Rule number {entry.rule_number} is invalid", f"use 1 to {RULE_NUMBER_MAX}")
    if not ANY <= entry.protocol <= 255:
        raise _wrong(f"protocol {entry.protocol} is no protocol's number", "use -1 to 255")
    has_ports = CARRIED.get(entry.protocol) in ("tcp", "udp")
    if not 0 <= entry.first <= entry.last <= _PORT_MAX:
        raise _wrong(
            f"ports {entry.first} to {entry.last} of rule {entry.rule_number}",
            f"use 0 to {_PORT_MAX}, in order",
        )
    if not has_ports and (entry.first, entry.last) != (0, _PORT_MAX):
        raise _wrong(f"rule {entry.rule_number} is of a protocol without ports", "leave them out")
    if not all(ANY <= each <= 255 for each in (entry.icmp_type, entry.icmp_code)):
        raise _wrong(
            f"ICMP type {entry.icmp_type}, code {entry.icmp_code} of rule {entry.rule_number}",
            "use -1 to 255",
        )
    if CARRIED.get(entry.protocol) != "icmp" and (entry.icmp_type, entry.icmp_code) != (ANY, ANY):
        raise _wrong(f"rule {entry.rule_number} is not about ICMP", "leave type and code out")
    if entry.icmp_type == ANY != entry.icmp_code:
        raise _wrong(
            f"rule {entry.rule_number} has an ICMP code for every type", "name the type as well"
        )


def _numbers(entries: Iterable[NetworkAclEntry]) -> set[int]:
    return {each.rule_number for each in entries}


def already_exists(rule_number: int) -> ModelError:
    """A rule number that is taken (EC2 API, CreateNetworkAclEntry)."""
    return ModelError(
        "NetworkAclEntryAlreadyExists",
        f"The network acl entry identified by {rule_number} already exists.",
        "replace it, or choose another number",
    )


def _wrong(message: str, remedy: str, field: str = "") -> ModelError:
    return ModelError("InvalidParameterValue", message, remedy, field)
