# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The walk that proves the tables agree.

Everything derived (index, port records, bitmaps, timers, free list) is compared with the committed
entries, from both ends: what an entry needs must be there, and what is there must belong to an
entry. Attachments that retire are no disagreement. It reads only, and takes about a second for a
million flows.
What is kept of fragments has no committed form; there the lists are compared with each other.
"""

from libc.stdint cimport uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.flow_table cimport (
    table_find,
    table_hash,
    table_index_position,
    table_key,
)
from hyperplane_nat.engine.flows.fragment_table cimport (
    BY_BUFFERS,
    BY_CONTEXTS,
    FRAGMENT_STATES,
    RANKINGS,
    Context,
    FragmentTable,
    Rank,
    Ranking,
)
from hyperplane_nat.engine.flows.mapping cimport PERMISSION, mapping_at
from hyperplane_nat.engine.flows.nat cimport NOBODY, Attachment, Nat
from hyperplane_nat.engine.flows.ports cimport ports_bit, ports_remote
from hyperplane_nat.engine.flows.timers cimport WHEEL_HEAD, WHEEL_LISTS
from hyperplane_nat.engine.state.layout cimport (
    MAPPED,
    NIL,
    End,
    Entry,
    Mapping,
    Remote,
    destination_translated,
    is_mapping,
    rewrites_source,
)


cdef inline list audit_fragments(const Nat* nat):
    """Contexts and buffers are counted at their place and their sender as the list by time has them."""
    cdef const FragmentTable* table = &nat.fragments
    cdef const Context* context
    cdef const Ranking* ranking
    cdef const Rank* rank
    cdef uint32_t number = table.by_time.first, place, i, buffers = 0
    cdef int which
    cdef list problems = []
    contexts_at = {}
    had = ({}, {})
    senders = {}
    for i in range(table.by_time.count):
        context = &table.contexts[number]
        key = (context.place, context.state)
        contexts_at[key] = contexts_at.get(key, 0) + 1
        had[BY_CONTEXTS][context.place] = had[BY_CONTEXTS].get(context.place, 0) + 1
        had[BY_BUFFERS][context.place] = had[BY_BUFFERS].get(context.place, 0) + context.waiting
        senders[context.sender] = senders.get(context.sender, 0) + 1
        buffers += context.waiting
        number = context.links[0].following
    if buffers != table.buffers_used:
        problems.append(f"{buffers} fragments wait, {table.buffers_used} counted")
    for sender, count in senders.items():
        if table.senders[<uint32_t>sender].contexts.count != count:
            problems.append(f"sender {sender}: {count} datagrams, counted otherwise")
    for place in range(nat.attachments_max):
        for which in range(FRAGMENT_STATES):
            if table.places[place].contexts[which].count != contexts_at.get((place, which), 0):
                problems.append(f"place {place}: datagrams in state {which} are counted wrong")
    for which in range(RANKINGS):
        ranking = &table.rankings[which]
        ranked = {}
        for i in range(1, ranking.highest + 1):
            place = ranking.first[i]
            while place and len(ranked) <= nat.attachments_max:
                rank = &table.places[place - 1].ranks[which]
                ranked[place - 1] = i
                if rank.count != i:
                    problems.append(f"place {place - 1} has rank {i} for {rank.count}")
                place = rank.following
        if ranked != {each: count for each, count in had[which].items() if count}:
            problems.append(f"places are ranked {ranked}, and have {had[which]}")
    return problems


cdef inline list audit(Nat* nat):
    """A line for each disagreement, none when all is well."""
    cdef list problems = audit_fragments(nat)
    cdef uint32_t flow, cell, id, used = 0, nobodys = 0, remotes = 0, linked = 0, before, retiring = 0
    cdef uint64_t counted = 0
    cdef uint32_t free_entries = 0
    cdef int side, bucket
    cdef Entry* entry
    cdef const Mapping* mapping
    cdef Remote* remote
    cdef End remote_end
    cdef const Attachment* attachment
    cdef uint32_t watermark = nat.header.entries_watermark
    per_remote = {}
    per_attachment = {}
    mappings = {}
    mapped = {}
    cdef uint64_t active = 0
    for flow in range(watermark):
        entry = &nat.table.entries[flow]
        if (entry.state == STATE_FREE) != (entry.generation & 1):
            problems.append(f"entry {flow}: generation {entry.generation} in state {entry.state}")
        if entry.state == STATE_FREE:
            continue
        used += 1
        per_attachment[entry.responder] = per_attachment.get(entry.responder, 0) + 1
        if entry.originator == NOBODY:
            nobodys += 1
            if entry.state != STATE_HELD:
                problems.append(f"flow {flow}: nobody's, and not held")
        else:
            per_attachment[entry.originator] = per_attachment.get(entry.originator, 0) + 1
        for side in range(SIDE_OUTSIDE if entry.originator == NOBODY else SIDE_INSIDE, 2):
            cell = table_index_position(&nat.table, flow, side)
            if cell == NIL:
                problems.append(f"flow {flow}: side {side} is not in the index")
            elif table_find(
                &nat.table,
                table_key(&nat.table, flow, side),
                table_hash(&nat.table, table_key(&nat.table, flow, side)),
            ) != flow:
                problems.append(f"flow {flow}: another flow has its key on side {side}")
        if is_mapping(entry):
            mapping = mapping_at(nat, flow)
            mappings[mapping.responder, mapping.protocol, mapping.translated_port] = mapping.flows
            active += mapping.state == STATE_MAPPING
            if (mapping.state == STATE_MAPPING) != (mapping.flows > 0):
                problems.append(f"mapping {flow}: {mapping.flows} flows, state {mapping.state}")
        elif entry.flags & MAPPED:
            key = (entry.responder, entry.protocol, entry.translated_port)
            mapped[key] = mapped.get(key, 0) + 1
            key = (
                entry.protocol | PERMISSION,
                entry.responder,
                entry.destination_address,
                entry.translated_port,
            )
            per_remote[key] = per_remote.get(key, 0) + 1
            continue
        if not rewrites_source(entry):
            continue
        remote_end = destination_translated(entry, &nat.table.extensions[flow])
        key = (entry.protocol, entry.responder, remote_end.address, remote_end.port)
        per_remote[key] = per_remote.get(key, 0) + 1
        remote = ports_remote(
            &nat.ports, entry.protocol, entry.responder, remote_end.address, remote_end.port
        )
        if remote == NULL:
            problems.append(f"flow {flow}: its remote endpoint has no record")
        elif ports_bit(&nat.ports, remote, entry.translated_port) == 0:
            problems.append(f"flow {flow}: the bitmap calls its port free")
    for key in mapped.keys() | {each for each in mappings if mappings[each]}:
        if mapped.get(key, 0) != mappings.get(key, 0):
            problems.append(
                f"mapping {key}: {mappings.get(key, 0)} flows counted, {mapped.get(key, 0)} found"
            )
    if active != nat.counters[C_MAPPINGS_ACTIVE]:
        problems.append(f"{active} mappings, {nat.counters[C_MAPPINGS_ACTIVE]} counted")
    if used != nat.table.used:
        problems.append(f"{used} entries are committed, the table counts {nat.table.used}")
    for cell in range(nat.table.mask + 1):
        if nat.table.index[cell]:
            counted += 1
            id = (nat.table.index[cell] & nat.table.id_mask) - 1
            if (id >> 1) >= watermark or nat.table.entries[id >> 1].state == STATE_FREE:
                problems.append(f"index cell {cell} names entry {id >> 1}, which is free")
    if counted != <uint64_t>used * 2 - nobodys:
        problems.append(f"the index holds {counted} ids for {used} flows, {nobodys} of them nobody's")
    for cell in range(nat.attachments_max):
        attachment = &nat.attachments[cell]
        retiring += attachment.retiring
        if attachment.entries != per_attachment.get(cell, 0):
            problems.append(f"attachment {cell}: {attachment.entries} entries counted")
        if attachment.retiring and (attachment.active or not attachment.entries):
            problems.append(f"attachment {cell} is retiring and should not be")
    if retiring != nat.retiring:
        problems.append(f"{retiring} attachments are retiring, {nat.retiring} counted")
    for cell in range(nat.ports.remote_cells):
        remote = &nat.ports.remotes[cell]
        if remote.count == 0:
            continue
        remotes += 1
        key = (remote.protocol, remote.attachment, remote.address, remote.port)
        if per_remote.get(key, 0) != remote.count:
            problems.append(
                f"remote endpoint {key}: {remote.count} ports counted, "
                f"{per_remote.get(key, 0)} flows"
            )
    if remotes != len(per_remote) or remotes != nat.ports.remotes_used:
        problems.append(
            f"{remotes} remote endpoints in the table, {len(per_remote)} in the flows, "
            f"{nat.ports.remotes_used} counted"
        )
    timed = bytearray(watermark)
    for bucket in range(WHEEL_LISTS):
        flow = nat.wheel.heads[bucket]
        before = WHEEL_HEAD | bucket
        if (flow != NIL) != bool(nat.wheel.occupied[bucket >> 6] >> (bucket & 63) & 1):
            problems.append(f"timer list {bucket}: its occupied bit is wrong")
        while flow != NIL:
            if timed[flow]:
                problems.append(f"timer list {bucket}: flow {flow} is in it and in another place")
                break
            timed[flow] = 1
            linked += 1
            if nat.table.entries[flow].state == STATE_FREE:
                problems.append(f"timer list {bucket} holds free entry {flow}")
            if nat.table.links[flow].previous != before:
                problems.append(f"flow {flow}: its timer links disagree")
            before = flow
            flow = nat.table.links[flow].following
    if linked != used:
        problems.append(f"{linked} flows have a timer, {used} are committed")
    flow = nat.table.free_head
    while flow != NIL and free_entries <= watermark:
        free_entries += 1
        if nat.table.entries[flow].state != STATE_FREE:
            problems.append(f"the free list holds committed entry {flow}")
        flow = nat.table.links[flow].following
    if free_entries + used != watermark:
        problems.append(f"{free_entries} free and {used} used entries, {watermark} ever used")
    return problems
