# SPDX-License-Identifier: Apache-2.0
"""Who takes which source ports, and towards what: GET /v1/ports.

Theory of operation
-------------------
What AWS shows of a NAT gateway's ports is one count of errors. Here the state map is asked: the
allocator's records for the remote endpoints with the most ports taken, of which only as many are
kept as are wanted; then, once through all entries, who has those ports; and where ports ran out.
Both walks go in slices without the interpreter's lock, so that nobody waits for them, and nothing
is kept for a flow: a million of them need the memory of a slice.

Nothing stands still meanwhile. Figures of one row may differ by what changed between two slices.
"""

from __future__ import annotations

import contextlib
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hyperplane_nat.config.lab import Config
from hyperplane_nat.controller.views import lab as views
from hyperplane_nat.engine import DropReason, Exhaustion, RemotePorts, StateMap
from hyperplane_nat.engine.readers._port_reader import PortHolders
from hyperplane_nat.model.identifiers import environment_name
from hyperplane_nat.model.region import Region

REMOTES_SHOWN = 20
"""Remote endpoints in an answer, unless more are asked for."""

HOLDERS_SHOWN = 5
"""Environments, and functions, named for each row."""

CROWDED_SHARE = 20
"""A remote endpoint is crowded with a twentieth of the ports that there may be."""

_RECORDS = 65_536
_ENTRIES = 8_192
_NOBODY = 0xFFFF
_FIRST_REMOTE = 65_536
"""What `PortHolders` adds to the numbers of remote endpoints, to tell them from interfaces'."""

Endpoint = tuple[str, int, str, int]
"""Protocol, interface number, remote address, remote port."""


@dataclass(frozen=True, slots=True)
class PortQuery:
    """Which remote endpoints are asked for; None is any."""

    top: int = REMOTES_SHOWN
    interface: str | None = None
    address: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class PortNames:
    """What the numbers in the state map stand for, and how many ports there may be."""

    interfaces: Mapping[int, str]
    functions: Mapping[int, str]
    """Functions by the slots of their environments."""
    limit_per_remote: int
    limit_per_interface: int
    """0 is no limit."""
    hosts: Mapping[int, str] = field(default_factory=dict)
    """Hosts by their numbers."""
    first_host: int = _NOBODY
    """What is added to these where flows begin."""

    def holder(self, number: int) -> dict[str, str | None]:
        """Who begins flows under a number: an environment or a host."""
        host = number - self.first_host
        if number == _NOBODY or host < 0:
            environment = None if number == _NOBODY else environment_name(number)
            return {"environment": environment, "host": None}
        return {"environment": None, "host": self.hosts.get(host)}


@dataclass(slots=True)
class _Holders:
    """Ports by slot."""

    in_use: Counter[int]
    held: Counter[int]

    @property
    def ports(self) -> int:
        return self.in_use.total() + self.held.total()

    def document(self, names: PortNames, limit: int) -> dict[str, Any]:
        """The figures of a row, and who has the most."""
        functions = names.functions
        slots = self.in_use + self.held
        by_function: dict[str | None, Counter[str]] = {}
        for slot in slots:
            counts = by_function.setdefault(functions.get(slot), Counter())
            counts["in_use"] += self.in_use[slot]
            counts["held"] += self.held[slot]
        largest = heapq.nlargest(
            HOLDERS_SHOWN, by_function.items(), key=lambda item: item[1].total()
        )
        return {
            "in_use": self.in_use.total(),
            "held": self.held.total(),
            "limit": limit or None,
            "used_percent": round(100 * self.ports / limit, 1) if limit else None,
            "functions": [
                {"function": name, "in_use": counts["in_use"], "held": counts["held"]}
                for name, counts in largest
            ],
            "environments": [
                {
                    **names.holder(slot),
                    "function": functions.get(slot),
                    "in_use": self.in_use[slot],
                    "held": self.held[slot],
                }
                for slot, _ports in heapq.nlargest(
                    HOLDERS_SHOWN, slots.items(), key=lambda item: item[1]
                )
            ],
        }


def port_names(config: Config, region: Region) -> PortNames:
    """What the numbers mean at the moment."""
    ports = config.ports
    # In one step: another thread may be changing the tables.
    environments = list(region.tables.environments.values())
    return PortNames(
        views.interface_names(region),
        {each.slot: each.function_name for each in environments if each.function_name},
        min(ports.limit_per_remote, ports.last - ports.first + 1),
        ports.limit_per_interface,
        views.host_names(region),
    )


def crowded(
    state_map: StateMap, wanted: PortQuery, numbers: Iterable[int], *, least: int = 1
) -> list[RemotePorts]:
    """The remote endpoints with the most ports taken by these interfaces, the fullest first.

    Those with fewer than `least` ports are none.
    """
    admitted = frozenset(numbers)
    heap: list[tuple[int, RemotePorts]] = []
    for start in range(0, state_map.remote_cells, _RECORDS):
        # What cannot displace any of those kept is not even made an object of.
        if len(heap) == wanted.top:
            least = max(least, heap[0][0] + 1)
        for remote in state_map.remotes(
            start, _RECORDS, least=least, address=wanted.address, port=wanted.port
        ):
            if remote.interface not in admitted:
                continue
            if len(heap) < wanted.top:
                heapq.heappush(heap, (remote.ports, remote))
            elif remote.ports > heap[0][0]:
                heapq.heapreplace(heap, (remote.ports, remote))
    return [remote for _ports, remote in sorted(heap, reverse=True)]


def crowded_in(state_file: Path, names: PortNames, top: int) -> list[RemotePorts]:
    """The fullest remote endpoints that have a `CROWDED_SHARE`th of their ports or more; blocks."""
    least = max(names.limit_per_remote // CROWDED_SHARE, 1)
    with contextlib.closing(StateMap.open(state_file)) as state_map:
        return crowded(state_map, PortQuery(top), names.interfaces, least=least)


def usage_in(state_file: Path, wanted: PortQuery, names: PortNames) -> dict[str, Any]:
    """What `port_usage` finds in a file, with a mapping of its own.

    The pages that are looked at are given back. Errors: StateMapError.
    """
    with contextlib.closing(StateMap.open(state_file)) as state_map:
        return port_usage(state_map, wanted, names, state_map.now_ms())


def port_usage(
    state_map: StateMap, wanted: PortQuery, names: PortNames, now_ms: int
) -> dict[str, Any]:
    """GET /v1/ports; blocks for as long as a walk through all entries takes.

    `now_ms` is the clock of the state map.
    """
    names = replace(names, first_host=state_map.slots_max + state_map.interfaces_max)
    numbers = [
        number
        for number, name in names.interfaces.items()
        if number < state_map.interfaces_max and wanted.interface in (None, name)
    ]
    remotes = {remote[:4]: remote for remote in crowded(state_map, wanted, numbers)}
    errors = _errors(state_map.exhaustions(), names)
    endpoints = [*remotes, *_exhausted(errors, names, numbers, wanted, remotes)]
    by_interface, by_endpoint = _holders(state_map, endpoints)
    rows: list[tuple[int, int, dict[str, Any]]] = []
    for endpoint, holders in zip(endpoints, by_endpoint, strict=True):
        protocol, number, address, port = endpoint
        remote = remotes.get(endpoint)
        failures = [
            each
            for each in errors.get((protocol, names.interfaces[number], address, port), [])
            # Limits are remembered under the address that stands for any.
            if each.reason is DropReason.PORT_ALLOCATION
        ]
        row = {
            "interface": names.interfaces[number],
            "address": state_map.interface_address(number),
            "protocol": protocol,
            "remote_address": address,
            "remote_port": port,
            "high_water": 0 if remote is None else remote.high_water,
            **holders.document(names, names.limit_per_remote),
            **_failures(failures, names, now_ms),
        }
        rows.append((holders.ports, row["allocation_errors"], row))
    rows.sort(key=lambda row: row[:2], reverse=True)
    empty = _Holders(Counter(), Counter())
    return {
        "interfaces": [
            {
                "interface": names.interfaces[number],
                "address": state_map.interface_address(number),
                **by_interface.get(number, empty).document(names, names.limit_per_interface),
                **_failures(
                    [
                        failure
                        for key, failures in errors.items()
                        for failure in failures
                        if key[1] == names.interfaces[number]
                    ],
                    names,
                    now_ms,
                ),
            }
            for number in sorted(numbers)
        ],
        "remotes": [row for _ports, _errors, row in rows[: wanted.top]],
    }


Errors = dict[tuple[str, str, str, int], list[Exhaustion]]
"""By protocol, name of the interface, remote address, remote port."""


def _errors(exhaustions: Iterable[Exhaustion], names: PortNames) -> Errors:
    """The addresses of an interface ran out together: they share its name."""
    found: Errors = {}
    for each in exhaustions:
        if each.interface in names.interfaces:
            name = names.interfaces[each.interface]
            key = (each.protocol, name, each.remote_address, each.remote_port)
            found.setdefault(key, []).append(each)
    return found


def _exhausted(
    errors: Errors,
    names: PortNames,
    numbers: Iterable[int],
    wanted: PortQuery,
    known: Mapping[Endpoint, object],
) -> list[Endpoint]:
    """The endpoints besides those known towards which ports ran out; limits have none."""
    return [
        endpoint
        for number in numbers
        for protocol, name, address, port in errors
        if name == names.interfaces[number]
        and (address, port) != ("0.0.0.0", 0)
        and wanted.address in (None, address)
        and wanted.port in (None, port)
        and (endpoint := (protocol, number, address, port)) not in known
    ]


def _failures(failures: list[Exhaustion], names: PortNames, now_ms: int) -> dict[str, Any]:
    last = max(failures, key=lambda each: each.last_ms, default=None)
    who = names.holder(_NOBODY if last is None else last.slot)
    return {
        "allocation_errors": sum(each.errors for each in failures),
        "last_error_seconds": (None if last is None else (now_ms - last.last_ms) / 1000),
        "last_error_reason": None if last is None else last.reason.name.lower(),
        "last_error_environment": who["environment"],
        "last_error_host": who["host"],
    }


def _holders(
    state_map: StateMap, endpoints: list[Endpoint]
) -> tuple[dict[int, _Holders], list[_Holders]]:
    """Who has the ports of each interface number, and of each endpoint."""
    reader = PortHolders(endpoints, _ENTRIES)
    counts: Counter[int] = Counter()
    for start in range(0, state_map.entries_watermark, _ENTRIES):
        counts.update(reader.read(state_map.memory, start))
    by_interface: dict[int, _Holders] = {}
    by_endpoint = [_Holders(Counter(), Counter()) for _ in endpoints]
    for word, count in counts.items():
        number, slot, held = word >> 17, word >> 1 & 0xFFFF, word & 1
        if number < _FIRST_REMOTE:
            holders = by_interface.setdefault(number, _Holders(Counter(), Counter()))
        else:
            holders = by_endpoint[number - _FIRST_REMOTE]
        (holders.held if held else holders.in_use)[slot] += count
    return by_interface, by_endpoint
