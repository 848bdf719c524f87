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

What an environment exchanges with a host passes two interfaces. Its row towards the VPC is told
once more at the host's, with the same ends, where it is known which addresses are hosts'
(`at_host`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hyperplane_nat.engine import DropReason
from hyperplane_nat.engine.state.settings import FlowDelta, HostDelta
from hyperplane_nat.flow_logs.fields import (
    FROM_ENVIRONMENT,
    FROM_HOST,
    FROM_REMOTE,
    TO_ENVIRONMENT,
    TO_HOST,
    TO_REMOTE,
    Key,
    Sums,
)

GATHERED_MAX = 200_000
"""Rows kept for their interval: about 100 MiB."""

Row = tuple[Key, Sums]
Delta = FlowDelta | HostDelta

PASSED = frozenset(
    {DropReason.NONE, DropReason.SECURITY_GROUP_INGRESS, DropReason.NETWORK_ACL_INGRESS}
)
"""With these the interface of who has sent a packet let it pass: groups and border of its
destination are not its own.
"""


def rows_of(delta: Delta) -> Iterator[Row]:
    """The rows of what one flow did: up to four, one for a packet that the interface refused."""
    return _host_rows(delta) if isinstance(delta, HostDelta) else _rows(delta)


def _rows(delta: FlowDelta) -> Iterator[Row]:
    """Those on the interface of an environment.

    A packet from inside that it refused was refused on its way out.  It was given no port of the
    interface, and its row has the environment's instead.
    """
    refused = delta.reason not in PASSED
    # What comes is at the interface's own border.
    refused_in = refused or delta.reason == DropReason.NETWORK_ACL_INGRESS
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
        yield Key(FROM_REMOTE, number, *outside, nat, port, refused_in), Sums(*counts)
        if not refused_in:
            yield Key(TO_ENVIRONMENT, number, *inside, nat, 0, False), Sums(*counts)


def _host_rows(delta: HostDelta) -> Iterator[Row]:
    """Those on the interfaces of the hosts at its ends; the VPC's router has none.

    A packet that the groups of its destination refuse has passed the interface of its sender.
    """
    source = (delta.source_address, delta.source_port)
    destination = (delta.destination_address, delta.destination_port)
    times = (delta.created_ms, delta.last_seen_ms)
    sender, receiver = delta.originator, delta.responder
    passed = delta.reason in PASSED
    if delta.packets_out:
        ends = (0, delta.protocol, *source, *destination, 0, 0)
        counts = (delta.packets_out, delta.bytes_out, *times, delta.flags_out)
        if sender is not None:
            yield Key(FROM_HOST, sender, *ends, not passed), Sums(*counts)
        if receiver is not None and (passed or sender is None):
            yield Key(TO_HOST, receiver, *ends, bool(delta.reason)), Sums(*counts)
    if delta.packets_in:
        ends = (0, delta.protocol, *destination, *source, 0, 0)
        counts = (delta.packets_in, delta.bytes_in, *times, delta.flags_in)
        if receiver is not None:
            yield Key(FROM_HOST, receiver, *ends, False), Sums(*counts)
        if sender is not None:
            yield Key(TO_HOST, sender, *ends, False), Sums(*counts)


def at_host(key: Key, host: int) -> Key | None:
    """What a row of an environment's interface towards a host is at the host's; None for others."""
    remote = (key.remote_address, key.remote_port)
    if key.view == TO_REMOTE and not key.refused:
        # One that was given no port of its interface is one that the host's groups refused.
        nat = (key.nat_address, key.inside_port if key.slot else key.nat_port)
        refused = key.slot != 0
        return Key(TO_HOST, host, 0, key.protocol, *nat, *remote, 0, 0, refused)
    if key.view == FROM_REMOTE:
        # Its interface may refuse it: it has passed the host's.
        nat = (key.nat_address, key.nat_port)
        return Key(FROM_HOST, host, 0, key.protocol, *remote, *nat, 0, 0, False)
    return None


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

    def gather(self, deltas: Iterable[Delta]) -> None:
        """Keep what has ended or was refused."""
        for delta in deltas:
            for key, sums in rows_of(delta):
                known = self._rows.get(key)
                if known is None:
                    self._rows[key] = sums
                else:
                    add(known, sums)

    def claim(self, deltas: Iterable[Delta]) -> list[Row]:
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
