# SPDX-License-Identifier: Apache-2.0
"""What the control API tells about a lab, read from the model and the state map.

Everything here blocks for up to milliseconds and is called in threads. The flow table is read in
slices; each is turned into text by itself, so that a million flows need the memory of one slice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from hyperplane_nat.controller.network.pool import EnvironmentPool
from hyperplane_nat.engine import Exhaustion, StateMap
from hyperplane_nat.engine.readers._flow_reader import FlowScan
from hyperplane_nat.model.entities import InterfaceKind
from hyperplane_nat.model.identifiers import environment_name
from hyperplane_nat.model.region import Region
from hyperplane_nat.model.states import NatGatewayState
from netns import privileges

SLICE_ENTRIES = 4096
"""Entries of the flow table read in one go in a thread: milliseconds of work."""

POOLED = "pooled"
"""State of an environment of the pool."""

SORTED_MAX = 65_536
"""Flows at most in a sorted list: it is kept until its last flow is known."""


class MapReader(Protocol):
    """What is needed of the engine's `StateMap`."""

    flows_max: int
    slots_max: int
    interfaces_max: int
    hosts_max: int
    bytes: int

    @property
    def heartbeat(self) -> int:
        """What the forwarder last noted."""

    @property
    def clock_offset_ms(self) -> int:
        """What the forwarder's clock is ahead."""

    def counters(self) -> Mapping[str, int]:
        """Every counter by name."""

    def slot_counters(self, slot: int) -> Mapping[str, int]:
        """The counters of one slot."""

    def slot_sums(self, slots: Sequence[int]) -> Mapping[str, int]:
        """The counters of many slots, summed."""

    def interface_counters(self, number: int) -> Mapping[str, int]:
        """The counters of one interface number."""

    def host_counters(self, number: int) -> Mapping[str, int]:
        """The counters of one host."""

    def node_counters(self, number: int) -> Mapping[str, int]:
        """The counters of a load balancer's node, by the number of its first address."""

    def interface_address(self, number: int) -> str:
        """The address that has an interface number."""

    def exhaustions(self) -> Sequence[Exhaustion]:
        """Where ports ran out."""

    def close(self) -> None:
        """Unmap the file."""


MapOpener = Callable[[Path], StateMap]


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Which flows are asked for, and in which order; None is any."""

    after: int = -1
    """Only entries with a higher number: to go on where a former answer ended."""
    limit: int | None = None
    environment: int | None = None
    protocol: str | None = None
    slots: frozenset[int] | None = None
    """Those of a function's environments."""
    interface: str | None = None
    state: str | None = None
    address: str | None = None
    port: int | None = None
    min_age_seconds: int = 0
    max_age_seconds: int | None = None
    sort: str | None = None
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class EnvironmentFilter:
    """Which environments are asked for; None is any."""

    after: int = 0
    """Only those with a higher number: to go on where a former answer ended."""
    limit: int | None = None
    function: str | None = None
    interface: str | None = None

    def of(self, rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those of them that are."""
        found = (
            row
            for row in rows
            if row["number"] > self.after
            and self.function in (None, row["function"])
            and self.interface in (None, row["interface"])
        )
        return list(islice(found, self.limit))


class FlowReader(AbstractContextManager["FlowReader"]):
    """Goes through the flow table once, slice by slice.

    It maps the file for itself: the pages it touched are given back when it is closed.
    """

    def __init__(
        self,
        state_map: StateMap,
        wanted: FlowFilter,
        interfaces: Mapping[int, str],
        now_ms: Callable[[], int] | None = None,
        *,
        hosts: Mapping[int, str] | None = None,
    ) -> None:
        """`interfaces` and `hosts` are their names by number; the map has a clock."""
        self._map = state_map
        self._now_ms = now_ms or state_map.now_ms
        self._sorted = wanted.sort is not None
        slots = wanted.slots
        if wanted.environment is not None:
            own = frozenset({wanted.environment})
            slots = own if slots is None else own & slots
        limit = wanted.limit
        if self._sorted:
            limit = min(SORTED_MAX if limit is None else limit, SORTED_MAX)
        maximum = wanted.max_age_seconds
        self._scan = FlowScan(
            interfaces,
            hosts=hosts,
            slots=slots,
            interfaces=(
                None
                if wanted.interface is None
                else [number for number, name in interfaces.items() if name == wanted.interface]
            ),
            protocol=wanted.protocol,
            state=wanted.state,
            address=wanted.address,
            port=wanted.port,
            min_age_ms=wanted.min_age_seconds * 1000,
            max_age_ms=None if maximum is None else maximum * 1000,
            sort=wanted.sort,
            reverse=wanted.reverse,
            limit=limit,
        )
        self._first = True
        self._started_ms = self._now_ms()
        self.position = max(wanted.after + 1, 0)
        """The first entry that has not been looked at."""
        self._end = state_map.entries_watermark

    def read(self) -> bytes | None:
        """The flows of the next slice as JSON, `,` before each but the first; None at the end."""
        if self.position < self._end and not self._scan.done:
            # What is sorted by age is not to be overtaken by the clock.
            now = self._started_ms if self._sorted else self._now_ms()
            text = self._scan.read(self._map.memory, self.position, SLICE_ENTRIES, now)
            self.position += SLICE_ENTRIES
        else:
            text = self._scan.rest(SLICE_ENTRIES)
            if not text:
                return None
        if text and not self._first:
            text = b",\n" + text
        self._first = self._first and not text
        return text

    @property
    def closed(self) -> bool:
        """Whether the map is given back."""
        return self._map.memory.closed

    def __exit__(self, *_: object) -> None:
        self._map.close()


def interface_names(region: Region) -> dict[int, str]:
    """Ids of the network interfaces by the numbers of their addresses."""
    # In one step: another thread may be changing the tables.
    interfaces = list(region.tables.interfaces.values())
    return {number: each.id for each in interfaces for number in each.numbers}


def nat_gateway_states(region: Region) -> dict[str, str]:
    """What each NAT gateway is, by VPC/name and id; of one that failed the reason, too."""
    tables = region.tables
    return {
        f"{tables.vpcs[each.vpc_id].name}/{each.name} ({each.id})": f"{each.state.value}: "
        f"{each.failure_code}: {each.failure_message}"
        if each.state is NatGatewayState.FAILED
        else each.state.value
        for each in list(tables.nat_gateways.values())
    }


def interface_id(region: Region, named: str) -> str | None:
    """The id of the network interface with that id, or with a link of that name."""
    interfaces = list(region.tables.interfaces.values())
    return next((each.id for each in interfaces if named in (each.id, each.link)), None)


def slots_of(region: Region, function: str) -> frozenset[int] | None:
    """Numbers of a function's environments; None when there is no such function."""
    if function not in region.tables.function_names:
        return None
    environments = list(region.tables.environments.values())
    return frozenset(each.slot for each in environments if each.function_name == function)


def host_names(region: Region) -> dict[int, str]:
    """What hosts are called where those of all VPCs are together, by number."""
    tables = region.tables
    return {
        host.number: f"{tables.vpcs[host.vpc_id].name}/{host.name}"
        for host in list(tables.hosts.values())
    } | {
        each.number: f"{tables.vpcs[each.vpc_id].name}/health-checks"
        for each in list(tables.health_checkers.values())
    }


def host_at(region: Region, state_map: MapReader, number: int) -> str | None:
    """The host whose flows begin under that number of the state map; None: it is no host's."""
    host = number - state_map.slots_max - state_map.interfaces_max
    # Most events are of environments, and names are of all hosts.
    return host_names(region).get(host) if host >= 0 else None


def host_figures(region: Region, state_map: MapReader) -> dict[tuple[str, str], dict[str, int]]:
    """Traffic, drops and flows of each host, by the name of its VPC and its own."""
    tables = region.tables
    return {
        (tables.vpcs[host.vpc_id].name, host.name): _host_figures(state_map, host.number)
        for host in list(tables.hosts.values())
    }


def _host_figures(state_map: MapReader, number: int) -> dict[str, int]:
    # A map that a former version made has no room for hosts.
    return _figures(state_map.host_counters(number) if number < state_map.hosts_max else {})


def attached_interfaces(region: Region) -> dict[int, str]:
    """Ids of the interfaces by the slots of the environments."""
    # In one step: another thread may be changing the tables.
    return {each.slot: each.interface_id for each in list(region.tables.environments.values())}


def _figures(counters: Mapping[str, int]) -> dict[str, int]:
    names = ("packets_out", "bytes_out", "packets_in", "bytes_in", "drops", "flows")
    return {name: counters.get(name, 0) for name in names}


def environments(
    region: Region, pool: EnvironmentPool, state_map: MapReader, address: str
) -> list[dict[str, Any]]:
    """GET /v1/environments."""
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
                "function": None if used is None else used.function_name or None,
                "state": POOLED if used is None else used.state.value,
                **_figures(state_map.slot_counters(number)),
            }
        )
    return rows


def interfaces(
    described: Iterable[Mapping[str, Any]],
    attached: Mapping[int, str],
    macs: Mapping[str, str],
    state_map: MapReader,
    ports_limit: int,
) -> list[dict[str, Any]]:
    """GET /v1/interfaces, of what `describe_interfaces` says. A `ports_limit` of 0 is none."""
    flows = connections(state_map, attached)
    rows = []
    for row in described:
        # Whoever named it in the lab file knows it by that name alone.
        made = row["Kind"] != InterfaceKind.STATIC
        rows.append(
            {
                "name": row["Link"],
                "number": row["Number"],
                "vpc": row["VpcName"],
                "subnet": row["SubnetName"],
                "address": row["PrivateIpAddress"],
                "secondary_addresses": row["SecondaryAddresses"],
                "secondary_numbers": row["SecondaryNumbers"],
                "mac": macs.get(row["Link"]),
                "environments": row["Environments"],
                **_passed(
                    state_map,
                    flows.get(row["NetworkInterfaceId"], 0),
                    *(row["Number"], *row["SecondaryNumbers"]),
                ),
                "ports_limit": ports_limit or None,
                "id": row["NetworkInterfaceId"] if made else None,
                "kind": row["Kind"],
                "status": row["Status"],
                "description": row["Description"],
                "groups": [group["GroupName"] for group in row["Groups"]],
                "owner": row["OwnerId"],
            }
        )
    return rows


def hosts(described: Iterable[Mapping[str, Any]], state_map: MapReader) -> list[dict[str, Any]]:
    """GET /v1/hosts, of what `describe_hosts` says."""
    return [{**row, **_host_figures(state_map, row["Number"])} for row in described]


def connections(
    state_map: MapReader, attached: Mapping[int, str], counter: str = "flows"
) -> dict[str, int]:
    """Flows of each interface, or TCP's alone, by the slots that are attached to it."""
    slots: dict[str, list[int]] = {}
    for number, interface in attached.items():
        slots.setdefault(interface, []).append(number)
    return {name: state_map.slot_sums(numbers)[counter] for name, numbers in slots.items()}


def _passed(state_map: MapReader, of_environments: int, *numbers: int) -> dict[str, Any]:
    """What passed an interface that has these numbers, and the ports that each of them has; its
    flows, with those of its environments.
    """
    counters = [state_map.interface_counters(number) for number in numbers]
    totals = Counter[str]()
    for each in counters:
        totals.update(each)
    return {
        "flows": of_environments + totals["flows"],
        **_on_the_vpcs_side(totals),
        "ports": [each.get("ports", 0) for each in counters],
        "port_allocation_errors": totals["port_allocation_errors"],
    }


def _on_the_vpcs_side(counters: Mapping[str, int]) -> dict[str, int]:
    """Packets and bytes as the VPC sees them."""
    return {
        f"{unit}_{way}": counters.get(f"{unit}_{side}", 0)
        for way, side in (("out", "out_to_destination"), ("in", "in_from_destination"))
        for unit in ("packets", "bytes")
    }


def traffic(state_map: MapReader, path: Path) -> dict[str, Any]:
    """What GET /v1/status tells of the state map in the file at `path`."""
    counters = state_map.counters()
    active = {each: counters.get(f"flows_active_{each}", 0) for each in ("tcp", "udp", "icmp")}
    return {
        "flows": {
            **active,
            "entries": counters.get("flows_entries_used", 0),
            "max": state_map.flows_max,
        },
        "traffic": _on_the_vpcs_side(counters),
        "drops": drops(counters),
        "counters": dict(counters),
        "state_file": {
            "path": str(path),
            "bytes": state_map.bytes,
            "bytes_per_flow": round(state_map.bytes / state_map.flows_max, 1),
        },
    }


def process_privileges(pids: Mapping[str, int | None]) -> dict[str, dict[str, Any]]:
    """What GET /v1/status tells of the privileges of processes, by name; of those that live."""
    found = {name: (pid, privileges.of(pid)) for name, pid in pids.items() if pid is not None}
    return {
        name: {
            "pid": pid,
            "uid": has.uid,
            "gid": has.gid,
            "capabilities": f"{has.capabilities:016x}",
            "no_new_privs": has.no_new_privs,
            "seccomp": has.seccomp,
            "dropped": has.dropped,
        }
        for name, (pid, has) in found.items()
        if has is not None
    }


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
