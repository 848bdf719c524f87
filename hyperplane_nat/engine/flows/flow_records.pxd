# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from hyperplane_nat.engine.state.layout cimport FlowRecord, RecordRing
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport Packet

cdef enum:
    RING_HEADER_BYTES = 4096


cdef inline void note_end(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """A flow's entry is about to be freed, reused or nobody's."""
    if nat.sink.ring != NULL:
        record_end(nat, flow, now)


cdef inline void note_refusal(Nat* nat, const Packet* p, int reason, uint64_t now) noexcept nogil:
    """A packet is dropped that no flow admits."""
    if nat.sink.ring != NULL:
        record_refusal(nat, p, reason, now)


cdef bint sink_open(Nat* nat, uint8_t* memory, uint64_t bytes) noexcept nogil
cdef void record_end(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil
cdef void record_refusal(Nat* nat, const Packet* p, int reason, uint64_t now) noexcept nogil
cdef uint32_t* ring_lost(RecordRing* ring) noexcept nogil
cdef FlowRecord* ring_records(RecordRing* ring) noexcept nogil
cdef uint64_t ring_head(RecordRing* ring) noexcept nogil
cdef void ring_take(RecordRing* ring, uint64_t tail) noexcept nogil
cdef bint ring_fits(const RecordRing* ring, uint64_t bytes) noexcept nogil
