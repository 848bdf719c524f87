# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    NEIGHBOUR_CELLS = 8192
    NEIGHBOURS_MAX = 4096

cdef enum:
    NEIGHBOUR_NONE = 0
    NEIGHBOUR_INCOMPLETE = 1
    NEIGHBOUR_REACHABLE = 2
    NEIGHBOUR_FAILED = 3

cdef struct Neighbour:
    uint32_t address
    uint16_t interface
    uint16_t queued
    uint8_t state
    uint8_t probing
    uint8_t mac[6]
    uint8_t used

cdef struct NeighbourTable:
    uint32_t count
    uint32_t queue_frames
    uint64_t multiplier
    Neighbour cells[NEIGHBOUR_CELLS]


cdef inline uint32_t neighbour_home(
    const NeighbourTable* table, uint16_t interface, uint32_t address
) noexcept nogil:
    return <uint32_t>(
        (((<uint64_t>interface << 32) | address) * table.multiplier) >> 51
    )


cdef inline Neighbour* neighbour_find(
    NeighbourTable* table, uint16_t interface, uint32_t address
) noexcept nogil:
    """The neighbour's cell, or the empty one where it would go."""
    cdef uint32_t cell = neighbour_home(table, interface, address)
    while table.cells[cell].state != NEIGHBOUR_NONE and not (
        table.cells[cell].address == address and table.cells[cell].interface == interface
    ):
        cell = (cell + 1) & (NEIGHBOUR_CELLS - 1)
    return &table.cells[cell]


cdef void neighbours_init(NeighbourTable* table, uint64_t key) noexcept nogil
cdef Neighbour* neighbour_set(
    NeighbourTable* table, uint16_t interface, uint32_t address, uint8_t state, const uint8_t* mac
) noexcept nogil
cdef void neighbour_remove(
    NeighbourTable* table, uint16_t interface, uint32_t address
) noexcept nogil
