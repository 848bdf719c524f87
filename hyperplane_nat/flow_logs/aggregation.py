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

What goes by a NAT gateway or a load balancer's node has a way beyond its client's interface, and a
row for each direction at each position of it: an endpoint's interface, the near and the far side of
the gateway's or node's, the target's (`_rows_on_way`). What was refused at one position has passed
those before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hyperplane_nat.engine import DropReason
from hyperplane_nat.engine.state.constants import Position
from hyperplane_nat.engine.state.settings import FlowDelta, HostDelta, Way
from hyperplane_nat.flow_logs.fields import (
    FROM_CLIENT,
    FROM_ENVIRONMENT,
    FROM_FAR,
    FROM_HOST,
    FROM_HOST_TO_INTERNET,
    FROM_REMOTE,
    TO_CLIENT,
    TO_ENVIRONMENT,
    TO_HOST,
    TO_INTERNET,
    TO_REMOTE,
    TO_TARGET,
    UNSENT,
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

RULES = PASSED - {DropReason.NONE} | {
    DropReason.SECURITY_GROUP_EGRESS,
    DropReason.NETWORK_ACL_EGRESS,
}
"""What a NAT gateway drops for another reason has reached its interface, and is ACCEPT there (AWS,
"Is my public NAT gateway accepting inbound traffic from the internet?")."""

Ends = tuple[int, int, int, int]


def rows_of(delta: Delta) -> Iterator[Row]:
    """The rows of what one flow did: of a packet that was refused those as far as it has come."""
    yield from _host_rows(delta) if isinstance(delta, HostDelta) else _rows(delta)
    if delta.way is not None:
        yield from _rows_on_way(delta, delta.way)


def _sums(delta: Delta, *, out: bool) -> Sums:
    """What the originator has sent, or was sent."""
    if out:
        counts = (delta.packets_out, delta.bytes_out)
        return Sums(*counts, delta.created_ms, delta.last_seen_ms, delta.flags_out)
    counts = (delta.packets_in, delta.bytes_in)
    return Sums(*counts, delta.created_ms, delta.last_seen_ms, delta.flags_in)


def _stopped_behind(delta: Delta) -> bool:
    """Whether a packet was refused behind its client's interface, on the way of its flow."""
    return delta.way is not None and delta.reason != 0 and delta.way.position != Position.CLIENT


def _rows(delta: FlowDelta) -> Iterator[Row]:
    """Those on the interface of an environment.

    A packet from inside that it refused was refused on its way out.  If it was given no port of the
    interface, its row has the environment's instead.
    """
    behind = _stopped_behind(delta)
    refused = delta.reason not in PASSED and not behind
    # What comes is at the interface's own border.
    refused_in = refused or delta.reason == DropReason.NETWORK_ACL_INGRESS
    remote = (delta.remote_address, delta.remote_port)
    inside = (delta.slot, delta.protocol, delta.inside_address, delta.inside_port, *remote)
    outside = inside if delta.reason and not delta.nat_port else (0, delta.protocol, 0, 0, *remote)
    nat, port, number = delta.nat_address, delta.nat_port, delta.interface
    if delta.packets_out:
        if not refused:
            key = Key(FROM_ENVIRONMENT, number, *inside, nat, 0, False)
            yield key, _sums(delta, out=True)
        yield Key(TO_REMOTE, number, *outside, nat, port, refused), _sums(delta, out=True)
    if delta.packets_in and not behind:
        view = UNSENT if delta.reason == DropReason.NETWORK_ACL_EGRESS else FROM_REMOTE
        yield Key(view, number, *outside, nat, port, refused_in), _sums(delta, out=False)
        if not refused_in:
            key = Key(TO_ENVIRONMENT, number, *inside, nat, 0, False)
            yield key, _sums(delta, out=False)


def _host_rows(delta: HostDelta) -> Iterator[Row]:
    """Those on the interfaces of the hosts at its ends; the VPC's router has none.

    A packet that the groups of its destination refuse has passed the interface of its sender.
    """
    source = (delta.source_address, delta.source_port)
    destination = (delta.destination_address, delta.destination_port)
    sender, receiver = delta.originator, delta.responder
    behind = _stopped_behind(delta)
    passed = delta.reason in PASSED or behind
    sends = FROM_HOST_TO_INTERNET if delta.internet else FROM_HOST
    if delta.packets_out:
        ends = (0, delta.protocol, *source, *destination, 0, 0)
        if sender is not None:
            yield Key(sends, sender, *ends, not passed), _sums(delta, out=True)
        arrived = passed or (sender is None and delta.reason != DropReason.NETWORK_ACL_EGRESS)
        if receiver is not None and arrived:
            yield Key(TO_HOST, receiver, *ends, bool(delta.reason)), _sums(delta, out=True)
    if delta.packets_in:
        ends = (0, delta.protocol, *destination, *source, 0, 0)
        if receiver is not None:
            yield Key(sends, receiver, *ends, False), _sums(delta, out=False)
        if sender is not None and not behind:
            yield Key(TO_HOST, sender, *ends, bool(delta.reason)), _sums(delta, out=False)


def _near_ends(delta: Delta) -> Ends:
    """Source and destination of a flow between its client's interface and what is behind it."""
    if isinstance(delta, HostDelta):
        source = (delta.source_address, delta.source_port)
        return (*source, delta.destination_address, delta.destination_port)
    source = (delta.nat_address, delta.nat_port or delta.inside_port)
    return (*source, delta.remote_address, delta.remote_port)


class _Stage(NamedTuple):
    """A position on a flow's way, and its row for what the client sends and for the answers."""

    position: Position
    place: int
    view: int
    ends: Ends
    view_back: int
    ends_back: Ends
    address: int


def _stages(delta: Delta, way: Way) -> Iterator[_Stage]:
    """Those behind the client's interface, in the order in which they are passed."""
    near = _near_ends(delta)
    far = (way.source_address, way.source_port, way.far_address, way.far_port)
    if way.endpoint is not None:
        back = (*near[2:], *near[:2])
        yield _Stage(Position.ENDPOINT, way.endpoint, TO_HOST, near, FROM_HOST, back, 0)
    # A NAT gateway passes on what is for somebody else; a node is sent it, be it by an endpoint.
    at_hop = near if way.internet else (*near[:2], way.address, near[3])
    yield _Stage(Position.NEAR, way.hop, FROM_CLIENT, at_hop, TO_CLIENT, at_hop, way.address)
    # Whatever an interface sends has its own address (AWS: srcaddr), be it with another's source.
    own = way.address if way.source_address == near[0] else way.source_address
    onward = TO_INTERNET if way.internet else TO_TARGET
    yield _Stage(Position.FAR, way.hop, onward, far, FROM_FAR, far, own)
    if way.target is not None:
        back = (*far[2:], *far[:2])
        yield _Stage(Position.TARGET, way.target, TO_HOST, far, FROM_HOST, back, 0)


def _rows_on_way(delta: Delta, way: Way) -> Iterator[Row]:
    """The rows of these; a packet that was refused has passed those before the one that did."""
    told, end = delta.reason, way.position
    by_rule = told in RULES
    for position, place, view, ends, view_back, ends_back, address in _stages(delta, way):
        if delta.packets_out and (not told or position <= end):
            refused = by_rule and position == end
            key = Key(view, place, 0, delta.protocol, *ends, address, 0, refused)
            yield key, _sums(delta, out=True)
        if delta.packets_in and (not told or position >= end):
            refused = by_rule and position == end
            key = Key(view_back, place, 0, delta.protocol, *ends_back, address, 0, refused)
            yield key, _sums(delta, out=False)


def at_host(key: Key, host: int) -> Key | None:
    """What a row of an environment's interface towards a host is at the host's; None for others."""
    remote = (key.remote_address, key.remote_port)
    if key.view == TO_REMOTE and not key.refused:
        # One that was given no port of its interface is one that the host's groups refused.
        nat = (key.nat_address, key.inside_port if key.slot else key.nat_port)
        refused = key.slot != 0
        return Key(TO_HOST, host, 0, key.protocol, *nat, *remote, 0, 0, refused)
    if key.view in (FROM_REMOTE, UNSENT):
        # Its interface may refuse it: it has passed the host's, unless that is where it stayed.
        nat = (key.nat_address, key.nat_port)
        return Key(FROM_HOST, host, 0, key.protocol, *remote, *nat, 0, 0, key.view == UNSENT)
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
