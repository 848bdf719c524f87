# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint32_t, uint64_t

cdef struct Patience:
    uint64_t spin_ns
    uint64_t last_ns
    uint64_t interval_ns
    uint64_t credit_ns
    # A trial goes on; a look that is part of one is under way.
    bint trying
    bint looking


cdef void patience_init(Patience* patience, uint64_t spin_ns) noexcept
cdef void patience_arrived(Patience* patience, uint64_t now, uint32_t frames) noexcept nogil
cdef uint64_t patience_begin(Patience* patience) noexcept nogil
cdef void patience_end(Patience* patience, uint64_t now) noexcept nogil
