# SPDX-License-Identifier: Apache-2.0
"""What the control API tells about a lab, read from the model and the state map.

Everything here blocks for up to milliseconds and is called in threads. The flow table is read in
slices; each is turned into text by itself, so that a million flows need the memory of one slice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hyperplane_nat.controller.pool import EnvironmentPool
from hyperplane_nat.model import Lab
from hyperplane_nat.model.description import describe_interfaces
from hyperplane_nat.model.environment import environment_name
from hyperplane_nat.model.region import Region
from netns.topology import Topology

SLICE_ENTRIES = 4096
"""Entries of the flow table read in one go in a thread: tens of milliseconds of work."""

_STEP_ENTRIES = 256
"""Entries read in one call of the engine, which holds the interpreter's lock all the time."""


_encode = json.JSONEncoder(separators=(",", ":")).encode


class FlowLike(Protocol):
    """A flow as the engine's `Flow`, of which these fields are looked at by name."""

    entry: int
    protocol: str
    slot: int
    interface: int
    created_ms: int
    last_seen_ms: int

    def _asdict(self) -> dict[str, Any]: ...


class MapReader(Protocol):
    """What is needed of the engine's `StateMap`."""

    flows_max: int
    bytes: int

    def counters(self) -> Mapping[str, int]:
        """Every counter by name."""

    def slot_counters(self, slot: int) -> Mapping[str, int]:
        """The counters of one slot."""

    def flows(self, start: int = 0, limit: int | None = None) -> Sequence[Any]:
        """The flows among `limit` entries from `start`."""

    def close(self) -> None:
        """Unmap the file."""


MapOpener = Callable[[Path], MapReader]


def monotonic_ms() -> int:
    """The clock of the state map: CLOCK_MONOTONIC in milliseconds modulo 2^32."""
    return time.monotonic_ns() // 1_000_000 & 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Which flows are asked for."""

    after: int = -1
    """Only entries with a higher number: to go on where a former answer ended."""
    limit: int | None = None
    environment: int | None = None
    protocol: str | None = None

    def accepts(self, flow: FlowLike) -> bool:
        """Whether the flow is one of them."""
        return (self.environment is None or flow.slot == self.environment) and (
            self.protocol is None or flow.protocol == self.protocol
        )


class FlowReader(AbstractContextManager["FlowReader"]):
    """Goes through the flow table once, slice by slice.

    It maps the file for itself: the pages it touched are given back when it is closed.
    """

    def __init__(
        self,
        state_map: MapReader,
        wanted: FlowFilter,
        interfaces: Mapping[int, str],
        now_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        """`interfaces` are the names of the network interfaces by number."""
        self._map = state_map
        self._wanted = wanted
        self._interfaces = interfaces
        self._now_ms = now_ms
        self._next = max(wanted.after + 1, 0)
        self._end = state_map.flows_max
        self._left = wanted.limit
        self._first = True
        watermark = getattr(state_map, "entries_watermark", None)
        if isinstance(watermark, int):
            self._end = min(self._end, watermark)

    def read(self) -> bytes | None:
        """The flows of the next slice as JSON, `,` before each but the first; None at the end."""
        if self._next >= self._end or self._left == 0:
            return None
        now = self._now_ms()
        end = min(self._next + SLICE_ENTRIES, self._end)
        # Each flow on its own: encoding all in one call would hold the lock as well.
        texts = [
            _encode(self._document(flow, now))
            for start in range(self._next, end, _STEP_ENTRIES)
            for flow in self._map.flows(start, min(_STEP_ENTRIES, end - start))
            if self._wanted.accepts(flow)
        ]
        self._next = end
        if self._left is not None:
            texts = texts[: self._left]
            self._left -= len(texts)
        if not texts:
            return b""
        text = ",\n".join(texts)
        if not self._first:
            text = ",\n" + text
        self._first = False
        return text.encode()

    def __exit__(self, *_: object) -> None:
        self._map.close()

    def _document(self, flow: FlowLike, now: int) -> dict[str, Any]:
        document = flow._asdict()
        number = flow.interface
        return document | {
            "environment": environment_name(flow.slot),
            "interface": self._interfaces.get(number, str(number)),
            "age_seconds": ((now - flow.created_ms) & 0xFFFFFFFF) / 1000,
            "idle_seconds": _elapsed_ms(now, flow.last_seen_ms) / 1000,
        }


def interface_names(lab: Lab, region: Region) -> dict[int, str]:
    """Names of the network interfaces, ids of those of functions, by number."""
    names = dict(lab.interface_names())
    # In one step: another thread may be changing the tables.
    names |= {used.number: used.id for used in list(region.tables.interfaces.values())}
    return names


def _elapsed_ms(now: int, then: int) -> int:
    """Milliseconds from `then` to `now`; 0 for what the forwarder noted after we read the clock."""
    elapsed = (now - then) & 0xFFFFFFFF
    return 0 if elapsed > 0x7FFFFFFF else elapsed


def environments(
    lab: Lab, topology: Topology, state_map: MapReader, address: str
) -> list[dict[str, Any]]:
    """GET /v1/environments."""
    namespaces = {slot.number: slot.namespace for slot in topology.slots}
    rows = []
    for environment in lab.environments:
        counters = state_map.slot_counters(environment.number)
        rows.append(
            {
                "name": environment.name,
                "number": environment.number,
                "namespace": namespaces.get(environment.number),
                "address": address,
                "interface": environment.interface.name,
                "interface_address": str(environment.interface.address),
                "function": None,
                "state": "static",
                **_figures(counters),
            }
        )
    return rows


def _figures(counters: Mapping[str, int]) -> dict[str, int]:
    names = ("packets_out", "bytes_out", "packets_in", "bytes_in", "drops", "flows")
    return {name: counters.get(name, 0) for name in names}


def function_environments(
    lab: str, region: Region, pool: EnvironmentPool, state_map: MapReader, address: str
) -> list[dict[str, Any]]:
    """GET /v1/environments: those of functions and of the pool."""
    rows = []
    tables = region.tables
    for number in sorted(pool.slots):
        used = tables.environments.get(number)
        interface = None if used is None else tables.interfaces.get(used.interface_id)
        rows.append(
            {
                "name": environment_name(number),
                "number": number,
                "namespace": pool.slots[number].namespace,
                "address": address,
                "interface": None if interface is None else interface.id,
                "interface_address": None if interface is None else str(interface.address),
                "function": None if used is None else used.function_name,
                "state": "pooled" if used is None else used.state.value,
                **_figures(state_map.slot_counters(number)),
            }
        )
    return rows


def function_interfaces(
    region: Region, macs: Mapping[str, str], state_map: MapReader
) -> list[dict[str, Any]]:
    """GET /v1/interfaces: those that functions brought about."""
    environments = region.tables.environments.values()
    flows = connections(state_map, {each.slot: each.interface_id for each in environments})
    return [
        {
            "name": row["Link"],
            "number": row["Number"],
            "vpc": row["VpcName"],
            "subnet": row["SubnetName"],
            "address": row["PrivateIpAddress"],
            "secondary_addresses": [],
            "secondary_numbers": [],
            "mac": macs.get(row["Link"]),
            "environments": row["Environments"],
            "flows": flows.get(row["NetworkInterfaceId"], 0),
            "id": row["NetworkInterfaceId"],
            "kind": row["Kind"],
            "status": row["Status"],
            "description": row["Description"],
            "groups": [group["GroupName"] for group in row["Groups"]],
            "owner": row["OwnerId"],
        }
        for row in describe_interfaces(region)
    ]


def connections(state_map: MapReader, attached: Mapping[int, str]) -> dict[str, int]:
    """Flows of each interface, by the slots that are attached to it."""
    counts: dict[str, int] = {}
    for number, interface in attached.items():
        flows = state_map.slot_counters(number).get("flows", 0)
        counts[interface] = counts.get(interface, 0) + flows
    return counts


def interfaces(lab: Lab, topology: Topology, state_map: MapReader) -> list[dict[str, Any]]:
    """GET /v1/interfaces."""
    macs = {interface.name: interface.mac for interface in topology.interfaces}
    attached: dict[str, int] = {interface.name: 0 for interface in lab.interfaces}
    flows = dict(attached)
    for environment in lab.environments:
        name = environment.interface.name
        attached[name] += 1
        flows[name] += state_map.slot_counters(environment.number).get("flows", 0)
    return [
        {
            "name": interface.name,
            "number": interface.number,
            "vpc": interface.vpc.name,
            "subnet": interface.subnet.name,
            "address": str(interface.address),
            "secondary_addresses": [str(address) for _, address in interface.secondary],
            "secondary_numbers": [number for number, _ in interface.secondary],
            "mac": macs.get(interface.name),
            "environments": attached[interface.name],
            "flows": flows[interface.name],
            "id": None,
            "kind": "static",
            "status": "in-use" if attached[interface.name] else "available",
            "description": "",
            "groups": [],
            "owner": None,
        }
        for interface in lab.interfaces
    ]


def drops(counters: Mapping[str, int]) -> dict[str, int]:
    """The reasons that occurred, with their counts."""
    return {
        name.removeprefix("drop_"): value
        for name, value in counters.items()
        if name.startswith("drop_") and value
    }


def encode_rows(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A JSON array, a row at a time for the same reason as flows."""
    return ("[" + ",\n".join(json.dumps(row) for row in rows) + "]\n").encode()
