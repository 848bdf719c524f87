# SPDX-License-Identifier: Apache-2.0
"""The TCP tracker's transitions, as data.

Theory of operation
-------------------
A NAT sees the segments of both ends and guesses their states; it must never be stricter than
they are.  So a segment that the table does not expect is forwarded and changes nothing, with
three exceptions that protect the flow: a reset outside the receiver's window (RFC 5961's idea),
a packet from outside towards a port that is only held, and a first segment that is no SYN.

``TRANSITIONS`` lists what changes a state; every other pair leaves it.  The states and their
timers:

========================  ======================================  =======================
state                     seen so far                             timer
========================  ======================================  =======================
SYN_SENT                  a SYN from inside                       opening
SYN_RECEIVED              the answer, or a SYN from both sides    opening
ESTABLISHED               the handshake's last segment            established
FIN_INSIDE, FIN_OUTSIDE   a FIN from that side                    half closed
FIN_BOTH                  a FIN from both sides                   closing
TIME_WAIT                 the last acknowledgement                hold (RFC 6191, RFC 7857)
RESET                     a reset in window                       reset
HELD                      the flow's timer ran out                hold
========================  ======================================  =======================

In TIME_WAIT late segments are still translated, without prolonging it; in RESET any segment but
another reset prolongs it, because a reset that its receiver ignored must not cut a living
connection (RFC 7857, section 2.2).  A SYN from inside opens the flow anew, on its port: in
TIME_WAIT only with a sequence number beyond the old ones (RFC 6191).
"""

from __future__ import annotations

from hyperplane_nat.engine.constants import Segment, Side, State

__all__ = ["TIMER_OF_STATE", "TRANSITIONS"]

TRANSITIONS: dict[tuple[Side, State, Segment], State] = {
    (Side.INSIDE, State.SYN_SENT, Segment.SYNACK): State.SYN_RECEIVED,
    (Side.INSIDE, State.SYN_RECEIVED, Segment.ACK): State.ESTABLISHED,
    (Side.INSIDE, State.SYN_RECEIVED, Segment.FIN): State.FIN_INSIDE,
    (Side.INSIDE, State.ESTABLISHED, Segment.FIN): State.FIN_INSIDE,
    (Side.INSIDE, State.FIN_OUTSIDE, Segment.FIN): State.FIN_BOTH,
    (Side.INSIDE, State.FIN_BOTH, Segment.ACK): State.TIME_WAIT,
    (Side.OUTSIDE, State.SYN_SENT, Segment.SYNACK): State.SYN_RECEIVED,
    (Side.OUTSIDE, State.SYN_SENT, Segment.SYN): State.SYN_RECEIVED,
    (Side.OUTSIDE, State.SYN_RECEIVED, Segment.FIN): State.FIN_OUTSIDE,
    (Side.OUTSIDE, State.ESTABLISHED, Segment.FIN): State.FIN_OUTSIDE,
    (Side.OUTSIDE, State.FIN_INSIDE, Segment.FIN): State.FIN_BOTH,
    (Side.OUTSIDE, State.FIN_BOTH, Segment.ACK): State.TIME_WAIT,
}

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
