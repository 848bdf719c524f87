# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What the engine has in its own memory, as Python values, and the numbers that others go by.

They number environments by slot, interface addresses and hosts apart; here all are attachments, one
kind behind the other (`layout.attachments_of`).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.nat cimport NOBODY, UNATTACHED, Event as EventRecord, Nat
from hyperplane_nat.engine.flows.neighbour_table cimport Neighbour, NeighbourTable, has_mac
from hyperplane_nat.engine.state.layout cimport first_host, interface_number
from hyperplane_nat.engine.wire.checksum cimport swap16
from hyperplane_nat.engine.wire.text cimport dotted


cdef inline uint16_t attachment_of(const Nat* nat, uint8_t side, uint16_t number) noexcept nogil:
    """The attachment with a number on a side, UNATTACHED where the map has no room for it."""
    if side == SIDE_INSIDE:
        return number if number < nat.header.slots_max else <uint16_t>UNATTACHED
    if side == SIDE_OUTSIDE:
        if number >= nat.header.interfaces_max:
            return UNATTACHED
        return <uint16_t>(nat.header.slots_max + number)
    if side != SIDE_HOST or number >= nat.header.hosts_max:
        return UNATTACHED
    return <uint16_t>(first_host(nat.header) + number)


cdef inline tuple place_of(const Nat* nat, uint16_t attachment):
    """Side and number of an attachment."""
    from hyperplane_nat.engine.state.constants import Side
    if attachment < nat.header.slots_max:
        return Side.INSIDE, attachment
    if attachment < first_host(nat.header):
        return Side.OUTSIDE, interface_number(nat.header, attachment)
    return Side.HOST, attachment - first_host(nat.header)


cdef inline list retiring_of(const Nat* nat, uint32_t first, uint32_t end):
    """Which of these attachments retire, as numbers from the first on."""
    cdef uint32_t i
    if nat.retiring == 0:
        return []
    return [i - first for i in range(first, end) if nat.attachments[i].retiring]


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
                record.originator if record.originator < nat.header.slots_max else <int>NOBODY,
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
