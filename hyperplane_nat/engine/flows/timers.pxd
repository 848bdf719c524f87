# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint32_t, uint64_t

from hyperplane_nat.engine.flows.flow_table cimport FlowTable

cdef enum:
    WHEEL_BUCKETS = 8192
    # The list of flows whose tick has come and that wait to be examined, by the number of a bucket.
    WHEEL_DUE = 8192
    WHEEL_LISTS = 8193
    WHEEL_WORDS = 129
    WHEEL_SHIFT = 6
    WHEEL_HEAD = 0x80000000

cdef struct TimerWheel:
    FlowTable* table
    uint64_t tick
    # Whether the bucket of that tick was emptied in this round.
    bint taken
    uint32_t heads[WHEEL_LISTS]
    uint64_t occupied[WHEEL_WORDS]


cdef void wheel_init(TimerWheel* wheel, FlowTable* table, uint64_t now) noexcept nogil
cdef void wheel_add(TimerWheel* wheel, uint32_t flow, uint64_t deadline) noexcept nogil
cdef void wheel_remove(TimerWheel* wheel, uint32_t flow) noexcept nogil
cdef void wheel_begin(TimerWheel* wheel) noexcept nogil
cdef uint32_t wheel_next(TimerWheel* wheel, uint64_t now) noexcept nogil
cdef uint64_t wheel_deadline(const TimerWheel* wheel) noexcept nogil
