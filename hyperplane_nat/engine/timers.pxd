# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint32_t, uint64_t

from hyperplane_nat.engine.flow_table cimport FlowTable

cdef enum:
    WHEEL_BUCKETS = 8192
    WHEEL_WORDS = 128
    WHEEL_SHIFT = 6
    WHEEL_HEAD = 0x80000000

cdef struct TimerWheel:
    FlowTable* table
    uint64_t tick
    uint32_t kept
    uint32_t heads[WHEEL_BUCKETS]
    uint64_t occupied[WHEEL_WORDS]


cdef void wheel_init(TimerWheel* wheel, FlowTable* table, uint64_t now) noexcept nogil
cdef void wheel_add(TimerWheel* wheel, uint32_t flow, uint64_t deadline) noexcept nogil
cdef void wheel_remove(TimerWheel* wheel, uint32_t flow) noexcept nogil
cdef uint32_t wheel_next(TimerWheel* wheel, uint64_t now) noexcept nogil
cdef void wheel_keep(TimerWheel* wheel, uint32_t flow) noexcept nogil
cdef void wheel_settle(TimerWheel* wheel) noexcept nogil
cdef uint64_t wheel_deadline(const TimerWheel* wheel) noexcept nogil
