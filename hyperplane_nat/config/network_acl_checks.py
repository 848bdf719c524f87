# SPDX-License-Identifier: Apache-2.0
"""References between subnets and network ACLs of a VPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from hyperplane_nat.config.checks import places, repeated, unknown
from hyperplane_nat.config.resources import Vpc
from hyperplane_nat.config.values import FieldError

if TYPE_CHECKING:
    from hyperplane_nat.config.whole import Whole


def problems(config: Whole) -> Iterator[FieldError]:
    """What does not fit."""
    for number, vpc in enumerate(config.vpc):
        yield from _acls(vpc, f"vpc[{number}].network_acl")


def _acls(vpc: Vpc, location: str) -> Iterator[FieldError]:
    yield from repeated(places(vpc.network_acl, location), "network ACLs")
    subnets = [subnet.name for subnet in vpc.subnet]
    default: str | None = None
    owners: dict[str, str] = {}
    for number, acl in enumerate(vpc.network_acl):
        where = f"{location}[{number}]"
        if acl.default and default is not None:
            yield FieldError(
                f"{where}.default",
                f"network ACL {default!r} is the default one",
                "keep one of them default",
            )
        default = acl.name if acl.default else default
        if acl.name == "default" and not acl.default:
            yield FieldError(
                f"{where}.name",
                "'default' is what the default network ACL of a VPC is called",
                "set default = true, or choose another name",
            )
        for place, name in enumerate(acl.subnets):
            at = f"{where}.subnets[{place}]"
            yield from unknown(name, subnets, at, "subnet", vpc)
            if name in subnets and name in owners:
                yield FieldError(
                    at, f"subnet {name!r} has network ACL {owners[name]!r}", "name it once"
                )
            owners.setdefault(name, acl.name)
