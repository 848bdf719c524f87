# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport Packet


cdef void report(Nat* nat, const Packet* p, uint64_t now, int kind) noexcept nogil
cdef int allocate(
    Nat* nat,
    const Packet* p,
    uint32_t remote_address,
    uint16_t remote_port,
    uint32_t entries,
    uint64_t now,
    uint16_t* interface,
    uint16_t* nat_port,
) noexcept nogil
cdef int admit_entry(Nat* nat, const Packet* p, uint16_t interface, uint64_t now) noexcept nogil
cdef void refused(
    Nat* nat,
    const Packet* p,
    uint32_t remote_address,
    uint16_t remote_port,
    int reason,
    uint64_t now,
) noexcept nogil
