# SPDX-License-Identifier: Apache-2.0
"""The contenders, in the order of the report.

Each stands between the same environments and the same VPC; what a workload asks of it is in
`bench.gateways.base`.
"""

from __future__ import annotations

from bench.gateways.balancers import OTHERS
from bench.gateways.base import Gateway
from bench.gateways.direct import Direct
from bench.gateways.hyperplane import CacheOn, HyperplaneNat, OtherBuild
from bench.gateways.nft import Nft
from bench.gateways.user_mode import Pasta, Slirp4netns

OURS = HyperplaneNat.name
KERNEL = Nft.name
LIMIT = Direct.name
CACHED = CacheOn.name
"""Ours with the flow cache; without it is `OURS`."""

OWN = (OURS, CACHED)
"""Both of it."""

ALL: dict[str, type[Gateway]] = {
    each.name: each for each in (HyperplaneNat, CacheOn, Nft, Slirp4netns, Pasta, Direct)
}

OTHER = OtherBuild.name
BUILDS = (OURS, OTHER)
"""Compared with each other by `against`, with no contender beside them."""

KINDS: dict[str, type[Gateway]] = {**ALL, OTHER: OtherBuild}
"""What is true of a contender whoever starts it."""

REPORTED: dict[str, type[Gateway]] = {**ALL, **OTHERS, **ALL}
"""Whoever can have figures in a report."""

__all__ = [
    "ALL",
    "BUILDS",
    "CACHED",
    "KERNEL",
    "KINDS",
    "LIMIT",
    "OTHER",
    "OTHERS",
    "OURS",
    "OWN",
    "REPORTED",
    "CacheOn",
    "Direct",
    "Gateway",
    "HyperplaneNat",
    "Nft",
    "OtherBuild",
    "Pasta",
    "Slirp4netns",
]
