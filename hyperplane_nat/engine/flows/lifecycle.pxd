# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How a flow begins, goes on and ends.

Theory of operation
-------------------
A flow begins with a packet from inside and takes an entry and a port, or neither. It ends by
FIN, by a believed RST, or when nothing refreshed it for its state's timeout; nothing else ends
it, least of all a shortage, unless its slot or interface is taken away (`retirement`). After
the end the entry keeps its port for the hold time:

* after FIN or RST in TIME_WAIT or RESET, in which late segments are still translated;
* after a timeout in HELD, in which packets from outside are dropped, and TCP segments from inside
  are answered with a reset, as long after it as there is room (`tombstones`).

A packet from inside that may begin a flow takes a held entry over, with its port, and so does a
connection that is opened on the addresses and ports of another (`tcp_states`). When the
hold time is over, entry and port are free. The interface's policy is asked whenever a packet from
inside begins a flow or is a SYN that may, and at no other time.

Time is exact whatever the timer wheel has got to: a packet that meets a flow whose timeout has
passed first settles the flow (`flow_settle`), with the hold time counted from the deadline.
`last_seen` is the low 32 bits of the clock in milliseconds; differences are taken modulo
2**32, so ages up to 37 days are told apart from a clock that seems to run backwards. No timeout is
longer than 25 days.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.allocation cimport allocate, report
from hyperplane_nat.engine.flows.entries cimport (
    deadline_of,
    disown,
    join,
    leave,
    over,
    relink,
    settle_retired,
    timeout_of,
)
from hyperplane_nat.engine.flows.extensions cimport extension_open
from hyperplane_nat.engine.flows.flow_records cimport note_end
from hyperplane_nat.engine.flows.flow_table cimport (
    table_allocate,
    table_commit,
    table_discard,
    table_find,
    table_free,
    table_give_back,
    table_hash,
    table_index_insert,
    table_key,
    table_prefetch_index,
)
from hyperplane_nat.engine.flows.mapping cimport (
    filter_admits,
    mapping_adopt,
    mapping_at,
    mapping_join,
    mapping_leave,
    mapping_open,
    mapping_plausible,
    mapping_settle,
    mappings_recount,
    permission_adopt,
)
from hyperplane_nat.engine.flows.nat cimport NOBODY, Nat, count, count_at
from hyperplane_nat.engine.flows.policy cimport PolicyRecord, policy_check
from hyperplane_nat.engine.flows.ports cimport ports_adopt, ports_clear, ports_give_back, ports_note
from hyperplane_nat.engine.flows.timers cimport (
    wheel_add,
    wheel_begin,
    wheel_init,
    wheel_next,
    wheel_remove,
)
from hyperplane_nat.engine.flows.tombstones cimport tombstone_put, tombstone_remove
from hyperplane_nat.engine.flows.tracker cimport (
    Step,
    track_begin,
    track_segment,
    track_step,
    track_syn,
)
from hyperplane_nat.engine.state.layout cimport (
    MAPPED,
    NIL,
    SYN_REMEMBERED,
    End,
    Entry,
    Mapping,
    Track,
    age_of,
    destination_translated,
    is_extended,
    is_mapping,
    rewrites_source,
    set_created,
)
from hyperplane_nat.engine.state.snapshot cimport entry_settle, entry_unsettle
from hyperplane_nat.engine.wire.packet cimport Packet, protocol_index

cdef enum:
    CAUSES = 5
    BLOCK = 32


cdef inline int refusal(const Nat* nat, uint16_t responder, const Packet* p) noexcept nogil:
    """Why security groups do not let a packet begin a flow that leaves there, or DROP_NONE."""
    cdef const PolicyRecord* policy = nat.attachments[nat.attachments[responder].primary].policy
    if policy == NULL:
        return DROP_NONE
    return policy_check(policy, p.protocol, p.destination, p.destination_port)


cdef inline void count_active(Nat* nat, const Entry* entry, int change) noexcept nogil:
    nat.counters[C_FLOWS_ACTIVE_TCP + protocol_index(entry.protocol)] += change
    nat.records[entry.originator].counters[<int>A_FLOWS] += change
    if entry.protocol == 6:
        nat.records[entry.originator].counters[<int>A_TCP_FLOWS] += change


cdef inline void count_begin(Nat* nat, const Entry* entry) noexcept nogil:
    nat.counters[C_FLOWS_CREATED_TCP + protocol_index(entry.protocol)] += 1
    count_active(nat, entry, 1)


cdef inline void count_end(Nat* nat, const Entry* entry, int cause) noexcept nogil:
    nat.counters[C_FLOWS_ENDED_TCP_FIN + protocol_index(entry.protocol) * CAUSES + cause] += 1
    count_active(nat, entry, -1)


cdef inline uint8_t first_state(uint8_t protocol) noexcept nogil:
    if protocol == 6:
        return STATE_SYN_SENT
    return STATE_UDP if protocol == 17 else STATE_ICMP


cdef inline void begin(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    cdef Entry* entry = &nat.table.entries[flow]
    entry.last_seen = <uint32_t>now
    set_created(entry, &nat.table.tracks[flow], now)
    entry.packets[0] = 0
    entry.packets[1] = 0
    entry.bytes[0] = 0
    entry.bytes[1] = 0


cdef inline uint32_t flow_create(Nat* nat, Packet* p, uint64_t now, int* reason) noexcept nogil:
    """A new flow for a packet from inside, or NIL with the reason."""
    cdef uint16_t responder = nat.attachments[p.port].interface
    cdef uint16_t nat_port = 0
    cdef uint32_t flow, mapping = NIL
    cdef Entry* entry
    reason[0] = refusal(nat, responder, p)
    if reason[0]:
        return NIL
    flow = table_allocate(&nat.table)
    if flow == NIL:
        reason[0] = DROP_FLOW_TABLE_FULL
    elif nat.behaviour.mapping == MAPPING_ENDPOINT_INDEPENDENT:
        mapping = mapping_open(nat, p, now, reason)
        if mapping != NIL:
            responder = mapping_at(nat, mapping).responder
            nat_port = mapping_at(nat, mapping).translated_port
            reason[0] = mapping_join(nat, mapping, p, now)
    else:
        reason[0] = allocate(
            nat, p, p.destination, p.destination_port, 1, now, &responder, &nat_port
        )
    if reason[0]:
        if flow != NIL:
            table_give_back(&nat.table, flow)
        if reason[0] == DROP_FLOW_TABLE_FULL:
            report(nat, p, now, EVENT_FLOW_TABLE_FULL)
        return NIL
    entry = &nat.table.entries[flow]
    entry.source_address = p.source
    entry.destination_address = p.destination
    entry.source_port = p.source_port
    entry.destination_port = p.destination_port
    entry.originator = p.port
    entry.protocol = p.protocol
    entry.translated_address = nat.attachments[responder].address
    entry.translated_port = nat_port
    entry.responder = responder
    entry.flags = 0 if mapping == NIL else <uint8_t>MAPPED
    begin(nat, flow, now)
    join(nat, entry)
    # A SYN-ACK answers a SYN that its mapping let in.
    if p.protocol == 6 and p.segment == SEGMENT_SYNACK:
        table_commit(&nat.table, flow, STATE_SYN_RECEIVED)
    else:
        table_commit(&nat.table, flow, first_state(p.protocol))
    if mapping != NIL:
        permission_adopt(nat, entry)
    if p.protocol == 6:
        track_begin(entry, &nat.table.tracks[flow], p)
        tombstone_remove(nat, p)
    wheel_add(&nat.wheel, flow, deadline_of(nat, entry, now))
    count_begin(nat, entry)
    nat.counters[C_FLOWS_ENTRIES_USED] = nat.table.used
    return flow


cdef inline int restart(
    Nat* nat, uint32_t flow, uint8_t state, const Packet* p, uint64_t now
) noexcept nogil:
    """The flow ends, if it has not, and another begins in its entry, with the same port; or why not."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef int reason = refusal(nat, entry.responder, p) if p.side == SIDE_INSIDE else DROP_NONE
    if reason:
        return reason
    if not over(entry.state):
        count_end(nat, entry, END_REPLACED)
    note_end(nat, flow, now)
    entry_unsettle(entry)
    begin(nat, flow, now)
    entry.state = state
    if entry.protocol == 6:
        track_begin(entry, &nat.table.tracks[flow], p)
    entry_settle(entry)
    relink(nat, flow, now)
    count_begin(nat, entry)
    return DROP_NONE


cdef inline bint holds_port(const Entry* entry) noexcept nogil:
    """Whether a port of the responder is taken for the entry alone."""
    return rewrites_source(entry) and (is_mapping(entry) or not entry.flags & MAPPED)


cdef inline void release(Nat* nat, uint32_t flow, uint32_t ended, uint64_t now) noexcept nogil:
    """The entry and its port are free since `ended`."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef End remote
    wheel_remove(&nat.wheel, flow)
    note_end(nat, flow, now)
    if entry.state == STATE_HELD:
        tombstone_put(nat, entry)
    if holds_port(entry):
        remote = destination_translated(entry, &nat.table.extensions[flow])
        ports_give_back(
            &nat.ports,
            entry.protocol,
            entry.responder,
            remote.address,
            remote.port,
            entry.translated_port,
        )
    leave(nat, entry.originator)
    leave(nat, entry.responder)
    table_free(&nat.table, flow)
    nat.counters[C_FLOWS_ENTRIES_USED] = nat.table.used
    if entry.flags & MAPPED:
        mapping_leave(nat, entry, ended, now)


cdef inline bint needs_hold(const Entry* entry) noexcept nogil:
    """Whether a flow keeps its entry after a timeout: the port of a mapping is held by that."""
    return entry.protocol == 6 or not entry.flags & MAPPED


cdef inline bint flow_settle(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """Let deadlines that have passed take effect; whether the entry is free afterwards."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef uint32_t timeout = timeout_of(nat, entry)
    if age_of(entry, now) < timeout:
        return False
    if not over(entry.state):
        count_end(nat, entry, END_TIMEOUT)
        count_at(nat, entry.responder, A_FLOWS_TIMED_OUT)
        entry.last_seen += timeout
        entry.state = STATE_HELD
        entry.flags &= <uint8_t>~SYN_REMEMBERED
        timeout = nat.timeouts[STATE_HELD]
        if needs_hold(entry) and age_of(entry, now) < timeout:
            relink(nat, flow, now)
            return False
    release(nat, flow, entry.last_seen + (timeout if needs_hold(entry) else 0), now)
    return True


cdef inline void refresh(
    Nat* nat, uint32_t flow, uint8_t state, uint64_t now
) noexcept nogil:
    """Be in a state from now on; the wheel is told only when the deadline comes nearer."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef uint32_t before
    entry.last_seen = <uint32_t>now
    if state != entry.state:
        before = timeout_of(nat, entry)
        entry.state = state
        if timeout_of(nat, entry) < before:
            relink(nat, flow, now)


cdef inline bint may_open(Nat* nat, const Entry* entry, const Packet* p) noexcept nogil:
    """Whether a SYN on a flow is from a side that may open connections."""
    return p.side == SIDE_INSIDE or (
        entry.flags & MAPPED
        and filter_admits(
            nat, entry.protocol, entry.responder, entry.destination_address, entry.translated_port
        )
    )


cdef inline int remember(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    """Keep a SYN that may begin another connection; or why it is refused."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef int reason
    # Nobody outside keeps a port from being free.
    if p.side == SIDE_INSIDE:
        reason = refusal(nat, entry.responder, p)
        if reason:
            return reason
        entry.last_seen = <uint32_t>now
    track_syn(entry, &nat.table.tracks[flow], p)
    return DROP_NONE


cdef inline int track_tcp(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    """Do what the table says of a segment; a drop reason when it may not pass."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef Track* track = &nat.table.tracks[flow]
    cdef bint opens = False
    cdef const Step* step
    if p.segment == SEGMENT_SYN:
        if p.side == SIDE_INSIDE:
            count(nat, C_TCP_SYNS_FROM_SOURCE)
            count_at(nat, nat.attachments[p.port].interface, A_TCP_SYNS_FROM_SOURCE)
        opens = may_open(nat, entry, p)
    step = track_step(&nat.tracker, entry, track, p, opens)
    if step.effect == EFFECT_DROP:
        return step.reason
    if step.effect == EFFECT_PASS:
        return DROP_NONE
    if step.effect == EFFECT_REMEMBER:
        return remember(nat, flow, p, now)
    if step.effect == EFFECT_RESTART:
        return restart(nat, flow, step.state, p, now)
    if step.effect == EFFECT_RESET:
        count_end(nat, entry, END_RST)
    else:
        track_segment(entry, track, p)
        if step.effect == EFFECT_ESTABLISH:
            count(nat, C_FLOWS_ESTABLISHED_TCP)
            count_at(nat, entry.responder, A_FLOWS_ESTABLISHED_TCP)
        elif step.effect == EFFECT_CLOSE:
            count_end(nat, entry, END_FIN)
    refresh(nat, flow, step.state, now)
    return DROP_NONE


cdef inline int flow_track(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    """Let a packet act on its flow; a drop reason when it may not pass."""
    cdef Entry* entry = &nat.table.entries[flow]
    if entry.protocol == 6:
        return track_tcp(nat, flow, p, now)
    if entry.state == STATE_HELD:
        if p.side == SIDE_OUTSIDE:
            return DROP_FLOW_HELD
        return restart(nat, flow, first_state(entry.protocol), p, now)
    entry.last_seen = <uint32_t>now
    if p.side == SIDE_OUTSIDE and entry.state == STATE_UDP:
        entry.state = STATE_UDP_REPLIED
    return DROP_NONE


cdef inline int retime(Nat* nat, uint64_t now, int budget) noexcept nogil:
    """Go on giving flows timers of the present timeouts, up to `budget` entries; how many it were."""
    cdef int used = 0
    while nat.retimed < nat.header.entries_watermark and used < budget:
        if nat.table.entries[nat.retimed].state != STATE_FREE:
            relink(nat, nat.retimed, now)
        nat.retimed += 1
        used += 1
    if nat.retimed >= nat.header.entries_watermark:
        nat.retimed = NIL
    return used


cdef inline int flows_expire(Nat* nat, uint64_t now, int budget) noexcept nogil:
    """Examine up to `budget` flows whose tick has come; returns how many were examined.

    After a change of timeouts all flows are examined first: deadlines may have come nearer.
    """
    cdef int examined = retime(nat, now, budget)
    cdef uint32_t flow
    cdef bint gone
    wheel_begin(&nat.wheel)
    while examined < budget:
        flow = wheel_next(&nat.wheel, now)
        if flow == NIL:
            break
        examined += 1
        if is_mapping(&nat.table.entries[flow]):
            gone = mapping_settle(nat, flow, now)
        else:
            gone = flow_settle(nat, flow, now)
        if not gone:
            relink(nat, flow, now)
    return examined


cdef inline void flow_remove(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """Forget a flow and its port at once: its interface is gone."""
    cdef Entry* entry = &nat.table.entries[flow]
    if not over(entry.state):
        count_end(nat, entry, END_REMOVED)
    release(nat, flow, <uint32_t>now, now)


cdef inline void flow_orphan(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """End a flow whose slot is gone: its port is held, and the entry is nobody's.

    The port of a mapping's flows is held by the mapping, once they are gone.  A kill in between
    leaves a held entry of the old slot, which is swept again.
    """
    cdef Entry* entry = &nat.table.entries[flow]
    if entry.flags & MAPPED:
        flow_remove(nat, flow, now)
        return
    note_end(nat, flow, now)
    if not over(entry.state):
        count_end(nat, entry, END_REMOVED)
        entry.last_seen = <uint32_t>now
    entry.state = STATE_HELD
    entry.flags &= <uint8_t>~SYN_REMEMBERED
    disown(nat, flow, now)


cdef inline bint plausible(const Nat* nat, const Entry* entry) noexcept nogil:
    if (
        entry.responder >= nat.attachments_max
        or (
            rewrites_source(entry)
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
    if entry.protocol == 6:
        return STATE_SYN_SENT <= entry.state <= STATE_RESET or entry.state == STATE_HELD
    if entry.protocol == 17:
        return entry.state in (STATE_UDP, STATE_UDP_REPLIED, STATE_HELD)
    return entry.protocol == 1 and (entry.state == STATE_ICMP or entry.state == STATE_HELD)


cdef inline bint flow_adopt(Nat* nat, uint32_t flow) noexcept nogil:
    """Count a flow and its port; whether a bitmap begins with it (`ports_adopt`)."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef End remote
    if not over(entry.state):
        count_active(nat, entry, 1)
    if entry.flags & MAPPED:
        permission_adopt(nat, entry)
        return False
    if not holds_port(entry):
        return False
    remote = destination_translated(entry, &nat.table.extensions[flow])
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
    cdef int side, first = SIDE_OUTSIDE if entry.originator == NOBODY else SIDE_INSIDE
    cdef bint begins
    if not plausible(nat, entry):
        return False
    for side in range(first, 2):
        if table_find(&nat.table, table_key(&nat.table, flow, side), hashes[side]) != NIL:
            return False
    for side in range(first, 2):
        table_index_insert(&nat.table, flow, side, hashes[side])
    join(nat, entry)
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
        if entry.state != STATE_FREE and holds_port(entry):
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
