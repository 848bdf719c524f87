# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How a flow begins, goes on and ends.

Theory of operation
-------------------
A flow begins with a packet from inside and takes an entry and a port, or neither.  It ends by
FIN, by a believed RST, or when nothing refreshed it for its state's timeout; nothing else ends
it, least of all a shortage, unless its slot or interface is taken away (:mod:`retirement`).  After
the end the entry keeps its port for the hold time:

* after FIN or RST in TIME_WAIT or RESET, in which late segments are still translated;
* after a timeout in HELD, in which packets from outside are dropped, and TCP segments from inside
  are answered with a reset, as long after it as there is room (:mod:`tombstones`).

A packet from inside that may begin a flow takes a held entry over, with its port.  When the
hold time is over, entry and port are free.  The interface's policy is asked whenever a flow begins,
be it in a held entry, and at no other time.

Time is exact whatever the timer wheel has got to: a packet that meets a flow whose timeout has
passed first settles the flow (`flow_settle`), with the hold time counted from the deadline.
``last_seen`` is the low 32 bits of the clock in milliseconds; differences are taken modulo
2**32, so ages up to 24 days are told apart from a clock that seems to run backwards.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from hyperplane_nat.engine._constants cimport *
from hyperplane_nat.engine.allocation cimport allocate, report
from hyperplane_nat.engine.entries cimport (
    deadline_of,
    join,
    leave_interface,
    leave_slot,
    over,
    relink,
)
from hyperplane_nat.engine.flow_records cimport note_end
from hyperplane_nat.engine.flow_table cimport (
    entry_key,
    table_allocate,
    table_commit,
    table_discard,
    table_find,
    table_free,
    table_give_back,
    table_hash,
    table_index_insert,
    table_prefetch_index,
    table_unindex,
)
from hyperplane_nat.engine.layout cimport NIL, Entry, Track, age_of, set_created
from hyperplane_nat.engine.mapping cimport (
    is_mapping,
    mapping_free,
    mapping_join,
    mapping_leave,
    mapping_open,
    mappings_recount,
    permission_adopt,
)
from hyperplane_nat.engine.nat cimport NOBODY, Nat, count, count_interface, protocol_index
from hyperplane_nat.engine.packet cimport Packet
from hyperplane_nat.engine.policy cimport PolicyRecord, policy_check
from hyperplane_nat.engine.ports cimport ports_adopt, ports_clear, ports_give_back
from hyperplane_nat.engine.timers cimport (
    wheel_add,
    wheel_init,
    wheel_keep,
    wheel_next,
    wheel_remove,
    wheel_settle,
)
from hyperplane_nat.engine.tombstones cimport tombstone_put, tombstone_remove
from hyperplane_nat.engine.tracker cimport MAPPED, reset_acceptable, track_segment, track_start

cdef enum:
    CAUSES = 4
    BLOCK = 32


cdef inline int refusal(const Nat* nat, uint16_t interface, const Packet* p) noexcept nogil:
    """Why security groups do not let a packet from inside begin a flow, or DROP_NONE."""
    cdef const PolicyRecord* policy = nat.interfaces[nat.interfaces[interface].primary].policy
    if policy == NULL:
        return DROP_NONE
    return policy_check(policy, p.protocol, p.destination, p.destination_port)


cdef void count_begin(Nat* nat, const Entry* entry) noexcept nogil:
    cdef int protocol = protocol_index(entry.protocol)
    nat.counters[C_FLOWS_CREATED_TCP + protocol] += 1
    nat.counters[C_FLOWS_ACTIVE_TCP + protocol] += 1
    nat.slot_counters[entry.slot].flows += 1


cdef void count_end(Nat* nat, const Entry* entry, int cause) noexcept nogil:
    cdef int protocol = protocol_index(entry.protocol)
    nat.counters[C_FLOWS_ENDED_TCP_FIN + protocol * CAUSES + cause] += 1
    nat.counters[C_FLOWS_ACTIVE_TCP + protocol] -= 1
    nat.slot_counters[entry.slot].flows -= 1


cdef inline uint8_t first_state(uint8_t protocol) noexcept nogil:
    if protocol == 6:
        return STATE_SYN_SENT
    return STATE_UDP if protocol == 17 else STATE_ICMP


cdef void begin(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    cdef Entry* entry = &nat.table.entries[flow]
    entry.last_seen = <uint32_t>now
    set_created(entry, &nat.table.tracks[flow], now)
    entry.packets[0] = 0
    entry.packets[1] = 0
    entry.bytes[0] = 0
    entry.bytes[1] = 0


cdef uint32_t flow_create(Nat* nat, Packet* p, uint64_t now, int* reason) noexcept nogil:
    """A new flow for a packet from inside, or NIL with the reason."""
    cdef uint16_t interface = nat.slots[p.port].interface
    cdef uint16_t nat_port = 0
    cdef uint32_t flow, mapping = NIL
    cdef Entry* entry
    reason[0] = refusal(nat, interface, p)
    if reason[0]:
        return NIL
    flow = table_allocate(&nat.table)
    if flow == NIL:
        reason[0] = DROP_FLOW_TABLE_FULL
    elif nat.behaviour.mapping == MAPPING_ENDPOINT_INDEPENDENT:
        mapping = mapping_open(nat, p, now, reason)
        if mapping != NIL:
            interface = nat.table.entries[mapping].interface
            nat_port = nat.table.entries[mapping].nat_port
            reason[0] = mapping_join(nat, mapping, p, now)
    else:
        reason[0] = allocate(
            nat, p, p.destination, p.destination_port, 1, now, &interface, &nat_port
        )
    if reason[0]:
        if flow != NIL:
            table_give_back(&nat.table, flow)
        if reason[0] == DROP_FLOW_TABLE_FULL:
            report(nat, p, now, EVENT_FLOW_TABLE_FULL)
        return NIL
    entry = &nat.table.entries[flow]
    entry.remote_address = p.destination
    entry.remote_port = p.destination_port
    entry.inside_port = p.source_port
    entry.slot = p.port
    entry.interface = interface
    entry.nat_port = nat_port
    entry.protocol = p.protocol
    entry.flags = 0 if mapping == NIL else <uint8_t>MAPPED
    begin(nat, flow, now)
    track_start(entry, &nat.table.tracks[flow])
    join(nat, entry)
    # A SYN-ACK answers a SYN that its mapping let in.
    if p.protocol == 6 and p.segment == SEGMENT_SYNACK:
        table_commit(&nat.table, flow, STATE_SYN_RECEIVED)
    else:
        table_commit(&nat.table, flow, first_state(p.protocol))
    if mapping != NIL:
        permission_adopt(nat, entry)
    if p.protocol == 6:
        track_segment(entry, &nat.table.tracks[flow], p)
        tombstone_remove(nat, p)
    wheel_add(&nat.wheel, flow, deadline_of(nat, entry, now))
    count_begin(nat, entry)
    nat.counters[C_FLOWS_ENTRIES_USED] = nat.table.used
    return flow


cdef int reopen(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    """A held entry serves its old owner again, with the same port; or why not."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef int reason = refusal(nat, entry.interface, p)
    if reason:
        return reason
    note_end(nat, flow, now)
    # Readers tell flows of one entry apart by it.
    entry.generation += 1
    begin(nat, flow, now)
    track_start(entry, &nat.table.tracks[flow])
    entry.state = first_state(entry.protocol)
    if entry.protocol == 6:
        track_segment(entry, &nat.table.tracks[flow], p)
    relink(nat, flow, now)
    count_begin(nat, entry)
    return DROP_NONE


cdef void release(Nat* nat, uint32_t flow, uint32_t ended, uint64_t now) noexcept nogil:
    """The entry, which is in no bucket of the wheel, and its port are free since `ended`."""
    cdef Entry* entry = &nat.table.entries[flow]
    if is_mapping(entry):
        mapping_free(nat, flow)
        return
    note_end(nat, flow, now)
    if entry.state == STATE_HELD:
        tombstone_put(nat, entry)
    if not entry.flags & MAPPED:
        ports_give_back(
            &nat.ports,
            entry.protocol,
            entry.interface,
            entry.remote_address,
            entry.remote_port,
            entry.nat_port,
        )
    leave_slot(nat, entry)
    leave_interface(nat, entry)
    table_free(&nat.table, flow)
    nat.counters[C_FLOWS_ENTRIES_USED] = nat.table.used
    if entry.flags & MAPPED:
        mapping_leave(nat, entry, ended, now)


cdef inline bint needs_hold(const Entry* entry) noexcept nogil:
    """Whether a flow keeps its entry after a timeout: the port of a mapping is held by that."""
    return entry.protocol == 6 or not entry.flags & MAPPED


cdef inline uint32_t free_since(const Nat* nat, const Entry* entry) noexcept nogil:
    """When an entry whose time is over has become free."""
    if needs_hold(entry):
        return entry.last_seen + nat.timeouts[entry.state]
    return entry.last_seen


cdef int pass_deadlines(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """What has become of a flow by now: 0 it goes on, 1 it changed state, 2 it is to be freed."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef uint32_t age = age_of(entry, now)
    if age < nat.timeouts[entry.state]:
        return 0
    if entry.state == STATE_MAPPING:
        entry.last_seen = <uint32_t>now
        return 0
    if over(entry.state):
        return 2
    count_end(nat, entry, END_TIMEOUT)
    count_interface(nat, entry.interface, I_FLOWS_TIMED_OUT)
    entry.last_seen += nat.timeouts[entry.state]
    entry.state = STATE_HELD
    if not needs_hold(entry):
        return 2
    return 2 if age_of(entry, now) >= nat.timeouts[STATE_HELD] else 1


cdef int flow_settle(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """Let deadlines that have passed take effect; 1 when the entry is free afterwards."""
    cdef int outcome = pass_deadlines(nat, flow, now)
    if outcome == 0:
        return 0
    if outcome == 2:
        wheel_remove(&nat.wheel, flow)
        release(nat, flow, free_since(nat, &nat.table.entries[flow]), now)
        return 1
    relink(nat, flow, now)
    return 0


cdef void change_state(
    Nat* nat, uint32_t flow, uint8_t state, uint64_t now
) noexcept nogil:
    """Enter a state now; the wheel is told only when the deadline comes nearer."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef bint nearer = nat.timeouts[state] < nat.timeouts[entry.state]
    entry.last_seen = <uint32_t>now
    entry.state = state
    if nearer:
        relink(nat, flow, now)


cdef int track_tcp(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    cdef Entry* entry = &nat.table.entries[flow]
    cdef Track* track = &nat.table.tracks[flow]
    cdef uint8_t state = entry.state, following
    cdef bint from_inside = p.side == SIDE_INSIDE
    if from_inside and p.segment == SEGMENT_SYN:
        count(nat, C_TCP_SYNS_FROM_SOURCE)
        count_interface(nat, nat.slots[p.port].interface, I_TCP_SYNS_FROM_SOURCE)
        if over(state) and (
            state != STATE_TIME_WAIT
            or <int32_t>(p.sequence - track.sequence_end[SIDE_INSIDE]) > 0
        ):
            return reopen(nat, flow, p, now)
    if state == STATE_HELD:
        if not from_inside:
            return DROP_FLOW_HELD
        return DROP_TCP_NO_FLOW if p.segment == SEGMENT_RST else DROP_TCP_IDLE_TIMEOUT
    if p.segment == SEGMENT_RST:
        if not reset_acceptable(entry, track, p):
            return DROP_TCP_RST_WINDOW
        if not over(state):
            count_end(nat, entry, END_RST)
            change_state(nat, flow, STATE_RESET, now)
        return DROP_NONE
    if state == STATE_TIME_WAIT:
        return DROP_NONE
    track_segment(entry, track, p)
    if state == STATE_RESET:
        if p.segment != SEGMENT_SYN:
            entry.last_seen = <uint32_t>now
        return DROP_NONE
    following = nat.tracker.next_state[p.side][state][p.segment]
    if following == state:
        entry.last_seen = <uint32_t>now
        return DROP_NONE
    if state == STATE_SYN_RECEIVED:
        count(nat, C_FLOWS_ESTABLISHED_TCP)
        count_interface(nat, entry.interface, I_FLOWS_ESTABLISHED_TCP)
    if following == STATE_TIME_WAIT:
        count_end(nat, entry, END_FIN)
    change_state(nat, flow, following, now)
    return DROP_NONE


cdef int flow_track(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    """Let a packet act on its flow; a drop reason when it may not pass."""
    cdef Entry* entry = &nat.table.entries[flow]
    if entry.protocol == 6:
        return track_tcp(nat, flow, p, now)
    if entry.state == STATE_HELD:
        if p.side == SIDE_OUTSIDE:
            return DROP_FLOW_HELD
        return reopen(nat, flow, p, now)
    entry.last_seen = <uint32_t>now
    if p.side == SIDE_OUTSIDE and entry.state == STATE_UDP:
        entry.state = STATE_UDP_REPLIED
    return DROP_NONE


cdef int flows_expire(Nat* nat, uint64_t now, int budget) noexcept nogil:
    """Examine up to `budget` flows whose tick has come; returns how many were examined."""
    cdef int examined = 0, outcome
    cdef uint32_t flow
    cdef uint64_t deadline
    while examined < budget:
        flow = wheel_next(&nat.wheel, now)
        if flow == NIL:
            break
        examined += 1
        outcome = pass_deadlines(nat, flow, now)
        if outcome == 2:
            release(nat, flow, free_since(nat, &nat.table.entries[flow]), now)
            continue
        deadline = deadline_of(nat, &nat.table.entries[flow], now)
        if (deadline >> 6) <= nat.wheel.tick:
            wheel_keep(&nat.wheel, flow)
        else:
            wheel_add(&nat.wheel, flow, deadline)
    wheel_settle(&nat.wheel)
    return examined


cdef void flow_remove(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """Forget a flow and its port at once: its interface is gone.

    A mapping that still has flows is left for when it has none.
    """
    cdef Entry* entry = &nat.table.entries[flow]
    if is_mapping(entry):
        if entry.packets[0]:
            return
    elif not over(entry.state):
        count_end(nat, entry, END_REMOVED)
    wheel_remove(&nat.wheel, flow)
    release(nat, flow, <uint32_t>now, now)


cdef void flow_orphan(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """End a flow whose slot is gone: its port is held, and the entry is nobody's.

    The port of a mapping's flows is held by the mapping, once they are gone.  A kill in between
    leaves a held entry of the old slot, which is swept again.
    """
    cdef Entry* entry = &nat.table.entries[flow]
    if not is_mapping(entry) and entry.flags & MAPPED:
        flow_remove(nat, flow, now)
        return
    if entry.state == STATE_MAPPING:
        return
    note_end(nat, flow, now)
    if over(entry.state):
        entry.state = STATE_HELD
    else:
        count_end(nat, entry, END_REMOVED)
        change_state(nat, flow, STATE_HELD, now)
    table_unindex(&nat.table, flow, SIDE_INSIDE)
    leave_slot(nat, entry)
    entry.slot = NOBODY


cdef bint plausible(const Nat* nat, const Entry* entry) noexcept nogil:
    if entry.interface >= nat.interfaces_max:
        return False
    if entry.slot >= nat.slots_max and (entry.slot != NOBODY or entry.state != STATE_HELD):
        return False
    if is_mapping(entry):
        return (
            (entry.state == STATE_MAPPING or entry.state == STATE_HELD)
            and entry.remote_port == 0
            and entry.protocol in (1, 6, 17)
        )
    if entry.protocol == 6:
        return STATE_SYN_SENT <= entry.state <= STATE_RESET or entry.state == STATE_HELD
    if entry.protocol == 17:
        return entry.state in (STATE_UDP, STATE_UDP_REPLIED, STATE_HELD)
    return entry.protocol == 1 and (entry.state == STATE_ICMP or entry.state == STATE_HELD)


cdef bint adopt(Nat* nat, uint32_t flow, const uint64_t* hashes, uint64_t now) noexcept nogil:
    """Take a committed entry into index, ports, timers and gauges; False when it cannot be."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef int side, first = SIDE_OUTSIDE if entry.slot == NOBODY else SIDE_INSIDE
    if not plausible(nat, entry):
        return False
    for side in range(first, 2):
        if table_find(&nat.table, side, entry_key(entry, side), hashes[side]) != NIL:
            return False
    for side in range(first, 2):
        table_index_insert(&nat.table, flow, side, hashes[side])
    join(nat, entry)
    if is_mapping(entry):
        entry.packets[0] = 0
    if entry.flags & MAPPED and not is_mapping(entry):
        permission_adopt(nat, entry)
    else:
        ports_adopt(
            &nat.ports,
            entry.protocol,
            entry.interface,
            entry.remote_address,
            entry.remote_port,
            entry.nat_port,
        )
    wheel_add(&nat.wheel, flow, deadline_of(nat, entry, now))
    if not over(entry.state) and not is_mapping(entry):
        nat.counters[C_FLOWS_ACTIVE_TCP + protocol_index(entry.protocol)] += 1
        nat.slot_counters[entry.slot].flows += 1
    return True


cdef uint32_t flows_rebuild(Nat* nat, uint64_t now, bint blank) noexcept nogil:
    """Derive index, ports, timers, free list and gauges from the committed entries.

    Returns how many committed entries were discarded because they cannot be right (damage:
    the order of stores never leaves such an entry behind).  `blank` tells that index and
    remotes read as zero already.  Works in blocks, so that the index cells of a block are on
    their way into the cache while the others are hashed.
    """
    cdef uint32_t watermark = nat.header.entries_watermark
    cdef uint32_t discarded = 0, used = 0, start, end, flow
    cdef uint64_t hashes[BLOCK][2]
    cdef int side, protocol
    cdef bint mapped = False
    cdef Entry* entry
    if not blank:
        memset(nat.table.index, 0, <uint64_t>nat.header.index_cells * 4)
    ports_clear(&nat.ports, blank)
    wheel_init(&nat.wheel, &nat.table, now)
    nat.table.free_head = NIL
    nat.counters[C_MAPPINGS_ACTIVE] = 0
    for protocol in range(3):
        nat.counters[C_FLOWS_ACTIVE_TCP + protocol] = 0
    for flow in range(nat.slots_max):
        nat.slot_counters[flow].flows = 0
        nat.slots[flow].entries = 0
    for flow in range(nat.interfaces_max):
        nat.interfaces[flow].entries = 0
    start = 0
    while start < watermark:
        end = min(start + <uint32_t>BLOCK, watermark)
        for flow in range(start, end):
            entry = &nat.table.entries[flow]
            if entry.state != STATE_FREE:
                if is_mapping(entry) or entry.flags & MAPPED:
                    mapped = True
                for side in range(2):
                    hashes[flow - start][side] = table_hash(&nat.table, entry_key(entry, side))
                    table_prefetch_index(&nat.table, hashes[flow - start][side])
        for flow in range(start, end):
            if nat.table.entries[flow].state == STATE_FREE:
                table_discard(&nat.table, flow)
            elif adopt(nat, flow, hashes[flow - start], now):
                used += 1
            else:
                discarded += 1
                table_discard(&nat.table, flow)
        start = end
    if mapped:
        mappings_recount(nat, now)
    # A discarded entry may have been the last of a number that retires.
    for flow in range(nat.slots_max):
        if nat.slots[flow].retiring and nat.slots[flow].entries == 0:
            nat.slots[flow].retiring = 0
            nat.retiring -= 1
    for flow in range(nat.interfaces_max):
        if nat.interfaces[flow].retiring and nat.interfaces[flow].entries == 0:
            nat.interfaces[flow].retiring = 0
            nat.retiring -= 1
    nat.table.used = used
    nat.counters[C_FLOWS_ENTRIES_USED] = used
    nat.counters[C_REBUILD_DISCARDED] += discarded
    return discarded
