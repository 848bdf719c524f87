# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Fragments of datagrams, translated one by one in any order.

Theory of operation
-------------------
Only the first fragment has ports, so only it can find or make the flow (RFC 4787 REQ-14, RFC 6146
section 3.4).  Nothing is reassembled.  A context per datagram remembers what the first one was
translated to; the others are rewritten by it.  Those that come before it wait, copied, until the
first one comes, and leave after it.  What becomes of the first one becomes of them all, be it that it
leaves, arrives, or does both on its way to a neighbour (:mod:`hairpin`).

A datagram whose fragments overlap is poisoned: which of the two versions the receiver believes
cannot be known (RFC 1858, RFC 5722).  A fragment of which every byte has come before is dropped as
a duplicate and harms nothing.  A context lasts until all of its datagram has come, or for
``fragment_ms``.

Anybody can send fragments without firsts, so what they take is bounded.  A sender (a slot, or a
source address behind an interface) has a quota of datagrams and of waiting fragments; over it, the
oldest of its own are given up, never another's.  Sources can be forged: what waits behind one
interface is bounded, too, and the oldest unanswered there makes room.  Datagrams that come in order
never wait, so such a flood does not concern them.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from hyperplane_nat.engine._constants cimport *
from hyperplane_nat.engine.checksum cimport load16, load32, replaced32, store16, store32, updated
from hyperplane_nat.engine.classification cimport packet_key
from hyperplane_nat.engine.extras cimport EXTRA_ROOM, extra_add, extra_room
from hyperplane_nat.engine.flow_table cimport FlowKey, table_find, table_hash
from hyperplane_nat.engine.fragment_table cimport (
    BUFFER_BYTES,
    CONTEXT_ANSWERED,
    CONTEXT_REFUSED,
    INTERFACE_BUFFERS,
    INTERFACE_CONTEXTS,
    NOTHING,
    SENDER_BUFFERS,
    SENDER_CONTEXTS,
    Buffer,
    Context,
    DatagramKey,
    FragmentTable,
    Place,
    Sender,
    buffer_take,
    buffers_give_back,
    context_answered,
    context_covers,
    context_find,
    context_free,
    context_make,
    context_mark,
    datagram_key,
    key_port,
    key_side,
    sender_of,
)
from hyperplane_nat.engine.hairpin cimport hairpin_arrive
from hyperplane_nat.engine.layout cimport NIL
from hyperplane_nat.engine.nat cimport UNATTACHED, Nat, count, count_at_entry, drop
from hyperplane_nat.engine.outbound cimport send_inside, send_outside
from hyperplane_nat.engine.packet cimport (
    ETHERNET_BYTES,
    MORE_FRAGMENTS,
    Packet,
    fragment_field,
    fragment_offset,
    parse_ip,
)
from hyperplane_nat.engine.rewrite cimport rewrite_ip

cdef enum:
    # Of each kind of work beside a frame's own, how much is done when one comes.
    EXPIRED_AT_ONCE = 4


cdef void give_up_waiting(Nat* nat, uint32_t number, uint8_t reason) noexcept nogil:
    """Drop, for this reason, what waits of a datagram."""
    cdef Context* context = &nat.fragments.contexts[number]
    cdef uint32_t dropped = buffers_give_back(&nat.fragments, number)
    nat.counters[C_DROP_BASE + reason] += dropped
    if key_side(context) == SIDE_INSIDE:
        nat.slot_counters[key_port(context)].drops += dropped
    nat.counters[C_FRAGMENTS_WAITING] = nat.fragments.buffers_used


cdef void forget(Nat* nat, uint32_t number, uint8_t reason) noexcept nogil:
    give_up_waiting(nat, number, reason)
    context_free(&nat.fragments, number)


cdef void refuse(Nat* nat, uint32_t number, uint8_t reason) noexcept nogil:
    """Nothing more of this datagram passes."""
    cdef Context* context = &nat.fragments.contexts[number]
    give_up_waiting(nat, number, reason)
    context.reason = reason
    # One that was answered stays so in the lists.
    if context.state != CONTEXT_ANSWERED:
        context.state = CONTEXT_REFUSED


cdef uint32_t make(Nat* nat, const DatagramKey* key, uint64_t now) noexcept nogil:
    """A context for a new datagram, at the expense of its own sender or of what is unanswered."""
    cdef FragmentTable* table = &nat.fragments
    cdef Sender* sender = &table.senders[sender_of(table, key)]
    cdef Place* place = NULL
    cdef uint32_t number
    if key.rest & 1:
        place = &table.places[<uint16_t>(key.rest >> 32)]
    if sender.contexts.count >= SENDER_CONTEXTS:
        forget(nat, sender.contexts.first, DROP_FRAGMENT_QUOTA)
    elif place != NULL and place.unanswered.count >= INTERFACE_CONTEXTS:
        forget(nat, place.unanswered.first, DROP_FRAGMENT_QUOTA)
    number = context_make(table, key, now)
    if number != NOTHING:
        return number
    if place != NULL and place.unanswered.count:
        forget(nat, place.unanswered.first, DROP_FRAGMENT_QUOTA)
    elif sender.contexts.count:
        forget(nat, sender.contexts.first, DROP_FRAGMENT_QUOTA)
    return context_make(table, key, now)


cdef Buffer* room_to_wait(Nat* nat, uint32_t number) noexcept nogil:
    cdef FragmentTable* table = &nat.fragments
    cdef Context* context = &table.contexts[number]
    cdef Sender* sender = &table.senders[context.sender]
    cdef Place* place
    while sender.buffers >= SENDER_BUFFERS and sender.contexts.first != number:
        forget(nat, sender.contexts.first, DROP_FRAGMENT_QUOTA)
    if sender.buffers >= SENDER_BUFFERS:
        return NULL
    if key_side(context) == SIDE_OUTSIDE:
        place = &table.places[key_port(context)]
        while place.buffers >= INTERFACE_BUFFERS and place.unanswered.first != number:
            forget(nat, place.unanswered.first, DROP_FRAGMENT_QUOTA)
        if place.buffers >= INTERFACE_BUFFERS:
            return NULL
    return buffer_take(table, number)


cdef void keep(Nat* nat, Packet* p, uint32_t number) noexcept nogil:
    """Copy a fragment whose first has not come."""
    cdef uint32_t length = ETHERNET_BYTES + p.total_length
    cdef Buffer* buffer = NULL
    if length <= BUFFER_BYTES:
        buffer = room_to_wait(nat, number)
    if buffer == NULL:
        drop(nat, p, DROP_FRAGMENT_QUOTA)
        return
    memcpy(buffer.frame, p.frame, length)
    buffer.length = length
    nat.counters[C_FRAGMENTS_WAITING] = nat.fragments.buffers_used
    p.action = ACTION_WAIT


cdef void count_at_flow(Nat* nat, const Packet* p, FlowKey key, uint64_t hash) noexcept nogil:
    cdef uint32_t flow = table_find(&nat.table, p.side, key, hash)
    if flow != NIL:
        count_at_entry(&nat.table.entries[flow], p)


cdef void follow(Nat* nat, Packet* p, const Context* context) noexcept nogil:
    """Translate a later fragment as the first one was."""
    count_at_flow(nat, p, context.flow_key, context.flow_hash)
    if context.arrived_at != UNATTACHED:
        hairpin_arrive(nat, p, context.arrived_at)
        count_at_flow(nat, p, context.arriving_key, context.arriving_hash)
    rewrite_ip(p, 12, p.source, context.new_source)
    if p.destination != context.new_destination:
        store32(p.ip + 16, context.new_destination)
        store16(
            p.ip + 10,
            updated(load16(p.ip + 10), replaced32(p.destination, context.new_destination)),
        )
        p.destination = context.new_destination
    if context.out_side == SIDE_INSIDE:
        send_inside(nat, p, context.out_port)
    else:
        send_outside(nat, p, context.out_port)
    if p.action != ACTION_DROP:
        count(nat, C_FRAGMENTS_FORWARDED)


cdef void let_go(Nat* nat, uint32_t number) noexcept nogil:
    """What waited follows the first fragment."""
    cdef FragmentTable* table = &nat.fragments
    cdef Context* context = &table.contexts[number]
    cdef Buffer* buffer
    cdef uint32_t i, waiting = context.waiting_first
    cdef uint8_t* frame
    cdef Packet p
    for i in range(context.waiting):
        buffer = &table.buffers[waiting]
        waiting = buffer.following - 1
        memset(&p, 0, sizeof(Packet))
        p.frame = buffer.frame
        p.length = buffer.length
        p.side = key_side(context)
        p.port = key_port(context)
        parse_ip(&p)
        follow(nat, &p, context)
        if p.action != ACTION_FORWARD:
            continue
        frame = extra_room(&nat.extras, p.out_length)
        if frame == NULL:
            drop(nat, &p, DROP_FRAGMENT_QUOTA)
            continue
        memcpy(frame, p.out_frame, p.out_length)
        extra_add(&nat.extras, frame, p.out_length, p.action, p.out_side, p.out_port)
    buffers_give_back(table, number)
    nat.counters[C_FRAGMENTS_WAITING] = table.buffers_used


cdef void finish(Nat* nat, uint32_t number) noexcept nogil:
    """Nobody asks any more once every byte has come."""
    cdef Context* context = &nat.fragments.contexts[number]
    if context.end and context.received == context.end:
        context_free(&nat.fragments, number)


cdef int misplaced(Nat* nat, const Packet* p, uint32_t number) noexcept nogil:
    """Why a fragment does not go with those before it; DROP_NONE when it does."""
    cdef Context* context = &nat.fragments.contexts[number]
    cdef uint32_t offset = fragment_offset(p), end = offset + p.l4_length
    cdef bint more = (fragment_field(p) & MORE_FRAGMENTS) != 0
    cdef int covered = context_covers(context, offset, end)
    if covered == 2:
        return DROP_FRAGMENT_OVERLAP
    if (
        covered
        or (context.end and (end >= context.end if more else end != context.end))
        # Whoever came behind the last one.
        or (not more and context_covers(context, end, 65536))
    ):
        refuse(nat, number, DROP_FRAGMENT_OVERLAP)
        return DROP_FRAGMENT_OVERLAP
    return DROP_NONE


cdef uint32_t fragment_arrives(Nat* nat, Packet* p, uint64_t now) noexcept nogil:
    """Deal with a fragment, or return the context of a first one, which is then to be translated.

    A later one was forwarded, dropped, or waits: the packet's action says which.
    """
    cdef FragmentTable* table = &nat.fragments
    cdef uint32_t number, offset = fragment_offset(p), end = offset + p.l4_length
    cdef int reason
    cdef Context* context
    cdef DatagramKey key = datagram_key(
        p.side, p.port, p.protocol, load16(p.ip + 4), p.source, p.destination
    )
    fragments_expire(nat, now, EXPIRED_AT_ONCE)
    number = context_find(table, &key)
    if number == NOTHING:
        number = make(nat, &key, now)
        if number == NOTHING:
            drop(nat, p, DROP_FRAGMENT_QUOTA)
            return NOTHING
    context = &table.contexts[number]
    reason = context.reason if context.reason else misplaced(nat, p, number)
    if reason:
        drop(nat, p, reason)
        return NOTHING
    if offset and context.state != CONTEXT_ANSWERED:
        keep(nat, p, number)
        if p.action == ACTION_DROP:
            return NOTHING
    context_mark(context, offset, end)
    if not fragment_field(p) & MORE_FRAGMENTS:
        context.end = end
    if offset == 0:
        context.flow_key = packet_key(p)
        context.flow_hash = p.hash
        return number
    if context.state == CONTEXT_ANSWERED:
        follow(nat, p, context)
        finish(nat, number)
    return NOTHING


cdef void fragment_answered(Nat* nat, Packet* p, uint32_t number) noexcept nogil:
    """The first fragment of a context was translated, or was not: so with the others."""
    cdef Context* context = &nat.fragments.contexts[number]
    if p.action != ACTION_FORWARD and p.action != ACTION_HOLD:
        refuse(nat, number, p.reason)
        return
    count(nat, C_FRAGMENTS_FORWARDED)
    context.out_side = p.out_side
    context.out_port = p.out_port
    context.new_source = load32(p.ip + 12)
    context.new_destination = load32(p.ip + 16)
    context.arrived_at = UNATTACHED
    if p.side != key_side(context):
        context.arrived_at = p.port
        context.arriving_key = packet_key(p)
        context.arriving_hash = table_hash(&nat.table, context.arriving_key)
    context_answered(&nat.fragments, number)
    let_go(nat, number)
    finish(nat, number)


cdef void fragments_expire(Nat* nat, uint64_t now, int budget) noexcept nogil:
    """Give up datagrams that have not become whole in time, the oldest first."""
    while budget and fragments_deadline(nat) <= now:
        forget(nat, nat.fragments.by_time.first, DROP_FRAGMENT_TIMEOUT)
        budget -= 1


cdef uint64_t fragments_deadline(const Nat* nat) noexcept nogil:
    """When the oldest datagram is given up, in ms; the highest number when there is none."""
    cdef uint32_t first = nat.fragments.by_time.first
    if first == NOTHING:
        return <uint64_t>0xFFFFFFFFFFFFFFFF
    return nat.fragments.contexts[first].created + nat.behaviour.fragment_ms


cdef void fragments_forget(Nat* nat, uint8_t side, uint16_t number) noexcept nogil:
    """A slot or an interface is gone: its number will mean another one."""
    cdef uint32_t i = nat.fragments.by_time.first, following
    cdef uint32_t address = nat.interface_addresses[number] if side == SIDE_OUTSIDE else 0
    cdef Context* context
    cdef bint sent, received
    while i != NOTHING:
        context = &nat.fragments.contexts[i]
        following = context.links[0].following
        sent = key_side(context) == side and key_port(context) == number
        received = context.state == CONTEXT_ANSWERED and (
            (context.out_side == side and context.out_port == number)
            or (
                side == SIDE_OUTSIDE
                and key_side(context) == SIDE_INSIDE
                and (context.new_source == address or context.arrived_at == number)
            )
        )
        if sent or received:
            forget(nat, i, DROP_UNKNOWN_LINK)
        i = following
