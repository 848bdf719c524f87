# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint16_t

from hyperplane_nat.engine.state.layout cimport Entry
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport TCP_SYN, Packet


cdef inline bint needs_fitting(const Nat* nat, const Packet* p, const Entry* entry) noexcept nogil:
    """Whether `fit` has anything to do with a packet: it is large, or opens a connection."""
    cdef uint16_t mtu = (
        nat.slots[entry.originator].mtu if p.side else nat.interfaces[entry.responder].mtu
    )
    return p.total_length > mtu or p.flags & TCP_SYN


cdef bint fit(Nat* nat, Packet* p, const Entry* entry) noexcept nogil
