# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport Packet

cdef enum:
    ICMP_UNREACHABLE = 3
    ICMP_FRAGMENTATION_NEEDED = 4
    ICMP_TIME_EXCEEDED = 11
    ICMP_PROHIBITED = 13


cdef void translate_error(Nat* nat, Packet* p, uint64_t now) noexcept nogil
cdef void reply_error(Nat* nat, Packet* p, uint8_t kind, uint8_t code, uint16_t mtu) noexcept nogil
