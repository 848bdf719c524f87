# SPDX-License-Identifier: Apache-2.0
"""The flow of a frame is found in the state map, and is the right one still."""

from __future__ import annotations

import socket

import pytest

from hyperplane_nat.capture import flows
from hyperplane_nat.capture.flows import SEARCH_SHARE, FlowFinder
from hyperplane_nat.engine.readers.flow_search import SearchKey
from hyperplane_nat.engine.state.constants import Side
from hyperplane_nat.engine.state.settings import Flow, Hop, HostFlow

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


def plain(entry: int, *, port: int = 5432, protocol: str = "tcp") -> HostFlow:
    """Of host 3 with host 4."""
    return HostFlow(
        entry, protocol, "ESTABLISHED", Side.HOST, 3, Side.HOST, 4, "10.0.1.20", 40000,
        REMOTE, port, "10.0.1.20", 40000, 1, 60, 1, 60, 0, 0,
    )  # fmt: skip


def host_key(owner: int = 3, protocol: int = 6, remote_port: int = 5432) -> SearchKey:
    """As host 3 sees it, or as host 4 does."""
    ends = (
        (socket.inet_aton(REMOTE), remote_port.to_bytes(2, "big")),
        (socket.inet_aton("10.0.1.20"), (40000).to_bytes(2, "big")),
    )
    remote, local = ends if owner == 3 else ends[::-1]
    return SearchKey(Side.HOST, protocol, owner, *remote, *local)


class FakeMap:
    """A table that is a dictionary; a search takes time."""

    def __init__(self) -> None:
        self.entries: dict[int, Flow] = {}
        self.plain: dict[int, HostFlow] = {}
        self.found: dict[SearchKey, int] = {}
        self.searches: list[list[SearchKey]] = []
        self.now = 0.0
        self.seconds = 0.0

    def flows(self, start: int = 0, limit: int | None = None) -> list[Flow]:
        found = self.entries.get(start)
        return [found] if found is not None and found.remote_port else []

    def host_flows(self, start: int = 0, limit: int | None = None) -> list[HostFlow]:
        found = self.plain.get(start)
        return [] if found is None else [found]

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


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "KEYS_MAX", 64)
    found, table = finder()
    keys = [inside_key(slot=slot, remote_port=port) for slot in range(2) for port in range(40)]
    table.found = dict.fromkeys(keys, 1)
    found.search(keys)
    assert len(found._entries) == 64


def test_a_flow_between_hosts_is_found_from_both() -> None:
    found, table = finder()
    table.plain[5] = plain(5)
    # A flow of an environment may have taken the entry of another's number.
    table.entries[5] = flow(5)
    keys = [host_key(), host_key(4)]
    table.found = dict.fromkeys(keys, 5)
    found.search(keys)
    assert [found.flow(key) for key in keys] == [plain(5)] * 2
    table.plain[5] = plain(5, port=80)
    assert [found.flow(key) for key in keys] == [None, None]
    assert not found.knows(host_key())


def test_another_host_s_flow_or_protocol_is_none_of_its_own() -> None:
    found, table = finder()
    table.plain[5] = plain(5)
    keys = [host_key()._replace(owner=8), host_key(protocol=17)]
    table.found = dict.fromkeys(keys, 5)
    found.search(keys)
    assert [found.flow(key) for key in keys] == [None, None]


PUBLIC, SITE = "203.0.113.10", "198.51.100.80"


def at_public(owner: int = 4, local_port: int = 2000, remote_port: int = 80) -> SearchKey:
    """What passes the public address with that number."""
    return SearchKey(
        Side.OUTSIDE, 6, owner, socket.inet_aton(SITE), remote_port.to_bytes(2, "big"),
        socket.inet_aton(PUBLIC), local_port.to_bytes(2, "big"),
    )  # fmt: skip


def test_flows_by_a_nat_gateway_pass_its_public_address() -> None:
    found, table = finder()
    hops = (Hop(0, "10.0.1.10", 1024), Hop(9, "10.0.0.5", 2000))
    function = flow(5, nat_port=2000, remote_port=80)._replace(
        remote_address=SITE, nat_address=PUBLIC, hops=hops
    )
    host = plain(6, port=81)._replace(
        destination_address=SITE, nat_address=PUBLIC, nat_port=2000, hops=hops[1:],
        responder_side=Side.OUTSIDE, responder=9,
    )  # fmt: skip
    table.entries[5], table.plain[6] = function, host
    keys = [at_public(), at_public(remote_port=81), at_public(local_port=2001)]
    table.found = dict(zip(keys, (5, 6, 5), strict=True))
    found.search(keys)
    assert [found.flow(key) for key in keys] == [function, host, None]


@pytest.mark.parametrize("begun_by", ["host", "internet"])
def test_flows_of_a_host_pass_its_public_address(begun_by: str) -> None:
    found, table = finder()
    outward = plain(5, port=80)._replace(
        source_port=2000, destination_address=SITE, nat_address=PUBLIC, nat_port=2000,
        responder_side=Side.OUTSIDE, responder=4,
    )  # fmt: skip
    inward = plain(5)._replace(
        source_address=SITE, source_port=80, destination_address=PUBLIC, destination_port=2000,
        nat_address="10.0.1.20", originator_side=Side.OUTSIDE, originator=4, responder=3,
    )  # fmt: skip
    each = outward if begun_by == "host" else inward
    table.plain[5] = each
    keys = [at_public(), at_public(owner=5), at_public(local_port=2001)]
    table.found = dict.fromkeys(keys, 5)
    found.search(keys)
    assert [found.flow(key) for key in keys] == [each, None, None]
