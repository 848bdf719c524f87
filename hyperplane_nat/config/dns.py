# SPDX-License-Identifier: Apache-2.0
"""The section for name resolution."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address

from pydantic import Field

from hyperplane_nat.config.values import FieldError, Section

DNS_PORT = 53


class Dns(Section):
    """The resolvers of VPCs. docs/dns.md tells more."""

    upstream: str | None = Field(
        default=None,
        description='Who is asked for names that are none of the lab\'s, `"1.1.1.1"` or '
        '`"127.0.0.1:5353"`, from the network namespace of the controller. Without it there are no '
        "others.",
    )

    @property
    def upstream_endpoint(self) -> str | None:
        """`upstream` with its port."""
        if self.upstream is None:
            return None
        address, _, port = self.upstream.partition(":")
        return f"{address}:{port or DNS_PORT}"

    def problems(self) -> Iterator[FieldError]:
        """What does not fit."""
        if self.upstream is None:
            return
        address, colon, port = self.upstream.partition(":")
        try:
            found = IPv4Address(address)
        except AddressValueError:
            yield FieldError(
                "upstream", f"{self.upstream!r} is no IPv4 address", 'write it like "1.1.1.1"'
            )
            return
        if found.is_multicast or found.is_unspecified:
            yield FieldError("upstream", f"nobody answers at {found}", "name a resolver")
        if colon and not (port.isascii() and port.isdigit() and 0 < int(port) <= 65535):
            yield FieldError("upstream", f"port {port!r} does not exist", "choose 1 to 65535")
