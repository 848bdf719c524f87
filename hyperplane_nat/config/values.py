# SPDX-License-Identifier: Apache-2.0
"""What the sections of the configuration are made of: their base, and the kinds of values, what
each must look like, and what is said if not.
"""

from __future__ import annotations

import grp
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Annotated, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
)
from pydantic.fields import FieldInfo

from netns import names

LINK_NAME_MAX = 15
"""Characters in the name of a Linux network interface (IFNAMSIZ less the terminating zero)."""

DURATION_MAX_MILLISECONDS = 2**31 - 1
"""The data path keeps time in milliseconds modulo 2^32: a longer span could not be told from a
negative one."""

ON_THIS_HOST = "on this host"
"""Context of a validation that also asks what only this host knows; what is kept of a lab must be
understood whatever has become of the host."""

ZONE = re.compile(r"[a-z]")
LINK_NAME = re.compile(r"[a-z][a-z0-9-]*")
SLOT_NAME = re.compile(r"env[0-9]+")
ACCOUNT_ID = re.compile(r"[0-9]{12}")
FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
QUALIFIED_NAME = re.compile(rf"{FUNCTION_NAME.pattern}(:(\$LATEST|[a-zA-Z0-9_-]{{1,128}}))?")
ALIAS_NAME = re.compile(r"(?![0-9]+$)[a-zA-Z0-9_-]{1,128}")
GROUP_NAME = re.compile(r"[a-zA-Z0-9 ._:/()#,@\[\]+=&;{}!$*-]{1,255}")
HOST_GROUP = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,31}\$?")
HOST_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
PORT_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")

NAMESPACE_WORDS = frozenset({"gw", "vpc", "env"})
"""Parts of namespace names: a lab called a-vpc-b would own the namespace names of lab a's VPC b-gw,
and taking one lab down would break the other."""

LINKS_TAKEN = frozenset({"lo", "all", "default", "eth0"})
"""Names that mean something else in one of the namespaces or below /proc/sys/net."""


class Section(BaseModel):
    """One table of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)

    @classmethod
    def left_out(cls) -> Self:
        """The section of which nothing is said."""
        # Defaults are not checked, so that pydantic need not build a schema for this model alone.
        return super().model_construct()

    def problems(self) -> Iterator[FieldError]:
        """What does not fit among its own fields; locations are those within it."""
        yield from ()


class FieldError(ValueError):
    """Something wrong at a place in the configuration that only the whole shows."""

    def __init__(self, location: str, what: str, remedy: str) -> None:
        super().__init__(f"{location}: {what} ({remedy})")
        self.location = location
        self.what = what
        self.remedy = remedy


def nested_section(field: FieldInfo) -> type[Section] | None:
    """The model of a section, or of the items of a list of sections; None for a plain value."""
    annotation = field.annotation
    if get_origin(annotation) is list:
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _wrong(what: str, remedy: str) -> FieldError:
    return FieldError("", what, remedy)


def _lab_name(value: str) -> str:
    if names.LAB.fullmatch(value) is None:
        raise _wrong(
            f"{value!r} is not a lab name",
            "use 1 to 15 lower-case letters, digits and dashes, not starting with a dash",
        )
    if taken := NAMESPACE_WORDS.intersection(value.split("-")):
        raise _wrong(
            f"{value!r} contains {min(taken)!r}, which namespace names are made of",
            "choose another name",
        )
    return value


def _link_name(value: str) -> str:
    if len(value) > LINK_NAME_MAX:
        raise _wrong(
            f"{value!r} has {len(value)} characters, a network link's name holds {LINK_NAME_MAX}",
            "choose a shorter name",
        )
    if LINK_NAME.fullmatch(value) is None:
        raise _wrong(
            f"{value!r} is not a name",
            "use lower-case letters, digits and dashes, starting with a letter",
        )
    return value


def _interface_name(value: str) -> str:
    _link_name(value)
    if value in LINKS_TAKEN or SLOT_NAME.fullmatch(value):
        raise _wrong(f"{value!r} is taken by a link of the lab itself", "choose another name")
    return value


def _ipv4(value: str) -> str:
    try:
        IPv4Address(value)
    except ValueError:
        raise _wrong(f"{value!r} is not an IPv4 address", "write it like 10.0.1.10") from None
    return value


def _public_address(value: object) -> object:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise _wrong(f"{value!r} is neither true nor an address", "write true, or an address")
    return _ipv4(value)


def _availability_zone(value: str) -> str:
    if ZONE.fullmatch(value) is None:
        raise _wrong(f"{value!r} is not an availability zone", "use one letter, a to z")
    return value


def _ipv4_interface(value: str) -> str:
    try:
        parsed = IPv4Interface(value)
    except ValueError:
        parsed = None
    if parsed is None or "/" not in value:
        raise _wrong(
            f"{value!r} is not an IPv4 address with a prefix length",
            "write it like 169.254.100.2/30",
        )
    return value


def _ipv4_network(value: str) -> str:
    try:
        IPv4Network(value)
    except ValueError:
        try:
            meant = IPv4Network(value, strict=False)
        except ValueError:
            remedy = "write it like 10.0.1.0/24"
        else:
            remedy = f"the bits after the prefix must be zero: did you mean {meant}?"
        raise _wrong(f"{value!r} is not an IPv4 network", remedy) from None
    return value


def _absolute(value: str) -> str:
    if not value.startswith("/"):
        raise _wrong(f"{value!r} is not an absolute path", "start it with a slash")
    return value


def _power_of_two(value: int) -> int:
    if value & (value - 1):
        below = 1 << (value.bit_length() - 1)
        raise _wrong(f"{value} is not a power of two", f"use {below} or {below * 2}")
    return value


def _account_id(value: str) -> str:
    if ACCOUNT_ID.fullmatch(value) is None:
        raise _wrong(f"{value!r} is not an account id", "write 12 digits in quotes")
    return value


def _account_name_or_id(value: str) -> str:
    return _account_id(value) if value.isdigit() else _link_name(value)


def _alias_name(value: str) -> str:
    if ALIAS_NAME.fullmatch(value) is None:
        raise _wrong(
            f"{value!r} is no name of an alias", "use letters, digits, - and _, not digits alone"
        )
    return value


def _version_number(value: str) -> str:
    if not (value.isascii() and value.isdigit() and not value.startswith("0")):
        raise _wrong(f"{value!r} is no number of a version", 'write it like "2"')
    return value


def _function_name(value: str) -> str:
    if FUNCTION_NAME.fullmatch(value) is None:
        raise _wrong(
            f"{value!r} is not a function's name",
            "use 1 to 64 letters, digits, dashes and underscores",
        )
    return value


def _group_name(value: str) -> str:
    if GROUP_NAME.fullmatch(value) is None:
        raise _wrong(
            f"{value!r} is not a security group's name",
            "use 1 to 255 letters, digits, spaces and ._-:/()#,@[]+=&;{}!$*",
        )
    if value.startswith("sg-"):
        raise _wrong(f"{value!r} starts like a group's id, with sg-", "choose another name")
    return value


def _port_range(value: str) -> str:
    match = PORT_RANGE.fullmatch(value)
    if match is None:
        raise _wrong(
            f"{value!r} is neither a port nor a range of ports", 'write it like "80" or "1024-2048"'
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if max(first, last) > 65535:
        raise _wrong(f"{max(first, last)} is not a port", "ports end at 65535")
    if first > last:
        raise _wrong(f"{value!r} ends before it begins", f'write "{last}-{first}"')
    return value


def _host_name(value: str) -> str:
    if HOST_NAME.fullmatch(value) is None:
        raise _wrong(f"{value!r} is not a host name", "write it in lower case and without a port")
    return value


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def group_number(group: str) -> int:
    """The number of a group of this host, given by name or number; FieldError."""
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise _wrong(
            f"there is no group {group!r} on this host",
            f"groupadd --system {group}, or choose another",
        ) from None


def _group_of_host(value: str, info: ValidationInfo) -> str:
    if value.isascii() and value.isdigit():
        # chown(2): all ones is no group.
        if int(value) >= 2**32 - 1:
            raise _wrong(f"{value!r} is not the number of a group", "use one below 4294967295")
    elif HOST_GROUP.fullmatch(value) is None:
        raise _wrong(f"{value!r} is not a group of a host", "write its name or its number")
    if info.context == ON_THIS_HOST:
        group_number(value)
    return value


LabName = Annotated[str, AfterValidator(_lab_name)]
LinkName = Annotated[str, AfterValidator(_link_name)]
InterfaceName = Annotated[str, AfterValidator(_interface_name)]
Address = Annotated[str, AfterValidator(_ipv4)]
AvailabilityZone = Annotated[str, AfterValidator(_availability_zone)]
PublicAddress = Annotated[bool | str, BeforeValidator(_public_address)]
AddressWithPrefix = Annotated[str, AfterValidator(_ipv4_interface)]
Network = Annotated[str, AfterValidator(_ipv4_network)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
GroupOfHost = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_group_of_host)]
HostName = Annotated[str, AfterValidator(_host_name)]
AccountId = Annotated[str, AfterValidator(_account_id)]
AccountNameOrId = Annotated[str, AfterValidator(_account_name_or_id)]
FunctionName = Annotated[str, AfterValidator(_function_name)]
AliasName = Annotated[str, AfterValidator(_alias_name)]
VersionWeights = Annotated[
    dict[
        Annotated[str, AfterValidator(_version_number)],
        Annotated[float, Field(ge=0, le=1)],
    ],
    Field(max_length=1),
]
GroupName = Annotated[str, AfterValidator(_group_name)]
PortRange = Annotated[str, AfterValidator(_port_range)]
PowerOfTwo = Annotated[int, AfterValidator(_power_of_two)]
Seconds = Annotated[int, Field(ge=1, le=DURATION_MAX_MILLISECONDS // 1000)]
Port = Annotated[int, Field(ge=1, le=65535)]
Mtu = Annotated[int, Field(ge=576, le=65535)]
