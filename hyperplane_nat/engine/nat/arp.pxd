# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t

from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport Packet


cdef void answer_arp(Nat* nat, Packet* p, uint64_t now) noexcept nogil
