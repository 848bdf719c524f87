# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state.layout cimport Entry
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport Packet

cdef enum:
    # In the protocol of a Remote record: it is a permission, and `port` a NAT port.
    PERMISSION = 0x80


cdef uint32_t mapping_find(
    Nat* nat,
    int side,
    uint8_t protocol,
    uint16_t attachment,
    uint32_t address,
    uint16_t port,
    uint64_t now,
) noexcept nogil
cdef uint32_t mapping_open(Nat* nat, const Packet* p, uint64_t now, int* reason) noexcept nogil
cdef int mapping_join(
    Nat* nat, uint32_t mapping, const Packet* p, uint64_t now
) noexcept nogil
cdef void mapping_leave(Nat* nat, const Entry* flow, uint32_t ended, uint64_t now) noexcept nogil
cdef void mapping_free(Nat* nat, uint32_t mapping) noexcept nogil
cdef bint mapping_answers(Nat* nat, const Packet* p, uint64_t now) noexcept nogil
cdef int mapping_admit(Nat* nat, const Packet* p, uint64_t now, uint32_t* mapping) noexcept nogil
cdef bint filter_admits(
    Nat* nat, uint8_t protocol, uint16_t interface, uint32_t remote, uint16_t nat_port
) noexcept nogil
cdef void permission_adopt(Nat* nat, const Entry* flow) noexcept nogil
cdef void mappings_recount(Nat* nat, uint64_t now) noexcept nogil
