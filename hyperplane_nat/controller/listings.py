# SPDX-License-Identifier: Apache-2.0
"""Lists of what the region holds, encoded, and remembered until something changes.

Whoever watches asks for the same lists again and again, and SDKs for a whole list to find one row
of it: described and written is a list once for all of these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperplane_nat.controller.threads import in_thread
from hyperplane_nat.controller.views.lab import encode_rows
from hyperplane_nat.model.entities import KINDS
from hyperplane_nat.model.region import Region

Describe = Callable[[Region], list[dict[str, Any]]]
"""A list of what the tables of a region hold, of nothing else."""


class Listings:
    """The lists of one region."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._known: dict[Describe, tuple[tuple[int, ...], bytes]] = {}

    async def encoded(self, describe: Describe) -> bytes:
        """A list as a JSON array."""
        now = self._region.tables.revisions(KINDS)
        known = self._known.get(describe)
        if known is None or known[0] != now:
            rows = describe(self._region)
            known = self._known[describe] = now, await in_thread(encode_rows, rows)
        return known[1]
