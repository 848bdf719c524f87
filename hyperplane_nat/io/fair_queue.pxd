# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport int32_t, uint32_t

cdef enum:
    NO_POSITION = 0xFFFFFFFF

cdef struct Bucket:
    uint32_t head
    uint32_t tail
    uint32_t count
    uint32_t next
    int32_t credit

cdef struct Queue:
    Bucket* buckets
    uint32_t buckets_max
    uint32_t* next
    uint32_t positions
    uint32_t first
    uint32_t last
    uint32_t active
    uint32_t used
    uint32_t high


cdef int queue_init(Queue* queue, uint32_t positions, uint32_t buckets) noexcept
cdef void queue_free(Queue* queue) noexcept
cdef void queue_push(Queue* queue, uint32_t bucket, uint32_t position) noexcept nogil
cdef uint32_t queue_pop(Queue* queue) noexcept nogil
cdef void queue_charge(Queue* queue, uint32_t cost) noexcept nogil
cdef uint32_t queue_share(const Queue* queue, bint full) noexcept nogil
cdef uint32_t queue_shed(Queue* queue, uint32_t share, uint32_t* bucket) noexcept nogil
