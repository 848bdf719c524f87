# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.state.barriers cimport HP_PREFETCH
from hyperplane_nat.engine.state.layout cimport NIL, Entry, Header, Track
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
    uint32_t* index
    uint32_t mask
    uint32_t id_mask
    uint32_t flows_max
    uint32_t free_head
    uint32_t used
    HashKey key

cdef struct FlowKey:
    uint64_t first
    uint64_t second


cdef inline FlowKey flow_key(
    int side,
    uint8_t protocol,
    uint16_t attachment,
    uint32_t source,
    uint16_t source_port,
    uint32_t destination,
    uint16_t destination_port,
) noexcept nogil:
    """Key of one direction of a flow: what a packet of it says, and where it came from.

    `attachment` is the slot on the inside and the interface on the outside: tenants with the same
    addresses never share a key.
    """
    cdef FlowKey key
    key.first = (<uint64_t>source << 32) | destination
    key.second = (
        (<uint64_t>source_port << 48)
        | (<uint64_t>destination_port << 32)
        | (<uint64_t>attachment << 16)
        | (<uint64_t>protocol << 8)
        | <uint64_t>side
    )
    return key


cdef inline FlowKey mapping_key(
    int side, uint8_t protocol, uint16_t attachment, uint32_t address, uint16_t port
) noexcept nogil:
    """Key of a mapping by its own end on this side; the other is everybody."""
    if side:
        return flow_key(side, protocol, attachment, 0, 0, address, port)
    return flow_key(side, protocol, attachment, address, port, 0, 0)


cdef inline uint64_t table_hash(const FlowTable* table, FlowKey key) noexcept nogil:
    return siphash(&table.key, key.first, key.second)


cdef inline FlowKey entry_key(const Entry* entry, int side) noexcept nogil:
    """Key of one direction of the flow in an entry."""
    if side:
        return flow_key(
            SIDE_OUTSIDE,
            entry.protocol,
            entry.responder,
            entry.destination_address,
            entry.destination_port,
            entry.translated_address,
            entry.translated_port,
        )
    return flow_key(
        SIDE_INSIDE,
        entry.protocol,
        entry.originator,
        entry.source_address,
        entry.source_port,
        entry.destination_address,
        entry.destination_port,
    )


cdef inline bint entry_matches(const Entry* entry, int side, FlowKey key) noexcept nogil:
    cdef FlowKey own = entry_key(entry, side)
    return own.first == key.first and own.second == key.second


cdef inline uint32_t table_find(
    const FlowTable* table, int side, FlowKey key, uint64_t hash
) noexcept nogil:
    """Entry of the flow that has `key` on `side`, or NIL."""
    cdef uint32_t position = <uint32_t>hash & table.mask
    cdef uint32_t tag = <uint32_t>(hash >> 32) & ~table.id_mask
    cdef uint32_t cell = table.index[position]
    cdef uint32_t id
    while cell:
        if (cell & ~table.id_mask) == tag:
            id = (cell & table.id_mask) - 1
            if <int>(id & 1) == side and entry_matches(&table.entries[id >> 1], side, key):
                return id >> 1
        position = (position + 1) & table.mask
        cell = table.index[position]
    return NIL


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


cdef int table_init(FlowTable* table, Header* header, HashKey key) noexcept nogil
cdef void table_release_memory(FlowTable* table) noexcept nogil
cdef uint32_t table_allocate(FlowTable* table) noexcept nogil
cdef void table_commit(FlowTable* table, uint32_t flow, uint8_t state) noexcept nogil
cdef void table_free(FlowTable* table, uint32_t flow) noexcept nogil
cdef void table_give_back(FlowTable* table, uint32_t flow) noexcept nogil
cdef void table_discard(FlowTable* table, uint32_t flow) noexcept nogil
cdef void table_index_insert(
    FlowTable* table, uint32_t flow, int side, uint64_t hash
) noexcept nogil
cdef uint32_t table_index_position(const FlowTable* table, uint32_t flow, int side) noexcept nogil
cdef void table_unindex(FlowTable* table, uint32_t flow, int side) noexcept nogil
