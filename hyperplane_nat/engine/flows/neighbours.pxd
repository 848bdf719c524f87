# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.flows.nat cimport Interface, Nat
from hyperplane_nat.engine.flows.neighbour_table cimport TIMER_NOW, Neighbour
from hyperplane_nat.engine.wire.packet cimport Packet


cdef inline bint neighbours_asking(const Nat* nat) noexcept nogil:
    """Whether a question is to be sent at once."""
    return nat.neighbours.timers[<int>TIMER_NOW].first != NULL


cdef int neighbour_send(Nat* nat, uint16_t interface, Packet* p) noexcept nogil
cdef bint neighbour_answer(
    Nat* nat, uint16_t interface, uint32_t address, const uint8_t* mac, uint64_t now
) noexcept nogil
cdef void neighbour_hint(
    Nat* nat, uint16_t interface, uint32_t address, const uint8_t* mac, uint64_t now
) noexcept nogil
cdef void neighbour_learn(
    Nat* nat, Neighbour* neighbour, const uint8_t* mac, uint64_t now
) noexcept nogil
cdef void neighbour_forget(Nat* nat, Neighbour* neighbour) noexcept nogil
cdef void neighbours_forget(Nat* nat, uint16_t interface) noexcept nogil
cdef void neighbours_check(Nat* nat, uint16_t number, const Interface* new) noexcept nogil
cdef void neighbours_ask(Nat* nat, uint64_t now) noexcept nogil
cdef void neighbours_tick(Nat* nat, uint64_t now) noexcept nogil
cdef void neighbours_let_go(Nat* nat) noexcept nogil
cdef uint64_t neighbours_deadline(const Nat* nat) noexcept nogil
