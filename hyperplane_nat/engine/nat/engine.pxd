# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.flows.nat cimport Attachment, Nat
from hyperplane_nat.engine.wire.packet cimport Packet


cdef class Engine:
    cdef Nat* nat
    cdef object state
    cdef dict policies, host_policies
    cdef list extra
    cdef const unsigned char[::1] memory
    cdef unsigned char[::1] ring
    cdef readonly object timeouts
    cdef readonly object ports
    cdef readonly object behaviour
    cdef readonly object neighbour_settings
    cdef uint16_t _host(self, number) except? 0
    cdef uint16_t _interface(self, number) except? 0
    cdef int _set_address(self, uint32_t number, Attachment* record) except -1
    cdef void _collect(self)
    cdef void classify(self, Packet* packets, uint32_t count) noexcept nogil
    cdef void apply(self, Packet* p, uint64_t now) noexcept nogil
    cdef void activate(self) noexcept nogil
    cdef bint ask(self, uint64_t now) noexcept nogil
    cdef void let_go(self) noexcept nogil
    cdef bint tick(self, uint64_t now) noexcept nogil
    cdef uint64_t neighbours_due(self) noexcept nogil
