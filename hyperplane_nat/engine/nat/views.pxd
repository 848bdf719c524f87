# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What the engine has in its own memory, as Python values."""

from libc.stdint cimport uint32_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.nat cimport Event as EventRecord, Nat
from hyperplane_nat.engine.flows.neighbour_table cimport Neighbour, NeighbourTable, has_mac
from hyperplane_nat.engine.wire.checksum cimport swap16
from hyperplane_nat.engine.wire.text cimport dotted


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
                record.slot,
                record.interface,
                dotted(record.remote_address),
                swap16(record.remote_port),
            )
        )
    return events


cdef inline list next_hops_of(const NeighbourTable* table):
    """What is known of every next hop, in no order."""
    from hyperplane_nat.engine.state.constants import NeighbourState
    from hyperplane_nat.engine.state.settings import NextHop
    cdef list hops = []
    cdef uint32_t i
    cdef const Neighbour* neighbour
    for i in range(table.used):
        neighbour = &table.records[i]
        if neighbour.state == NEIGHBOUR_NONE:
            continue
        hops.append(
            NextHop(
                neighbour.interface,
                dotted(neighbour.address),
                NeighbourState(neighbour.state),
                (<const unsigned char*>neighbour.mac)[:6].hex(":") if has_mac(neighbour) else None,
                neighbour.queue.frames,
            )
        )
    return hops
