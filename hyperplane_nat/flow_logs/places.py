# SPDX-License-Identifier: Apache-2.0
"""What the numbers of the state map's interfaces are called, asked of the control API.

The writer of flow logs is a client like any other: it asks once an interval, and for a number
it does not know. While no controller answers, what is known stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hyperplane_nat.client import ClientError
from hyperplane_nat.flow_logs.fields import Place


class Places:
    """Interfaces by number. `get(path)` is the control API's; `clock` in seconds."""

    def __init__(self, get: Callable[[str], Any], clock: Callable[[], float]) -> None:
        self._get = get
        self._clock = clock
        self._asked = float("-inf")
        self._known: dict[int, Place] = {}
        self.present: dict[int, Place] = {}
        """The interfaces that were there when last asked."""

    def of(self, number: int) -> Place:
        """An interface; its number stands for one that nobody names."""
        place = self._known.get(number)
        if place is None and self._clock() - self._asked > 1.0:
            self.refresh()
            place = self._known.get(number)
        return Place(str(number)) if place is None else place

    def refresh(self) -> None:
        """Ask which interfaces there are now."""
        self._asked = self._clock()
        try:
            rows = self._get("/v1/interfaces")
        except ClientError:
            return
        self.present = {row["number"]: _place(row) for row in rows}
        self._known |= self.present
        # Further addresses are numbers of their own, and the same interface.
        for row in rows:
            place = self.present[row["number"]]
            self._known |= dict.fromkeys(row.get("secondary_numbers", ()), place)


def _place(row: Mapping[str, Any]) -> Place:
    return Place(row["id"] or row["name"], row["owner"], row["vpc"], row["subnet"])
