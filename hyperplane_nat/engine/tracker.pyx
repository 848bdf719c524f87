# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What the tracker remembers of a TCP flow, and which resets it believes.

Theory of operation
-------------------
For each side: the highest sequence number it has sent (``sequence_end``), the highest it has
acknowledged and the window it offered with that.  Numbers compare as in RFC 1982.  An
acknowledgement of something never sent is not recorded, so that a forged segment cannot move
the window by which resets are judged: only the true peer's data can.

A reset is believed when its sequence number lies in the window its receiver last announced
(RFC 5961 section 3 asks the end for an exact match; a NAT cannot know what is in flight).  A
reset that answers a SYN must acknowledge exactly that SYN (RFC 9293 section 3.10.7.3).
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from hyperplane_nat.engine._constants cimport *
from hyperplane_nat.engine.layout cimport SEGMENTS, STATES, Entry, Track
from hyperplane_nat.engine.packet cimport Packet, window_scale_option

from hyperplane_nat.engine.tcp_states import TRANSITIONS

cdef enum:
    SEEN = 0x01
    ACK_SEEN = 0x04
    WINDOW_UNSCALED = 0x10
    NO_SCALE = 15
    TCP_ACK = 0x10


cdef void tracker_load(Tracker* tracker):
    """Copy the transition table; a pair it does not name keeps the state."""
    cdef int side, state, segment
    for side in range(2):
        for state in range(STATES):
            for segment in range(SEGMENTS):
                tracker.next_state[side][state][segment] = state
    for (py_side, py_state, py_segment), following in TRANSITIONS.items():
        tracker.next_state[<int>py_side][<int>py_state][<int>py_segment] = <uint8_t>following


cdef void track_start(Entry* entry, Track* track) noexcept nogil:
    """Forget whatever connection used the entry before."""
    entry.flags &= MAPPED
    track.window_scale = (NO_SCALE << 4) | NO_SCALE
    track.window[0] = 0
    track.window[1] = 0
    track.sequence_end[0] = 0
    track.sequence_end[1] = 0
    track.acknowledged[0] = 0
    track.acknowledged[1] = 0
    track.syn_sequence = 0
    track.syn_payload = 0
    track.syn_scale = NO_SCALE


cdef void track_segment(Entry* entry, Track* track, const Packet* p) noexcept nogil:
    """Record a forwarded segment that is no reset."""
    cdef int side = p.side, peer = 1 - p.side
    cdef bint syn = p.segment == SEGMENT_SYN or p.segment == SEGMENT_SYNACK
    cdef uint32_t end = p.sequence + p.payload
    cdef uint8_t scale
    if syn or p.segment == SEGMENT_FIN:
        end += 1
    if not (entry.flags & (SEEN << side)):
        entry.flags |= <uint8_t>(SEEN << side)
        track.sequence_end[side] = end
    elif <int32_t>(end - track.sequence_end[side]) > 0:
        track.sequence_end[side] = end
    if syn and (entry.state == STATE_SYN_SENT or entry.state == STATE_SYN_RECEIVED):
        scale = window_scale_option(p)
        if side:
            track.window_scale = (track.window_scale & 0x0F) | <uint8_t>(scale << 4)
        else:
            track.window_scale = (track.window_scale & 0xF0) | scale
    if (
        (p.flags & TCP_ACK)
        and (entry.flags & (SEEN << peer))
        and <int32_t>(p.acknowledgement - track.sequence_end[peer]) <= 0
        and (
            not (entry.flags & (ACK_SEEN << side))
            or <int32_t>(p.acknowledgement - track.acknowledged[side]) >= 0
        )
    ):
        track.acknowledged[side] = p.acknowledgement
        track.window[side] = p.window
        entry.flags |= <uint8_t>(ACK_SEEN << side)
        if syn:
            entry.flags |= <uint8_t>(WINDOW_UNSCALED << side)
        else:
            entry.flags &= <uint8_t>~(WINDOW_UNSCALED << side)


cdef uint32_t offered_window(const Entry* entry, const Track* track, int side) noexcept nogil:
    cdef uint8_t inside = track.window_scale & 0x0F, outside = track.window_scale >> 4
    cdef uint32_t window = track.window[side]
    if inside == NO_SCALE or outside == NO_SCALE:
        return window
    # The window of a segment with SYN is never scaled (RFC 7323 section 2.2).
    if entry.flags & (WINDOW_UNSCALED << side):
        return window
    return window << (outside if side else inside)


cdef bint reset_acceptable(const Entry* entry, const Track* track, const Packet* p) noexcept nogil:
    cdef int side = p.side, peer = 1 - p.side
    if entry.state == STATE_SYN_SENT and side == SIDE_OUTSIDE:
        return (p.flags & TCP_ACK) and p.acknowledgement == track.sequence_end[SIDE_INSIDE]
    if entry.flags & (ACK_SEEN << peer):
        return p.sequence - track.acknowledged[peer] <= offered_window(entry, track, peer)
    return p.sequence == track.sequence_end[side]
