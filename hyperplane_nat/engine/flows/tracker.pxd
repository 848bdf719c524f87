# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What the tracker remembers of a TCP flow, and what a segment is to it.

Theory of operation
-------------------
For each side: the highest sequence number it has sent (`sequence_end`), the highest it has
acknowledged and the window it offered with that. Numbers compare as in RFC 1982. An
acknowledgement of something never sent is not recorded, so that a forged segment cannot move
the window by which resets are judged: only the true peer's data can. Until a side has acknowledged
anything, `acknowledged` is the least it can: the number behind the other's SYN.

A late duplicate of an old SYN makes the responder answer, and the flow begin anew, of which the
originator knows nothing: it says again what it has acknowledged of the old connection. An old
acknowledgement may be late as well, and come when the originator has begun the new connection
itself. To the responder neither is an acknowledgement of its SYN: it refuses it by a reset of that
very number, and goes on waiting in SYN-RECEIVED (RFC 9293 section 3.10.7.4). So does the flow.
Until the originator acknowledges something that was sent, its word is kept as it is, with
OTHER_ACKNOWLEDGED: the reset of that number passes, for the old connection may live on at the
originator, and changes nothing, for the new one may at both. What is the least that can be
acknowledged is then forgotten, and only all that was sent counts.

A reset is believed when its sequence number lies in the window its receiver last announced
(RFC 5961 section 3 asks the end for an exact match; a NAT cannot know what is in flight). A
reset that answers a SYN must acknowledge exactly that SYN (RFC 9293 section 3.10.7.3).

`syn_sequence`, `syn_payload` and `syn_scale` are those of the latest SYN: the connection's own, or
with SYN_REMEMBERED one that may begin another. Each takes the place of the one before, so a flood
of them leaves one; in SYN_SENT the first is still known, by the numbers of the flow. What answers a
SYN with data acknowledges any part of that (RFC 7413 section 4.1.2).

The SYN of a connection opened from outside made no flow, so its window scale is unknown until it is
repeated. That it had one is known: the answer has one only then (RFC 7323 section 2.2). It is taken
as the largest, since nothing but resets of the environment itself is judged by it.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.state.layout cimport (
    KIND,
    MAPPED,
    SEGMENTS,
    STATES,
    SYN_REMEMBERED,
    Entry,
    Track,
)
from hyperplane_nat.engine.wire.packet cimport Packet, window_scale_option

# What a segment does: see tcp_states.py.
cdef struct Step:
    uint8_t state
    uint8_t effect
    uint8_t reason

cdef struct Tracker:
    Step steps[2][STATES][SEGMENTS]

cdef enum:
    SEEN = 0x01
    ACK_SEEN = 0x04
    NO_SCALE = 15
    LARGEST_SCALE = 14
    # In `syn_scale`: the SYN is the responder's; a side's window is as it stands.
    SYN_OF_RESPONDER = 0x80
    WINDOW_UNSCALED = 0x10
    WINDOWS_UNSCALED = 0x30
    # What the originator has acknowledged is of another connection.
    OTHER_ACKNOWLEDGED = 0x40
    # A SYN that is remembered leaves these as they are.
    OF_CONNECTION = 0x70
    TCP_ACK = 0x10


cdef inline int tracker_load(Tracker* tracker, dict steps) except -1:
    """Copy the table; what it does not name no end sends."""
    cdef int side, state, segment
    for side in range(2):
        for state in range(STATES):
            for segment in range(SEGMENTS):
                tracker.steps[side][state][segment] = Step(<uint8_t>state, EFFECT_DROP, DROP_TCP_FLAGS)
    for (py_side, py_state, py_segment), (following, effect, reason) in steps.items():
        tracker.steps[<int>py_side][<int>py_state][<int>py_segment] = Step(
            <uint8_t>following, <uint8_t>effect, <uint8_t>reason
        )
    return 0


cdef inline int syn_side(const Track* track) noexcept nogil:
    return PEER_RESPONDER if track.syn_scale & SYN_OF_RESPONDER else PEER_ORIGINATOR


cdef inline bint remembers_syn_of(const Entry* entry, const Track* track, int side) noexcept nogil:
    return entry.flags & SYN_REMEMBERED and syn_side(track) == side


cdef inline bint in_opening(const Entry* entry) noexcept nogil:
    return entry.state == STATE_SYN_SENT or entry.state == STATE_SYN_RECEIVED


cdef inline bint in_closing(const Entry* entry) noexcept nogil:
    return entry.state == STATE_FIN_BOTH or entry.state == STATE_TIME_WAIT


cdef inline void set_scale(Track* track, int side, uint8_t scale) noexcept nogil:
    if side:
        track.window_scale = (track.window_scale & 0x0F) | <uint8_t>(scale << 4)
    else:
        track.window_scale = (track.window_scale & 0xF0) | scale


cdef inline void store_syn(
    Track* track, int side, uint32_t sequence, uint16_t payload, uint8_t scale
) noexcept nogil:
    track.syn_sequence = sequence
    track.syn_payload = payload
    track.syn_scale = (
        (track.syn_scale & OF_CONNECTION) | scale | <uint8_t>(SYN_OF_RESPONDER if side else 0)
    )


cdef inline void track_syn(Entry* entry, Track* track, const Packet* p) noexcept nogil:
    """Remember a SYN; of one that is sent again with less data the longer counts."""
    cdef uint16_t payload = p.payload
    if remembers_syn_of(entry, track, p.side) and p.sequence == track.syn_sequence:
        payload = max(payload, track.syn_payload)
    store_syn(track, p.side, p.sequence, payload, window_scale_option(p))
    entry.flags |= <uint8_t>SYN_REMEMBERED


cdef inline void track_begin(Entry* entry, Track* track, const Packet* p) noexcept nogil:
    """Forget whatever connection used the entry before; one begins with a SYN, or with a SYN-ACK.

    The SYN which that answers is the remembered one, or one that a mapping let in.
    """
    cdef int opener = 1 - p.side
    if p.segment == SEGMENT_SYN:
        store_syn(track, p.side, p.sequence, p.payload, window_scale_option(p))
    elif not remembers_syn_of(entry, track, opener):
        store_syn(
            track,
            opener,
            p.acknowledgement - 1,
            0,
            NO_SCALE if window_scale_option(p) == NO_SCALE else LARGEST_SCALE,
        )
    entry.flags &= MAPPED | KIND
    track.syn_scale &= <uint8_t>~OF_CONNECTION
    track.window_scale = (NO_SCALE << 4) | NO_SCALE
    track.window[0] = 0
    track.window[1] = 0
    track.sequence_end[0] = 0
    track.sequence_end[1] = 0
    track.acknowledged[0] = 0
    track.acknowledged[1] = 0
    if p.segment != SEGMENT_SYN:
        entry.flags |= <uint8_t>(SEEN << opener)
        track.sequence_end[opener] = track.syn_sequence + 1 + track.syn_payload
        track.acknowledged[p.side] = track.syn_sequence + 1
        set_scale(track, opener, track.syn_scale & 0x0F)
    track_segment(entry, track, p)


cdef inline bint expected(const Track* track, const Packet* p) noexcept nogil:
    """Whether a segment acknowledges what the other side has sent, and no less than its SYN."""
    cdef uint32_t least = track.acknowledged[p.side], end = track.sequence_end[1 - p.side]
    if p.side == PEER_ORIGINATOR and track.syn_scale & OTHER_ACKNOWLEDGED:
        return p.acknowledgement == end
    return p.acknowledgement - least <= end - least


cdef inline bint answers_anew(
    const Entry* entry, const Track* track, const Packet* p
) noexcept nogil:
    """Whether a SYN-ACK has another number than the one before, which nobody has acknowledged.

    A server that keeps no state (RFC 4987 section 3.6) may answer a SYN that is sent again so.
    """
    cdef int peer = 1 - p.side
    return (
        p.segment == SEGMENT_SYNACK
        and not entry.flags & (ACK_SEEN << peer)
        and p.sequence + 1 != track.acknowledged[peer]
        and expected(track, p)
    )


cdef inline bint has_syn(const Packet* p) noexcept nogil:
    return p.segment == SEGMENT_SYN or p.segment == SEGMENT_SYNACK


cdef inline uint32_t end_of(const Packet* p) noexcept nogil:
    """The sequence number behind a segment: SYN and FIN count as an octet."""
    return p.sequence + p.payload + (has_syn(p) or p.segment == SEGMENT_FIN)


cdef inline void track_segment(Entry* entry, Track* track, const Packet* p) noexcept nogil:
    """Record a forwarded segment that is no reset."""
    cdef int side = p.side, peer = 1 - p.side
    cdef bint syn = has_syn(p)
    cdef uint32_t end = end_of(p)
    if not (entry.flags & (SEEN << side)) or answers_anew(entry, track, p):
        entry.flags |= <uint8_t>(SEEN << side)
        track.sequence_end[side] = end
        if not (entry.flags & (ACK_SEEN << peer)):
            track.acknowledged[peer] = p.sequence + syn
            if peer == PEER_ORIGINATOR:
                track.syn_scale &= <uint8_t>~OTHER_ACKNOWLEDGED
    elif <int32_t>(end - track.sequence_end[side]) > 0:
        track.sequence_end[side] = end
    if syn and in_opening(entry):
        set_scale(track, side, window_scale_option(p))
    if not (p.flags & TCP_ACK) or not (entry.flags & (SEEN << peer)):
        return
    if expected(track, p):
        track.acknowledged[side] = p.acknowledgement
        track.window[side] = p.window
        entry.flags |= <uint8_t>(ACK_SEEN << side)
        if side == PEER_ORIGINATOR:
            track.syn_scale &= <uint8_t>~OTHER_ACKNOWLEDGED
        if syn:
            track.syn_scale |= <uint8_t>(WINDOW_UNSCALED << side)
        else:
            track.syn_scale &= <uint8_t>~(WINDOW_UNSCALED << side)
    elif side == PEER_ORIGINATOR and not (entry.flags & (ACK_SEEN << side)):
        track.acknowledged[side] = p.acknowledgement
        track.syn_scale |= <uint8_t>OTHER_ACKNOWLEDGED


cdef inline uint32_t offered_window(
    const Entry* entry, const Track* track, int side
) noexcept nogil:
    cdef uint8_t inside = track.window_scale & 0x0F, outside = track.window_scale >> 4
    cdef uint32_t window = track.window[side]
    if inside == NO_SCALE or outside == NO_SCALE:
        return window
    # The window of a segment with SYN is never scaled (RFC 7323 section 2.2).
    if track.syn_scale & (WINDOW_UNSCALED << side):
        return window
    return window << (outside if side else inside)


cdef inline bint in_window(const Entry* entry, const Track* track, const Packet* p) noexcept nogil:
    cdef int peer = 1 - p.side
    if entry.flags & (ACK_SEEN << peer):
        return p.sequence - track.acknowledged[peer] <= offered_window(entry, track, peer)
    return p.sequence == track.sequence_end[p.side] or p.sequence == track.acknowledged[peer]


cdef inline bint answers_syn(
    const Entry* entry, const Track* track, const Packet* p
) noexcept nogil:
    """Whether a segment acknowledges the remembered SYN of the other side."""
    return (
        p.flags & TCP_ACK
        and remembers_syn_of(entry, track, 1 - p.side)
        and p.acknowledgement - (track.syn_sequence + 1) <= track.syn_payload
    )


cdef inline bint refuses_other(const Track* track, const Packet* p) noexcept nogil:
    """Whether a reset answers what the originator said of another connection."""
    return (
        p.side == PEER_RESPONDER
        and track.syn_scale & OTHER_ACKNOWLEDGED
        and p.sequence == track.acknowledged[PEER_ORIGINATOR]
    )


cdef inline int syn_as(
    const Entry* entry, const Track* track, const Packet* p, bint may_open
) noexcept nogil:
    if p.side == PEER_RESPONDER:
        if remembers_syn_of(entry, track, PEER_ORIGINATOR):
            return SEGMENT_SYN_CROSSING
        if not may_open:
            return SEGMENT_SYN_UNSOLICITED
    if (
        not entry.flags & SYN_REMEMBERED
        and syn_side(track) == p.side
        and p.sequence == track.syn_sequence
    ):
        return SEGMENT_SYN_REPEATED
    if (
        in_opening(entry)
        and entry.flags & (SEEN << p.side)
        and p.sequence + 1 + p.payload == track.sequence_end[p.side]
    ):
        return SEGMENT_SYN_REPEATED
    return SEGMENT_SYN


cdef inline int reset_as(const Entry* entry, const Track* track, const Packet* p) noexcept nogil:
    if entry.state == STATE_SYN_SENT:
        if p.side == PEER_ORIGINATOR:
            return SEGMENT_REFUSAL
        if p.flags & TCP_ACK and (expected(track, p) or answers_syn(entry, track, p)):
            return SEGMENT_RST
        return SEGMENT_RST_STRAY
    if refuses_other(track, p):
        return SEGMENT_REFUSAL
    if in_window(entry, track, p):
        return SEGMENT_RST
    # One from outside has to prove that it saw the SYN: it may be forged.
    if answers_syn(entry, track, p) or (
        p.side == PEER_ORIGINATOR and remembers_syn_of(entry, track, PEER_ORIGINATOR)
    ):
        return SEGMENT_REFUSAL
    return SEGMENT_RST_STRAY


cdef inline int opening_as(const Entry* entry, const Track* track, const Packet* p) noexcept nogil:
    """What an ACK, a FIN or a SYN-ACK is to a connection that is being opened."""
    cdef bint right = expected(track, p)
    if entry.state == STATE_SYN_SENT:
        if p.side == PEER_ORIGINATOR or (right and p.segment == SEGMENT_SYNACK):
            return p.segment
        return SEGMENT_STRAY
    if p.segment == SEGMENT_SYNACK:
        return SEGMENT_SYNACK
    # A handshake is over when both ends have acknowledged the other's SYN; a FIN may come before, with
    # data that did not wait for it (RFC 7413).
    if right and (p.segment == SEGMENT_FIN or entry.flags & (ACK_SEEN << (1 - p.side))):
        return p.segment
    return SEGMENT_STRAY


cdef inline int closing_as(const Entry* entry, const Track* track, const Packet* p) noexcept nogil:
    """What an ACK or a FIN is to a connection of which both ends have sent a FIN."""
    cdef int peer = 1 - p.side
    cdef uint32_t end = track.sequence_end[p.side]
    if entry.state == STATE_TIME_WAIT:
        return SEGMENT_STRAY if p.segment == SEGMENT_FIN and end_of(p) != end else p.segment
    if (
        p.flags & TCP_ACK
        and p.acknowledgement == track.sequence_end[peer]
        and track.acknowledged[peer] == end
        and <int32_t>(end_of(p) - end) <= 0
    ):
        return SEGMENT_LAST_ACK
    return p.segment


cdef inline const Step* track_step(
    const Tracker* tracker, const Entry* entry, const Track* track, const Packet* p, bint may_open
) noexcept nogil:
    """What a segment does to its flow; `may_open` tells whether its side may open connections."""
    cdef int segment = p.segment
    if segment == SEGMENT_SYN:
        segment = syn_as(entry, track, p, may_open)
    elif segment == SEGMENT_RST:
        segment = reset_as(entry, track, p)
    elif segment == SEGMENT_SYNACK and answers_syn(entry, track, p):
        segment = SEGMENT_ANSWER
    elif in_opening(entry):
        segment = opening_as(entry, track, p)
    elif in_closing(entry) and segment != SEGMENT_SYNACK:
        segment = closing_as(entry, track, p)
    return &tracker.steps[p.side][entry.state][segment]
