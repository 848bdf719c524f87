# SPDX-License-Identifier: Apache-2.0
"""The TCP tracker as data: what each segment does in each state.

Theory of operation
-------------------
A NAT sees the segments of both ends and guesses their states; it must never be stricter than
they are. So a segment that the table does not expect is forwarded and changes nothing, with
four exceptions that protect the flow: a reset outside the receiver's window (RFC 5961's idea),
a packet of the responder towards a port that is only held, its SYN where it may not open a
connection, and a first segment that is no SYN. The originator is who began the flow; INSIDE and
OUTSIDE in the names of states are originator and responder.

The states and their timers:

========================  ======================================  =======================
state                     seen so far                             timer
========================  ======================================  =======================
SYN_SENT                  a SYN of the originator                 opening
SYN_RECEIVED              the answer, or a SYN of both            opening
ESTABLISHED               the acknowledgement of both SYNs        established
FIN_INSIDE, FIN_OUTSIDE   a FIN of that end                       half closed
FIN_BOTH                  a FIN of both                           closing
TIME_WAIT                 the acknowledgement of both FINs        hold (RFC 6191, RFC 7857)
RESET                     a reset in window                       reset
HELD                      the flow's timer ran out                hold
========================  ======================================  =======================

In RESET any segment but another reset prolongs it, because a reset that its receiver ignored must
not cut a living connection (RFC 7857, section 2.2).

The end of a connection
-----------------------
A FIN that nobody has acknowledged is sent again, at ever longer intervals, so FIN_BOTH lasts until
the `LAST_ACK`: the segment with which all is acknowledged that either side has sent. It may
acknowledge either FIN, and be a FIN itself that is sent again. Others prolong FIN_BOTH.

In TIME_WAIT late segments are still translated, without prolonging it, but for a FIN: whoever sends
his again has not heard the last acknowledgement, and to him the connection is not closed (RFC 9293,
section 3.10.7.4). So a port is held from when both ends can have known that it was free. Nobody
gains a port by that: the number must be exactly that of the FIN, whose sender gives up some time
and could as well have left the connection open. A FIN of another number is a `STRAY`.

The same addresses and ports again
----------------------------------
Whether a SYN on a flow begins another connection is for its receiver to say: by its numbers or its
timestamps it may (RFC 6191), or it may hold on to the old one and challenge the SYN (RFC 5961
section 4). So a SYN, from whichever side may open, is remembered and forwarded in every state, and
the old state goes on. A SYN-ACK from the other side that acknowledges exactly it is the ANSWER:
the flow ends and another begins, with numbers, timers, counts and record of its own. An entry that
is only held has nothing that could go on, so there a SYN of the originator begins the next flow
itself.

A remembered SYN keeps the entry for the opening timer at least, whatever the state's own.

What a segment is to its flow
-----------------------------
`SYN_REPEATED` is the SYN of the connection itself, sent again; `SYN_CROSSING` is the
responder's while one of the originator is remembered, as in a simultaneous open, and
`SYN_UNSOLICITED` its SYN where it may not open. `STRAY` is a segment of an opening that does
not acknowledge what it should, or a FIN in TIME_WAIT that is not the connection's: one of an older
connection, or a forged one. In SYN_SENT nothing is learnt from it, and the reset with which the
client refuses it passes (`REFUSAL`, RFC 9293 section 3.10.7.3), as does, in every state, one
that refuses a remembered SYN, and one with which the responder refuses a `STRAY` of the originator:
what opens there may yet be acknowledged (section 3.10.7.4). `RST_STRAY` is any other reset outside
the window; the originator's passes in SYN_RECEIVED, where an end refuses so what does not
acknowledge its SYN (the same section).
"""

from __future__ import annotations

from typing import NamedTuple

from hyperplane_nat.engine.state.constants import DropReason, Effect, Peer, Segment, State

__all__ = ["STEPS", "TIMER_OF_STATE", "Arrow", "Step", "arrows"]


class Step(NamedTuple):
    """What a segment does: the state that follows, the effect and the reason if it is a drop."""

    state: State
    effect: Effect
    reason: DropReason = DropReason.NONE


_ABBREVIATIONS = {
    "SS": State.SYN_SENT,
    "SR": State.SYN_RECEIVED,
    "ES": State.ESTABLISHED,
    "FI": State.FIN_INSIDE,
    "FO": State.FIN_OUTSIDE,
    "FB": State.FIN_BOTH,
    "TW": State.TIME_WAIT,
    "RS": State.RESET,
    "HE": State.HELD,
}

_DROPS = {
    "!held": DropReason.FLOW_HELD,
    "!idle": DropReason.TCP_IDLE_TIMEOUT,
    "!none": DropReason.TCP_NO_FLOW,
    "!syn": DropReason.TCP_SYN_UNSOLICITED,
    "!win": DropReason.TCP_RST_WINDOW,
}

# `.` passes, `=` is followed in the same state, `>` in another one, `^` ends the handshake, `#` the
# connection, `x` is a reset, `+` is remembered, `*` begins another flow, `!` is dropped; `-` cannot
# be.
_TABLES = {
    Peer.ORIGINATOR: """
        segment          SS     SR     ES     FI     FO     FB     TW     RS     HE
        SYN              +      +      +      +      +      +      +      +      *SS
        SYN_REPEATED     =      =      =      =      =      =      +      +      *SS
        ANSWER           -      *SR    *SR    *SR    *SR    *SR    *SR    *SR    *SR
        SYNACK           >SR    =      =      =      =      =      .      =      !idle
        ACK              =      ^ES    =      =      =      =      .      =      !idle
        FIN              =      ^FI    >FI    =      >FB    =      =      =      !idle
        LAST_ACK         -      -      -      -      -      #TW    -      -      -
        STRAY            -      =      -      -      -      -      .      -      -
        RST              -      xRS    xRS    xRS    xRS    xRS    .      .      !none
        REFUSAL          .      .      .      .      .      .      .      .      .
        RST_STRAY        -      .      !win   !win   !win   !win   !win   !win   !none
    """,
    Peer.RESPONDER: """
        segment          SS     SR     ES     FI     FO     FB     TW     RS     HE
        SYN              >SR    +      +      +      +      +      +      +      +
        SYN_REPEATED     -      =      =      =      =      =      +      +      +
        SYN_CROSSING     >SR    .      .      .      .      .      .      .      -
        SYN_UNSOLICITED  >SR    =      !syn   !syn   !syn   !syn   !syn   !syn   !held
        ANSWER           *SR    *SR    *SR    *SR    *SR    *SR    *SR    *SR    -
        SYNACK           >SR    =      =      =      =      =      .      =      !held
        ACK              .      ^ES    =      =      =      =      .      =      !held
        FIN              .      ^FO    >FO    >FB    =      =      =      =      !held
        LAST_ACK         -      -      -      -      -      #TW    -      -      -
        STRAY            .      =      -      -      -      -      .      -      -
        RST              xRS    xRS    xRS    xRS    xRS    xRS    .      .      !held
        REFUSAL          -      .      .      .      .      .      .      .      !held
        RST_STRAY        !win   !win   !win   !win   !win   !win   !win   !win   !held
    """,
}


def _step(cell: str, state: State) -> Step:
    if cell in _DROPS:
        return Step(state, Effect.DROP, _DROPS[cell])
    following = _ABBREVIATIONS[cell[1:]] if cell[1:] else state
    effects = {
        ".": Effect.PASS,
        "=": Effect.FOLLOW,
        ">": Effect.FOLLOW,
        "^": Effect.ESTABLISH,
        "#": Effect.CLOSE,
        "x": Effect.RESET,
        "+": Effect.REMEMBER,
        "*": Effect.RESTART,
    }
    return Step(following, effects[cell[0]])


def _read(text: str) -> dict[tuple[State, Segment], Step]:
    (_, *states), *rows = (line.split() for line in text.strip().splitlines())
    return {
        (_ABBREVIATIONS[name], Segment[segment]): _step(cell, _ABBREVIATIONS[name])
        for segment, *cells in rows
        for name, cell in zip(states, cells, strict=True)
        if cell != "-"
    }


STEPS: dict[tuple[Peer, State, Segment], Step] = {
    (side, *pair): step for side, text in _TABLES.items() for pair, step in _read(text).items()
}
"""What a segment of a side does in a state; a triple that cannot be is missing."""

TIMER_OF_STATE: dict[State, str] = {
    State.SYN_SENT: "tcp_opening",
    State.SYN_RECEIVED: "tcp_opening",
    State.ESTABLISHED: "tcp_established",
    State.FIN_INSIDE: "tcp_half_closed",
    State.FIN_OUTSIDE: "tcp_half_closed",
    State.FIN_BOTH: "tcp_closing",
    State.TIME_WAIT: "hold",
    State.RESET: "tcp_reset",
    State.UDP: "udp",
    State.UDP_REPLIED: "udp",
    State.ICMP: "icmp",
    State.HELD: "hold",
}
"""Which timer of the configuration governs a state."""


class Arrow(NamedTuple):
    """What leads from a state to another: a segment, of one side or of both."""

    before: State
    after: State
    segment: Segment
    sides: frozenset[Peer]


def arrows(*, restarts: bool) -> list[Arrow]:
    """The table as a diagram: what changes the state, or with `restarts` what begins anew."""
    found: dict[tuple[State, State, Segment], set[Peer]] = {}
    for (side, state, segment), step in STEPS.items():
        anew = step.effect is Effect.RESTART
        if anew is restarts and (anew or step.state is not state):
            found.setdefault((state, step.state, segment), set()).add(side)
    return [Arrow(*key, frozenset(sides)) for key, sides in found.items()]
