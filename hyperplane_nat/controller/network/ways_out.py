# SPDX-License-Identifier: Apache-2.0
"""Route tables, network ACLs, NAT gateways and nodes of load balancers: they are in the forwarder
alone, nothing stands for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hyperplane_nat.controller.forwarder import desired
from hyperplane_nat.model.balancer_wanted import WantedEnd
from hyperplane_nat.model.wanted import Wanted

_Items = dict[int, dict[str, Any]]


class WaysOut:
    """What the forwarder was told last of them, by number."""

    def __init__(self, time_scale: float = 1.0) -> None:
        """`time_scale` is that of idle time-outs."""
        self._time_scale = time_scale
        self._told: dict[str, _Items] = {}
        self._ended: set[tuple[int, WantedEnd]] = set()

    def everything(self, wanted: Wanted) -> dict[str, list[dict[str, Any]]]:
        """For a forwarder that begins."""
        self.told(wanted)
        return {kind: list(items.values()) for kind, items in self._told.items()}

    def changes(self, wanted: Wanted) -> dict[str, list[Any]]:
        """What the forwarder was told otherwise, not at all, or is to know no more."""
        changes: dict[str, list[Any]] = {}
        for kind, items in self._items(wanted).items():
            told = self._told.get(kind, {})
            changes[kind] = [item for number, item in items.items() if told.get(number) != item]
            changes[f"remove_{kind}"] = sorted(told.keys() - items)
        return changes

    def told(self, wanted: Wanted) -> None:
        """The forwarder knows this, and nothing else."""
        self._told = self._items(wanted)

    @property
    def numbers(self) -> set[int]:
        """Numbers in the state map that the forwarder was told of."""
        told = self._told
        return {
            number
            for kind in ("nat_gateways", "load_balancer_nodes")
            for number in numbers_of(told.get(kind, {}).values())
        }

    def to_end(self, wanted: Wanted) -> list[tuple[int, WantedEnd]]:
        """By node what flows are to be ended, and were not told to be; the forwarder knows all
        else. What is no longer to be ended may be again.
        """
        ends = [(node.number, end) for node in wanted.load_balancer_nodes for end in node.ends]
        self._ended.intersection_update(ends)
        return [each for each in ends if each not in self._ended]

    def ended(self, node: int, end: WantedEnd) -> None:
        """They were."""
        self._ended.add((node, end))

    def _items(self, wanted: Wanted) -> dict[str, _Items]:
        return {
            "route_tables": {
                each.number: desired.route_table(each) for each in wanted.route_tables
            },
            "network_acls": {
                each.vpc_number: desired.network_acls(each) for each in wanted.network_acls
            },
            "nat_gateways": {
                each.number: desired.nat_gateway(each) for each in wanted.nat_gateways
            },
            "load_balancer_nodes": {
                each.number: desired.load_balancer_node(each, self._time_scale)
                for each in wanted.load_balancer_nodes
            },
        }


def numbers_of(items: Iterable[Mapping[str, Any]]) -> set[int]:
    """The numbers of all addresses of interfaces or NAT gateways, as the forwarder is told them."""
    return {each["number"] for item in items for each in (item, *item["secondary"])}
