# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The flow table: fixed entries and one index for both directions.

Theory of operation
-------------------
Entries are an array of 64-byte records in the state map, allocated once for ``flows.max``.
A flow is named by its position in that array; one direction of it by the 32-bit id
``position * 2 + side``.  One open-addressed index of ids serves both directions.  It has a
power of two of cells, at least two for each id, so that it is at most half full and probes stay
within a cache line.  The bits of a cell that the id does not need hold bits of the hash: a
lookup that misses touches the index only, one that hits touches exactly one entry.

Removal shifts later ids back over the gap, so no tombstones gather and a lookup costs the same
after a week as after a minute.

Free entries form a list through ``links``, in which the others are in the buckets of the timer
wheel: memory of the forwarder's own.  Entries never used lie above ``entries_watermark``.

What survives a kill: only entries whose ``state`` is not FREE.  ``state`` is the last store
when an entry is made and the first when it is freed; index, free list, ports and timers are
rebuilt from the committed entries when the map is opened.  Processes that only read go by
``generation`` (:mod:`snapshot`), which encloses the same stores.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.state.barriers cimport HP_STORE8_RELEASE
from hyperplane_nat.engine.state.layout cimport NIL, Entry, Header, Track
from hyperplane_nat.engine.wire.siphash cimport HashKey
from hyperplane_nat.engine.state.snapshot cimport entry_settle, entry_unsettle


cdef int table_init(FlowTable* table, Header* header, HashKey key) noexcept nogil:
    """Point the table at a map with an empty index; the rebuild adds entries.  1: no memory."""
    cdef uint8_t* base = <uint8_t*>header
    table.header = header
    table.entries = <Entry*>(base + header.entries_offset)
    table.tracks = <Track*>(base + header.tracks_offset)
    table.index = <uint32_t*>(base + header.index_offset)
    table.mask = header.index_cells - 1
    table.flows_max = header.flows_max
    table.id_mask = 1
    while table.id_mask < 2 * header.flows_max:
        table.id_mask = table.id_mask * 2 + 1
    table.free_head = NIL
    table.used = 0
    table.key = key
    # Its pages exist when entries are used.
    table.links = <Links*>calloc(header.flows_max, sizeof(Links))
    return table.links == NULL


cdef void table_release_memory(FlowTable* table) noexcept nogil:
    free(table.links)


cdef void table_index_insert(
    FlowTable* table, uint32_t flow, int side, uint64_t hash
) noexcept nogil:
    """Add one direction of a flow that is not indexed; `hash` is its key's."""
    cdef uint32_t position = <uint32_t>hash & table.mask
    while table.index[position]:
        position = (position + 1) & table.mask
    table.index[position] = (<uint32_t>(hash >> 32) & ~table.id_mask) | (flow * 2 + side + 1)


cdef uint32_t table_index_position(const FlowTable* table, uint32_t flow, int side) noexcept nogil:
    """Where the index holds one direction of a flow, or NIL."""
    cdef uint64_t hash = table_hash(table, entry_key(&table.entries[flow], side))
    cdef uint32_t position = <uint32_t>hash & table.mask
    cdef uint32_t id = flow * 2 + side + 1
    while table.index[position]:
        if (table.index[position] & table.id_mask) == id:
            return position
        position = (position + 1) & table.mask
    return NIL


cdef void table_unindex(FlowTable* table, uint32_t flow, int side) noexcept nogil:
    """Take one direction of a flow out of the index, if it is there."""
    cdef uint32_t gap = table_index_position(table, flow, side)
    cdef uint32_t position, cell, home, id
    if gap == NIL:
        return
    position = gap
    while True:
        position = (position + 1) & table.mask
        cell = table.index[position]
        if cell == 0:
            break
        id = (cell & table.id_mask) - 1
        home = <uint32_t>table_hash(
            table, entry_key(&table.entries[id >> 1], <int>(id & 1))
        ) & table.mask
        # Only an id whose home does not lie between the gap and itself may move back.
        if ((position - home) & table.mask) >= ((position - gap) & table.mask):
            table.index[gap] = cell
            gap = position
    table.index[gap] = 0


cdef uint32_t table_allocate(FlowTable* table) noexcept nogil:
    """Take a free entry, or NIL when all are used. The caller fills and commits it."""
    cdef uint32_t flow = table.free_head
    if flow != NIL:
        table.free_head = table.links[flow].following
    elif table.header.entries_watermark < table.flows_max:
        flow = table.header.entries_watermark
        table.header.entries_watermark = flow + 1
    else:
        return NIL
    entry_unsettle(&table.entries[flow])
    table.used += 1
    return flow


cdef void table_commit(FlowTable* table, uint32_t flow, uint8_t state) noexcept nogil:
    """Index both directions and make the entry count."""
    cdef Entry* entry = &table.entries[flow]
    cdef int side
    for side in range(2):
        table_index_insert(table, flow, side, table_hash(table, entry_key(entry, side)))
    HP_STORE8_RELEASE(&entry.state, state)
    entry_settle(entry)


cdef void table_discard(FlowTable* table, uint32_t flow) noexcept nogil:
    """Return an entry that is not indexed (or no longer) to the free list."""
    cdef Entry* entry = &table.entries[flow]
    entry_unsettle(entry)
    HP_STORE8_RELEASE(&entry.state, STATE_FREE)
    table.links[flow] = Links(table.free_head, NIL)
    table.free_head = flow


cdef void table_give_back(FlowTable* table, uint32_t flow) noexcept nogil:
    """Return an entry that was allocated and is not indexed."""
    table_discard(table, flow)
    table.used -= 1


cdef void table_free(FlowTable* table, uint32_t flow) noexcept nogil:
    """Forget a committed entry."""
    entry_unsettle(&table.entries[flow])
    HP_STORE8_RELEASE(&table.entries[flow].state, STATE_FREE)
    table_unindex(table, flow, SIDE_INSIDE)
    table_unindex(table, flow, SIDE_OUTSIDE)
    table_give_back(table, flow)
