# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Fragments of datagrams, translated one by one in any order.

Theory of operation
-------------------
Only the first fragment has ports, so only it can find or make the flow (RFC 4787 REQ-14, RFC 6146
section 3.4). Nothing is reassembled. A context per datagram remembers what the first one was
translated to; the others are rewritten by it. Those that come before it wait, copied, until the
first one comes, and leave after it. What becomes of the first one becomes of them all, be it that it
leaves, arrives, or does both on its way to a neighbour (`hairpin`). A table says what follows
from what (`fragment_states`).

A datagram whose fragments overlap is poisoned: which of the two versions the receiver believes
cannot be known (RFC 1858, RFC 5722). A fragment of which every byte has come before is dropped as
a duplicate and harms nothing. A context lasts until all of its datagram has come, or for
`fragment_ms`. A sender's identifications may come round within that time: a first fragment that is
not the same as the one there was begins another datagram, and the unfinished one is given up.

All fragments of what leaves have the identification that the first one got, and no other datagram
gets it as long as there is the context (`identification`).

Anybody can send fragments without firsts, so what they take is bounded. A sender (a slot, a host, or a
source address behind an interface) has a quota of datagrams and of waiting fragments; over it, the
oldest of its own are given up, never another's. When all memory is in use the slot or the interface
that has the most gives up, so that each can have as much as any other whatever the others do.
Datagrams that come in order never wait, so such a flood does not concern them. What is forwarded
takes memory where it arrives: `reassembly` has the bounds of that.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.extras cimport extra_add, extra_room
from hyperplane_nat.engine.flows.flow_table cimport FlowKey, table_find_id
from hyperplane_nat.engine.flows.fragment_table cimport (
    BUFFER_BYTES,
    NOTHING,
    SENDER_BUFFERS,
    SENDER_CONTEXTS,
    Buffer,
    Context,
    DatagramKey,
    FragmentStep,
    FragmentTable,
    List,
    Sender,
    buffer_take,
    buffers_give_back,
    context_begun,
    context_covers,
    context_enter,
    context_find,
    context_free,
    context_make,
    context_mark,
    context_of_the_largest,
    context_whole,
    datagram_key,
    destination_of,
    key_destination,
    key_port,
    key_protocol,
    key_side,
    key_source,
    sender_of,
    waiting_of_the_largest,
)
from hyperplane_nat.engine.flows.identification cimport identification_hold, identification_release
from hyperplane_nat.engine.flows.nat cimport UNATTACHED, Nat, count, count_at, count_at_entry, drop
from hyperplane_nat.engine.flows.reassembly cimport (
    PIECE_BYTES,
    Account,
    reassembly_charge,
    reassembly_refund,
)
from hyperplane_nat.engine.nat.classification cimport packet_key, presumed_side
from hyperplane_nat.engine.nat.hairpin cimport hairpin_turn, second_of, target_of
from hyperplane_nat.engine.nat.outbound cimport send
from hyperplane_nat.engine.state.layout cimport NIL
from hyperplane_nat.engine.wire.checksum cimport (
    load16,
    load32,
    replaced32,
    store16,
    store32,
    swap16,
    updated,
)
from hyperplane_nat.engine.wire.packet cimport (
    ETHERNET_BYTES,
    MORE_FRAGMENTS,
    Packet,
    fragment_field,
    fragment_offset,
    judge,
    parse_ip,
)
from hyperplane_nat.engine.wire.rewrite cimport rewrite_ip
from hyperplane_nat.engine.wire.siphash cimport rotl

cdef enum:
    # Of each kind of work beside a frame's own, how much is done when one comes.
    EXPIRED_AT_ONCE = 4
    IP_BYTES = 20


cdef inline void give_up_waiting(Nat* nat, uint32_t number, uint8_t reason) noexcept nogil:
    """Drop, for this reason, what waits of a datagram."""
    cdef Context* context = &nat.fragments.contexts[number]
    cdef uint32_t dropped = buffers_give_back(&nat.fragments, number)
    nat.counters[C_DROP_BASE + reason] += dropped
    if key_side(context) == PEER_ORIGINATOR:
        count_at(nat, key_port(context), A_DROPS, dropped)
    nat.counters[C_FRAGMENTS_WAITING] = nat.fragments.buffers_used


cdef inline bint charge(Nat* nat, const Packet* p, Context* context, uint64_t now) noexcept nogil:
    """Whether a fragment may go on, as to the memory of those who are to put it together.

    What waits goes on with the first one.  An environment's own memory is its own, so only what
    leaves is charged.
    """
    cdef FragmentTable* table = &nat.fragments
    cdef uint32_t cost = PIECE_BYTES + p.total_length
    if presumed_side(&nat.attachments[p.port]) == PEER_RESPONDER:
        return True
    if fragment_offset(p) == 0:
        cost += context.waiting * (PIECE_BYTES + IP_BYTES) + context.received
    if context.charged == 0:
        context.destination = destination_of(
            table, nat.attachments[nat.attachments[p.port].interface].vpc, p.destination
        )
    if not reassembly_charge(
        &table.senders[context.sender].account,
        &table.destinations[context.destination],
        cost,
        now,
        nat.behaviour.fragment_ms,
    ):
        return False
    context.charged += cost
    return True


cdef inline void settle(Nat* nat, Context* context) noexcept nogil:
    """Give back what was charged unless somebody keeps pieces without the others: before the state
    of the datagram changes.
    """
    cdef FragmentTable* table = &nat.fragments
    cdef uint32_t window = nat.behaviour.fragment_ms
    if context.charged and (context.state != FRAGMENT_ANSWERED or context_whole(context)):
        reassembly_refund(
            &table.senders[context.sender].account, context.charged, context.created, window
        )
        reassembly_refund(
            &table.destinations[context.destination], context.charged, context.created, window
        )
    context.charged = 0


cdef inline void happen(Nat* nat, uint32_t number, int event, uint8_t reason) noexcept nogil:
    """Do what follows when something happens to a datagram; `reason` is why what waits is dropped."""
    cdef FragmentTable* table = &nat.fragments
    cdef Context* context = &table.contexts[number]
    cdef const FragmentStep* step = &table.steps[context.state][event]
    if step.action == FRAGMENT_DO_LET_GO:
        context_enter(table, number, step.state)
        let_go(nat, number)
    elif step.action == FRAGMENT_DO_REFUSE:
        give_up_waiting(nat, number, reason)
        settle(nat, context)
        context.reason = reason
        context_enter(table, number, step.state)
    elif step.action == FRAGMENT_DO_FORGET:
        give_up_waiting(nat, number, reason)
        settle(nat, context)
        if context.holds:
            identification_release(&nat.identifications, number)
        context_free(table, number)


cdef inline void give_up(Nat* nat, uint32_t number, uint8_t reason) noexcept nogil:
    """Forget a datagram that is not whole."""
    happen(nat, number, FRAGMENT_EVENT_GIVEN_UP, reason)


cdef inline uint32_t make(Nat* nat, const DatagramKey* key, uint64_t now) noexcept nogil:
    """A context for a new datagram, at the expense of its own sender or of who has the most."""
    cdef FragmentTable* table = &nat.fragments
    cdef Sender* sender = &table.senders[sender_of(table, key)]
    cdef uint32_t number
    if sender.contexts.count >= SENDER_CONTEXTS:
        give_up(nat, sender.contexts.first, DROP_FRAGMENT_QUOTA)
    number = context_make(table, key, now)
    if number == NOTHING:
        give_up(nat, context_of_the_largest(table), DROP_FRAGMENT_QUOTA)
        number = context_make(table, key, now)
    return number


cdef inline Buffer* room_to_wait(Nat* nat, uint32_t number) noexcept nogil:
    cdef FragmentTable* table = &nat.fragments
    cdef Context* context = &table.contexts[number]
    cdef Sender* sender = &table.senders[context.sender]
    cdef Buffer* buffer
    cdef uint32_t largest
    while sender.buffers >= SENDER_BUFFERS and sender.contexts.first != number:
        give_up(nat, sender.contexts.first, DROP_FRAGMENT_QUOTA)
    if sender.buffers >= SENDER_BUFFERS:
        return NULL
    buffer = buffer_take(table, number)
    if buffer == NULL:
        largest = waiting_of_the_largest(table)
        if largest != number:
            give_up(nat, largest, DROP_FRAGMENT_QUOTA)
            buffer = buffer_take(table, number)
    return buffer


cdef inline void keep(Nat* nat, Packet* p, uint32_t number) noexcept nogil:
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


cdef inline void count_at_flow(
    Nat* nat, Packet* p, FlowKey key, uint64_t hash
) noexcept nogil:
    cdef uint32_t id = table_find_id(&nat.table, key, hash)
    if id != NIL:
        p.side = <uint8_t>(id & 1)
        count_at_entry(&nat.table.entries[id >> 1], p)


cdef inline void follow(Nat* nat, Packet* p, const Context* context) noexcept nogil:
    """Translate a later fragment as the first one was."""
    cdef Packet second
    count_at_flow(nat, p, context.flow_key, context.flow_hash)
    rewrite_ip(p, 12, p.source, context.new_source, context.identification)
    if p.destination != context.new_destination:
        store32(p.ip + 16, context.new_destination)
        store16(
            p.ip + 10,
            updated(load16(p.ip + 10), replaced32(p.destination, context.new_destination)),
        )
        p.destination = context.new_destination
    if context.arrived_at != UNATTACHED:
        second = hairpin_turn(nat, p, context.arrived_at, context.new_source, 0)
        count_at_flow(nat, &second, context.arriving_key, context.arriving_hash)
        send(nat, &second, context.out_port)
        judge(p, &second)
    else:
        send(nat, p, context.out_port)
    if p.action != ACTION_DROP:
        count(nat, C_FRAGMENTS_FORWARDED)


cdef inline void let_go(Nat* nat, uint32_t number) noexcept nogil:
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
        p.link = p.port
        parse_ip(&p)
        follow(nat, &p, context)
        if p.action != ACTION_FORWARD:
            continue
        frame = extra_room(&nat.extras, p.out_length)
        if frame == NULL:
            drop(nat, &p, DROP_FRAGMENT_QUOTA)
            continue
        memcpy(frame, p.out_frame, p.out_length)
        extra_add(&nat.extras, frame, p.out_length, p.action, p.out_port)
    buffers_give_back(table, number)
    nat.counters[C_FRAGMENTS_WAITING] = table.buffers_used


cdef inline void finish(Nat* nat, uint32_t number) noexcept nogil:
    """Nobody asks any more once every byte has come."""
    if context_whole(&nat.fragments.contexts[number]):
        happen(nat, number, FRAGMENT_EVENT_WHOLE, DROP_NONE)


cdef inline uint64_t fingerprint(const FragmentTable* table, const Packet* p) noexcept nogil:
    """What tells a first fragment from another; its length is a multiple of eight bytes."""
    cdef uint64_t result = table.key.k0 ^ p.l4_length, word
    cdef uint32_t at = 0
    while at < p.l4_length:
        memcpy(&word, p.l4 + at, 8)
        result = rotl(result ^ word, 29) * (table.key.k1 | 1)
        at += 8
    return result


cdef inline int misplaced(Nat* nat, const Packet* p, uint32_t number) noexcept nogil:
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
        happen(nat, number, FRAGMENT_EVENT_SPOILED, DROP_FRAGMENT_OVERLAP)
        return DROP_FRAGMENT_OVERLAP
    return DROP_NONE


cdef inline uint32_t context_of(Nat* nat, const Packet* p, uint64_t now) noexcept nogil:
    """The context of a fragment's datagram, made if there is none.

    A first fragment that is not the same as the one there was begins another datagram.
    """
    cdef FragmentTable* table = &nat.fragments
    cdef DatagramKey key = datagram_key(
        # What is told by the first piece alone does not tell datagrams apart.
        presumed_side(&nat.attachments[p.port]),
        p.port,
        p.protocol,
        load16(p.ip + 4),
        p.source,
        p.destination,
    )
    cdef uint32_t number = context_find(table, &key)
    cdef uint64_t first_piece
    if fragment_offset(p):
        return make(nat, &key, now) if number == NOTHING else number
    first_piece = fingerprint(table, p)
    if (
        number != NOTHING
        and context_begun(&table.contexts[number])
        and table.contexts[number].first_piece != first_piece
    ):
        give_up(nat, number, DROP_NONE)
        number = NOTHING
    if number == NOTHING:
        number = make(nat, &key, now)
    table.contexts[number].first_piece = first_piece
    return number


cdef inline int refusal(
    Nat* nat, const Packet* p, uint32_t number, int action, uint64_t now
) noexcept nogil:
    """Why a fragment that is to be dealt with like this goes no further; DROP_NONE when it does."""
    cdef Context* context = &nat.fragments.contexts[number]
    cdef int reason
    if action == FRAGMENT_DO_DROP:
        return context.reason if context.reason else DROP_FRAGMENT_OVERLAP
    reason = misplaced(nat, p, number)
    # What waits is charged with the first one.
    if reason == DROP_NONE and action != FRAGMENT_DO_KEEP and not charge(nat, p, context, now):
        reason = DROP_FRAGMENT_QUOTA
        happen(nat, number, FRAGMENT_EVENT_SPOILED, DROP_FRAGMENT_QUOTA)
    return reason


cdef inline uint32_t fragment_arrives(Nat* nat, Packet* p, uint64_t now) noexcept nogil:
    """Deal with a fragment, or return the context of a first one, which is then to be translated.

    A later one was forwarded, dropped, or waits: the packet's action says which.
    """
    cdef uint32_t number, offset = fragment_offset(p), last = offset + p.l4_length
    cdef int event = FRAGMENT_EVENT_LATER if offset else FRAGMENT_EVENT_FIRST
    cdef int action, reason
    cdef Context* context
    fragments_expire(nat, now, EXPIRED_AT_ONCE)
    number = context_of(nat, p, now)
    context = &nat.fragments.contexts[number]
    action = nat.fragments.steps[context.state][event].action
    reason = refusal(nat, p, number, action, now)
    if reason:
        drop(nat, p, reason)
        return NOTHING
    if action == FRAGMENT_DO_KEEP:
        keep(nat, p, number)
        if p.action == ACTION_DROP:
            return NOTHING
    context_mark(context, offset, last)
    if not fragment_field(p) & MORE_FRAGMENTS:
        context.end = last
    if action == FRAGMENT_DO_TRANSLATE:
        context.flow_key = packet_key(p)
        context.flow_hash = p.hash
        return number
    if action == FRAGMENT_DO_FOLLOW:
        follow(nat, p, context)
        finish(nat, number)
    return NOTHING


cdef inline void fragment_answered(Nat* nat, Packet* p, uint32_t number) noexcept nogil:
    """The first fragment of a context was translated, or was not: so with the others."""
    cdef Context* context = &nat.fragments.contexts[number]
    cdef Packet second
    if p.action != ACTION_FORWARD and p.action != ACTION_HOLD:
        happen(nat, number, FRAGMENT_EVENT_DENIED, p.reason)
        return
    count(nat, C_FRAGMENTS_FORWARDED)
    context.out_port = p.out_port
    context.identification = load16(p.ip + 4)
    context.new_source = load32(p.ip + 12)
    context.new_destination = load32(p.ip + 16)
    context.arrived_at = UNATTACHED
    if p.hairpin:
        second = second_of(nat, p, target_of(nat, p), context.new_source, load16(p.l4))
        context.arrived_at = second.port
        context.arriving_key = packet_key(&second)
        context.arriving_hash = second.hash
    if context.new_source != key_source(context):
        context.holds = 1
        identification_hold(
            &nat.identifications,
            number,
            context.new_source,
            key_destination(context),
            key_protocol(context),
            swap16(context.identification),
        )
    happen(nat, number, FRAGMENT_EVENT_PASSED, DROP_NONE)
    finish(nat, number)


cdef inline void fragments_expire(Nat* nat, uint64_t now, int budget) noexcept nogil:
    """Give up datagrams that have not become whole in time, the oldest first."""
    while budget and fragments_deadline(nat) <= now:
        give_up(nat, nat.fragments.by_time.first, DROP_FRAGMENT_TIMEOUT)
        budget -= 1


cdef inline uint64_t fragments_deadline(const Nat* nat) noexcept nogil:
    """When the oldest datagram is given up, in ms; the highest number when there is none."""
    cdef const FragmentTable* table = &nat.fragments
    if table.by_time.count == 0:
        return <uint64_t>0xFFFFFFFFFFFFFFFF
    return table.contexts[table.by_time.first].created + nat.behaviour.fragment_ms


cdef inline void fragments_forget(Nat* nat, uint16_t number) noexcept nogil:
    """An attachment is gone: its number will mean another one."""
    cdef List* by_time = &nat.fragments.by_time
    cdef uint32_t i = by_time.first if by_time.count else NOTHING, following
    cdef uint32_t address = nat.records[number].address
    cdef bint alone = nat.attachments[number].kind != ATTACHMENT_INTERFACE
    cdef Context* context
    cdef bint sent, received
    while i != NOTHING:
        context = &nat.fragments.contexts[i]
        following = context.links[0].following
        sent = key_port(context) == number
        received = context.state == FRAGMENT_ANSWERED and (
            context.out_port == number
            or (
                not alone
                and key_side(context) == PEER_ORIGINATOR
                and (context.new_source == address or context.arrived_at == number)
            )
        )
        if sent or received:
            give_up(nat, i, DROP_UNKNOWN_LINK)
        i = following
    if alone:
        memset(&nat.fragments.senders[number].account, 0, sizeof(Account))
