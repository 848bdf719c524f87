# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint32_t

from hyperplane_nat.io.sender cimport Sender

cdef struct Coalescer:
    Sender* sender
    uint8_t enabled
    # The frame queued last, while others may join it; NULL when none may.
    uint8_t* head
    uint32_t interface_index
    uint32_t segment_bytes
    uint32_t payload_bytes


cdef void coalescer_init(Coalescer* coalescer, Sender* sender, bint enabled) noexcept
cdef void coalescer_send(Coalescer* coalescer, uint8_t* frame, uint32_t length, uint32_t interface_index) noexcept nogil
cdef void coalescer_close(Coalescer* coalescer) noexcept nogil
cdef void coalescer_flush(Coalescer* coalescer) noexcept nogil
