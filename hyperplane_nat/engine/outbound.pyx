# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Addressing a translated packet to its next hop.

On a slot there is one host, whose MAC address is known.  On an interface the next hop is the
remote host when it is in the interface's subnet and the subnet's router otherwise; an unknown
one makes the packet wait (ACTION_PUNT), in a queue whose length is bounded here, before
anything is copied.  All addresses of an interface share the link and the next hops of the primary.
"""

from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memset

from hyperplane_nat.engine._constants cimport *
from hyperplane_nat.engine.nat cimport Interface, Nat, count2, drop
from hyperplane_nat.engine.neighbours cimport (
    NEIGHBOUR_FAILED,
    NEIGHBOUR_INCOMPLETE,
    NEIGHBOUR_NONE,
    NEIGHBOUR_REACHABLE,
    Neighbour,
    neighbour_find,
    neighbour_set,
)
from hyperplane_nat.engine.packet cimport Packet
from hyperplane_nat.engine.rewrite cimport address_frame, forward

cdef unsigned char[6] NOWHERE
memset(NOWHERE, 0, 6)


cdef void send_inside(Nat* nat, Packet* p, uint16_t slot) noexcept nogil:
    if not nat.slots[slot].active:
        drop(nat, p, DROP_UNKNOWN_LINK)
        return
    address_frame(p, nat.slots[slot].environment_mac, nat.slots[slot].gateway_mac)
    forward(p, SIDE_INSIDE, slot)
    count2(nat, C_PACKETS_OUT_TO_SOURCE, p.total_length)
    nat.slot_counters[slot].packets_in += 1
    nat.slot_counters[slot].bytes_in += p.total_length


cdef void send_outside(Nat* nat, Packet* p, uint16_t interface) noexcept nogil:
    cdef uint16_t primary = nat.interfaces[interface].primary
    cdef Interface* out = &nat.interfaces[primary]
    cdef uint32_t hop = p.destination
    cdef Neighbour* neighbour
    if not out.active or not nat.interfaces[interface].active:
        drop(nat, p, DROP_UNKNOWN_LINK)
        return
    if (hop & out.subnet_mask) != out.subnet:
        hop = out.router
    neighbour = neighbour_find(&nat.neighbours, primary, hop)
    if neighbour.state == NEIGHBOUR_REACHABLE:
        neighbour.used = 1
        address_frame(p, neighbour.mac, out.mac)
        forward(p, SIDE_OUTSIDE, primary)
    elif neighbour.state == NEIGHBOUR_FAILED:
        drop(nat, p, DROP_NEIGHBOUR_FAILED)
        return
    else:
        if neighbour.state == NEIGHBOUR_NONE:
            neighbour = neighbour_set(
                &nat.neighbours, primary, hop, NEIGHBOUR_INCOMPLETE, NULL
            )
            if neighbour == NULL:
                drop(nat, p, DROP_NEIGHBOUR_TABLE_FULL)
                return
        if neighbour.queued >= nat.neighbours.queue_frames:
            drop(nat, p, DROP_NEIGHBOUR_QUEUE_FULL)
            return
        neighbour.queued += 1
        address_frame(p, NOWHERE, out.mac)
        forward(p, SIDE_OUTSIDE, primary)
        p.action = ACTION_PUNT
    count2(nat, C_PACKETS_OUT_TO_DESTINATION, p.total_length)
    if p.side == SIDE_INSIDE:
        nat.slot_counters[p.port].packets_out += 1
        nat.slot_counters[p.port].bytes_out += p.total_length
