# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.layout cimport SEGMENTS, STATES, Entry, Track
from hyperplane_nat.engine.packet cimport Packet

cdef enum:
    # In `flags`, above the tracker's own bits: the flow has its port from a mapping.
    MAPPED = 0x40

cdef struct Tracker:
    uint8_t next_state[2][STATES][SEGMENTS]


cdef void tracker_load(Tracker* tracker)
cdef void track_start(Entry* entry, Track* track) noexcept nogil
cdef void track_segment(Entry* entry, Track* track, const Packet* p) noexcept nogil
cdef bint reset_acceptable(const Entry* entry, const Track* track, const Packet* p) noexcept nogil
