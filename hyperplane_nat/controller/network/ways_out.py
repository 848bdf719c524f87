# SPDX-License-Identifier: Apache-2.0
"""Route tables, network ACLs, NAT gateways, nodes of load balancers and endpoints: they are in the
forwarder alone, nothing stands for them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, TypeVar

from hyperplane_nat.controller.forwarder import desired
from hyperplane_nat.model.balancer_wanted import WantedEnd, WantedNode
from hyperplane_nat.model.wanted import Wanted

T = TypeVar("T")
_Items = dict[int, dict[str, Any]]


class WaysOut:
    """What the forwarder was told last of them, by number."""

    def __init__(self, time_scale: float = 1.0) -> None:
        """`time_scale` is that of idle time-outs."""
        self._time_scale = time_scale
        self._told: dict[str, _Items] = {}
        self._ended: set[tuple[int, WantedEnd]] = set()
        self._parts: dict[str, tuple[object, _Items]] = {}
        self._nodes: dict[int, tuple[WantedNode, dict[str, Any]]] = {}
        """What nodes came to: one that is the same is not made again."""

    def everything(
        self, wanted: Wanted, standing: Container[int] | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """For a forwarder that begins. `standing` are the interfaces that it knows, None: all of
        them; what is behind another one is told later.
        """
        self.told(wanted, standing)
        return {kind: list(items.values()) for kind, items in self._told.items()}

    def changes(
        self, wanted: Wanted, standing: Container[int] | None = None
    ) -> dict[str, list[Any]]:
        """What the forwarder was told otherwise, not at all, or is to know no more."""
        changes: dict[str, list[Any]] = {}
        for kind, items in self._items(wanted, standing).items():
            told = self._told.get(kind, {})
            changes[kind] = [item for number, item in items.items() if told.get(number) != item]
            changes[f"remove_{kind}"] = sorted(told.keys() - items)
        return changes

    def told(self, wanted: Wanted, standing: Container[int] | None = None) -> None:
        """The forwarder knows this, and nothing else."""
        self._told = self._items(wanted, standing)

    @property
    def numbers(self) -> set[int]:
        """Numbers in the state map that the forwarder was told of."""
        told = self._told
        return {
            number
            for kind in ("nat_gateways", "load_balancer_nodes", "endpoints")
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

    def _items(self, wanted: Wanted, standing: Container[int] | None) -> dict[str, _Items]:
        every = self._all_items(wanted)
        if standing is None:
            return every
        return {
            kind: {
                number: item
                for number, item in items.items()
                if "interface" not in item or item["interface"] in standing
            }
            for kind, items in every.items()
        }

    def _all_items(self, wanted: Wanted) -> dict[str, _Items]:
        return {
            "route_tables": self._made(
                "route_tables",
                wanted.route_tables,
                lambda tables: {each.number: desired.route_table(each) for each in tables},
            ),
            "network_acls": self._made(
                "network_acls",
                wanted.network_acls,
                lambda acls: {each.vpc_number: desired.network_acls(each) for each in acls},
            ),
            "nat_gateways": self._made(
                "nat_gateways",
                wanted.nat_gateways,
                lambda gateways: {each.number: desired.nat_gateway(each) for each in gateways},
            ),
            "load_balancer_nodes": self._made(
                "load_balancer_nodes", wanted.load_balancer_nodes, self._load_balancer_nodes
            ),
            "endpoints": self._made(
                "endpoints",
                wanted.endpoints,
                lambda endpoints: {each.number: desired.endpoint(each) for each in endpoints},
            ),
        }

    def _made(self, kind: str, part: T, make: Callable[[T], _Items]) -> _Items:
        """The items of a part of what is wanted, made once."""
        known, items = self._parts.get(kind, (None, {}))
        if known is not part:
            items = make(part)
            self._parts[kind] = part, items
        return items

    def _load_balancer_nodes(self, nodes: Iterable[WantedNode]) -> _Items:
        before, self._nodes = self._nodes, {}
        for node in nodes:
            known, item = before.get(node.number, (None, {}))
            if known is not node:
                item = desired.load_balancer_node(node, self._time_scale)
            self._nodes[node.number] = (node, item)
        return {number: item for number, (_, item) in self._nodes.items()}


def numbers_of(items: Iterable[Mapping[str, Any]]) -> set[int]:
    """The numbers of all addresses of interfaces and what has no link, as the forwarder is told
    them.
    """
    return {each["number"] for item in items for each in (item, *item.get("secondary", ()))}
