# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint32_t, uint64_t

from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport Packet


cdef uint32_t flow_create(Nat* nat, Packet* p, uint64_t now, int* reason) noexcept nogil
cdef bint flow_settle(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil
cdef int flow_track(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil
cdef int flows_expire(Nat* nat, uint64_t now, int budget) noexcept nogil
cdef void flow_orphan(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil
cdef void flow_remove(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil
cdef uint32_t flows_rebuild(Nat* nat, uint64_t now, bint blank) noexcept nogil
