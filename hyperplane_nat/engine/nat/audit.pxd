# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The walk that proves the tables agree.

Everything derived (index, port records, bitmaps, timers, free list) is compared with the committed
entries, from both ends: what an entry needs must be there, and what is there must belong to an
entry. Attachments that retire are no disagreement. It reads only, and takes about a second for a
million flows.
What is kept of fragments has no committed form; there the lists are compared with each other.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.entries cimport holds_port, nat_gateway_of, takes_no_port
from hyperplane_nat.engine.flows.flow_table cimport (
    table_flow,
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
    hop_of,
    is_balanced,
    is_mapping,
    keeps_source,
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


cdef inline void tally(dict counts, key):
    counts[key] = counts.get(key, 0) + 1


cdef inline list audit_indexed(const Nat* nat, uint32_t flow):
    """Whether an entry is found by both of its keys; nobody's has but one."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef int side
    cdef list problems = []
    for side in range(PEER_RESPONDER if entry.originator == NOBODY else PEER_ORIGINATOR, 2):
        if table_index_position(&nat.table, flow, side) == NIL:
            problems.append(f"flow {flow}: side {side} is not in the index")
        elif table_flow(&nat.table, table_key(&nat.table, flow, side)) != flow:
            problems.append(f"flow {flow}: another flow has its key on side {side}")
    return problems


cdef inline list audit_port(Nat* nat, uint32_t flow, dict remotes):
    """Whether the port of a flow or mapping is known to be taken, towards whom it is."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef End end = destination_translated(entry, &nat.table.extensions[flow])
    cdef const Remote* remote = ports_remote(
        &nat.ports, entry.protocol, entry.responder, end.address, end.port
    )
    cdef uint16_t hop = hop_of(entry, &nat.table.extensions[flow])
    tally(remotes, (entry.protocol, entry.responder, end.address, end.port))
    if hop:
        # It counts there, and no bitmap knows it.
        tally(
            remotes, (entry.protocol, hop, entry.destination_address, entry.destination_port)
        )
    if remote == NULL:
        return [f"flow {flow}: its remote endpoint has no record"]
    if ports_bit(&nat.ports, remote, entry.translated_port) == 0:
        return [f"flow {flow}: the bitmap calls its port free"]
    return []


cdef inline tuple hop_remote(const Nat* nat, uint32_t flow):
    """Towards whom a flow has its port."""
    cdef End end = destination_translated(&nat.table.entries[flow], &nat.table.extensions[flow])
    return end.address, end.port


cdef inline list audit_mappings(Nat* nat, dict remotes):
    """Whether mappings are in use by as many flows as they count."""
    cdef const Entry* entry
    cdef const Mapping* mapping
    cdef uint32_t flow
    cdef uint64_t active = 0
    cdef list problems = []
    cdef dict counted = {}, found = {}
    for flow in range(nat.header.entries_watermark):
        entry = &nat.table.entries[flow]
        if entry.state == STATE_FREE:
            continue
        key = (entry.responder, entry.protocol, entry.translated_port)
        if is_mapping(entry):
            mapping = mapping_at(nat, flow)
            counted[key] = mapping.flows
            active += mapping.state == STATE_MAPPING
            if (mapping.state == STATE_MAPPING) != (mapping.flows > 0):
                problems.append(f"mapping {flow}: {mapping.flows} flows, state {mapping.state}")
        elif entry.flags & MAPPED:
            tally(found, key)
            tally(
                remotes,
                (
                    entry.protocol | PERMISSION,
                    entry.responder,
                    entry.destination_address,
                    entry.translated_port,
                ),
            )
    for key in found.keys() | {each for each in counted if counted[each]}:
        if found.get(key, 0) != counted.get(key, 0):
            problems.append(
                f"mapping {key}: {counted.get(key, 0)} flows counted, {found.get(key, 0)} found"
            )
    if active != nat.counters[C_MAPPINGS_ACTIVE]:
        problems.append(f"{active} mappings, {nat.counters[C_MAPPINGS_ACTIVE]} counted")
    return problems


cdef inline list audit_index(const Nat* nat, uint32_t used, uint32_t nobodys):
    """Whether what is in the index belongs to an entry."""
    cdef uint32_t cell, id
    cdef uint64_t counted = 0
    cdef list problems = []
    for cell in range(nat.table.mask + 1):
        if nat.table.index[cell]:
            counted += 1
            id = (nat.table.index[cell] & nat.table.id_mask) - 1
            if (
                (id >> 1) >= nat.header.entries_watermark
                or nat.table.entries[id >> 1].state == STATE_FREE
            ):
                problems.append(f"index cell {cell} names entry {id >> 1}, which is free")
    if counted != <uint64_t>used * 2 - nobodys:
        problems.append(f"the index holds {counted} ids for {used} flows, {nobodys} of them nobody's")
    return problems


cdef inline list audit_owners(const Nat* nat, dict owned, dict plain):
    """Whether attachments know how many entries they have, and how many that are plain, and retire
    only with some.
    """
    cdef const Attachment* attachment
    cdef uint32_t number, retiring = 0
    cdef list problems = []
    for number in range(nat.attachments_max):
        attachment = &nat.attachments[number]
        retiring += attachment.retiring
        if attachment.entries != owned.get(number, 0):
            problems.append(f"attachment {number}: {attachment.entries} entries counted")
        if attachment.plain != plain.get(number, 0):
            problems.append(f"attachment {number}: {attachment.plain} plain flows counted")
        if attachment.retiring and (attachment.active or not attachment.entries):
            problems.append(f"attachment {number} is retiring and should not be")
    if retiring != nat.retiring:
        problems.append(f"{retiring} attachments are retiring, {nat.retiring} counted")
    return problems


cdef inline list audit_remotes(const Nat* nat, dict wanted):
    """Whether the records of remote endpoints count the ports that entries have."""
    cdef const Remote* remote
    cdef uint32_t cell, remotes = 0
    cdef list problems = []
    for cell in range(nat.ports.remote_cells):
        remote = &nat.ports.remotes[cell]
        if remote.count == 0:
            continue
        remotes += 1
        key = (remote.protocol, remote.attachment, remote.address, remote.port)
        if wanted.get(key, 0) != remote.count:
            problems.append(
                f"remote endpoint {key}: {remote.count} ports counted, {wanted.get(key, 0)} flows"
            )
    if remotes != len(wanted) or remotes != nat.ports.remotes_used:
        problems.append(
            f"{remotes} remote endpoints in the table, {len(wanted)} in the flows, "
            f"{nat.ports.remotes_used} counted"
        )
    return problems


cdef inline list audit_timers(const Nat* nat, uint32_t used):
    """Whether each entry in use is in one list of the wheel, and the lists are sound."""
    cdef uint32_t flow, before, linked = 0
    cdef int bucket
    cdef list problems = []
    timed = bytearray(nat.header.entries_watermark)
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
    return problems


cdef inline list audit_free(const Nat* nat, uint32_t used):
    """Whether the other entries that were ever used are in the free list."""
    cdef uint32_t flow = nat.table.free_head, count = 0, watermark = nat.header.entries_watermark
    cdef list problems = []
    while flow != NIL and count <= watermark:
        count += 1
        if nat.table.entries[flow].state != STATE_FREE:
            problems.append(f"the free list holds committed entry {flow}")
        flow = nat.table.links[flow].following
    if count + used != watermark:
        problems.append(f"{count} free and {used} used entries, {watermark} ever used")
    return problems


cdef inline list audit(Nat* nat):
    """A line for each disagreement, none when all is well."""
    cdef list problems = audit_fragments(nat)
    cdef uint32_t flow, used = 0, nobodys = 0
    cdef uint16_t hop
    cdef const Entry* entry
    cdef dict remotes = {}, owned = {}, plain = {}, hops = {}
    for flow in range(nat.header.entries_watermark):
        entry = &nat.table.entries[flow]
        if (entry.state == STATE_FREE) != (entry.generation & 1):
            problems.append(f"entry {flow}: generation {entry.generation} in state {entry.state}")
        if entry.state == STATE_FREE:
            continue
        used += 1
        if nat_gateway_of(nat, entry):
            tally(owned, nat_gateway_of(nat, entry))
        hop = hop_of(entry, &nat.table.extensions[flow])
        if is_balanced(entry, &nat.table.extensions[flow]):
            tally(owned, nat.table.extensions[flow].node)
            if nat.table.extensions[flow].target:
                tally(owned, nat.table.extensions[flow].target)
            if nat.table.extensions[flow].endpoint:
                tally(owned, nat.table.extensions[flow].endpoint)
        if hop:
            tally(owned, hop)
        # What is balanced has the port of its node there, which another target's flow may have, too.
        if hop and not is_balanced(entry, &nat.table.extensions[flow]):
            tally(hops, (entry.protocol, hop, hop_remote(nat, flow), entry.translated_port))
        tally(owned, entry.responder)
        if entry.originator != NOBODY:
            tally(owned, entry.originator)
        else:
            nobodys += 1
            if entry.state != STATE_HELD:
                problems.append(f"flow {flow}: nobody's, and not held")
        problems += audit_indexed(nat, flow)
        if takes_no_port(nat, entry) or keeps_source(entry):
            tally(plain, entry.originator)
            tally(plain, entry.responder)
        if holds_port(nat, entry):
            problems += audit_port(nat, flow, remotes)
    if used != nat.table.used:
        problems.append(f"{used} entries are committed, the table counts {nat.table.used}")
    problems += [f"{each} has a port of its interface twice" for each in hops if hops[each] > 1]
    problems += audit_mappings(nat, remotes)
    problems += audit_index(nat, used, nobodys)
    problems += audit_owners(nat, owned, plain)
    problems += audit_remotes(nat, remotes)
    problems += audit_timers(nat, used)
    return problems + audit_free(nat, used)
