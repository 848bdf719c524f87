# SPDX-License-Identifier: Apache-2.0
"""Addresses of NAT gateways that are given up: released when they have no flow any more.

Whoever asks has told the forwarder before that they drain, so that none gets another one.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address

from hyperplane_nat.model.region import Region


class DrainingAddresses:
    """Those of a region. `unused` tells whether an interface number has no flow."""

    def __init__(self, region: Region, unused: Callable[[int], bool]) -> None:
        self._region = region
        self._unused = unused

    def drained(self) -> list[tuple[str, IPv4Address]]:
        """Those without flows, each with the id of its gateway."""
        draining = self._region.draining_addresses()
        return [each for number, each in draining.items() if self._unused(number)]

    async def release(self) -> None:
        """Release those."""
        self._region.addresses_unused(self.drained())
