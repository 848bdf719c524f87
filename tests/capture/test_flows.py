# SPDX-License-Identifier: Apache-2.0
"""The flow of a frame is found in the state map, and is the right one still."""

from __future__ import annotations

import socket

from hyperplane_nat.capture.flows import KEYS_MAX, SEARCH_SHARE, FlowFinder
from hyperplane_nat.engine.readers.flow_search import SearchKey
from hyperplane_nat.engine.state.constants import Side
from hyperplane_nat.engine.state.settings import Flow

REMOTE = "10.0.1.80"


def flow(entry: int, *, nat_port: int = 1024, remote_port: int = 443, slot: int = 7) -> Flow:
    remote = REMOTE if remote_port else "0.0.0.0"
    return Flow(
        entry, "tcp", "ESTABLISHED", slot, 0, "169.254.100.2", 40000, remote, remote_port,
        "10.0.1.10", nat_port, 1, 60, 1, 60, 0, 0,
    )  # fmt: skip


def inside_key(slot: int = 7, remote_port: int = 443) -> SearchKey:
    return SearchKey(
        Side.INSIDE, 6, slot, socket.inet_aton(REMOTE), remote_port.to_bytes(2, "big"),
        socket.inet_aton("169.254.100.2"), (40000).to_bytes(2, "big"),
    )  # fmt: skip


def outside_key(nat_port: int = 1024, remote_port: int = 443) -> SearchKey:
    return SearchKey(
        Side.OUTSIDE, 6, 0, socket.inet_aton(REMOTE), remote_port.to_bytes(2, "big"),
        socket.inet_aton("10.0.1.10"), nat_port.to_bytes(2, "big"),
    )  # fmt: skip


class FakeMap:
    """A table that is a dictionary; a search takes time."""

    def __init__(self) -> None:
        self.entries: dict[int, Flow] = {}
        self.found: dict[SearchKey, int] = {}
        self.searches: list[list[SearchKey]] = []
        self.now = 0.0
        self.seconds = 0.0

    def flows(self, start: int = 0, limit: int | None = None) -> list[Flow]:
        found = self.entries.get(start)
        return [found] if found is not None and found.remote_port else []

    def mappings(self, start: int = 0, limit: int | None = None) -> list[Flow]:
        found = self.entries.get(start)
        return [found] if found is not None and not found.remote_port else []

    def find(self, keys: list[SearchKey]) -> list[int | None]:
        self.searches.append(keys)
        self.now += self.seconds
        return [self.found.get(key) for key in keys]

    def clock(self) -> float:
        return self.now


def finder() -> tuple[FlowFinder, FakeMap]:
    table = FakeMap()
    return FlowFinder(table, table.clock), table


def test_a_flow_is_found_by_both_keys_and_read_again() -> None:
    found, table = finder()
    table.entries[5] = flow(5)
    table.found = {inside_key(): 5, outside_key(): 5}
    assert found.flow(inside_key()) is None
    found.search([inside_key(), outside_key()])
    assert found.flow(inside_key()) == found.flow(outside_key()) == flow(5)
    table.entries[5] = flow(5)._replace(state="FIN_WAIT")
    again = found.flow(inside_key())
    assert again is not None
    assert again.state == "FIN_WAIT"


def test_an_entry_that_is_anothers_by_now_is_forgotten() -> None:
    found, table = finder()
    table.entries[5] = flow(5)
    table.found = {inside_key(): 5}
    found.search([inside_key()])
    table.entries[5] = flow(5, slot=8)
    assert found.flow(inside_key()) is None
    assert not found.knows(inside_key())
    table.entries.clear()
    assert found.flow(inside_key()) is None


def test_known_keys_are_not_searched_again() -> None:
    found, table = finder()
    table.entries[5] = flow(5)
    table.found = {inside_key(): 5}
    found.search([inside_key()])
    found.search([inside_key()])
    assert len(table.searches) == 1


def test_searches_take_their_share_of_the_time_and_no_more() -> None:
    found, table = finder()
    table.seconds = 0.01
    for _ in range(1000):
        found.search([inside_key()])
        table.now += 0.001
    # The last one may just have begun.
    assert (len(table.searches) - 1) * table.seconds <= table.now * SEARCH_SHARE


def test_a_mapping_is_found_when_no_flow_is() -> None:
    found, table = finder()
    mapping = flow(9, remote_port=0)
    table.entries[9] = mapping
    table.found = {
        outside_key()._replace(remote_address=bytes(4), remote_port=bytes(2)): 9,
    }
    found.search([outside_key(), inside_key()])
    assert found.flow(outside_key()) == mapping
    assert found.flow(inside_key()) is None


def test_what_is_remembered_is_bounded() -> None:
    found, table = finder()
    keys = [inside_key(slot=slot, remote_port=port) for slot in range(2) for port in range(40000)]
    table.found = dict.fromkeys(keys, 1)
    found.search(keys)
    assert len(found._entries) == KEYS_MAX
