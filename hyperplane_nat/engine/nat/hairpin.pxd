# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint16_t, uint64_t

from hyperplane_nat.engine.state.layout cimport Entry
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport Packet


cdef bint hairpin_reachable(Nat* nat, const Packet* p, uint64_t now) noexcept nogil
cdef void hairpin_arrive(Nat* nat, Packet* p, uint16_t target) noexcept nogil
cdef void hairpin_turn(Nat* nat, Packet* p, const Entry* entry) noexcept nogil
cdef void hairpin_deliver(Nat* nat, Packet* p, const Entry* source, uint64_t now) noexcept nogil
