# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from hyperplane_nat.controller.views import (
    SLICE_ENTRIES,
    FlowFilter,
    FlowReader,
    drops,
)
from hyperplane_nat.engine import Flow

NOW = 5_000


class FakeMap:
    """A flow table with an entry wherever `index % every == 0`."""

    bytes = 1 << 20

    def __init__(self, flows_max: int, every: int = 1) -> None:
        self.flows_max = flows_max
        self.every = every
        self.closed = False
        self.slices: list[int] = []

    def counters(self) -> Mapping[str, int]:
        return {}

    def slot_counters(self, slot: int) -> Mapping[str, int]:
        return {}

    def flows(self, start: int = 0, limit: int | None = None) -> Sequence[Flow]:
        assert limit is not None
        self.slices.append(limit)
        return [
            Flow(
                entry=index,
                protocol=("tcp", "udp", "icmp")[index % 3],
                state="ESTABLISHED",
                slot=index % 7 + 1,
                interface=index % 2,
                inside_address="169.254.100.2",
                inside_port=1000,
                remote_address="10.0.1.80",
                remote_port=80,
                nat_address="10.0.1.10",
                nat_port=2000,
                packets_out=1,
                bytes_out=2,
                packets_in=3,
                bytes_in=4,
                created_ms=(NOW - 3_000) & 0xFFFFFFFF,
                last_seen_ms=NOW - 1_000,
            )
            for index in range(start, min(start + limit, self.flows_max))
            if index % self.every == 0
        ]

    def close(self) -> None:
        self.closed = True


def read(state_map: FakeMap, wanted: FlowFilter, now: int = NOW) -> list[dict[str, Any]]:
    text = b"["
    with FlowReader(state_map, wanted, {0: "eni-a"}, lambda: now) as reader:
        while (piece := reader.read()) is not None:
            text += piece
    assert state_map.closed
    found: list[dict[str, Any]] = json.loads(text + b"]")
    return found


@pytest.mark.parametrize("flows_max", [1, SLICE_ENTRIES - 1, SLICE_ENTRIES, 3 * SLICE_ENTRIES + 5])
@pytest.mark.parametrize("every", [1, 5000])
def test_every_flow_once(flows_max: int, every: int) -> None:
    state_map = FakeMap(flows_max, every)
    found = read(state_map, FlowFilter())
    assert [flow["entry"] for flow in found] == list(range(0, flows_max, every))
    assert max(state_map.slices) <= SLICE_ENTRIES


def test_what_a_flow_says() -> None:
    first, second = read(FakeMap(2), FlowFilter())
    assert first["environment"] == "env-1"
    assert (first["interface"], second["interface"]) == ("eni-a", "1")
    assert (first["age_seconds"], first["idle_seconds"]) == (3.0, 1.0)
    assert first["nat_port"] == 2000


def test_clock_that_wraps_and_a_packet_after_the_clock_was_read() -> None:
    (flow,) = read(FakeMap(1), FlowFilter(), now=NOW - 1_500)
    assert flow["idle_seconds"] == 0.0


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
    ],
)
def test_filters(wanted: FlowFilter, expected: list[int]) -> None:
    assert [flow["entry"] for flow in read(FakeMap(10_000), wanted)] == expected


def test_limit_ends_the_walk() -> None:
    state_map = FakeMap(1 << 20)
    read(state_map, FlowFilter(limit=1))
    assert sum(state_map.slices) == SLICE_ENTRIES


def test_memory_is_that_of_a_slice() -> None:
    with FlowReader(FakeMap(1 << 14), FlowFilter(), {}) as reader:
        reader.read()
        tracemalloc.start()
        while reader.read() is not None:
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 12 << 20


def test_drops_shows_what_occurred() -> None:
    assert drops({"drop_no_flow": 2, "drop_vlan": 0, "batches": 4}) == {"no_flow": 2}
