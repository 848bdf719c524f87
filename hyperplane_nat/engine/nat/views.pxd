# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What the engine has in its own memory, as Python values, and the numbers that others go by.

They number environments by slot and interface addresses apart; here both are attachments, those behind
these (`layout.attachments_of`).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.nat cimport UNATTACHED, Event as EventRecord, Nat
from hyperplane_nat.engine.flows.neighbour_table cimport Neighbour, NeighbourTable, has_mac
from hyperplane_nat.engine.state.layout cimport interface_number
from hyperplane_nat.engine.wire.checksum cimport swap16
from hyperplane_nat.engine.wire.text cimport dotted


cdef inline uint16_t attachment_of(const Nat* nat, uint8_t side, uint16_t number) noexcept nogil:
    """The attachment with a number on a side, UNATTACHED where the map has no room for it."""
    if number >= (nat.header.interfaces_max if side else nat.header.slots_max):
        return UNATTACHED
    return <uint16_t>(nat.header.slots_max + number) if side else number


cdef inline tuple place_of(const Nat* nat, uint16_t attachment):
    """Side and number of an attachment."""
    from hyperplane_nat.engine.state.constants import Side
    if attachment < nat.header.slots_max:
        return Side.INSIDE, attachment
    return Side.OUTSIDE, interface_number(nat.header, attachment)


cdef inline list events_of(const Nat* nat):
    """What has happened and was not drained yet, oldest first."""
    from hyperplane_nat.engine.state.constants import EventKind
    from hyperplane_nat.engine.state.settings import Event
    cdef list events = []
    cdef uint32_t i
    cdef const EventRecord* record
    for i in range(nat.events_count):
        record = &nat.events[i]
        events.append(
            Event(
                EventKind(record.kind),
                record.now,
                record.protocol,
                record.originator,
                interface_number(nat.header, record.responder),
                dotted(record.remote_address),
                swap16(record.remote_port),
            )
        )
    return events


cdef inline list next_hops_of(const Nat* nat):
    """What is known of every next hop, in no order."""
    from hyperplane_nat.engine.state.constants import NeighbourState
    from hyperplane_nat.engine.state.settings import NextHop
    cdef list hops = []
    cdef const NeighbourTable* table = &nat.neighbours
    cdef uint32_t i
    cdef const Neighbour* neighbour
    for i in range(table.used):
        neighbour = &table.records[i]
        if neighbour.state == NEIGHBOUR_NONE:
            continue
        hops.append(
            NextHop(
                interface_number(nat.header, neighbour.interface),
                dotted(neighbour.address),
                NeighbourState(neighbour.state),
                (<const unsigned char*>neighbour.mac)[:6].hex(":") if has_mac(neighbour) else None,
                neighbour.queue.frames,
            )
        )
    return hops
