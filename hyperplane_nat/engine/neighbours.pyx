# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The next hops of the interfaces, as the packet path sees them.

The packet path only looks here: a reachable neighbour gives a MAC address, an incomplete one
asks for a place in its bounded queue, a failed one is a drop.  Who resolves, retries and
expires is the forwarder; it tells this table the outcome.  Fixed size, open addressing,
removal shifts back.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset


cdef void neighbours_init(NeighbourTable* table, uint64_t key) noexcept nogil:
    memset(table, 0, sizeof(NeighbourTable))
    table.queue_frames = 256
    table.multiplier = key | 1


cdef Neighbour* neighbour_set(
    NeighbourTable* table, uint16_t interface, uint32_t address, uint8_t state, const uint8_t* mac
) noexcept nogil:
    """Make or change an entry; NULL when the table is full."""
    cdef Neighbour* neighbour = neighbour_find(table, interface, address)
    if neighbour.state == NEIGHBOUR_NONE:
        if table.count >= NEIGHBOURS_MAX:
            return NULL
        table.count += 1
        memset(neighbour, 0, sizeof(Neighbour))
        neighbour.address = address
        neighbour.interface = interface
    if neighbour.state != state:
        neighbour.queued = 0
    neighbour.state = state
    if mac != NULL:
        memcpy(neighbour.mac, mac, 6)
    return neighbour


cdef void neighbour_remove(
    NeighbourTable* table, uint16_t interface, uint32_t address
) noexcept nogil:
    cdef Neighbour* neighbour = neighbour_find(table, interface, address)
    cdef uint32_t gap, cell, home
    cdef uint32_t mask = NEIGHBOUR_CELLS - 1
    if neighbour.state == NEIGHBOUR_NONE:
        return
    table.count -= 1
    gap = <uint32_t>(neighbour - table.cells)
    cell = gap
    while True:
        cell = (cell + 1) & mask
        if table.cells[cell].state == NEIGHBOUR_NONE:
            break
        home = neighbour_home(table, table.cells[cell].interface, table.cells[cell].address)
        if ((cell - home) & mask) >= ((cell - gap) & mask):
            table.cells[gap] = table.cells[cell]
            gap = cell
    memset(&table.cells[gap], 0, sizeof(Neighbour))
