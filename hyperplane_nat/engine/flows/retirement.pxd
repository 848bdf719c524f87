# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How slots and interfaces go, so that their numbers may come again.

Theory of operation
-------------------
Taking a slot or an interface away costs nothing: it is inactive, so no packet of its flows passes any
more.  While entries still name its number it is retiring, and whoever would use the number again is
refused; the entries of a slot and of an interface are counted, so that is known without looking.
A sweep goes round the table within a budget, for everything that retires at once, until nothing does:

* a flow of a retiring interface is removed with its port: the address is gone;
* a flow of a retiring slot ends, and its port is held as after any end, in an entry that is nobody's:
  it has no inside key, so the next environment in that slot cannot take it up;
* a mapping goes with the last of its flows, and is held and nobody's in the same way.

Who owns a slot is in the state map.  A forwarder that opens it is told the slots anew; entries of a
slot that is not named, or that another environment has by then, retire the same way.
"""

from libc.stdint cimport uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.lifecycle cimport flow_orphan, flow_remove
from hyperplane_nat.engine.flows.mapping cimport mapping_orphan, mapping_remove
from hyperplane_nat.engine.flows.nat cimport NOBODY, Interface, Nat, Slot
from hyperplane_nat.engine.state.layout cimport Entry, is_mapping

cdef enum:
    # What ending a flow costs, in entries that are only looked at.
    END_COST = 16


cdef inline void slot_retire(Nat* nat, uint32_t number) noexcept nogil:
    cdef Slot* slot = &nat.slots[number]
    slot.active = 0
    if slot.entries and not slot.retiring:
        slot.retiring = 1
        nat.retiring += 1


cdef inline void interface_retire(Nat* nat, uint32_t number) noexcept nogil:
    cdef Interface* interface = &nat.interfaces[number]
    interface.active = 0
    interface.policy = NULL
    if interface.entries and not interface.retiring:
        interface.retiring = 1
        nat.retiring += 1


cdef inline void strangers_retire(Nat* nat) noexcept nogil:
    """Everything that entries name and nobody has configured."""
    cdef uint32_t number
    for number in range(nat.slots_max):
        if not nat.slots[number].active:
            slot_retire(nat, number)
    for number in range(nat.interfaces_max):
        if not nat.interfaces[number].active:
            interface_retire(nat, number)


cdef inline uint32_t sweep(Nat* nat, uint64_t now, uint32_t budget) noexcept nogil:
    """Go on through the table; returns how much of the budget was used, 0 when nothing retires."""
    cdef uint32_t used = 0, flow
    cdef Entry* entry
    while nat.retiring and used < budget:
        if nat.sweep_position >= nat.header.entries_watermark:
            nat.sweep_position = 0
        flow = nat.sweep_position
        nat.sweep_position += 1
        used += 1
        entry = &nat.table.entries[flow]
        if entry.state == STATE_FREE:
            continue
        if nat.interfaces[entry.responder].retiring:
            if is_mapping(entry):
                mapping_remove(nat, flow)
            else:
                flow_remove(nat, flow, now)
            used += END_COST
        elif entry.originator != NOBODY and nat.slots[entry.originator].retiring:
            if is_mapping(entry):
                mapping_orphan(nat, flow, now)
            else:
                flow_orphan(nat, flow, now)
            used += END_COST
    return used
