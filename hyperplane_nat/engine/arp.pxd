# SPDX-License-Identifier: Apache-2.0
from hyperplane_nat.engine.nat cimport Nat
from hyperplane_nat.engine.packet cimport Packet


cdef void answer_arp(Nat* nat, Packet* p) noexcept nogil
