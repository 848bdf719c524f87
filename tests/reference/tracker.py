# SPDX-License-Identifier: Apache-2.0
"""The TCP tracker: rules for each kind of segment and the window in which a reset is believed.

Theory of operation
-------------------
A middlebox sees both directions but is neither end, so the states name who has sent a FIN rather
than who is active. Segments that change nothing are forwarded. A reset ends a flow only if its
sequence number lies in the window that the other side announced (the idea of RFC 5961 section 3): a
blind attacker has to guess it.

A connection is closed when all that either end has sent is acknowledged, the FINs included; only a
FIN that is sent again says later that its sender does not know.

A SYN on a flow is only remembered: its receiver decides whether it begins another connection, and
says so by a SYN-ACK that acknowledges it.
"""

import enum
from dataclasses import dataclass, field, replace

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


OPENING = frozenset({State.SYN_SENT, State.SYN_RECEIVED})
ENDED = frozenset({State.TIME_WAIT, State.RESET, State.HELD})
LARGEST_SCALE = 14
"""The largest shift of a window (RFC 7323 section 2.3)."""


def signed(difference: int) -> int:
    """A difference of sequence numbers as a signed 32-bit number (RFC 1982 arithmetic)."""
    difference &= 0xFFFFFFFF
    return difference - (1 << 32) if difference >= 1 << 31 else difference


def within(number: int, first: int, last: int) -> bool:
    """Whether a sequence number lies from `first` to `last`, both included."""
    return (number - first) & 0xFFFFFFFF <= (last - first) & 0xFFFFFFFF


@dataclass(frozen=True)
class Opening:
    """A SYN: who sent it and what its answer may acknowledge (RFC 7413 allows less than all)."""

    side: int
    seq: int
    payload: int
    scale: int | None

    def answered_by(self, segment: Segment, side: int) -> bool:
        return (
            side != self.side
            and segment.has_ack
            and within(segment.ack, self.seq + 1, self.seq + 1 + self.payload)
        )


@dataclass
class Direction:
    """What one end has said so far; until it acknowledges anything `ack` is the least it can."""

    seen: bool = False
    seq_end: int = 0
    ack_seen: bool = False
    ack: int = 0
    of_other: bool = False
    """Whether `ack` is of another connection than this."""
    raw_window: int = 0
    of_syn: bool = False
    scale: int | None = None


@dataclass
class Tracker:
    """Both directions of one TCP connection, by side, and the latest SYN."""

    directions: tuple[Direction, Direction] = field(
        default_factory=lambda: (Direction(), Direction())
    )
    syn: Opening | None = None
    pending: bool = False
    """Whether that SYN is not this connection's but may begin another."""

    @classmethod
    def begin(cls, segment: Segment, side: int, remembered: Opening | None) -> "Tracker":
        """A connection that begins with a SYN, or with a SYN-ACK.

        The SYN which that answers is the remembered one, or a mapping let it in and nobody looked:
        whether it had a window scale is known by the answer (RFC 7323 section 2.2), but not which.
        """
        if segment.flags & packet.ACK:
            if remembered is None:
                scale = None if segment.window_scale is None else LARGEST_SCALE
                remembered = Opening(1 - side, (segment.ack - 1) & 0xFFFFFFFF, 0, scale)
            tracker = cls(syn=remembered)
            opener, answerer = tracker.directions[1 - side], tracker.directions[side]
            opener.seen = True
            opener.seq_end = (remembered.seq + 1 + remembered.payload) & 0xFFFFFFFF
            opener.scale = remembered.scale
            answerer.ack = (remembered.seq + 1) & 0xFFFFFFFF
        else:
            tracker = cls(
                syn=Opening(side, segment.seq, segment.payload_length, segment.window_scale)
            )
        tracker.note(segment, side, opening=True)
        return tracker

    def remember(self, segment: Segment, side: int) -> None:
        """A SYN that may begin another connection takes the place of the one before."""
        payload = segment.payload_length
        if self.pending and self.syn and (self.syn.side, self.syn.seq) == (side, segment.seq):
            payload = max(payload, self.syn.payload)
        self.syn = Opening(side, segment.seq, payload, segment.window_scale)
        self.pending = True

    @property
    def remembered(self) -> Opening | None:
        return self.syn if self.pending else None

    def answers(self, segment: Segment, side: int) -> bool:
        """Whether a segment acknowledges a remembered SYN of the other side."""
        return self.remembered is not None and self.remembered.answered_by(segment, side)

    def repeats(self, segment: Segment, side: int, state: State) -> bool:
        """Whether a SYN is that of the connection itself, once more."""
        if self.syn and not self.pending and self.syn.side == side and self.syn.seq == segment.seq:
            return True
        mine = self.directions[side]
        end = (segment.seq + 1 + segment.payload_length) & 0xFFFFFFFF
        return state in OPENING and mine.seen and end == mine.seq_end

    def expected(self, segment: Segment, side: int) -> bool:
        """Whether a segment acknowledges what the other side has sent, and no less than its SYN."""
        mine, peer = self.directions[side], self.directions[1 - side]
        return within(segment.ack, peer.seq_end if mine.of_other else mine.ack, peer.seq_end)

    def window(self, side: int) -> int:
        """What a side has announced (RFC 7323 section 2.2).

        It is scaled when both ends have offered to, but never in a segment with SYN.
        """
        mine, other = self.directions[side], self.directions[1 - side]
        if mine.of_syn or mine.scale is None or other.scale is None:
            return mine.raw_window
        return mine.raw_window << mine.scale

    def note(self, segment: Segment, side: int, *, opening: bool) -> None:
        """Remember sequence, acknowledgement and window of a forwarded segment, not a reset."""
        sender = self.directions[side]
        peer = self.directions[1 - side]
        syn = bool(segment.flags & packet.SYN)
        fin = bool(segment.flags & packet.FIN)
        end = (segment.seq + segment.payload_length + syn + fin) & 0xFFFFFFFF
        # A server with SYN cookies may answer a SYN that is sent again by another number.
        anew = (
            syn
            and segment.has_ack
            and not peer.ack_seen
            and peer.ack != (segment.seq + 1) & 0xFFFFFFFF
            and self.expected(segment, side)
        )
        if (anew or not sender.seen) and not peer.ack_seen:
            peer.ack = (segment.seq + syn) & 0xFFFFFFFF
            peer.of_other = False
        if anew or not sender.seen or signed(end - sender.seq_end) > 0:
            sender.seq_end = end
        sender.seen = True
        if syn and opening:
            sender.scale = segment.window_scale
        if segment.has_ack and peer.seen and self.expected(segment, side):
            sender.ack_seen = True
            sender.ack = segment.ack
            sender.of_other = False
            sender.raw_window = segment.window
            sender.of_syn = syn
        elif segment.has_ack and peer.seen and side == INSIDE and not sender.ack_seen:
            # It speaks of an old connection: its refusal has this number (RFC 9293 3.10.7.4).
            sender.ack = segment.ack
            sender.of_other = True

    def closed_by(self, segment: Segment, side: int) -> bool:
        """Whether a segment that was noted leaves nothing of either end to be acknowledged."""
        mine, peer = self.directions[side], self.directions[1 - side]
        return segment.has_ack and segment.ack == peer.seq_end and peer.ack == mine.seq_end

    def ends_with(self, segment: Segment, side: int) -> bool:
        """Whether a FIN stands behind all that its sender has sent so far."""
        behind = segment.seq + segment.payload_length + 1
        return behind & 0xFFFFFFFF == self.directions[side].seq_end

    def refuses_other(self, segment: Segment, side: int) -> bool:
        """Whether a reset refuses what the inside said of another connection."""
        said = self.directions[INSIDE]
        return side == OUTSIDE and said.of_other and segment.seq == said.ack

    def in_window(self, segment: Segment, side: int) -> bool:
        """Whether a reset from `side` lies in the window its peer announced."""
        peer = self.directions[1 - side]
        if peer.ack_seen:
            return (segment.seq - peer.ack) & 0xFFFFFFFF <= self.window(1 - side)
        return segment.seq in (self.directions[side].seq_end, peer.ack)


@dataclass(frozen=True)
class Step:
    """What the tracker decides about one segment."""

    state: State
    drop: str | None = None
    refresh: bool = False
    restart: bool = False
    remembered: bool = False


def _syn(tracker: Tracker, state: State, segment: Segment, side: int, may_open: bool) -> Step:
    theirs = tracker.remembered is not None and tracker.remembered.side != side
    if side == OUTSIDE:
        if state is State.SYN_SENT:
            return _followed(tracker, state, State.SYN_RECEIVED, segment, side)
        if not may_open and not theirs:
            if state is State.HELD:
                return Step(state, drop="flow_held")
            if state is State.SYN_RECEIVED:
                return _followed(tracker, state, state, segment, side)
            return Step(state, drop="tcp_syn_unsolicited")
        if theirs:
            return Step(state)
    elif state is State.HELD:
        return Step(State.SYN_SENT, restart=True)
    if state not in ENDED and tracker.repeats(segment, side, state):
        return _followed(tracker, state, state, segment, side)
    return Step(state, refresh=side == INSIDE, remembered=True)


def _reset(tracker: Tracker, state: State, segment: Segment, side: int) -> Step:
    refuses = tracker.answers(segment, side)
    ours = tracker.remembered is not None and tracker.remembered.side == INSIDE
    may_refuse = side == INSIDE and (ours or state is State.SYN_RECEIVED)
    if state is State.SYN_SENT:
        if side == INSIDE:
            return Step(state)
        if refuses or (segment.has_ack and tracker.expected(segment, side)):
            return Step(State.RESET, refresh=True)
    elif tracker.refuses_other(segment, side):
        return Step(state)
    elif tracker.in_window(segment, side):
        return Step(state) if state in ENDED else Step(State.RESET, refresh=True)
    elif refuses or may_refuse:
        return Step(state)
    return Step(state, drop="tcp_rst_window")


def _held(tracker: Tracker, segment: Segment, side: int, kind: Kind) -> Step:
    if side == OUTSIDE:
        return Step(State.HELD, drop="flow_held")
    if kind is Kind.RST:
        refuses = tracker.answers(segment, side) and not tracker.in_window(segment, side)
        return Step(State.HELD, drop=None if refuses else "tcp_no_flow")
    return Step(State.HELD, drop="tcp_idle_timeout")


def _followed(
    tracker: Tracker, state: State, following: State, segment: Segment, side: int
) -> Step:
    tracker.note(segment, side, opening=state in OPENING)
    return Step(following, refresh=True)


def _moved(state: State, side: int, kind: Kind) -> State:
    """Where an ACK, a FIN or a SYN-ACK of a connection leads."""
    if state is State.SYN_SENT and kind is Kind.SYNACK:
        return State.SYN_RECEIVED
    if state is State.SYN_RECEIVED and kind is Kind.ACK:
        return State.ESTABLISHED
    if kind is Kind.FIN:
        mine = (State.FIN_INSIDE, State.FIN_OUTSIDE)[side]
        if state in (State.SYN_RECEIVED, State.ESTABLISHED):
            return mine
        if state in (State.FIN_INSIDE, State.FIN_OUTSIDE) and state is not mine:
            return State.FIN_BOTH
    return state


def step(tracker: Tracker, state: State, segment: Segment, side: int, *, may_open: bool) -> Step:
    """Decide about one segment of a flow in `state` and note it when it is followed.

    `may_open` tells whether the side may open connections: the inside always may.
    """
    kind = kind_of(segment.flags)
    if kind is None:
        raise ValueError("segments with invalid flags never reach the tracker")
    if kind is Kind.SYN:
        return _syn(tracker, state, segment, side, may_open)
    if kind is Kind.SYNACK and tracker.answers(segment, side):
        return Step(State.SYN_RECEIVED, restart=True)
    if state is State.HELD:
        return _held(tracker, segment, side, kind)
    if kind is Kind.RST:
        return _reset(tracker, state, segment, side)
    if state is State.TIME_WAIT:
        if kind is Kind.FIN and tracker.ends_with(segment, side):
            return _followed(tracker, state, state, segment, side)
        return Step(state)
    expected = tracker.expected(segment, side)
    following = _moved(state, side, kind)
    if state is State.SYN_SENT and side == OUTSIDE and not (kind is Kind.SYNACK and expected):
        return Step(state)
    if state is State.SYN_RECEIVED:
        # A handshake is over when both ends have acknowledged the other's SYN.
        both = tracker.directions[1 - side].ack_seen
        if not expected or (kind is Kind.ACK and not both):
            following = state
    result = _followed(tracker, state, following, segment, side)
    if state is State.FIN_BOTH and kind is not Kind.SYNACK and tracker.closed_by(segment, side):
        return replace(result, state=State.TIME_WAIT)
    return result
