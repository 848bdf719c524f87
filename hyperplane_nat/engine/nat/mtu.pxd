# SPDX-License-Identifier: Apache-2.0
from hyperplane_nat.engine.state.layout cimport Entry
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport TCP_SYN, Packet


cdef inline bint needs_fitting(const Nat* nat, const Packet* p, const Entry* entry) noexcept nogil:
    """Whether `fit` has anything to do with a packet: it is large, or opens a connection."""
    return (
        p.total_length > (nat.slots[entry.slot].mtu if p.side else nat.interfaces[entry.interface].mtu)
        or p.flags & TCP_SYN
    )


cdef bint fit(Nat* nat, Packet* p, const Entry* entry) noexcept nogil
