# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state.layout cimport SEGMENTS, STATES, Entry, Track
from hyperplane_nat.engine.wire.packet cimport Packet

# What a segment does: see tcp_states.py.
cdef struct Step:
    uint8_t state
    uint8_t effect
    uint8_t reason

cdef struct Tracker:
    Step steps[2][STATES][SEGMENTS]


cdef void tracker_load(Tracker* tracker)
cdef void track_begin(Entry* entry, Track* track, const Packet* p) noexcept nogil
cdef void track_segment(Entry* entry, Track* track, const Packet* p) noexcept nogil
cdef void track_syn(Entry* entry, Track* track, const Packet* p) noexcept nogil
cdef const Step* track_step(
    const Tracker* tracker, const Entry* entry, const Track* track, const Packet* p, bint may_open
) noexcept nogil
