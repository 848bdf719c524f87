# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint32_t

from hyperplane_nat.engine.state.layout cimport Entry
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport Packet


cdef int tombstones_resize(Nat* nat, uint32_t count) noexcept nogil
cdef void tombstone_put(Nat* nat, const Entry* entry) noexcept nogil
cdef void tombstone_remove(Nat* nat, const Packet* p) noexcept nogil
cdef void refuse_stray(Nat* nat, Packet* p) noexcept nogil
cdef void refuse_idle(Nat* nat, Packet* p) noexcept nogil
