# SPDX-License-Identifier: Apache-2.0
"""Environments in sums, GET /v1/environment-sums: thousands of them are a few rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hyperplane_nat.controller.network.pool import EnvironmentPool
from hyperplane_nat.controller.views.lab import POOLED, MapReader
from hyperplane_nat.model.region import Region

_Member = tuple[str | None, str | None, str, int]
"""Function, name or id of the interface, state, slot."""


def environment_sums(
    region: Region, pool: EnvironmentPool, state_map: MapReader
) -> list[dict[str, Any]]:
    """A row for each function on each interface; those of no function and of the pool too."""
    slots: dict[tuple[str | None, str | None], list[int]] = {}
    states: dict[tuple[str | None, str | None], dict[str, int]] = {}
    for function, interface, state, slot in _members(region, pool):
        group = function, interface
        slots.setdefault(group, []).append(slot)
        counts = states.setdefault(group, {})
        counts[state] = counts.get(state, 0) + 1
    return [
        {
            "function": group[0],
            "interface": group[1],
            "environments": len(numbers),
            "states": states[group],
            **state_map.slot_sums(numbers),
        }
        for group, numbers in slots.items()
    ]


def _members(region: Region, pool: EnvironmentPool) -> Iterator[_Member]:
    used = region.tables.environments
    for environment in used.values():
        state = environment.state.value
        function = environment.function_name or None
        yield function, environment.interface_id, state, environment.slot
    for number in pool.slots.keys() - used.keys():
        yield None, None, POOLED, number
