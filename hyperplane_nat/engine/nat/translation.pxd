# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A packet's way through the engine.

Theory of operation
-------------------
`nat_classify` reads a frame and decides everything that needs no flow (`classification`).
It leaves the hash of the flow key in the packet, so that a caller with a batch of frames can fetch
index and entries into the cache before it comes back with `nat_apply`, which finds or makes the
flow, lets the tracker decide and rewrites the frame in place. Both run without the GIL and allocate
nothing.

Invariants: a frame whose source is not its environment's or its host's goes nowhere; a packet from
outside passes only to the flow it belongs to, to a mapping whose filter admits it, or to a host whose
security groups do; a drop has one reason and one counter; no shortage ends a flow.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.admission cimport newcomer_refusal
from hyperplane_nat.engine.flows.caching cimport cache_meet, cache_passed
from hyperplane_nat.engine.flows.counting cimport amount_of, count_at_gateway, count_at_hop
from hyperplane_nat.engine.flows.entries cimport entrance_of, node_of
from hyperplane_nat.engine.flows.flow_records cimport note_refusal
from hyperplane_nat.engine.flows.flow_table cimport (
    table_find_id,
    table_prefetch_entry,
    table_prefetch_index,
)
from hyperplane_nat.engine.flows.fragment_table cimport NOTHING
from hyperplane_nat.engine.flows.lifecycle cimport (
    flow_create,
    flow_orphan,
    flow_settle,
    flow_track,
)
from hyperplane_nat.engine.flows.mapping cimport mapping_admit, mapping_answers
from hyperplane_nat.engine.flows.nat cimport (
    Nat,
    apart,
    apart_bint,
    count,
    count_at,
    count_at_entry,
    counted_at,
    drop,
    drop_frozen,
    is_entrance,
    stands_still,
    unlikely,
)
from hyperplane_nat.engine.flows.network_acls cimport packet_refusal, unasked
from hyperplane_nat.engine.flows.tombstones cimport is_remembered, refuse_idle, refuse_stray
from hyperplane_nat.engine.nat.arp cimport answer_arp
from hyperplane_nat.engine.nat.balancing cimport (
    Draft,
    begin_balanced,
    is_over,
    node_turn,
    reset_by_node,
    send_balanced,
    stopped,
    way_of_draft,
)
from hyperplane_nat.engine.nat.cache_ways cimport cache_if_possible
from hyperplane_nat.engine.nat.classification cimport about_an_error, classify, packet_key
from hyperplane_nat.engine.nat.fragments cimport fragment_answered, fragment_arrives
from hyperplane_nat.engine.nat.hairpin cimport hairpin_reachable, hairpin_turn, target_of
from hyperplane_nat.engine.nat.icmp cimport (
    ICMP_PROHIBITED,
    ICMP_TIME_EXCEEDED,
    ICMP_UNREACHABLE,
    reply_error,
    translate_error,
)
from hyperplane_nat.engine.nat.mtu cimport fit, needs_fitting
from hyperplane_nat.engine.nat.outbound cimport (
    exit_of,
    goes_another_way,
    goes_back,
    leaves_by,
    send,
)
from hyperplane_nat.engine.nat.passage cimport rewrite, rewrite_one_end
from hyperplane_nat.engine.nat.proxying cimport proxy_arrives
from hyperplane_nat.engine.state.layout cimport DESTINATION, NIL, Entry, Way, hop_of, is_balanced
from hyperplane_nat.engine.wire.packet cimport (
    KIND_ARP,
    KIND_FLOW,
    KIND_ICMP_ERROR,
    Packet,
    is_second,
    judge,
)


cdef inline void nat_classify(Nat* nat, Packet* p) noexcept nogil:
    """First half: everything that needs no flow. A drop is final, `action` says so."""
    cdef int reason
    p.action = ACTION_FORWARD
    p.hash = 0
    p.kind = KIND_ARP
    p.flags = 0
    p.hairpin = 0
    p.inner = 0
    p.plain = 0
    p.link = p.port
    p.host = 0
    p.gateway = 0
    p.astray = DROP_NONE
    p.segments = 1
    p.offload_changed = 0
    reason = classify(nat, p)
    if reason == DROP_NONE:
        return
    drop(nat, p, reason)
    if reason == DROP_TTL_EXCEEDED and p.side == PEER_ORIGINATOR and not about_an_error(p):
        reply_error(nat, p, ICMP_TIME_EXCEEDED, 0, 0)


cdef inline void classify_batch(Nat* nat, Packet* packets, uint32_t count) noexcept nogil:
    """Classify each, and bring what they need of the flow table into the cache."""
    cdef Packet* p
    cdef uint32_t i
    for i in range(count):
        p = &packets[i]
        nat_classify(nat, p)
        if p.action == ACTION_FORWARD and p.kind == KIND_FLOW:
            table_prefetch_index(&nat.table, p.hash)
    for i in range(count):
        p = &packets[i]
        if p.action == ACTION_FORWARD and p.kind == KIND_FLOW:
            table_prefetch_entry(&nat.table, p.hash)


cdef inline void refuse(Nat* nat, Packet* p, int reason) noexcept nogil:
    """Drop a packet that would have begun a flow; RFC 6888 REQ-11 wants it answered."""
    drop(nat, p, reason)
    if nat.behaviour.exhaustion_icmp and (
        reason == DROP_PORT_ALLOCATION
        or reason == DROP_PORT_LIMIT_INTERFACE
        or reason == DROP_PORT_LIMIT_ENVIRONMENT
        or reason == DROP_FLOW_TABLE_FULL
    ):
        reply_error(nat, p, ICMP_UNREACHABLE, ICMP_PROHIBITED, 0)


cdef inline uint32_t flow_of(Nat* nat, Packet* p, uint64_t now) noexcept nogil:
    """The flow that a packet belongs to now, or NIL; the packet's side is told by it.

    One that it is led away from ends, and the packet is the first of another. What is led nowhere has none,
    unless it goes back by a load balancer.
    """
    cdef uint32_t id = table_find_id(&nat.table, packet_key(p), p.hash), flow = id >> 1
    cdef const Entry* entry
    if id == NIL:
        return NIL
    entry = &nat.table.entries[flow]
    if (
        <uint32_t>now - entry.last_seen >= nat.soonest[entry.state]
        and flow_settle(nat, flow, now)
    ):
        return NIL
    p.side = <uint8_t>(id & 1)
    if unlikely(p.astray):
        if not goes_back(nat, p, entry):
            return NIL
        p.astray = DROP_NONE
    elif unlikely(goes_another_way(nat, p, entry)):
        flow_orphan(nat, flow, now)
        p.side = PEER_ORIGINATOR
        return NIL
    return flow


cdef inline apart refuse_astray(Nat* nat, Packet* p) noexcept nogil:
    """Drop a packet that its route leads nowhere, and has no flow that leads elsewhere.

    A target is told of its connection that is over as by any other route.
    """
    if p.protocol == 6 and p.segment != SEGMENT_SYN and is_remembered(nat, p):
        refuse_idle(nat, p)
    else:
        drop(nat, p, p.astray)


cdef inline apart balance(Nat* nat, Packet* p, uint64_t now, uint32_t* flow) noexcept nogil:
    """A new flow for a client's packet to a node, or NIL: it was dropped or answered."""
    cdef uint16_t node = p.host
    cdef Draft draft
    cdef Way way
    cdef int reason = begin_balanced(nat, p, now, flow, &draft)
    if reason == DROP_NONE:
        return
    if nat.sink.ring != NULL:
        # As it came: an answer turns it round.
        way = way_of_draft(nat, p, &draft)
    flow[0] = NIL
    if reason == DROP_LOAD_BALANCER_STRAY:
        reset_by_node(nat, p, node, reason)
    else:
        refuse(nat, p, reason)
    count_at(nat, node, A_DROPS, p.segments)
    note_refusal(nat, p, NIL, &way, reason, now)


cdef inline uint32_t flow_begin(Nat* nat, Packet* p, uint64_t now) noexcept nogil:
    """A new flow for a packet from inside, or NIL: it was dropped or answered."""
    cdef int reason = DROP_NONE
    cdef uint32_t flow
    if unlikely(p.host and is_entrance(nat, p.host)):
        balance(nat, p, now, &flow)
        return flow
    if p.protocol == 6:
        if p.segment == SEGMENT_SYN:
            count(nat, C_TCP_SYNS_FROM_SOURCE)
            count_at(nat, counted_at(nat, p.port), A_TCP_SYNS_FROM_SOURCE)
            if unlikely(p.gateway):
                count_at(nat, p.gateway, A_TCP_SYNS_FROM_SOURCE)
        elif not mapping_answers(nat, p, now):
            refuse_stray(nat, p)
            note_refusal(nat, p, NIL, NULL, p.reason, now)
            return NIL
    flow = flow_create(nat, p, now, &reason)
    if flow == NIL:
        refuse(nat, p, reason)
        note_refusal(nat, p, NIL, NULL, reason, now)
    return flow


cdef inline apart refuse_going_on(
    Nat* nat, uint32_t flow, Packet* p, int reason, uint64_t now
) noexcept nogil:
    """Drop a packet of a flow, or answer it."""
    cdef uint16_t node = node_of(nat, &nat.table.entries[flow])
    if node and reason == DROP_FLOW_HELD and p.protocol == 6 and p.segment != SEGMENT_RST:
        # A target's, which is told as its client is.
        reason = DROP_TCP_IDLE_TIMEOUT
    if node and reason == DROP_TCP_IDLE_TIMEOUT:
        reset_by_node(nat, p, node, reason)
    elif reason == DROP_TCP_IDLE_TIMEOUT:
        refuse_idle(nat, p)
    else:
        drop(nat, p, reason)
    if node and node != p.port:
        count_at(nat, node, A_DROPS, p.segments)
    if node and entrance_of(nat, &nat.table.entries[flow]) != node:
        count_at(nat, entrance_of(nat, &nat.table.entries[flow]), A_DROPS, p.segments)
    note_refusal(nat, p, flow, NULL, reason, now)


cdef inline apart cache_passage(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    """A packet has acted on its flow and passes, which may have earned it to be cached."""
    if cache_passed(nat, flow, p, now):
        cache_if_possible(nat, flow, now)


cdef inline apart_bint refused_at_border(
    Nat* nat, uint32_t flow, Packet* p, uint64_t now
) noexcept nogil:
    """Whether a packet of a flow was dropped by a network ACL on its way."""
    cdef int reason = DROP_NONE
    if p.side == PEER_ORIGINATOR and p.host and is_entrance(nat, p.host) and is_over(nat, flow, p):
        # It begins another flow, whose way that may not be.
        return False
    packet_refusal(nat, flow, p, &reason)
    if reason:
        refuse_going_on(nat, flow, p, reason, now)
    return reason != DROP_NONE


cdef inline bint flow_goes_on(Nat* nat, uint32_t* flow, Packet* p, uint64_t now) noexcept nogil:
    """Let a packet act on its flow; False when it was dropped or answered instead.

    A client's for a load balancer may belong to another flow then.
    """
    cdef int reason = DROP_NONE
    if p.host:
        # From the other side it answers who has sent from the node's address.
        if unlikely(is_entrance(nat, p.host)) and p.side == PEER_ORIGINATOR:
            if is_over(nat, flow[0], p):
                flow_orphan(nat, flow[0], now)
                balance(nat, p, now, flow)
                return flow[0] != NIL
            if stopped(nat, p, flow[0]):
                return False
            p.host = exit_of(nat, flow[0])
            if nat.table.extensions[flow[0]].proxy_bytes:
                proxy_arrives(nat, p, flow[0])
                reason = p.reason
        else:
            reason = newcomer_refusal(nat, flow[0], p)
    if unlikely(nat.cache != NULL):
        cache_meet(nat, flow[0])
    if reason == DROP_NONE:
        reason = flow_track(nat, flow[0], p, now)
    if reason == DROP_NONE:
        if unlikely(nat.cache != NULL):
            cache_passage(nat, flow[0], p, now)
        return True
    refuse_going_on(nat, flow[0], p, reason, now)
    return False


cdef inline uint32_t mapping_let_in(Nat* nat, Packet* p, uint64_t now) noexcept nogil:
    """The mapping that admits a packet from outside without a flow, or NIL: it was dropped."""
    cdef uint32_t mapping = NIL
    cdef int reason = DROP_NO_FLOW
    if nat.behaviour.mapping:
        reason = mapping_admit(nat, p, now, &mapping)
    if unlikely(nat.network_acls != NULL) and reason == DROP_NONE:
        packet_refusal(nat, mapping, p, &reason)
    if reason == DROP_NONE:
        return mapping
    drop(nat, p, reason)
    note_refusal(nat, p, NIL, NULL, reason, now)
    return NIL


cdef inline void send_one(Nat* nat, Packet* p, const Entry* entry) noexcept nogil:
    """Send a packet, translated as it is, and count it where its flow has a NAT gateway."""
    send(nat, p, entry.originator if p.side else leaves_by(nat, p, entry))
    if p.action != ACTION_DROP:
        count_at_gateway(nat, entry, p.side, amount_of(p))


cdef inline void rewrite_and_send(Nat* nat, Packet* p, uint32_t flow) noexcept nogil:
    """Translate and send a packet of a flow with DESTINATION: a host's own, or one that is counted at an
    interface address besides.
    """
    cdef const Entry* entry = &nat.table.entries[flow]
    rewrite(nat, p, flow)
    if unlikely(is_balanced(entry, &nat.table.extensions[flow])):
        send_balanced(nat, p, flow)
        return
    send_one(nat, p, entry)
    if p.action != ACTION_DROP:
        count_at_hop(nat, hop_of(entry, &nat.table.extensions[flow]), p.side, amount_of(p))


cdef inline void translate_flow(Nat* nat, Packet* p, uint64_t now) noexcept nogil:
    """Translate a packet by its flow, by a new one, or by the mapping that lets it in, and send it."""
    cdef uint32_t flow
    cdef bint known
    cdef Entry* entry
    cdef Packet second
    if p.hairpin and not is_second(p) and not hairpin_reachable(nat, p, now):
        drop(nat, p, DROP_HAIRPIN_NO_MAPPING)
        return
    flow = flow_of(nat, p, now)
    if unlikely(p.astray):
        refuse_astray(nat, p)
        return
    known = flow != NIL or p.side == PEER_ORIGINATOR
    if flow != NIL:
        # Before the flow knows of it: nothing that is not delivered keeps it alive.
        if p.side == PEER_RESPONDER and stands_still(nat, nat.table.entries[flow].originator):
            drop_frozen(nat, p, nat.table.entries[flow].originator)
            return
        if (
            unlikely(nat.network_acls != NULL)
            and not unasked(nat, &nat.table.entries[flow], p)
            and refused_at_border(nat, flow, p, now)
        ):
            return
        if not flow_goes_on(nat, &flow, p, now):
            return
    elif p.side == PEER_ORIGINATOR:
        flow = flow_begin(nat, p, now)
    elif unlikely(is_entrance(nat, p.port)):
        if node_turn(nat, p):
            translate_flow(nat, p, now)
        return
    else:
        flow = mapping_let_in(nat, p, now)
    if flow == NIL:
        return
    entry = &nat.table.entries[flow]
    if needs_fitting(nat, p, entry) and fit(nat, p, entry):
        return
    if known:
        count_at_entry(entry, p)
    if entry.flags & DESTINATION:
        rewrite_and_send(nat, p, flow)
        return
    rewrite_one_end(nat, p, entry)
    if p.hairpin and not is_second(p):
        second = hairpin_turn(
            nat, p, target_of(nat, p), entry.translated_address, entry.translated_port
        )
        translate_flow(nat, &second, now)
        judge(p, &second)
    else:
        send_one(nat, p, entry)


cdef inline bint fragment_turn(Nat* nat, Packet* p, uint32_t context) noexcept nogil:
    """Let the first fragment of a client's datagram for a node be its sender's, and with it the others;
    False: it was answered.
    """
    if table_find_id(&nat.table, packet_key(p), p.hash) == NIL:
        if not node_turn(nat, p):
            return False
        nat.fragments.contexts[context].flow_key = packet_key(p)
        nat.fragments.contexts[context].flow_hash = p.hash
    return True


cdef inline void nat_apply(Nat* nat, Packet* p, uint64_t now) noexcept nogil:
    """Second half, for a packet that `nat_classify` left with ACTION_FORWARD."""
    cdef uint32_t context
    if p.kind == KIND_FLOW:
        translate_flow(nat, p, now)
    elif p.kind == KIND_ARP:
        answer_arp(nat, p, now)
    elif p.kind == KIND_ICMP_ERROR:
        translate_error(nat, p, now)
    else:
        context = fragment_arrives(nat, p, now)
        if context != NOTHING:
            if not is_entrance(nat, p.port) or fragment_turn(nat, p, context):
                translate_flow(nat, p, now)
            fragment_answered(nat, p, context)
