# SPDX-License-Identifier: Apache-2.0
"""The names of a lab's parts.

A lab is nothing but namespaces and links with well-known names: `hp-<lab>-gw`,
`hp-<lab>-punt`, `hp-<lab>-vpc-<vpc>`, `hp-<lab>-host-<n>` and `hp-<lab>-env-<n>`; no file remembers
it. The names are therefore a contract: nothing of one lab may carry a name that could belong to
another one.
"""

from __future__ import annotations

import re

from netns.errors import NetnsError

LAB = re.compile(r"[a-z0-9][a-z0-9-]{0,14}")
"""What a lab can be called, but for what `gateway_namespace` says."""

ENVIRONMENT_LINK = "eth0"
"""An environment's only link."""

LAB_PREFIX = "hp-"
"""What the names of all namespaces of all labs begin with."""

HOST_LINK = "eth0"
"""A host's link to the gateway."""

# No network interface of a lab file can have a dot in its name.
PUNT_LINK = "punt.0"
"""Both ends of the punt link."""

_VPC = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_SLOT_LINK = re.compile(r"env([0-9]+)")
_HOST_LINK = re.compile(r"host\.([1-9][0-9]*)")


def gateway_namespace(lab: str) -> str:
    """Name of the gateway's namespace; raises `NetnsError` for an impossible lab name."""
    # The lab "a-vpc-b" and the VPC "b-..." of the lab "a" would share names.
    if not LAB.fullmatch(lab) or "-vpc-" in f"{lab}-":
        raise NetnsError(
            f"invalid lab name {lab!r}",
            "1 to 15 lower-case letters, digits and hyphens, the first no hyphen, without '-vpc'",
        )
    return f"{LAB_PREFIX}{lab}-gw"


def punt_namespace(lab: str) -> str:
    """Name of the namespace that the far end of the punt link is in."""
    return f"{gateway_namespace(lab).removesuffix('gw')}punt"


def vpc_namespace(lab: str, vpc: str) -> str:
    """Name of a VPC's namespace; raises `NetnsError` for an impossible name."""
    if not is_vpc_name(vpc):
        raise NetnsError(
            f"invalid VPC name {vpc!r}",
            "1 to 32 lower-case letters, digits and hyphens, the first no hyphen",
        )
    return f"{gateway_namespace(lab).removesuffix('gw')}vpc-{vpc}"


def environment_namespace(lab: str, number: int) -> str:
    """Name of an environment's namespace."""
    return f"{gateway_namespace(lab).removesuffix('gw')}env-{number}"


def slot_link(number: int) -> str:
    """Name of a slot's link in the gateway namespace."""
    return f"env{number}"


def slot_number(link: str) -> int | None:
    """The number of the slot whose link has this name; None when it is no slot's."""
    matched = _SLOT_LINK.fullmatch(link)
    return None if matched is None else int(matched[1])


def host_namespace(lab: str, number: int) -> str:
    """Name of a host's namespace, or the further name of one that is attached."""
    return f"{gateway_namespace(lab).removesuffix('gw')}host-{number}"


def host_link(number: int) -> str:
    """Name of a host's link in the gateway namespace."""
    return f"host.{number}"


def host_number(link: str) -> int | None:
    """The number of the host whose link has this name; None when it is no host's."""
    matched = _HOST_LINK.fullmatch(link)
    return None if matched is None else int(matched[1])


def is_vpc_name(vpc: str) -> bool:
    """Whether a VPC can have this name."""
    return _VPC.fullmatch(vpc) is not None
