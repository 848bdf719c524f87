# SPDX-License-Identifier: Apache-2.0
"""The TCP tracker: a transition table and the window in which a reset is believed.

Theory of operation: a middlebox sees both directions but is neither end, so the table names who
has sent a FIN rather than who is active.  Segments that change nothing are forwarded.  A reset
ends a flow only if its sequence number lies in the window that the other side announced (the
idea of RFC 5961 section 3): a blind attacker has to guess it.
"""

import enum
from dataclasses import dataclass, field

from tests.reference import packet
from tests.reference.packet import Segment

INSIDE = 0
OUTSIDE = 1


class State(enum.IntEnum):
    """States of a flow, with the numbers of the state file."""

    FREE = 0
    SYN_SENT = 1
    SYN_RECEIVED = 2
    ESTABLISHED = 3
    FIN_INSIDE = 4
    FIN_OUTSIDE = 5
    FIN_BOTH = 6
    TIME_WAIT = 7
    RESET = 8
    UDP = 9
    UDP_REPLIED = 10
    ICMP = 11
    HELD = 12


LIVE = frozenset(
    {
        State.SYN_SENT,
        State.SYN_RECEIVED,
        State.ESTABLISHED,
        State.FIN_INSIDE,
        State.FIN_OUTSIDE,
        State.FIN_BOTH,
        State.UDP,
        State.UDP_REPLIED,
        State.ICMP,
    }
)
"""States whose end is counted: the flow was active."""


class Kind(enum.Enum):
    """What a segment is to the table."""

    SYN = enum.auto()
    SYNACK = enum.auto()
    ACK = enum.auto()
    FIN = enum.auto()
    RST = enum.auto()


_CONTROL = packet.SYN | packet.ACK | packet.RST | packet.FIN

KINDS: dict[int, Kind] = {
    packet.SYN: Kind.SYN,
    packet.SYN | packet.ACK: Kind.SYNACK,
    packet.ACK: Kind.ACK,
    packet.FIN: Kind.FIN,
    packet.FIN | packet.ACK: Kind.FIN,
    packet.RST: Kind.RST,
    packet.RST | packet.ACK: Kind.RST,
}
"""The combinations of SYN, ACK, RST and FIN that an end may send; others are attacks or faults."""


def kind_of(flags: int) -> Kind | None:
    """The kind of a segment, or None for a combination no end sends."""
    return KINDS.get(flags & _CONTROL)


TRANSITIONS: dict[tuple[State, int, Kind], State] = {
    (State.SYN_SENT, INSIDE, Kind.SYNACK): State.SYN_RECEIVED,
    (State.SYN_SENT, OUTSIDE, Kind.SYN): State.SYN_RECEIVED,
    (State.SYN_SENT, OUTSIDE, Kind.SYNACK): State.SYN_RECEIVED,
    (State.SYN_RECEIVED, INSIDE, Kind.ACK): State.ESTABLISHED,
    (State.SYN_RECEIVED, INSIDE, Kind.FIN): State.FIN_INSIDE,
    (State.SYN_RECEIVED, OUTSIDE, Kind.FIN): State.FIN_OUTSIDE,
    (State.ESTABLISHED, INSIDE, Kind.FIN): State.FIN_INSIDE,
    (State.ESTABLISHED, OUTSIDE, Kind.FIN): State.FIN_OUTSIDE,
    (State.FIN_INSIDE, OUTSIDE, Kind.FIN): State.FIN_BOTH,
    (State.FIN_OUTSIDE, INSIDE, Kind.FIN): State.FIN_BOTH,
    (State.FIN_BOTH, INSIDE, Kind.ACK): State.TIME_WAIT,
    (State.FIN_BOTH, OUTSIDE, Kind.ACK): State.TIME_WAIT,
}
"""Every (state, sender, segment) that changes the state, resets and reopening apart."""


def signed(difference: int) -> int:
    """A difference of sequence numbers as a signed 32-bit number (RFC 1982 arithmetic)."""
    difference &= 0xFFFFFFFF
    return difference - (1 << 32) if difference >= 1 << 31 else difference


@dataclass
class Direction:
    """What one end has said so far."""

    seen: bool = False
    seq_end: int = 0
    ack_seen: bool = False
    ack: int = 0
    window: int = 0
    scale: int | None = None


@dataclass
class Tracker:
    """Both directions of one TCP connection, by side."""

    directions: tuple[Direction, Direction] = field(
        default_factory=lambda: (Direction(), Direction())
    )

    def _window(self, segment: Segment, side: int) -> int:
        """What the window of a segment means when it is announced (RFC 7323 section 2.2).

        It is scaled when both ends have offered to, but never in a segment with SYN.
        """
        scale = self.directions[side].scale
        other = self.directions[1 - side].scale
        if segment.flags & packet.SYN or scale is None or other is None:
            return segment.window
        return segment.window << scale

    def note(self, segment: Segment, side: int) -> None:
        """Remember sequence, acknowledgement and window of a forwarded segment, not a reset."""
        sender = self.directions[side]
        peer = self.directions[1 - side]
        syn = bool(segment.flags & packet.SYN)
        fin = bool(segment.flags & packet.FIN)
        end = (segment.seq + segment.payload_length + syn + fin) & 0xFFFFFFFF
        if not sender.seen or signed(end - sender.seq_end) > 0:
            sender.seq_end = end
        sender.seen = True
        if syn:
            sender.scale = segment.window_scale
        if (
            segment.has_ack
            and peer.seen
            and (not sender.ack_seen or signed(segment.ack - sender.ack) >= 0)
            and signed(segment.ack - peer.seq_end) <= 0
        ):
            sender.ack_seen = True
            sender.ack = segment.ack
            sender.window = self._window(segment, side)

    def believes_reset(self, segment: Segment, side: int, state: State) -> bool:
        """Whether a reset from `side` lies in the window its peer announced."""
        sender = self.directions[side]
        peer = self.directions[1 - side]
        if side == OUTSIDE and state is State.SYN_SENT:
            return segment.has_ack and segment.ack == peer.seq_end
        if peer.ack_seen:
            return (segment.seq - peer.ack) & 0xFFFFFFFF <= peer.window
        return segment.seq == sender.seq_end


@dataclass(frozen=True)
class Step:
    """What the tracker decides about one segment."""

    state: State
    drop: str | None = None
    refresh: bool = False
    reopen: bool = False


def step(tracker: Tracker, state: State, segment: Segment, side: int) -> Step:
    """Decide about one segment of a flow in `state` and note it when it is forwarded."""
    kind = kind_of(segment.flags)
    if kind is None:
        raise ValueError("segments with invalid flags never reach the tracker")

    if state is State.HELD:
        if side == OUTSIDE:
            return Step(state, drop="flow_held")
        if kind is not Kind.SYN:
            return Step(state, drop="tcp_no_flow")
        return Step(State.SYN_SENT, reopen=True)

    if kind is Kind.RST:
        if not tracker.believes_reset(segment, side, state):
            return Step(state, drop="tcp_rst_window")
        if state in (State.TIME_WAIT, State.RESET):
            return Step(state)
        return Step(State.RESET, refresh=True)

    if side == INSIDE and kind is Kind.SYN:
        newer = signed(segment.seq - tracker.directions[INSIDE].seq_end) > 0
        if state is State.RESET or (state is State.TIME_WAIT and newer):
            return Step(State.SYN_SENT, reopen=True)

    if state is State.TIME_WAIT:
        return Step(state)
    tracker.note(segment, side)
    if state is State.RESET:
        return Step(state, refresh=kind is not Kind.SYN)
    return Step(TRANSITIONS.get((state, side, kind), state), refresh=True)
