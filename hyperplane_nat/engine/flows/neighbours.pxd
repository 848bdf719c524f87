# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The next hops of the interfaces: who is asked for, what is believed, what waits.

Theory of operation
-------------------
Everything about a next hop has one owner, this module: its state (`neighbour_states`), its MAC
address, its timer and the frames that wait for it. So a frame meets the state that the frame before
it has left, in the same batch too, and whatever is counted is there. The next hop is the
destination itself in the interface's subnet and the subnet's router otherwise; `neighbour_send`
addresses a packet to it, or keeps it until it answers (ACTION_HOLD). Nothing here waits or sends:
the clock is a parameter, and questions and frames leave as extra frames. `neighbours_ask`
sends what a batch has led to and `neighbours_tick` does what is due, both as far as there is room;
`neighbours_let_go` goes on with the frames of a next hop that has answered. Frames to a next hop
leave in the order in which they came.

What is believed. Only an answer to a question, while that is out or less than `retry` old, and
each question changes a MAC address at most once: of two hosts that both answer, the one that is new wins,
and the address does not go to and fro. Announcements and other ARP frames of a host are hints: they
make us ask everybody (once per `retry`, and HINTS_PER_SECOND of them on a link), while frames go
on to the MAC address that is known.

What is bounded. A link may take a record while it has fewer than are free, an environment may have
UNANSWERED_MAX next hops without an answer. Beyond that a new one takes the place of the oldest
without an answer: that of the environment itself when it was asked for twice in vain, so that a scan
does not ask faster than its questions end; that of the link also when who asked for it has
more than twice as many. What has answered makes room for nobody.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.caching cimport cache_forget
from hyperplane_nat.engine.flows.extras cimport extra_add, extra_room
from hyperplane_nat.engine.flows.nat cimport Attachment, Nat, count, next_hop_to
from hyperplane_nat.engine.flows.neighbour_table cimport (
    TIMERS,
    TIMER_FAILED,
    TIMER_NOW,
    TIMER_REACHABLE,
    TIMER_RETRY,
    UNANSWERED_MAX,
    Link,
    Neighbour,
    NeighbourTable,
    Step,
    has_mac,
    neighbour_add,
    neighbour_answered,
    neighbour_find,
    neighbour_free,
    neighbour_schedule,
)
from hyperplane_nat.engine.flows.waiting_frames cimport (
    waiting_add,
    waiting_length,
    waiting_segments,
    waiting_take,
)
from hyperplane_nat.engine.wire.checksum cimport store16, store32, swap16
from hyperplane_nat.engine.wire.packet cimport (
    ARP_BYTES,
    ARP_REQUEST,
    ETHERNET_BYTES,
    OFFLOAD_BYTES,
    Packet,
    settle_offload,
)
from hyperplane_nat.engine.wire.rewrite cimport address_frame, forward

cdef enum:
    HINTS_PER_SECOND = 64


cdef inline bint neighbours_asking(const Nat* nat) noexcept nogil:
    """Whether a question is to be sent at once."""
    return nat.neighbours.timers[<int>TIMER_NOW].first != NULL


cdef inline void discard(Nat* nat, Neighbour* neighbour, int reason) noexcept nogil:
    """Drop what waits for a next hop."""
    while neighbour.queue.frames:
        nat.counters[C_DROP_BASE + reason] += waiting_segments(
            &nat.neighbours.waiting, &neighbour.queue
        )
        waiting_take(&nat.neighbours.waiting, &neighbour.queue, neighbour.interface, NULL)


cdef inline void neighbour_forget(Nat* nat, Neighbour* neighbour) noexcept nogil:
    """Nothing is known of it any more; what waits for it is dropped."""
    if nat.neighbours.released == neighbour:
        nat.neighbours.released = NULL
    if has_mac(neighbour):
        cache_forget(nat, neighbour.interface)
    discard(nat, neighbour, DROP_NEIGHBOUR_FAILED)
    neighbour_free(&nat.neighbours, neighbour)


cdef inline bint asked_twice(const Neighbour* neighbour) noexcept nogil:
    return neighbour.state == NEIGHBOUR_FAILED or neighbour.attempts > 1


cdef inline bint make_room(Nat* nat, uint16_t interface, uint16_t asker) noexcept nogil:
    """Whether there may be one more of an interface that this environment asks for."""
    cdef NeighbourTable* table = &nat.neighbours
    cdef Link* link = &table.links[interface]
    cdef Neighbour* oldest
    if table.askers[asker].count >= UNANSWERED_MAX:
        oldest = table.askers[asker].first
        if not asked_twice(oldest):
            return False
        discard(nat, oldest, DROP_NEIGHBOUR_TABLE_FULL)
        neighbour_free(table, oldest)
    if link.neighbours < table.free_count:
        return True
    oldest = link.unanswered.first
    if oldest == NULL or not (
        asked_twice(oldest)
        or table.askers[oldest.asker].count > 2 * table.askers[asker].count
    ):
        return False
    discard(nat, oldest, DROP_NEIGHBOUR_TABLE_FULL)
    neighbour_free(table, oldest)
    return True


cdef inline uint16_t asker_of(const Nat* nat, const Packet* p) noexcept nogil:
    """The environment or host that sends a packet, or the number behind all attachments."""
    if nat.attachments[p.port].kind != ATTACHMENT_INTERFACE:
        return p.port
    return <uint16_t>nat.attachments_max


cdef inline bint hold(Nat* nat, Neighbour* neighbour, const Packet* p) noexcept nogil:
    """Keep a translated frame until its next hop answers; False when nothing more may wait."""
    cdef uint8_t[OFFLOAD_BYTES] header
    if neighbour.queue.frames >= nat.neighbours.queue_frames:
        return False
    # Where nothing is left to be done there need be no header before the frame.
    if p.partial or p.inner or p.gso_size:
        memcpy(header, p.out_frame - OFFLOAD_BYTES, OFFLOAD_BYTES)
    else:
        memset(header, 0, OFFLOAD_BYTES)
    settle_offload(p, header)
    return waiting_add(
        &nat.neighbours.waiting,
        &neighbour.queue,
        neighbour.interface,
        asker_of(nat, p),
        header,
        p.out_frame,
        p.out_length,
        p.segments,
    )


cdef inline int neighbour_send(Nat* nat, uint16_t interface, Packet* p) noexcept nogil:
    """Let a translated packet leave by its next hop, or wait for it; or why it does neither."""
    cdef const Attachment* link = &nat.attachments[interface]
    cdef uint32_t hop = next_hop_to(link, p.destination)
    cdef uint16_t asker = asker_of(nat, p)
    cdef Neighbour* neighbour
    neighbour = neighbour_find(&nat.neighbours, interface, hop)
    if neighbour == NULL and make_room(nat, interface, asker):
        neighbour = neighbour_add(&nat.neighbours, interface, hop, asker)
    if neighbour == NULL:
        return DROP_NEIGHBOUR_TABLE_FULL
    if neighbour.state == NEIGHBOUR_FAILED:
        return DROP_NEIGHBOUR_FAILED
    # Of one that has not answered it is zero.
    address_frame(p, neighbour.mac, link.mac)
    forward(p, interface)
    if has_mac(neighbour):
        neighbour.used = 1
    elif hold(nat, neighbour, p):
        p.action = ACTION_HOLD
    else:
        return DROP_NEIGHBOUR_QUEUE_FULL
    return DROP_NONE


cdef inline bint link_may_ask(Link* link, uint64_t now) noexcept nogil:
    """Whether a hint may lead to one more question on the link."""
    if now - link.hinted >= 1000:
        link.hinted = now
        link.hints = 0
    if link.hints >= HINTS_PER_SECOND:
        return False
    link.hints += 1
    return True


cdef inline bint ask(Nat* nat, Neighbour* neighbour, uint64_t now) noexcept nogil:
    """Send a question (RFC 826), to the host itself while nothing is in doubt; False without room."""
    cdef NeighbourTable* table = &nat.neighbours
    cdef const Attachment* interface = &nat.attachments[neighbour.interface]
    cdef bint known = has_mac(neighbour) and not neighbour.doubted
    cdef uint8_t* frame = extra_room(&nat.extras, ETHERNET_BYTES + ARP_BYTES)
    cdef uint8_t* arp = frame + ETHERNET_BYTES
    if frame == NULL:
        return False
    memset(frame, 0xFF, 6)
    memset(arp + 18, 0, 6)
    if known:
        memcpy(frame, neighbour.mac, 6)
        memcpy(arp + 18, neighbour.mac, 6)
    memcpy(frame + 6, interface.mac, 6)
    store16(frame + 12, swap16(0x0806))
    store16(arp, swap16(1))
    store16(arp + 2, swap16(0x0800))
    arp[4] = 6
    arp[5] = 4
    store16(arp + 6, swap16(ARP_REQUEST))
    memcpy(arp + 8, interface.mac, 6)
    store32(arp + 14, interface.address)
    store32(arp + 24, neighbour.address)
    extra_add(
        &nat.extras, frame, ETHERNET_BYTES + ARP_BYTES, ACTION_FORWARD, neighbour.interface
    )
    count(nat, C_NEIGHBOUR_REQUESTS)
    neighbour.attempts += 1
    neighbour.used = 0
    neighbour.changed = 0
    neighbour.open_until = now + table.periods[<int>TIMER_RETRY]
    neighbour_schedule(table, neighbour, TIMER_RETRY, now)
    return True


cdef inline void neighbour_learn(
    Nat* nat, Neighbour* neighbour, const uint8_t* mac, uint64_t now
) noexcept nogil:
    """It has this MAC address; what waits for it leaves now (`neighbours_let_go`)."""
    cdef bint known = has_mac(neighbour)
    neighbour_answered(&nat.neighbours, neighbour)
    neighbour.state = NEIGHBOUR_REACHABLE
    if memcmp(neighbour.mac, mac, 6) != 0:
        if known:
            cache_forget(nat, neighbour.interface)
        memcpy(neighbour.mac, mac, 6)
        neighbour.changed = 1
    neighbour.attempts = 0
    neighbour.doubted = 0
    neighbour_schedule(&nat.neighbours, neighbour, TIMER_REACHABLE, now)
    nat.neighbours.released = neighbour
    neighbours_let_go(nat)


cdef inline bint happens(
    Nat* nat, Neighbour* neighbour, int event, const uint8_t* mac, uint64_t now
) noexcept nogil:
    """Do what the table says, if it says anything and there is room; `mac` is that of an answer."""
    cdef NeighbourTable* table = &nat.neighbours
    cdef Step step = table.steps[neighbour.state][event]
    cdef bint asking = neighbour.timer == TIMER_NOW or neighbour.timer == TIMER_RETRY
    if step.action == NEIGHBOUR_DO_LEARN:
        neighbour_learn(nat, neighbour, mac, now)
    elif step.action == NEIGHBOUR_DO_FORGET:
        neighbour_forget(nat, neighbour)
    elif step.action == NEIGHBOUR_DO_FAIL:
        neighbour.state = step.state
        neighbour.attempts = 0
        count(nat, C_NEIGHBOUR_FAILURES)
        discard(nat, neighbour, DROP_NEIGHBOUR_FAILED)
        neighbour_schedule(table, neighbour, TIMER_FAILED, now)
    elif step.action == NEIGHBOUR_DO_ASK:
        if not ask(nat, neighbour, now):
            return False
        neighbour.state = step.state
    elif step.action == NEIGHBOUR_DO_DOUBT:
        neighbour.state = step.state
        neighbour.doubted = 1
        if not asking:
            neighbour.attempts = 0
            if now >= neighbour.open_until:
                neighbour_schedule(table, neighbour, TIMER_NOW, 0)
            else:
                neighbour_schedule(table, neighbour, TIMER_RETRY, now)
    return step.action != NEIGHBOUR_DO_NOTHING


cdef inline bint neighbour_answer(
    Nat* nat, uint16_t interface, uint32_t address, const uint8_t* mac, uint64_t now
) noexcept nogil:
    """An ARP reply to us; whether it is believed."""
    cdef Neighbour* neighbour = neighbour_find(&nat.neighbours, interface, address)
    if neighbour == NULL or not (neighbour.attempts or now < neighbour.open_until):
        return False
    if neighbour.changed and memcmp(neighbour.mac, mac, 6) != 0:
        return False
    return happens(nat, neighbour, NEIGHBOUR_EVENT_ANSWERED, mac, now)


cdef inline void neighbour_hint(
    Nat* nat, uint16_t interface, uint32_t address, const uint8_t* mac, uint64_t now
) noexcept nogil:
    """Some ARP frame says that an address has this MAC address."""
    cdef Neighbour* neighbour = neighbour_find(&nat.neighbours, interface, address)
    if neighbour == NULL or (has_mac(neighbour) and memcmp(neighbour.mac, mac, 6) == 0):
        return
    if (
        neighbour.timer == TIMER_NOW
        or neighbour.timer == TIMER_RETRY
        or link_may_ask(&nat.neighbours.links[interface], now)
    ):
        happens(nat, neighbour, NEIGHBOUR_EVENT_HINTED, NULL, now)


cdef inline void neighbours_forget(Nat* nat, uint16_t interface) noexcept nogil:
    """Nothing is known on the link of an interface."""
    cdef NeighbourTable* table = &nat.neighbours
    cdef uint32_t i = 0
    while table.links[interface].neighbours:
        if table.records[i].state != NEIGHBOUR_NONE and table.records[i].interface == interface:
            neighbour_forget(nat, &table.records[i])
        i += 1


cdef inline void neighbours_check(Nat* nat, uint16_t number, const Attachment* new) noexcept nogil:
    """Nothing is known on the link of an interface that is about to become another."""
    cdef const Attachment* known = &nat.attachments[number]
    if not (
        known.active
        and known.address == new.address
        and known.subnet == new.subnet
        and known.subnet_mask == new.subnet_mask
        and known.router == new.router
        and known.primary == new.primary
        and memcmp(known.mac, new.mac, 6) == 0
    ):
        neighbours_forget(nat, number)


cdef inline void neighbours_let_go(Nat* nat) noexcept nogil:
    """Let frames of the next hop that has answered leave, as far as there is room for them."""
    cdef NeighbourTable* table = &nat.neighbours
    cdef Neighbour* neighbour = table.released
    cdef uint8_t* frame
    cdef uint32_t length
    if neighbour == NULL:
        return
    while neighbour.queue.frames:
        length = waiting_length(&table.waiting, &neighbour.queue) - OFFLOAD_BYTES
        frame = extra_room(&nat.extras, length)
        if frame == NULL:
            return
        waiting_take(
            &table.waiting, &neighbour.queue, neighbour.interface, frame - OFFLOAD_BYTES
        )
        memcpy(frame, neighbour.mac, 6)
        extra_add(&nat.extras, frame, length, ACTION_FORWARD, neighbour.interface)
    table.released = NULL


cdef inline uint64_t neighbours_deadline(const Nat* nat) noexcept nogil:
    """When something is due, in ms; the highest number when nothing will be."""
    cdef const NeighbourTable* table = &nat.neighbours
    cdef uint64_t deadline = <uint64_t>0xFFFFFFFFFFFFFFFF
    cdef int timer
    for timer in range(TIMERS):
        if table.timers[timer].first != NULL:
            deadline = min(deadline, table.timers[timer].first.since + table.periods[timer])
    return deadline


cdef inline void tick(Nat* nat, int timer, uint64_t now) noexcept nogil:
    """Do what is due of one timer, until there is no room for a question."""
    cdef NeighbourTable* table = &nat.neighbours
    cdef Neighbour* neighbour = table.timers[timer].first
    cdef bint wanted
    while neighbour != NULL and neighbour.since + table.periods[timer] <= now:
        if neighbour.state == NEIGHBOUR_REACHABLE:
            wanted = neighbour.used
        else:
            wanted = neighbour.state != NEIGHBOUR_FAILED and neighbour.attempts < table.attempts
        if not happens(
            nat, neighbour, NEIGHBOUR_EVENT_DUE if wanted else NEIGHBOUR_EVENT_SPENT, NULL, now
        ):
            return
        neighbour = table.timers[timer].first


cdef inline void neighbours_ask(Nat* nat, uint64_t now) noexcept nogil:
    """Send the questions that a batch has led to, as many as there is room for."""
    tick(nat, TIMER_NOW, now)


cdef inline void neighbours_tick(Nat* nat, uint64_t now) noexcept nogil:
    """Do what is due, until there is no room; `neighbours_deadline` tells whether that was all."""
    cdef int timer
    for timer in range(TIMERS):
        tick(nat, timer, now)
