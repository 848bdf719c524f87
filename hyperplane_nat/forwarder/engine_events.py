# SPDX-License-Identifier: Apache-2.0
"""The engine's events as messages to the controller: those that are about the same become one.

Theory of operation
-------------------
The engine keeps the events of half a second, up to a few hundred, and a port range that is used up
makes one for each packet. A group is what is about the same remote endpoint of the same interface;
it tells how often and which slot most often. A full flow table is nobody's remote, so all its
events are one group. Groups are bounded: what is beyond goes without remote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from hyperplane_nat.engine.state.constants import EventKind
from hyperplane_nat.engine.state.settings import Event

__all__ = ["GROUPS_MAX", "messages"]

GROUPS_MAX = 32

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}

_Group = tuple[EventKind, int | None, str | None]


def messages(events: Iterable[Event]) -> list[dict[str, Any]]:
    """One message for each group, in the order in which they began.

    ``remote`` is protocol, address and port, or None; ``slot`` is the one most often met.
    """
    groups: dict[_Group, Counter[int]] = {}
    for event in events:
        group = _group(event)
        if group not in groups and len(groups) >= GROUPS_MAX:
            group = (event.kind, None, None)
        groups.setdefault(group, Counter())[event.slot] += 1
    return [
        {
            "event": "engine",
            "kind": kind.name.lower(),
            "interface": interface,
            "remote": remote,
            "slot": slots.most_common(1)[0][0],
            "count": slots.total(),
        }
        for (kind, interface, remote), slots in groups.items()
    ]


def _group(event: Event) -> _Group:
    if event.kind is EventKind.FLOW_TABLE_FULL:
        return event.kind, None, None
    protocol = _PROTOCOLS.get(event.protocol, str(event.protocol))
    endpoint = f"{event.remote_address}:{event.remote_port}"
    return event.kind, event.interface, f"{protocol} {endpoint}"
