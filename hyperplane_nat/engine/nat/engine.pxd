# SPDX-License-Identifier: Apache-2.0
from hyperplane_nat.engine.flows.nat cimport Nat


cdef class Engine:
    cdef Nat* nat
    cdef object state
    cdef dict policies
    cdef list extra
    cdef const unsigned char[::1] memory
    cdef unsigned char[::1] ring
    cdef readonly object timeouts
    cdef readonly object ports
    cdef readonly object behaviour
    cdef readonly object neighbour_settings
    cdef void _collect(self)
