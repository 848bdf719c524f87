# SPDX-License-Identifier: Apache-2.0
"""What the model refuses, under the name that AWS gives it."""

from __future__ import annotations

from typing import Self


class ModelError(Exception):
    """
    A request that cannot be done; nothing of it was done.

    The text is one line: `<code>: <field>: <message> (<remedy>)`. `code` is the error name of AWS
    (Lambda API reference, "Invoke" and "CreateFunction"; EC2 API reference, "Error codes"), `field`
    the entry of the lab file and the field in it, where it is one's mistake.
    """

    def __init__(self, code: str, message: str, remedy: str, field: str = "") -> None:
        self.code = code
        self.message = message
        self.remedy = remedy
        self.field = field
        super().__init__(f"{code}: {self.text}")

    @property
    def text(self) -> str:
        """All but the code."""
        return f"{f'{self.field}: ' if self.field else ''}{self.message} ({self.remedy})"

    def at(self, field: str) -> Self:
        """The same error, of that field unless it has one."""
        return type(self)(self.code, self.message, self.remedy, self.field or field)


class ConcurrencyError(ModelError):
    """As many invocations as there may be are under way; waiting for the pool is of no use."""

    reason = "ReservedFunctionConcurrentInvocationLimitExceeded"
    """Lambda API, TooManyRequestsException, `Reason`."""


class StateError(Exception):
    """A saved state that cannot be used; the text is one line with the remedy."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(f"{message} ({remedy})")
        self.message = message
        self.remedy = remedy


SECTIONS = {
    "account": "account",
    "vpc": "vpc",
    "function": "function",
    "alias": "function.alias",
    "internet-host": "internet",
    "subnet": "vpc.subnet",
    "security-group": "vpc.security_group",
    "host": "vpc.host",
    "service": "vpc.service",
    "route-table": "vpc.route_table",
    "network-acl": "vpc.network_acl",
    "nat-gateway": "vpc.nat_gateway",
    "target-group": "vpc.target_group",
    "load-balancer": "vpc.load_balancer",
    "listener": "vpc.load_balancer",
    "endpoint-service": "vpc.endpoint_service",
    "endpoint": "vpc.endpoint",
    "gateway-endpoint": "vpc.gateway_endpoint",
    "internet-gateway": "vpc",
    "public-address": "vpc.host",
}
"""The section of a lab file that each kind of a plan's lines is in."""


def entry_of(kind: str, name: str, field: str = "") -> str:
    """
    An entry of a lab file as errors name it, `[[vpc]] "a", subnet "b"`, and a field in it.

    `name` is that of a plan's line, with the VPC before a slash where the entry is in one.
    """
    section, _, part = SECTIONS[kind].partition(".")
    outer, _, inner = name.partition("/") if part else (name, "", "")
    entry = f'[[{section}]] "{outer}"' + (f', {part} "{inner}"' if part else "")
    return f"{entry}: {field}" if field else entry
