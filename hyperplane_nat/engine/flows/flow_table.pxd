# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The flow table: fixed entries and one index for both directions.

Theory of operation
-------------------
Entries are an array of 64-byte records in the state map, allocated once for `flows.max`.
A flow is named by its position in that array; one direction of it by the 32-bit id
`position * 2 + side`. One open-addressed index of ids serves both directions. It has a
power of two of cells, at least two for each id, so that it is at most half full and probes stay
within a cache line. The bits of a cell that the id does not need hold bits of the hash: a
lookup that misses touches the index only, one that hits touches exactly one entry.

Removal shifts later ids back over the gap, so no tombstones gather and a lookup costs the same
after a week as after a minute.

Free entries form a list through `links`, in which the others are in the buckets of the timer
wheel: memory of the forwarder's own. Entries never used lie above `entries_watermark`.

What survives a kill: only entries whose `state` is not FREE. `state` is the last store
when an entry is made and the first when it is freed; index, free list, ports and timers are
rebuilt from the committed entries when the map is opened. Processes that only read go by
`generation` (`snapshot`), which encloses the same stores.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.state.barriers cimport HP_PREFETCH, HP_STORE8_RELEASE
from hyperplane_nat.engine.state.flow_key cimport FlowKey, entry_key, flow_key, mapping_key
from hyperplane_nat.engine.state.layout cimport (
    EXTENSION_CHUNK,
    NIL,
    Entry,
    Extension,
    Header,
    Track,
    extensions_of,
)
from hyperplane_nat.engine.state.snapshot cimport entry_settle, entry_unsettle
from hyperplane_nat.engine.wire.siphash cimport HashKey, siphash

# The list that an entry is in: of a bucket of the timer wheel, or of the free entries.
cdef struct Links:
    uint32_t following
    uint32_t previous

cdef struct FlowTable:
    Header* header
    Entry* entries
    Track* tracks
    Links* links
    Extension* extensions
    # By chunk of extensions, whether its pages exist.
    uint8_t* chunks
    uint32_t* index
    uint32_t mask
    uint32_t id_mask
    uint32_t flows_max
    uint32_t free_head
    uint32_t used
    HashKey key

cdef inline uint64_t table_hash(const FlowTable* table, FlowKey key) noexcept nogil:
    return siphash(&table.key, key.first, key.second)


cdef inline FlowKey table_key(const FlowTable* table, uint32_t flow, int side) noexcept nogil:
    """Key of one direction of a flow."""
    return entry_key(&table.entries[flow], &table.extensions[flow], side)


cdef inline bint table_matches(
    const FlowTable* table, uint32_t flow, int side, FlowKey key
) noexcept nogil:
    cdef FlowKey own = table_key(table, flow, side)
    return own.first == key.first and own.second == key.second


cdef inline uint32_t table_find_id(
    const FlowTable* table, FlowKey key, uint64_t hash
) noexcept nogil:
    """The id of the direction that has `key`, or NIL."""
    cdef uint32_t position = <uint32_t>hash & table.mask
    cdef uint32_t tag = <uint32_t>(hash >> 32) & ~table.id_mask
    cdef uint32_t cell = table.index[position]
    cdef uint32_t id
    while cell:
        if (cell & ~table.id_mask) == tag:
            id = (cell & table.id_mask) - 1
            if table_matches(table, id >> 1, <int>(id & 1), key):
                return id
        position = (position + 1) & table.mask
        cell = table.index[position]
    return NIL


cdef inline uint32_t table_find(
    const FlowTable* table, FlowKey key, uint64_t hash
) noexcept nogil:
    """The entry of the flow that has `key` for either direction, or NIL."""
    cdef uint32_t id = table_find_id(table, key, hash)
    return NIL if id == NIL else id >> 1


cdef inline uint32_t table_flow(const FlowTable* table, FlowKey key) noexcept nogil:
    """The same of a key that has not been hashed."""
    return table_find(table, key, table_hash(table, key))


cdef inline void table_prefetch_index(const FlowTable* table, uint64_t hash) noexcept nogil:
    HP_PREFETCH(&table.index[<uint32_t>hash & table.mask])


cdef inline void table_prefetch_entry(const FlowTable* table, uint64_t hash) noexcept nogil:
    """Fetch the entry that the first matching tag names; a wrong guess costs nothing."""
    cdef uint32_t position = <uint32_t>hash & table.mask
    cdef uint32_t tag = <uint32_t>(hash >> 32) & ~table.id_mask
    cdef uint32_t cell = table.index[position]
    while cell:
        if (cell & ~table.id_mask) == tag:
            HP_PREFETCH(&table.entries[((cell & table.id_mask) - 1) >> 1])
            return
        position = (position + 1) & table.mask
        cell = table.index[position]


cdef inline int table_init(FlowTable* table, Header* header, HashKey key) noexcept nogil:
    """Point the table at a map with an empty index; the rebuild adds entries.  1: no memory."""
    cdef uint8_t* base = <uint8_t*>header
    table.header = header
    table.entries = <Entry*>(base + header.entries_offset)
    table.tracks = <Track*>(base + header.tracks_offset)
    table.extensions = extensions_of(header)
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
    table.chunks = <uint8_t*>calloc(header.flows_max // EXTENSION_CHUNK + 1, 1)
    return table.links == NULL or table.chunks == NULL


cdef inline void table_release_memory(FlowTable* table) noexcept nogil:
    free(table.links)
    free(table.chunks)


cdef inline void table_index_insert(
    FlowTable* table, uint32_t flow, int side, uint64_t hash
) noexcept nogil:
    """Add one direction of a flow that is not indexed; `hash` is its key's."""
    cdef uint32_t position = <uint32_t>hash & table.mask
    while table.index[position]:
        position = (position + 1) & table.mask
    table.index[position] = (<uint32_t>(hash >> 32) & ~table.id_mask) | (flow * 2 + side + 1)


cdef inline uint32_t table_index_position(
    const FlowTable* table, uint32_t flow, int side
) noexcept nogil:
    """Where the index holds one direction of a flow, or NIL."""
    cdef uint64_t hash = table_hash(table, table_key(table, flow, side))
    cdef uint32_t position = <uint32_t>hash & table.mask
    cdef uint32_t id = flow * 2 + side + 1
    while table.index[position]:
        if (table.index[position] & table.id_mask) == id:
            return position
        position = (position + 1) & table.mask
    return NIL


cdef inline void table_unindex(FlowTable* table, uint32_t flow, int side) noexcept nogil:
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
        home = <uint32_t>table_hash(table, table_key(table, id >> 1, <int>(id & 1))) & table.mask
        # Only an id whose home does not lie between the gap and itself may move back.
        if ((position - home) & table.mask) >= ((position - gap) & table.mask):
            table.index[gap] = cell
            gap = position
    table.index[gap] = 0


cdef inline uint32_t table_allocate(FlowTable* table) noexcept nogil:
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


cdef inline void table_commit(FlowTable* table, uint32_t flow, uint8_t state) noexcept nogil:
    """Index both directions and make the entry count."""
    cdef Entry* entry = &table.entries[flow]
    cdef int side
    for side in range(2):
        table_index_insert(table, flow, side, table_hash(table, table_key(table, flow, side)))
    HP_STORE8_RELEASE(&entry.state, state)
    entry_settle(entry)


cdef inline void table_discard(FlowTable* table, uint32_t flow) noexcept nogil:
    """Return an entry that is not indexed (or no longer) to the free list."""
    cdef Entry* entry = &table.entries[flow]
    entry_unsettle(entry)
    HP_STORE8_RELEASE(&entry.state, STATE_FREE)
    table.links[flow] = Links(table.free_head, NIL)
    table.free_head = flow


cdef inline void table_give_back(FlowTable* table, uint32_t flow) noexcept nogil:
    """Return an entry that was allocated and is not indexed."""
    table_discard(table, flow)
    table.used -= 1


cdef inline void table_free(FlowTable* table, uint32_t flow) noexcept nogil:
    """Forget a committed entry."""
    entry_unsettle(&table.entries[flow])
    HP_STORE8_RELEASE(&table.entries[flow].state, STATE_FREE)
    table_unindex(table, flow, PEER_ORIGINATOR)
    table_unindex(table, flow, PEER_RESPONDER)
    table_give_back(table, flow)
