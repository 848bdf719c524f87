# SPDX-License-Identifier: Apache-2.0
"""Route tables and NAT gateways: they are in the forwarder alone, nothing stands for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hyperplane_nat.controller.forwarder import desired
from hyperplane_nat.model.wanted import Wanted

_Items = dict[int, dict[str, Any]]


class WaysOut:
    """What the forwarder was told last of them, by number."""

    def __init__(self) -> None:
        self._told: dict[str, _Items] = {}

    def everything(self, wanted: Wanted) -> dict[str, list[dict[str, Any]]]:
        """For a forwarder that begins."""
        self.told(wanted)
        return {kind: list(items.values()) for kind, items in self._told.items()}

    def changes(self, wanted: Wanted) -> dict[str, list[Any]]:
        """What the forwarder was told otherwise, not at all, or is to know no more."""
        changes: dict[str, list[Any]] = {}
        for kind, items in _items(wanted).items():
            told = self._told.get(kind, {})
            changes[kind] = [item for number, item in items.items() if told.get(number) != item]
            changes[f"remove_{kind}"] = sorted(told.keys() - items)
        return changes

    def told(self, wanted: Wanted) -> None:
        """The forwarder knows this, and nothing else."""
        self._told = _items(wanted)

    @property
    def numbers(self) -> set[int]:
        """Numbers in the state map that the forwarder was told of."""
        return numbers_of(self._told.get("nat_gateways", {}).values())


def numbers_of(items: Iterable[Mapping[str, Any]]) -> set[int]:
    """The numbers of all addresses of interfaces or NAT gateways, as the forwarder is told them."""
    return {each["number"] for item in items for each in (item, *item["secondary"])}


def _items(wanted: Wanted) -> dict[str, _Items]:
    return {
        "route_tables": {each.number: desired.route_table(each) for each in wanted.route_tables},
        "nat_gateways": {each.number: desired.nat_gateway(each) for each in wanted.nat_gateways},
    }
