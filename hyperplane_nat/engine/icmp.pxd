# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t

from hyperplane_nat.engine.nat cimport Nat
from hyperplane_nat.engine.packet cimport Packet


cdef void translate_error(Nat* nat, Packet* p, uint64_t now) noexcept nogil
cdef void reply_time_exceeded(Nat* nat, Packet* p) noexcept nogil
