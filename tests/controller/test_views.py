# SPDX-License-Identifier: Apache-2.0
"""What the control API tells of a state map."""

from __future__ import annotations

import json
import resource
from typing import Any

import pytest
from hypothesis import given, settings, strategies

from hyperplane_nat.controller.views.lab import SLICE_ENTRIES, FlowFilter, FlowReader, drops
from hyperplane_nat.engine import StateMap
from tests.controller.flow_map import NOW, fields, flow_map


def read(state_map: StateMap, wanted: FlowFilter, now: int = NOW) -> list[dict[str, Any]]:
    text = b"["
    with FlowReader(state_map, wanted, {0: "eni-a"}, lambda: now) as reader:
        while (piece := reader.read()) is not None:
            text += piece
    assert state_map.memory.closed
    found: list[dict[str, Any]] = json.loads(text + b"]")
    return found


def entries(count: int, wanted: FlowFilter, **more: Any) -> list[int]:
    with flow_map(count, **more) as state_map:
        return [flow["entry"] for flow in read(state_map, wanted)]


@pytest.mark.parametrize("count", [1, SLICE_ENTRIES - 1, SLICE_ENTRIES, 3 * SLICE_ENTRIES + 5])
@pytest.mark.parametrize("every", [1, 5000])
def test_every_flow_once(count: int, every: int) -> None:
    def make(index: int) -> dict[str, Any] | None:
        return None if index % every else fields(index)

    assert entries(count, FlowFilter(), make=make, period=None) == list(range(0, count, every))


def test_what_a_flow_says() -> None:
    with flow_map(2) as state_map:
        flows = state_map.flows()
        first, second = read(state_map, FlowFilter())
    assert first["environment"] == "env-1"
    assert (first["interface"], second["interface"]) == ("eni-a", "1")
    assert (first["age_seconds"], first["idle_seconds"]) == (3.0, 1.0)
    # Only one by a NAT gateway or a load balancer says that it has hops, or a target.
    of_some = ("hops", "target")
    said = {name: value for name, value in flows[1]._asdict().items() if name not in of_some}
    assert second | {"interface": 1} == said | {
        "environment": "env-2",
        "age_seconds": 3.0,
        "idle_seconds": 1.0,
    }


def test_a_packet_after_the_clock_was_read() -> None:
    with flow_map(1) as state_map:
        (flow,) = read(state_map, FlowFilter(), now=NOW - 1_500)
    assert flow["idle_seconds"] == 0.0


DAY = 86_400_000


@pytest.mark.parametrize("days", [1, 24, 25, 49, 50, 100, 12_000])
def test_age_of_old_flows(days: int) -> None:
    """The 40 bits of `created` reach beyond the 24.8 and 49.7 days of 32 bits."""
    now = NOW + days * DAY

    def listed(wanted: FlowFilter) -> list[dict[str, Any]]:
        made = {"created": NOW, "last_seen": now - 2_000}
        with flow_map(1, lambda i: fields(i) | made) as state_map:
            return read(state_map, wanted, now=now)

    (flow,) = listed(FlowFilter())
    assert listed(FlowFilter(min_age_seconds=days * 86_400)) == [flow]
    assert listed(FlowFilter(max_age_seconds=days * 86_400 - 1)) == []
    assert (flow["age_seconds"], flow["idle_seconds"]) == (days * 86_400.0, 2.0)
    assert (flow["created_ms"], flow["last_seen_ms"]) == (NOW, now - 2_000)


def test_counters_beyond_32_bits() -> None:
    with flow_map(1, lambda i: fields(i) | {"packets": (1 << 33, 1 << 60)}) as state_map:
        (flow,) = read(state_map, FlowFilter())
    assert (flow["packets_out"], flow["packets_in"]) == (1 << 33, 1 << 60)


def test_mappings_are_no_flows() -> None:
    def make(index: int) -> dict[str, Any]:
        other = {"remote": "0.0.0.0", "remote_port": 0, "state": ("", "MAPPING", "HELD")[index]}
        return fields(index) | (other if index else {})

    assert entries(3, FlowFilter(), make=make) == [0]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (FlowFilter(limit=3), [0, 1, 2]),
        (FlowFilter(after=8_000, limit=2), [8_001, 8_002]),
        (FlowFilter(after=9_998), [9_999]),
        (FlowFilter(after=99_999_999), []),
        (FlowFilter(environment=3, limit=2), [2, 9]),
        (FlowFilter(protocol="icmp", environment=3, limit=2), [2, 23]),
        (FlowFilter(environment=8), []),
        (FlowFilter(slots=frozenset({3, 4}), limit=3), [2, 3, 9]),
        (FlowFilter(slots=frozenset({3, 4}), environment=4, limit=2), [3, 10]),
        (FlowFilter(slots=frozenset({3, 4}), environment=5), []),
        (FlowFilter(slots=frozenset()), []),
        (FlowFilter(interface="eni-a", limit=2), [0, 2]),
        (FlowFilter(interface="eni-x"), []),
        (FlowFilter(state="ICMP", limit=2), [2, 5]),
        (FlowFilter(state="HELD"), []),
        (FlowFilter(address="10.0.1.80", limit=1), [0]),
        (FlowFilter(address="10.0.1.80", port=81), []),
        (FlowFilter(port=80, limit=1), [0]),
        (FlowFilter(min_age_seconds=4), []),
        (FlowFilter(min_age_seconds=3, max_age_seconds=3, limit=1), [0]),
        (FlowFilter(max_age_seconds=2), []),
    ],
)
def test_filters(wanted: FlowFilter, expected: list[int]) -> None:
    assert entries(10_000, wanted) == expected


FIGURES = [3, 9, 9, 1, 70_000_000_000, 0, 9]


def sorted_flow(index: int) -> dict[str, Any]:
    figure = FIGURES[index % 7]
    return fields(index) | {
        "bytes": (figure, 0),
        "remote": f"10.0.{index % 200}.1",
        "created": NOW - index,
    }


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (FlowFilter(sort="bytes_out"), [4, 1, 2, 6, 0, 3, 5]),
        (FlowFilter(sort="bytes_out", reverse=True), [5, 3, 0, 1, 2, 6, 4]),
        (FlowFilter(sort="bytes", limit=3), [4, 1, 2]),
        (FlowFilter(sort="age", limit=2), [6, 5]),
        (FlowFilter(sort="age", reverse=True, limit=2), [0, 1]),
        (FlowFilter(sort="remote", limit=1), [6]),
        (FlowFilter(sort="environment", protocol="tcp"), [6, 3, 0]),
        (FlowFilter(sort="idle", limit=2), [0, 1]),
        (FlowFilter(sort="bytes", limit=0), []),
    ],
)
def test_order(wanted: FlowFilter, expected: list[int]) -> None:
    assert entries(7, wanted, make=sorted_flow) == expected


@settings(max_examples=30)
@given(
    sizes=strategies.lists(strategies.integers(0, 6), min_size=1, max_size=60),
    limit=strategies.integers(1, 70),
    reverse=strategies.booleans(),
)
def test_a_bounded_list_begins_like_the_whole(sizes: list[int], limit: int, reverse: bool) -> None:
    def make(index: int) -> dict[str, Any]:
        return fields(index) | {"bytes": (sizes[index], 0)}

    expected = sorted(range(len(sizes)), key=lambda i: sizes[i] if reverse else -sizes[i])
    wanted = FlowFilter(sort="bytes", limit=limit, reverse=reverse)
    assert entries(len(sizes), wanted, make=make, period=None) == expected[:limit]


def test_a_sorted_list_comes_in_pieces() -> None:
    with flow_map(3 * SLICE_ENTRIES) as state_map:
        found = read(state_map, FlowFilter(sort="nat_port"))
    assert [flow["entry"] for flow in found] == list(range(3 * SLICE_ENTRIES))


def test_limit_ends_the_walk() -> None:
    with (
        flow_map(1 << 16) as state_map,
        FlowReader(state_map, FlowFilter(limit=1), {}, lambda: NOW) as reader,
    ):
        while reader.read() is not None:
            pass
        assert reader.position == SLICE_ENTRIES


def test_memory_is_that_of_a_slice() -> None:
    count = 1 << 17
    with flow_map(count) as state_map, FlowReader(state_map, FlowFilter(), {}) as reader:
        reader.read()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = 0
        while (piece := reader.read()) is not None:
            size += len(piece)
        # The map's own pages are no copy; they were touched when it was written.
        assert size > count * 300
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 12 << 10


def test_drops_shows_what_occurred() -> None:
    assert drops({"drop_no_flow": 2, "drop_vlan": 0, "batches": 4}) == {"no_flow": 2}
