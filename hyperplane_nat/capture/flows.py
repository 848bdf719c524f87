# SPDX-License-Identifier: Apache-2.0
"""The flows that frames belong to, looked up in the state map while the forwarder writes it.

Theory of operation
-------------------
A search goes through the whole table, for all keys at once that are wanted; where a flow was found
is remembered, and a remembered entry is read again and compared each time it is used, because it
may be another's by then. Searches take at most `SEARCH_SHARE` of the time, however many frames
belong to no flow: after a search the next one waits for a multiple of its duration. A mapping (RFC
4787, section 4.1) is a flow without a remote end: what it lets in belongs to it as long as there is
no answer, and so no flow.
"""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Protocol

from hyperplane_nat.engine.readers.flow_search import SearchKey
from hyperplane_nat.engine.state.constants import Side
from hyperplane_nat.engine.state.settings import Flow, HostFlow

KEYS_MAX = 65_536
"""Keys whose entry is remembered."""

SEARCH_SHARE = 0.1

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}
_NO_ADDRESS, _NO_PORT = bytes(4), bytes(2)

AnyFlow = Flow | HostFlow
"""A flow or mapping of an environment, or a flow of a host."""


class FlowMap(Protocol):
    """What is needed of the engine's `StateMap`."""

    def flows(self, start: int = 0, limit: int | None = None) -> list[Flow]:
        """The flows among `limit` entries from `start`."""

    def host_flows(self, start: int = 0, limit: int | None = None) -> list[HostFlow]:
        """Those of hosts among them."""

    def mappings(self, start: int = 0, limit: int | None = None) -> list[Flow]:
        """The mappings among them."""

    def find(self, keys: list[SearchKey]) -> list[int | None]:
        """The entry of each key."""


class FlowFinder:
    """Flows by key."""

    def __init__(self, state_map: FlowMap, clock: Callable[[], float] = time.monotonic) -> None:
        self._map = state_map
        self._clock = clock
        self._entries: OrderedDict[SearchKey, int] = OrderedDict()
        self._next_search = 0.0

    def search(self, keys: Iterable[SearchKey]) -> None:
        """Look for the flows of keys that are not known yet, if it is time to."""
        started = self._clock()
        if started < self._next_search:
            return
        wanted = [key for key in dict.fromkeys(keys) if key not in self._entries]
        if not wanted:
            return
        mappings = [_mapping(key) for key in wanted]
        for key, own, mapping in zip(
            wanted, *_halves(self._map.find([*wanted, *mappings])), strict=True
        ):
            entry = mapping if own is None else own
            if entry is not None:
                self._entries[key] = entry
                if len(self._entries) > KEYS_MAX:
                    self._entries.popitem(last=False)
        now = self._clock()
        self._next_search = now + (now - started) * (1 / SEARCH_SHARE - 1)

    def knows(self, key: SearchKey) -> bool:
        """Whether the key's entry was found by a search."""
        return key in self._entries

    def flow(self, key: SearchKey) -> AnyFlow | None:
        """The flow as it is now; None when it is not known (search for it) or is no more."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        found: AnyFlow | None = None
        if key.side == Side.HOST:
            for one in self._map.host_flows(entry, 1):
                found = one if _is_between(one, key) else None
        else:
            for each in self._map.flows(entry, 1) or self._map.mappings(entry, 1):
                found = each if _has(each, key) or _has(each, _mapping(key)) else None
            for one in self._map.host_flows(entry, 1) if key.side == Side.OUTSIDE else ():
                found = one if _passes(one, key) else None
        if found is None:
            del self._entries[key]
        return found


def _halves(entries: list[int | None]) -> tuple[list[int | None], list[int | None]]:
    middle = len(entries) // 2
    return entries[:middle], entries[middle:]


def _mapping(key: SearchKey) -> SearchKey:
    """The key of the mapping that a packet without a flow belongs to."""
    return key._replace(remote_address=_NO_ADDRESS, remote_port=_NO_PORT)


def _is_between(flow: HostFlow, key: SearchKey) -> bool:
    local = (socket.inet_ntoa(key.local_address), int.from_bytes(key.local_port, "big"))
    remote = (socket.inet_ntoa(key.remote_address), int.from_bytes(key.remote_port, "big"))
    destination = (flow.destination_address, flow.destination_port)
    if flow.to_public_address:
        destination = (flow.nat_address, flow.nat_port)
    ends = (
        (flow.originator_side, flow.originator, flow.source_address, flow.source_port),
        (flow.responder_side, flow.responder, *destination),
    )
    return flow.protocol == _PROTOCOLS.get(key.protocol) and any(
        own == (key.side, key.owner, *local) and other[2:] == remote
        for own, other in (ends, ends[::-1])
    )


def _passes(flow: HostFlow, key: SearchKey) -> bool:
    """Whether it passes the address of an interface that the key has at its local end."""
    local = (socket.inet_ntoa(key.local_address), int.from_bytes(key.local_port, "big"))
    remote = (socket.inet_ntoa(key.remote_address), int.from_bytes(key.remote_port, "big"))
    source = (flow.source_address, flow.source_port)
    destination = (flow.destination_address, flow.destination_port)
    if flow.responder_side == Side.OUTSIDE:
        # By a NAT gateway the address is the gateway's, which no other interface has.
        own = flow.responder == key.owner or bool(flow.hops)
        ends = ((flow.nat_address, flow.nat_port), destination)
    else:
        own = (flow.originator_side, flow.originator) == (Side.OUTSIDE, key.owner)
        ends = (destination, source)
    return own and flow.protocol == _PROTOCOLS.get(key.protocol) and ends == (local, remote)


def _has(flow: Flow, key: SearchKey) -> bool:
    inside = key.side == Side.INSIDE
    return (
        flow.protocol == _PROTOCOLS.get(key.protocol)
        # What leaves by a NAT gateway's public address does not leave by its own interface.
        and (
            (flow.slot if inside else flow.interface) == key.owner
            or (bool(flow.hops) and not inside)
        )
        and (flow.inside_port if inside else flow.nat_port) == int.from_bytes(key.local_port, "big")
        and flow.remote_port == int.from_bytes(key.remote_port, "big")
        and flow.remote_address == socket.inet_ntoa(key.remote_address)
        and (flow.inside_address if inside else flow.nat_address)
        == socket.inet_ntoa(key.local_address)
    )
