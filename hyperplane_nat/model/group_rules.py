# SPDX-License-Identifier: Apache-2.0
"""The rules of security groups that are asked for, as the region keeps them."""

from __future__ import annotations

from hyperplane_nat.model.entities import Rule
from hyperplane_nat.model.gateway_endpoint_checks import listed_service
from hyperplane_nat.model.resources import RuleResource


def rule_of(wanted: RuleResource, group_id: str | None, region: str) -> Rule:
    """A rule, with the id of the group that it names. InvalidPrefixListID.NotFound."""
    listed = wanted.prefix_list
    return Rule(
        wanted.protocol,
        wanted.first,
        wanted.last,
        wanted.cidr,
        group_id,
        None if listed is None else listed_service(listed, region),
    )
