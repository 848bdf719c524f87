# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""How a flow begins, goes on and ends.

Theory of operation
-------------------
A flow begins with a packet from inside and takes an entry and a port, or neither; by a NAT gateway an
environment's takes one there and counts as one at its interface. A host's own flow takes no port where it
is not translated, or one to one, and its entry is free when it has timed out. A flow ends by
FIN, by a believed RST, or when nothing refreshed it for its state's timeout; nothing else ends
it, least of all a shortage, unless its slot or interface is taken away (`retirement`). After
the end the entry keeps its port for the hold time:

* after FIN or RST in TIME_WAIT or RESET, in which late segments are still translated;
* after a timeout in HELD, in which packets from outside are dropped, and TCP segments from inside
  are answered with a reset, as long after it as there is room (`tombstones`).

A packet from inside that may begin a flow takes a held entry over, with its port, and so does a
connection that is opened on the addresses and ports of another (`tcp_states`). When the
hold time is over, entry and port are free. Security groups (`admission`) are asked whenever a
packet from inside begins a flow or is a SYN that may.

Time is exact whatever the timer wheel has got to: a packet that meets a flow whose timeout has
passed first settles the flow (`flow_settle`), with the hold time counted from the deadline.
`last_seen` is the low 32 bits of the clock in milliseconds; differences are taken modulo
2**32, so ages up to 37 days are told apart from a clock that seems to run backwards. No timeout is
longer than 25 days.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.admission cimport ask_again, egress_refusal, ingress_refusal
from hyperplane_nat.engine.flows.allocation cimport (
    allocate,
    allocate_at_gateway,
    environment_full,
    report,
)
from hyperplane_nat.engine.flows.caching cimport cache_end, cache_take
from hyperplane_nat.engine.flows.entries cimport (
    deadline_of,
    disown,
    endpoint_of,
    holds_port,
    join,
    node_of,
    one_to_one,
    over,
    part,
    relink,
    takes_no_port,
    timeout_of,
)
from hyperplane_nat.engine.flows.extensions cimport extension_open
from hyperplane_nat.engine.flows.flow_records cimport note_end
from hyperplane_nat.engine.flows.flow_table cimport (
    table_allocate,
    table_commit,
    table_flow,
    table_free,
    table_give_back,
    table_key,
)
from hyperplane_nat.engine.flows.mapping cimport (
    filter_admits,
    mapping_abandon,
    mapping_at,
    mapping_join,
    mapping_leave,
    mapping_open,
    mapping_settle,
    permission_adopt,
)
from hyperplane_nat.engine.flows.nat cimport Nat, apart, count, count_at, counted_at, unlikely
from hyperplane_nat.engine.flows.network_acls cimport beginning_refusal, gateway_refusal
from hyperplane_nat.engine.flows.ports cimport ports_adopt, ports_give_back
from hyperplane_nat.engine.flows.timers cimport wheel_add, wheel_begin, wheel_next, wheel_remove
from hyperplane_nat.engine.flows.tombstones cimport tombstone_put, tombstone_remove
from hyperplane_nat.engine.flows.tracker cimport (
    Step,
    track_begin,
    track_segment,
    track_step,
    track_syn,
)
from hyperplane_nat.engine.state.layout cimport (
    DESTINATION,
    KIND,
    MAPPED,
    NIL,
    SYN_REMEMBERED,
    End,
    Entry,
    Extension,
    Track,
    age_of,
    destination_translated,
    hop_of,
    is_mapping,
    keeps_source,
    set_created,
)
from hyperplane_nat.engine.state.snapshot cimport entry_settle, entry_unsettle
from hyperplane_nat.engine.wire.packet cimport Packet, protocol_index

cdef enum:
    CAUSES = 5


cdef inline void count_active_at(
    Nat* nat, uint16_t attachment, const Entry* entry, int change
) noexcept nogil:
    nat.records[attachment].counters[<int>A_FLOWS] += change
    if entry.protocol == 6:
        nat.records[attachment].counters[<int>A_TCP_FLOWS] += change


cdef inline void count_active(Nat* nat, const Entry* entry, int change) noexcept nogil:
    """Flows are counted at who has begun them, at the public address that they leave by, and at the
    load balancer's node and endpoint.
    """
    cdef uint16_t node = node_of(nat, entry)
    nat.counters[C_FLOWS_ACTIVE_TCP + protocol_index(entry.protocol)] += change
    count_active_at(nat, entry.originator, entry, change)
    if unlikely(nat.attachments[entry.responder].serves):
        count_active_at(nat, entry.responder, entry, change)
    if unlikely(node):
        count_active_at(nat, node, entry, change)
        if endpoint_of(nat, entry):
            count_active_at(nat, endpoint_of(nat, entry), entry, change)


cdef inline void count_at_responder(Nat* nat, uint32_t flow, int counter) noexcept nogil:
    """Count at a flow's responder, and at the interface address that it is counted at besides; of a
    balanced flow at its node, too.
    """
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef uint16_t hop = hop_of(entry, &nat.table.extensions[flow]), node = node_of(nat, entry)
    count_at(nat, entry.responder, counter)
    if unlikely(hop):
        count_at(nat, hop, counter)
    if unlikely(node and node != entry.responder):
        count_at(nat, node, counter)


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


cdef inline int translation_by_gateway(
    Nat* nat, const Packet* p, uint64_t now, uint32_t flow, uint16_t* responder, uint16_t* port
) noexcept nogil:
    """Public address and port for a new flow by a NAT gateway; or why there are none.

    What an environment's needs besides is written to the extension of its entry.
    """
    cdef uint16_t hop
    cdef Extension* extension = &nat.table.extensions[flow]
    cdef int reason = allocate_at_gateway(nat, p, now, responder, port, &hop)
    if reason:
        return reason
    if unlikely(nat.network_acls != NULL):
        gateway_refusal(
            nat,
            p,
            nat.attachments[hop].address if hop else p.source,
            nat.attachments[responder[0]].serves,
            &reason,
        )
    if reason == DROP_NONE and hop and not extension_open(&nat.table, flow):
        reason = DROP_FLOW_TABLE_FULL
    if reason:
        ports_give_back(
            &nat.ports, p.protocol, responder[0], p.destination, p.destination_port, port[0]
        )
    if reason or hop == 0:
        return reason
    memset(extension, 0, sizeof(Extension))
    extension.destination_address = p.destination
    extension.destination_port = p.destination_port
    extension.hop = hop
    extension.hop_port = port[0]
    # It is counted there, and marked nowhere (`allocation`).
    ports_adopt(&nat.ports, p.protocol, hop, p.destination, p.destination_port, 0)
    return DROP_NONE


cdef inline int arrival_refusal(const Nat* nat, const Packet* p, uint32_t source) noexcept nogil:
    """Why a packet that begins a flow does not arrive from this address: security groups, network ACLs."""
    cdef int reason = ingress_refusal(nat, p, source)
    if unlikely(nat.network_acls != NULL):
        beginning_refusal(nat, p, source, &reason)
    return reason


cdef inline int translation_choose(
    Nat* nat, const Packet* p, uint64_t now, uint16_t* responder, uint16_t* port, uint32_t* mapping
) noexcept nogil:
    """Address, port and (or NIL) mapping for a new flow of an environment; or why there are none."""
    cdef int reason = DROP_NONE
    if nat.behaviour.mapping == MAPPING_ENDPOINT_INDEPENDENT:
        mapping[0] = mapping_open(nat, p, now, &reason)
        if mapping[0] == NIL:
            return reason
        responder[0] = mapping_at(nat, mapping[0]).responder
        port[0] = mapping_at(nat, mapping[0]).translated_port
        reason = arrival_refusal(nat, p, nat.attachments[responder[0]].address)
        if reason:
            mapping_abandon(nat, mapping[0])
            return reason
        return mapping_join(nat, mapping[0], p, now)
    reason = allocate(nat, p, p.destination, p.destination_port, 1, now, responder, port)
    if reason:
        return reason
    reason = arrival_refusal(nat, p, nat.attachments[responder[0]].address)
    if reason:
        ports_give_back(
            &nat.ports, p.protocol, responder[0], p.destination, p.destination_port, port[0]
        )
    return reason


cdef inline bint answered_elsewhere(const Nat* nat, uint32_t flow) noexcept nogil:
    """Whether answers to what is not translated would be those of another flow: of a balanced one that
    keeps its client's source, or of one from elsewhere with that source.
    """
    return table_flow(&nat.table, table_key(&nat.table, flow, PEER_RESPONDER)) != NIL


cdef inline uint32_t flow_create(Nat* nat, Packet* p, uint64_t now, int* reason) noexcept nogil:
    """A new flow for a packet from inside, or NIL with the reason."""
    cdef uint16_t responder = p.gateway if p.gateway else p.host, nat_port = p.destination_port
    cdef uint32_t flow, mapping = NIL
    cdef Entry* entry
    reason[0] = egress_refusal(nat, p)
    if reason[0]:
        return NIL
    flow = table_allocate(&nat.table)
    if flow == NIL:
        reason[0] = DROP_FLOW_TABLE_FULL
    elif not p.plain:
        if unlikely(p.gateway):
            reason[0] = translation_by_gateway(nat, p, now, flow, &responder, &nat_port)
        else:
            reason[0] = translation_choose(nat, p, now, &responder, &nat_port, &mapping)
    else:
        if responder == 0:
            responder = nat.attachments[p.port].interface
        reason[0] = arrival_refusal(nat, p, p.source)
        if (
            reason[0] == DROP_NONE
            and nat.attachments[p.port].kind == ATTACHMENT_HOST
            and environment_full(nat, p.port, 1)
        ):
            reason[0] = DROP_PORT_LIMIT_ENVIRONMENT
    if reason[0]:
        if flow != NIL:
            table_give_back(&nat.table, flow)
            # A mapping that was given up with it has counted it.
            nat.counters[C_FLOWS_ENTRIES_USED] = nat.table.used
        if reason[0] == DROP_FLOW_TABLE_FULL:
            report(nat, p, nat.attachments[p.port].interface, now, EVENT_FLOW_TABLE_FULL)
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
    entry.flags = 0
    if p.plain:
        if p.gateway:
            entry.translated_port = p.source_port
        else:
            entry.flags = DESTINATION
            if not one_to_one(nat, p.port):
                entry.translated_address = p.destination
    elif unlikely(p.gateway):
        if nat.attachments[p.port].kind == ATTACHMENT_ENVIRONMENT:
            entry.flags = KIND
    elif mapping != NIL:
        entry.flags = MAPPED
    if p.plain and answered_elsewhere(nat, flow):
        reason[0] = DROP_FLOW_COLLISION
        table_give_back(&nat.table, flow)
        return NIL
    flow_commit(nat, flow, p, now)
    if mapping != NIL:
        permission_adopt(nat, entry)
    return flow


cdef inline void flow_commit(Nat* nat, uint32_t flow, Packet* p, uint64_t now) noexcept nogil:
    """Let the flow whose entry is filled begin, with the packet that it was made for."""
    cdef Entry* entry = &nat.table.entries[flow]
    begin(nat, flow, now)
    join(nat, flow)
    # A SYN-ACK answers a SYN that its mapping let in.
    if p.protocol == 6 and p.segment == SEGMENT_SYNACK:
        table_commit(&nat.table, flow, STATE_SYN_RECEIVED)
    else:
        table_commit(&nat.table, flow, first_state(p.protocol))
    if p.protocol == 6:
        track_begin(entry, &nat.table.tracks[flow], p)
        tombstone_remove(nat, p)
    wheel_add(&nat.wheel, flow, deadline_of(nat, entry, now))
    count_begin(nat, entry)
    nat.counters[C_FLOWS_ENTRIES_USED] = nat.table.used


cdef inline int restart(
    Nat* nat, uint32_t flow, uint8_t state, const Packet* p, uint64_t now
) noexcept nogil:
    """The flow ends, if it has not, and another begins in its entry, with the same port; or why not."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef int reason = DROP_NONE
    if p.side == PEER_ORIGINATOR:
        ask_again(nat, flow, p, &reason)
    if reason:
        return reason
    cache_end(nat, flow)
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


cdef inline void release(Nat* nat, uint32_t flow, uint32_t ended, uint64_t now) noexcept nogil:
    """The entry and its port are free since `ended`."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef uint16_t hop = hop_of(entry, &nat.table.extensions[flow])
    cdef End remote
    cache_end(nat, flow)
    wheel_remove(&nat.wheel, flow)
    note_end(nat, flow, now)
    if entry.state == STATE_HELD and not takes_no_port(nat, entry):
        tombstone_put(nat, flow)
    if holds_port(nat, entry):
        remote = destination_translated(entry, &nat.table.extensions[flow])
        ports_give_back(
            &nat.ports,
            entry.protocol,
            entry.responder,
            remote.address,
            remote.port,
            entry.translated_port,
        )
        if hop:
            ports_give_back(
                &nat.ports,
                entry.protocol,
                hop,
                entry.destination_address,
                entry.destination_port,
                0,
            )
    part(nat, flow)
    table_free(&nat.table, flow)
    nat.counters[C_FLOWS_ENTRIES_USED] = nat.table.used
    if entry.flags & MAPPED:
        mapping_leave(nat, entry, ended, now)


cdef inline bint needs_hold(const Nat* nat, const Entry* entry) noexcept nogil:
    """Whether a flow keeps its entry after a timeout: the port of a mapping is held by that, and a client's
    own is not for us to hold.
    """
    return not takes_no_port(nat, entry) and (
        entry.protocol == 6 or not (entry.flags & MAPPED or keeps_source(entry))
    )


cdef inline bint used_meanwhile(
    Nat* nat, uint32_t flow, uint32_t timeout, uint64_t now
) noexcept nogil:
    """Whether a flow that seems to be idle is used by packets that do not come here."""
    cdef const Entry* entry = &nat.table.entries[flow]
    if nat.cache == NULL or nat.cache.number_of[flow] == NIL:
        return False
    cache_take(nat, nat.cache.number_of[flow])
    if age_of(entry, now) < timeout:
        return True
    cache_end(nat, flow)
    # The last one may have passed before it was cached no longer.
    return age_of(entry, now) < timeout


cdef inline bint flow_settle(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """Let deadlines that have passed take effect; whether the entry is free afterwards."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef uint32_t timeout = timeout_of(nat, entry)
    if age_of(entry, now) < timeout or used_meanwhile(nat, flow, timeout, now):
        return False
    if not over(entry.state):
        count_end(nat, entry, END_TIMEOUT)
        count_at_responder(nat, flow, A_FLOWS_TIMED_OUT)
        entry.last_seen += timeout
        entry.state = STATE_HELD
        entry.flags &= <uint8_t>~SYN_REMEMBERED
        timeout = nat.timeouts[STATE_HELD]
        if needs_hold(nat, entry) and age_of(entry, now) < timeout:
            relink(nat, flow, now)
            return False
    release(nat, flow, entry.last_seen + (timeout if needs_hold(nat, entry) else 0), now)
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
    return p.side == PEER_ORIGINATOR or (
        entry.flags & MAPPED
        and filter_admits(
            nat, entry.protocol, entry.responder, entry.destination_address, entry.translated_port
        )
    )


cdef inline int remember(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    """Keep a SYN that may begin another connection; or why it is refused."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef int reason = DROP_NONE
    # Nobody outside keeps a port from being free.
    if p.side == PEER_ORIGINATOR:
        ask_again(nat, flow, p, &reason)
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
        if p.side == PEER_ORIGINATOR:
            count(nat, C_TCP_SYNS_FROM_SOURCE)
            count_at(nat, counted_at(nat, p.port), A_TCP_SYNS_FROM_SOURCE)
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
            count_at_responder(nat, flow, A_FLOWS_ESTABLISHED_TCP)
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
        if p.side == PEER_RESPONDER:
            return DROP_FLOW_HELD
        return restart(nat, flow, first_state(entry.protocol), p, now)
    entry.last_seen = <uint32_t>now
    if p.side == PEER_RESPONDER and entry.state == STATE_UDP:
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

    Fewer than that: all have ended that were due at the first of the calls since one examined fewer.
    After a change of timeouts all flows are examined first: deadlines may have come nearer.
    """
    cdef int examined = retime(nat, now, budget)
    cdef uint32_t flow
    cdef bint gone
    wheel_begin(&nat.wheel, examined > 0)
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


cdef inline apart flow_orphan(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """End a flow whose slot is gone: its port is held, and the entry is nobody's.

    The port of a mapping's flows is held by the mapping, once they are gone; a flow that takes none is
    gone at once.  A kill in between leaves a held entry of the old slot, which is swept again.
    """
    cdef Entry* entry = &nat.table.entries[flow]
    if entry.flags & MAPPED or takes_no_port(nat, entry) or keeps_source(entry):
        flow_remove(nat, flow, now)
        return
    cache_end(nat, flow)
    note_end(nat, flow, now)
    if not over(entry.state):
        count_end(nat, entry, END_REMOVED)
        entry.last_seen = <uint32_t>now
    entry.state = STATE_HELD
    entry.flags &= <uint8_t>~SYN_REMEMBERED
    disown(nat, flow, now)
