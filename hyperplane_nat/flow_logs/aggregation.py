# SPDX-License-Identifier: Apache-2.0
"""Rows out of what flows did: one per direction, interface side and five-tuple of an interval.

Theory of operation
-------------------
What has ended, and what was refused, is gathered by key while the interval lasts. When it is over,
the flows that live are looked at in slices, and each slice becomes rows at once: a live flow's keys
are its own, so nothing of it need be remembered, only what was gathered under the same key is
added. What nobody claimed in the end is written last. So a million flows need the memory of
a slice, and the gathered rows are bounded: beyond `GATHERED_MAX` they are written before the
interval is over, and a key may then have more than one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hyperplane_nat.engine import DropReason
from hyperplane_nat.engine.state.settings import FlowDelta
from hyperplane_nat.flow_logs.fields import (
    FROM_ENVIRONMENT,
    FROM_REMOTE,
    TO_ENVIRONMENT,
    TO_REMOTE,
    Key,
    Sums,
)

GATHERED_MAX = 200_000
"""Rows kept for their interval: about 100 MiB."""

Row = tuple[Key, Sums]


PASSED = frozenset({DropReason.NONE, DropReason.SECURITY_GROUP_INGRESS})
"""With these an interface let the packet pass: the groups of its destination are not its own."""


def rows_of(delta: FlowDelta) -> Iterator[Row]:
    """The rows of what one flow did: up to four, one for a packet that the interface refused.

    Such a packet from inside was refused on its way out.  It was given no port of the interface,
    and its row has the environment's instead.
    """
    refused = delta.reason not in PASSED
    remote = (delta.remote_address, delta.remote_port)
    inside = (delta.slot, delta.protocol, delta.inside_address, delta.inside_port, *remote)
    outside = inside if delta.reason else (0, delta.protocol, 0, 0, *remote)
    nat, port, number = delta.nat_address, delta.nat_port, delta.interface
    times = (delta.created_ms, delta.last_seen_ms)
    if delta.packets_out:
        counts = (delta.packets_out, delta.bytes_out, *times, delta.flags_out)
        if not refused:
            yield Key(FROM_ENVIRONMENT, number, *inside, nat, 0, False), Sums(*counts)
        yield Key(TO_REMOTE, number, *outside, nat, port, refused), Sums(*counts)
    if delta.packets_in:
        counts = (delta.packets_in, delta.bytes_in, *times, delta.flags_in)
        yield Key(FROM_REMOTE, number, *outside, nat, port, refused), Sums(*counts)
        if not refused:
            yield Key(TO_ENVIRONMENT, number, *inside, nat, 0, False), Sums(*counts)


def add(into: Sums, more: Sums) -> None:
    """Count two rows of one key as one."""
    into.packets += more.packets
    into.bytes += more.bytes
    into.flags |= more.flags
    into.first_ms = min(into.first_ms, more.first_ms)
    into.last_ms = max(into.last_ms, more.last_ms)


class Gathering:
    """The rows of the interval that is going on."""

    def __init__(self, *, limit: int = GATHERED_MAX) -> None:
        self._limit = limit
        self._rows: dict[Key, Sums] = {}

    @property
    def full(self) -> bool:
        """Whether the rows should be written before their interval is over."""
        return len(self._rows) >= self._limit

    def gather(self, deltas: Iterable[FlowDelta]) -> None:
        """Keep what has ended or was refused."""
        for delta in deltas:
            for key, sums in rows_of(delta):
                known = self._rows.get(key)
                if known is None:
                    self._rows[key] = sums
                else:
                    add(known, sums)

    def claim(self, deltas: Iterable[FlowDelta]) -> list[Row]:
        """The rows of flows that live, each with what was gathered under its key."""
        rows: list[Row] = []
        for delta in deltas:
            for key, sums in rows_of(delta):
                if self._rows and (known := self._rows.pop(key, None)) is not None:
                    add(sums, known)
                rows.append((key, sums))
        return rows

    def rest(self) -> list[Row]:
        """What nobody claimed; nothing is left."""
        rows = list(self._rows.items())
        self._rows.clear()
        return rows
