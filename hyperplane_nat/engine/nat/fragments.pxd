# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport Packet


cdef uint32_t fragment_arrives(Nat* nat, Packet* p, uint64_t now) noexcept nogil
cdef void fragment_answered(Nat* nat, Packet* p, uint32_t number) noexcept nogil
cdef void fragments_expire(Nat* nat, uint64_t now, int budget) noexcept nogil
cdef uint64_t fragments_deadline(const Nat* nat) noexcept nogil
cdef void fragments_forget(Nat* nat, uint8_t side, uint16_t number) noexcept nogil
