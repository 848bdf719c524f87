# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Cached flows one after the other: swept, adopted from a predecessor, and proved to agree.

Theory of operation
-------------------
The *sweep* takes over what records have come to know, so that figures are at most a round late, and
compares each record with what it would be today: one that differs (another generation, next hop, route)
is demoted. A next hop that is used by hits alone is used all the same, and is asked for again in time.
What is armed for WAITS sweeps while frames of it are missing (the ring has lost one) is demoted, too.

A *successor* finds the records as its predecessor left them. A record without its flow, and one that
was armed, is demoted; the rest goes on. Next hops are what the records say until they are asked for.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.cache_table cimport (
    CACHED_FREE,
    CACHED_GONE,
    CACHED_KEPT,
    CACHED_NEW,
    Cached,
    FlowCache,
    cache_change,
    numbers_add,
)
from hyperplane_nat.engine.flows.caching cimport (
    cache_demote,
    cache_take,
    cache_write,
    hold_off,
    is_plain_flow,
    limit_of,
    next_hop_of,
    same_rewrite,
)
from hyperplane_nat.engine.flows.flow_table cimport flow_key, table_flow
from hyperplane_nat.engine.flows.nat cimport Attachment, Nat, next_hop_to
from hyperplane_nat.engine.flows.neighbour_table cimport (
    Neighbour,
    neighbour_add,
    neighbour_find,
)
from hyperplane_nat.engine.flows.neighbours cimport neighbour_learn
from hyperplane_nat.engine.nat.cache_ways cimport ways_of
from hyperplane_nat.engine.state.cache_records cimport (
    ARMED,
    CACHE_LIMITS,
    CACHE_LIMIT_TCP,
    CACHE_LIMIT_UDP,
    CacheRecord,
    protocol_of,
)
from hyperplane_nat.engine.state.layout cimport (
    NIL,
    End,
    Entry,
    destination_translated,
    first_host,
    source_translated,
)

cdef enum:
    WAITS = 5


cdef inline bint in_use(const FlowCache* cache, uint32_t number) noexcept nogil:
    return cache.cached[number].state == CACHED_NEW or cache.cached[number].state == CACHED_KEPT


cdef inline void next_hop_adopt(Nat* nat, const CacheRecord* record, uint64_t now) noexcept nogil:
    """Send to whom a predecessor has sent, until it is asked for anew."""
    cdef const Attachment* link = &nat.attachments[record.out]
    cdef uint32_t hop = next_hop_to(link, record.destination)
    cdef Neighbour* neighbour
    if link.kind != ATTACHMENT_INTERFACE or neighbour_find(&nat.neighbours, record.out, hop) != NULL:
        return
    neighbour = neighbour_add(&nat.neighbours, record.out, hop, <uint16_t>nat.attachments_max)
    if neighbour != NULL:
        neighbour_learn(nat, neighbour, record.next_hop, now)


cdef inline bint goes_as_ever(Nat* nat, uint32_t number) noexcept nogil:
    """Whether the packets of a number's flow go by the links of its records."""
    cdef Cached* cached = &nat.cache.cached[number]
    cdef uint16_t near, far
    if cached.revision == nat.cache.revision:
        return True
    cached.revision = nat.cache.revision
    return (
        ways_of(nat, cached.flow, &near, &far)
        and nat.cache.records[2 * number].out == far
        and nat.cache.records[2 * number + 1].out == near
    )


cdef inline bint as_it_would_be(Nat* nat, uint32_t number) noexcept nogil:
    """Whether the records of a number are those that its flow would get today."""
    cdef CacheRecord wanted[2]
    cdef const CacheRecord* records = &nat.cache.records[2 * number]
    cdef uint32_t flow = nat.cache.cached[number].flow
    cdef uint8_t limit = limit_of(nat, &nat.table.entries[flow])
    return (
        cache_write(nat, flow, records[1].out, records[0].out, limit, wanted)
        and same_rewrite(&wanted[0], &records[0])
        and same_rewrite(&wanted[1], &records[1])
        and goes_as_ever(nat, number)
    )


cdef inline bint frames_are_missing(const FlowCache* cache, uint32_t number) noexcept nogil:
    """Whether the program has counted more at an armed record than have passed."""
    cdef const Cached* cached = &cache.cached[number]
    cdef int side
    for side in range(2):
        if (
            cached.armed & (1 << side)
            and cache.records[2 * number + side].packets != (ARMED | cached.counted[side])
        ):
            return True
    return False


cdef inline void cache_look(Nat* nat, uint32_t number, uint64_t now) noexcept nogil:
    """What the sweep does at one number that is in use."""
    cdef FlowCache* cache = nat.cache
    cdef Cached* cached = &cache.cached[number]
    cdef uint32_t flow = cached.flow
    cdef Neighbour* hop
    cdef int side, sent = cache_take(nat, number)
    if cached.adopted:
        cached.adopted = 0
        for side in range(2):
            next_hop_adopt(nat, &cache.records[2 * number + side], now)
    if not as_it_would_be(nat, number):
        cache_demote(nat, number)
        return
    for side in range(2):
        hop = next_hop_of(nat, &cache.records[2 * number + side])
        if hop != NULL and sent & (1 << side):
            hop.used = 1
    cached.waits = <uint8_t>(cached.waits + 1) if frames_are_missing(cache, number) else 0
    if cached.waits >= WAITS:
        cache_demote(nat, number)
        hold_off(cache, flow, now)


cdef inline uint32_t cache_sweep(Nat* nat, uint64_t now, uint32_t budget) noexcept nogil:
    """Go on through the numbers, up to a budget; returns how many, less than that at the end of a round."""
    cdef FlowCache* cache = nat.cache
    cdef uint32_t looked = 0
    while looked < budget:
        if cache.sweep_position >= cache.watermark:
            cache.sweep_position = 0
            break
        if in_use(cache, cache.sweep_position):
            cache_look(nat, cache.sweep_position, now)
        cache.sweep_position += 1
        looked += 1
    return looked


cdef inline void cache_limits(Nat* nat) noexcept nogil:
    """Have the program's idle limits be those of the states that cached flows are in."""
    nat.cache.control.limits[<int>CACHE_LIMIT_TCP] = (
        <uint64_t>nat.timeouts[<int>STATE_ESTABLISHED] * 1000000
    )
    nat.cache.control.limits[<int>CACHE_LIMIT_UDP] = (
        <uint64_t>nat.timeouts[<int>STATE_UDP_REPLIED] * 1000000
    )


cdef inline uint32_t flow_begun_at(
    const Nat* nat, uint32_t originator, const CacheRecord* records
) noexcept nogil:
    """The flow of an attachment that records were written for, or NIL."""
    cdef const CacheRecord* out = &records[0]
    cdef const CacheRecord* back = &records[1]
    cdef const Entry* entry
    cdef End source, destination
    cdef uint32_t flow
    key = flow_key(
        protocol_of(out),
        <uint16_t>originator,
        back.destination,
        back.destination_port,
        back.source,
        back.source_port,
    )
    flow = table_flow(&nat.table, key)
    if flow == NIL or nat.cache.number_of[flow] != NIL or not is_plain_flow(nat, flow):
        return NIL
    entry = &nat.table.entries[flow]
    source = source_translated(entry)
    destination = destination_translated(entry, &nat.table.extensions[flow])
    if (
        entry.originator == originator
        and source.address == out.source
        and source.port == out.source_port
        and destination.address == out.destination
        and destination.port == out.destination_port
    ):
        return flow
    return NIL


cdef inline uint32_t flow_of_records(const Nat* nat, const CacheRecord* records) noexcept nogil:
    """The flow that the records of a number were written for, or NIL.

    Nothing is configured yet. What comes by an interface's link may be for another address of it, which is
    the flow's originator, and one of those that have it by the state map.
    """
    cdef const CacheRecord* back = &records[1]
    cdef uint32_t number, flow
    if back.out >= nat.attachments_max or records[0].out >= nat.attachments_max:
        return NIL
    flow = flow_begun_at(nat, back.out, records)
    if flow == NIL and nat.header.slots_max <= back.out < first_host(nat.header):
        for number in range(nat.header.slots_max, first_host(nat.header)):
            if nat.records[number].address == back.source:
                flow = flow_begun_at(nat, number, records)
                if flow != NIL:
                    break
    return flow


cdef inline bint can_go_on(const CacheRecord* records) noexcept nogil:
    return (
        records[0].in_generation != 0
        and records[1].in_generation != 0
        and not (records[0].packets | records[1].packets) & ARMED
        and records.limit < CACHE_LIMITS
    )


cdef inline void cache_adopt(Nat* nat) noexcept nogil:
    """Take over what a predecessor has cached."""
    cdef FlowCache* cache = nat.cache
    cdef CacheRecord* records
    cdef Cached* cached
    cdef uint32_t number, last = 0, flow
    for number in range(cache.numbers_max):
        records = &cache.records[2 * number]
        if records.source == 0:
            continue
        last = number + 1
        cached = &cache.cached[number]
        flow = flow_of_records(nat, records) if can_go_on(records) else <uint32_t>NIL
        cached.flow = flow
        if flow == NIL:
            records[0].in_generation = 0
            records[1].in_generation = 0
            cache_change(cache, number, CACHED_GONE)
            continue
        cached.state = CACHED_KEPT
        cached.adopted = 1
        cached.revision = cache.revision - 1
        cache.number_of[flow] = number
        cache.limit_users[records.limit] += 1
        cache.used += 1
        cache_take(nat, number)
    cache.watermark = last
    for number in range(last):
        if cache.cached[number].state == CACHED_FREE:
            numbers_add(&cache.free, cache.numbers_max, number)
    nat.counters[C_FLOW_CACHE_FLOWS] = cache.used


cdef inline list audit_cache(Nat* nat):
    """Whether cached flows and their records belong together, and are counted."""
    cdef const FlowCache* cache = nat.cache
    cdef uint32_t number, flow, limit, used = 0, limited = 0
    cdef list problems = []
    if cache == NULL:
        return problems
    for number in range(cache.watermark):
        if not in_use(cache, number):
            continue
        used += 1
        flow = cache.cached[number].flow
        if flow >= nat.header.entries_watermark or cache.number_of[flow] != number:
            problems.append(f"cached flow {number}: it is not that of entry {flow}")
        elif not is_plain_flow(nat, flow):
            problems.append(
                f"cached flow {number}: entry {flow} is in state {nat.table.entries[flow].state}"
            )
        else:
            problems += audit_records(nat, number)
    for flow in range(nat.header.entries_watermark):
        number = cache.number_of[flow]
        if number != NIL and (number >= cache.watermark or cache.cached[number].flow != flow):
            problems.append(f"entry {flow}: cached flow {number} is another's")
    for limit in range(CACHE_LIMITS):
        limited += cache.limit_users[limit]
    if limited != used:
        problems.append(f"{used} flows are cached, and other numbers by their limits")
    if used != cache.used or used != nat.counters[C_FLOW_CACHE_FLOWS]:
        problems.append(f"{used} flows are cached, {cache.used} counted")
    return problems


cdef inline list audit_records(Nat* nat, uint32_t number):
    """Whether the records of a number are those of its flow's ends."""
    cdef const FlowCache* cache = nat.cache
    cdef const CacheRecord* out = &cache.records[2 * number]
    cdef const CacheRecord* back = &cache.records[2 * number + 1]
    cdef uint32_t flow = cache.cached[number].flow
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef End source = source_translated(entry)
    cdef End destination = destination_translated(entry, &nat.table.extensions[flow])
    if (
        out.source == source.address
        and out.source_port == source.port
        and out.destination == destination.address
        and out.destination_port == destination.port
        and back.source == entry.destination_address
        and back.source_port == entry.destination_port
        and back.destination == entry.source_address
        and back.destination_port == entry.source_port
        and (not cache.settled or back.out == nat.attachments[entry.originator].primary)
    ):
        return []
    return [f"cached flow {number}: its records are not of entry {flow}"]
