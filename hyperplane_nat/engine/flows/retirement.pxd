# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint32_t, uint64_t

from hyperplane_nat.engine.flows.nat cimport Nat


cdef void slot_retire(Nat* nat, uint32_t number) noexcept nogil
cdef void interface_retire(Nat* nat, uint32_t number) noexcept nogil
cdef void strangers_retire(Nat* nat) noexcept nogil
cdef uint32_t sweep(Nat* nat, uint64_t now, uint32_t budget) noexcept nogil
