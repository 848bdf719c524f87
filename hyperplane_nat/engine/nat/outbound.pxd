# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint16_t

from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport Packet


cdef void send_inside(Nat* nat, Packet* p, uint16_t slot) noexcept nogil
cdef void send_outside(Nat* nat, Packet* p, uint16_t interface) noexcept nogil
