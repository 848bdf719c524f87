# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Deriving everything anew from the committed entries, when a map is opened or settings ask for it.

An entry that cannot be right is discarded. Index cells are fetched a block ahead; ports that a bitmap
lacks because it began after them are entered at the end.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.entries cimport (
    deadline_of,
    holds_port,
    join,
    over,
    settle_retired,
    takes_no_port,
)
from hyperplane_nat.engine.flows.extensions cimport extension_open
from hyperplane_nat.engine.flows.flow_table cimport (
    table_discard,
    table_find,
    table_hash,
    table_index_insert,
    table_key,
    table_prefetch_index,
)
from hyperplane_nat.engine.flows.lifecycle cimport count_active
from hyperplane_nat.engine.flows.mapping cimport (
    mapping_adopt,
    mapping_plausible,
    mappings_recount,
    permission_adopt,
)
from hyperplane_nat.engine.flows.nat cimport NOBODY, Nat
from hyperplane_nat.engine.flows.ports cimport ports_adopt, ports_clear, ports_note
from hyperplane_nat.engine.flows.timers cimport wheel_add, wheel_init
from hyperplane_nat.engine.state.layout cimport (
    MAPPED,
    NIL,
    End,
    Entry,
    Extension,
    Mapping,
    destination_translated,
    is_extended,
    first_host,
    hop_of,
    is_balanced,
    is_mapping,
    keeps_source,
    rewrites_source,
)
from hyperplane_nat.engine.state.snapshot cimport entry_settle

cdef enum:
    BLOCK = 32


cdef inline bint balanced_plausible(const Nat* nat, uint32_t flow) noexcept nogil:
    """Whether a flow is by addresses of the map, to one of its hosts if to one."""
    cdef const Extension* extension = &nat.table.extensions[flow]
    if extension.endpoint and not (
        nat.header.slots_max <= extension.endpoint < first_host(nat.header)
    ):
        return False
    return nat.header.slots_max <= extension.node < first_host(nat.header) and (
        extension.target == 0
        or first_host(nat.header) <= extension.target < nat.attachments_max
    )


cdef inline bint plausible(const Nat* nat, uint32_t flow) noexcept nogil:
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef uint16_t hop = hop_of(entry, &nat.table.extensions[flow])
    if hop and not nat.header.slots_max <= hop < first_host(nat.header):
        return False
    if is_balanced(entry, &nat.table.extensions[flow]) and not balanced_plausible(nat, flow):
        return False
    if (
        entry.responder >= nat.attachments_max
        or (
            rewrites_source(entry)
            and not keeps_source(entry)
            and entry.translated_address != nat.records[entry.responder].address
        )
    ):
        return False
    if entry.originator >= nat.attachments_max and (
        entry.originator != NOBODY or entry.state != STATE_HELD
    ):
        return False
    if is_mapping(entry):
        return mapping_plausible(<const Mapping*>entry)
    if entry.destination_address == 0:
        return False
    if takes_no_port(nat, entry) and (entry.flags & MAPPED or entry.originator == NOBODY):
        return False
    if entry.protocol == 6:
        return STATE_SYN_SENT <= entry.state <= STATE_RESET or entry.state == STATE_HELD
    if entry.protocol == 17:
        return entry.state in (STATE_UDP, STATE_UDP_REPLIED, STATE_HELD)
    return entry.protocol == 1 and (entry.state == STATE_ICMP or entry.state == STATE_HELD)


cdef inline bint flow_adopt(Nat* nat, uint32_t flow) noexcept nogil:
    """Count a flow and its port; whether a bitmap begins with it (`ports_adopt`)."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef uint16_t hop = hop_of(entry, &nat.table.extensions[flow])
    cdef End remote
    if not over(entry.state):
        count_active(nat, entry, 1)
    if entry.flags & MAPPED:
        permission_adopt(nat, entry)
        return False
    if not holds_port(nat, entry):
        return False
    remote = destination_translated(entry, &nat.table.extensions[flow])
    if hop:
        ports_adopt(
            &nat.ports, entry.protocol, hop, entry.destination_address, entry.destination_port, 0
        )
    return ports_adopt(
        &nat.ports, entry.protocol, entry.responder, remote.address, remote.port, entry.translated_port
    )


cdef inline bint adopt(
    Nat* nat, uint32_t flow, const uint64_t* hashes, uint64_t now, uint32_t* unnoted
) noexcept nogil:
    """Take a committed entry into index, ports, timers and gauges; False when it cannot be.

    Ports of entries below `unnoted` may be missing in bitmaps.
    """
    cdef Entry* entry = &nat.table.entries[flow]
    cdef int side, first = PEER_RESPONDER if entry.originator == NOBODY else PEER_ORIGINATOR
    cdef bint begins
    if not plausible(nat, flow):
        return False
    for side in range(first, 2):
        if table_find(&nat.table, table_key(&nat.table, flow, side), hashes[side]) != NIL:
            return False
    for side in range(first, 2):
        table_index_insert(&nat.table, flow, side, hashes[side])
    join(nat, flow)
    if is_mapping(entry):
        begins = mapping_adopt(nat, flow)
    else:
        begins = flow_adopt(nat, flow)
    if begins:
        unnoted[0] = flow + 1
    wheel_add(&nat.wheel, flow, deadline_of(nat, entry, now))
    if entry.generation & 1:
        entry_settle(entry)
    return True


cdef inline void ports_complete(Nat* nat, uint32_t end) noexcept nogil:
    """Enter the ports of the entries below `end` in the bitmaps that began after them."""
    cdef uint32_t flow
    cdef const Entry* entry
    cdef End remote
    for flow in range(end):
        entry = &nat.table.entries[flow]
        # A mapping has a port itself, and is no flow that has it from one.
        if entry.state != STATE_FREE and holds_port(nat, entry):
            remote = destination_translated(entry, &nat.table.extensions[flow])
            ports_note(
                &nat.ports,
                entry.protocol,
                entry.responder,
                remote.address,
                remote.port,
                entry.translated_port,
            )


cdef inline uint32_t flows_rebuild(Nat* nat, uint64_t now, bint blank) noexcept nogil:
    """Derive index, ports, timers, free list and gauges from the committed entries.

    Returns how many committed entries were discarded because they cannot be right (damage:
    the order of stores never leaves such an entry behind).  `blank` tells that index and
    remotes read as zero already.  Works in blocks, so that the index cells of a block are on
    their way into the cache while the others are hashed.
    """
    cdef uint32_t watermark = nat.header.entries_watermark
    cdef uint32_t discarded = 0, used = 0, unnoted = 0, start, end, flow, number
    cdef uint64_t hashes[BLOCK][2]
    cdef int side, protocol
    cdef bint mapped = False
    cdef Entry* entry
    if not blank:
        memset(nat.table.index, 0, <uint64_t>nat.header.index_cells * 4)
    ports_clear(&nat.ports, blank)
    wheel_init(&nat.wheel, &nat.table, now)
    nat.retimed = NIL
    nat.table.free_head = NIL
    nat.counters[C_MAPPINGS_ACTIVE] = 0
    for protocol in range(3):
        nat.counters[C_FLOWS_ACTIVE_TCP + protocol] = 0
    for number in range(nat.attachments_max):
        nat.attachments[number].entries = 0
        nat.attachments[number].plain = 0
        nat.records[number].counters[<int>A_FLOWS] = 0
        nat.records[number].counters[<int>A_TCP_FLOWS] = 0
    start = 0
    while start < watermark:
        end = min(start + <uint32_t>BLOCK, watermark)
        for flow in range(start, end):
            entry = &nat.table.entries[flow]
            if entry.state != STATE_FREE:
                # Its keys are in a page that must be there.
                if is_extended(entry) and not extension_open(&nat.table, flow):
                    entry.state = STATE_FREE
                    discarded += 1
                    continue
                if is_mapping(entry) or entry.flags & MAPPED:
                    mapped = True
                for side in range(2):
                    hashes[flow - start][side] = table_hash(
                        &nat.table, table_key(&nat.table, flow, side)
                    )
                    table_prefetch_index(&nat.table, hashes[flow - start][side])
        for flow in range(start, end):
            if nat.table.entries[flow].state == STATE_FREE:
                table_discard(&nat.table, flow)
            elif adopt(nat, flow, hashes[flow - start], now, &unnoted):
                used += 1
            else:
                discarded += 1
                table_discard(&nat.table, flow)
        start = end
    if mapped:
        mappings_recount(nat, now)
        # What it has adopted may be anybody's.
        unnoted = watermark if unnoted else 0
    ports_complete(nat, unnoted)
    # A discarded entry may have been the last of a number that retires.
    for number in range(nat.attachments_max):
        settle_retired(nat, number)
    nat.table.used = used
    nat.counters[C_FLOWS_ENTRIES_USED] = used
    nat.counters[C_REBUILD_DISCARDED] += discarded
    return discarded
