# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Flows in the kernel's flow cache: which are, from when on, and what of them is known here.

Theory of operation
-------------------
The program (`flow_cache.bpf.c`) forwards packets of flows that have records here; all others come, as
misses. It decides nothing, so nothing but a plain rewrite is left to it: an answered UDP or ESTABLISHED
TCP flow that nothing else is known of (`is_plain_flow`), between an environment, a host or the outside
and whoever else, translated at either end, at both or at none. Its packets come by one link and leave by
another, the near one and the far one, which is found out elsewhere (`nat/cache_ways.pxd`). It earns its
records by EARNED_PACKETS packets within EARNED_MS, each of which the program could have forwarded, and
none that it could not in the last HOLD_MS. Floods of new flows and single questions do not.

*Promotion* writes both records, armed, and has the keys put (`cache_table`). A miss of an armed record
is counted there, and the frame says so; when as many have been sent from here the record's word is
exchanged for 0 (`cache_activate`), which succeeds only if the ring has no other. Nothing is overtaken.

*What the record knows* is taken over (`cache_take`) by the sweep, before a packet that has missed acts
on its flow, and before a flow ends: last use, counts, TCP's numbers. So the timer wheel ends no flow
that is used, and resets are judged by what was sent.

*Demotion* ends the records' generation first; from then on all miss. It comes with the end of the
flow, with a packet that changes its state or that the program does not forward, and with a record that
is not what it would be today.

*Generations.* Both records have those of both their attachments. A change at one, silence and removal
too, is another generation (`cache_forget`), and all its flows miss at once; the sweep demotes them. What
may concern whoever sends elsewhere (routes, addresses of a VPC) is another one of everything that
is not an environment (`cache_forget_shared`), and every flow has such an end.

*Limits.* How long a flow may be idle is one of a few numbers of the program's: those of the states, and
for balanced flows those of their listeners, two for either protocol, in use by so many flows. One more
is not cached.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.cache_table cimport (
    ACTIVATIONS_MAX,
    CACHED_GONE,
    CACHED_NEW,
    CANDIDATES,
    Cached,
    Candidate,
    FlowCache,
    cache_change,
    cache_number,
)
from hyperplane_nat.engine.flows.counting cimport (
    Amount,
    count_arrival,
    count_at_balancer,
    count_at_gateway,
    count_at_hop,
    count_departure,
)
from hyperplane_nat.engine.flows.entries cimport entrance_of, extension_of, node_of
from hyperplane_nat.engine.flows.nat cimport (
    Attachment,
    Nat,
    apart,
    count,
    next_hop_to,
    unlikely,
)
from hyperplane_nat.engine.flows.neighbour_table cimport Neighbour, has_mac, neighbour_find
from hyperplane_nat.engine.state.barriers cimport HP_STORE16_RELEASE
from hyperplane_nat.engine.state.cache_records cimport (
    ARMED,
    CACHE_LIMITS,
    CACHE_LIMIT_TCP,
    CACHE_LIMIT_UDP,
    HP_FENCE,
    LIMITS_OF_STATES,
    CacheLink,
    CacheRecord,
    hp_exchange,
    hp_replace,
)
from hyperplane_nat.engine.state.layout cimport (
    MAPPED,
    NIL,
    SYN_REMEMBERED,
    End,
    Entry,
    Extension,
    Track,
    destination_translated,
    hop_of,
    is_extended,
    is_mapping,
    source_translated,
)
from hyperplane_nat.engine.wire.packet cimport (
    DONT_FRAGMENT,
    IP_BYTES,
    KIND_FLOW,
    Packet,
    fragment_field,
)

cdef enum:
    EARNED_PACKETS = 16
    EARNED_MS = 1000
    HOLD_MS = 2000
    # Of an entry's flags: both sides have sent something, and both have acknowledged it.
    SEEN_ALL = 0x0F
    WINDOWS_UNSCALED = 0x30
    NS_PER_MS = 1000000


cdef inline apart cache_forget(Nat* nat, uint32_t number) noexcept nogil:
    """Flows through an attachment are cached no longer: from here on all of them miss."""
    cdef CacheLink* link
    if nat.cache == NULL or number >= nat.cache.links_max:
        return
    nat.cache.revision += 1
    link = &nat.cache.links[number]
    if link.generation:
        HP_STORE16_RELEASE(
            &link.generation, <uint16_t>(link.generation + 1) if link.generation < 0xFFFF else 1
        )


cdef inline apart cache_forget_shared(Nat* nat) noexcept nogil:
    """Flows through any interface or host, which is all, are cached no longer."""
    cdef uint32_t number
    if nat.cache == NULL or not nat.cache.settled:
        return
    for number in range(nat.header.slots_max, nat.attachments_used):
        if nat.attachments[number].active:
            cache_forget(nat, number)


cdef inline void cache_describe(Nat* nat, uint32_t number) noexcept nogil:
    """Have an attachment's link as it is configured."""
    cdef CacheLink* link = &nat.cache.links[number]
    cdef const Attachment* attachment = &nat.attachments[number]
    if link.mtu != attachment.mtu or memcmp(link.address, attachment.mac, 6) != 0:
        cache_forget(nat, number)
        link.mtu = attachment.mtu
        memcpy(link.address, attachment.mac, 6)


cdef inline void cache_link(Nat* nat, uint32_t number, uint32_t index) noexcept nogil:
    """An attachment's frames come and go by the link with this index; 0 by none.

    Whether hits leave by its near end is not said here (`hyperplane_nat.flow_cache.shortcuts`).
    """
    cdef CacheLink* link
    if nat.cache == NULL or number >= nat.cache.links_max:
        return
    link = &nat.cache.links[number]
    if link.generation == 0:
        link.generation = 1
    if link.index != index:
        cache_forget(nat, number)
        link.index = index


cdef inline bint is_plain_flow(const Nat* nat, uint32_t flow) noexcept nogil:
    """Whether a flow is one that the program may forward, for all that its entry says."""
    cdef const Entry* entry = &nat.table.entries[flow]
    if is_mapping(entry) or entry.flags & (MAPPED | SYN_REMEMBERED):
        return False
    # Whose numbers are shifted by a header of the PROXY protocol.
    if is_extended(entry) and nat.table.extensions[flow].proxy_bytes:
        return False
    if entry.state == STATE_UDP_REPLIED:
        return True
    return (
        entry.state == STATE_ESTABLISHED
        and (entry.flags & SEEN_ALL) == SEEN_ALL
        and not nat.table.tracks[flow].syn_scale & WINDOWS_UNSCALED
    )


cdef inline bint is_plain_packet(const Packet* p) noexcept nogil:
    """Whether a packet is one that the program would have forwarded, for all that its headers say."""
    return (
        p.kind == KIND_FLOW
        and p.header_length == IP_BYTES
        and fragment_field(p) == DONT_FRAGMENT
        and not (p.hairpin or p.inner)
    )


cdef inline Neighbour* next_hop_of(const Nat* nat, const CacheRecord* record) noexcept nogil:
    """Who is asked for to be sent what leaves by a record, if it is known; NULL where there is nobody
    else on the link, too.
    """
    cdef const Attachment* link = &nat.attachments[record.out]
    cdef Neighbour* neighbour
    if link.kind != ATTACHMENT_INTERFACE:
        return NULL
    neighbour = neighbour_find(&nat.neighbours, record.out, next_hop_to(link, record.destination))
    return neighbour if neighbour != NULL and has_mac(neighbour) else NULL


cdef inline uint16_t difference32(uint32_t new, uint32_t old) noexcept nogil:
    """New less old, in one's complement of 16 bits: 0 where nothing is rewritten."""
    cdef uint32_t sum = (new & 0xFFFF) + (new >> 16) + (0xFFFF - (old & 0xFFFF)) + (0xFFFF - (old >> 16))
    if new == old:
        return 0
    sum = (sum & 0xFFFF) + (sum >> 16)
    return <uint16_t>((sum & 0xFFFF) + (sum >> 16))


cdef inline uint16_t difference16(uint16_t new, uint16_t old) noexcept nogil:
    cdef uint32_t sum = <uint32_t>new + (0xFFFF - <uint32_t>old)
    if new == old:
        return 0
    return <uint16_t>((sum & 0xFFFF) + (sum >> 16))


cdef inline bint served(const Nat* nat, uint32_t number) noexcept nogil:
    """Whether the program may use an attachment."""
    return (
        number < nat.cache.links_max
        and nat.attachments[number].active
        and not nat.attachments[number].silent
        and nat.cache.links[number].generation != 0
        and nat.cache.links[number].index != 0
    )


cdef inline uint16_t added(uint16_t one, uint16_t other) noexcept nogil:
    """Two differences in one."""
    cdef uint32_t sum = <uint32_t>one + other
    return <uint16_t>((sum & 0xFFFF) + (sum >> 16))


cdef inline uint64_t idle_of(const Nat* nat, const Entry* entry) noexcept nogil:
    """How long a balanced flow may be idle, in ns; 0 for what goes by its state alone."""
    if node_of(nat, entry) == 0:
        return 0
    return <uint64_t>extension_of(nat, entry).idle * NS_PER_MS


cdef inline uint8_t limit_of(const Nat* nat, const Entry* entry) noexcept nogil:
    """Which of the program's limits is a flow's; CACHE_LIMITS when none is."""
    cdef uint8_t limit = CACHE_LIMIT_TCP if entry.protocol == 6 else CACHE_LIMIT_UDP
    cdef uint64_t idle = idle_of(nat, entry)
    if idle == 0:
        return limit
    limit += LIMITS_OF_STATES
    while limit < CACHE_LIMITS:
        if nat.cache.limit_users[limit] and nat.cache.control.limits[limit] == idle:
            return limit
        limit += LIMITS_OF_STATES
    return CACHE_LIMITS


cdef inline uint8_t limit_take(Nat* nat, const Entry* entry) noexcept nogil:
    """The same, of a flow that is to be cached: one that nobody uses becomes its own."""
    cdef uint8_t limit = limit_of(nat, entry)
    if limit < CACHE_LIMITS:
        return limit
    limit = (CACHE_LIMIT_TCP if entry.protocol == 6 else CACHE_LIMIT_UDP) + LIMITS_OF_STATES
    while limit < CACHE_LIMITS and nat.cache.limit_users[limit]:
        limit += LIMITS_OF_STATES
    if limit < CACHE_LIMITS:
        nat.cache.control.limits[limit] = idle_of(nat, entry)
    return limit


cdef inline bint record_write(
    const Nat* nat, CacheRecord* record, uint16_t link, uint16_t out, End source, End destination,
    End new_source, End new_destination, uint8_t limit
) noexcept nogil:
    """What becomes of frames with these ends that come by one link and leave by another; False when
    whoever is next is not known.
    """
    cdef const Neighbour* hop
    record.source = new_source.address
    record.source_port = new_source.port
    record.destination = new_destination.address
    record.destination_port = new_destination.port
    record.address_difference = added(
        difference32(new_source.address, source.address),
        difference32(new_destination.address, destination.address),
    )
    record.port_difference = added(
        difference16(new_source.port, source.port),
        difference16(new_destination.port, destination.port),
    )
    record.out = out
    record.in_generation = nat.cache.links[link].generation
    record.out_generation = nat.cache.links[out].generation
    record.limit = limit
    if nat.attachments[out].kind == ATTACHMENT_INTERFACE:
        hop = next_hop_of(nat, record)
        if hop == NULL:
            return False
        memcpy(record.next_hop, hop.mac, 6)
    else:
        memcpy(record.next_hop, nat.attachments[out].peer_mac, 6)
    return True


cdef inline bint cache_write(
    const Nat* nat, uint32_t flow, uint16_t near, uint16_t far, uint8_t limit, CacheRecord* records
) noexcept nogil:
    """Both records of a flow as they are to be, but for what they remember; False if it has none."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef End source = End(entry.source_address, entry.source_port)
    cdef End destination = End(entry.destination_address, entry.destination_port)
    cdef End source_there, destination_there
    if (
        limit >= CACHE_LIMITS
        or not is_plain_flow(nat, flow)
        or not served(nat, near)
        or not served(nat, far)
    ):
        return False
    memset(records, 0, 2 * sizeof(CacheRecord))
    source_there = source_translated(entry)
    destination_there = destination_translated(entry, &nat.table.extensions[flow])
    return record_write(
        nat, &records[0], near, far, source, destination, source_there, destination_there, limit
    ) and record_write(
        nat, &records[1], far, near, destination_there, source_there, destination, source, limit
    )


cdef inline bint same_rewrite(const CacheRecord* one, const CacheRecord* other) noexcept nogil:
    """Whether two records are alike, but for what they remember: that stands around the rest."""
    return one.limit == other.limit and memcmp(&one.source, &other.source, 28) == 0


cdef inline void count_hits(
    Nat* nat, uint32_t number, int side, Amount amount
) noexcept nogil:
    """Count what the program has forwarded as if it had been forwarded here."""
    cdef const CacheRecord* record = &nat.cache.records[2 * number + side]
    cdef uint32_t flow = nat.cache.cached[number].flow
    cdef Entry* entry = &nat.table.entries[flow]
    cdef const Extension* extension = &nat.table.extensions[flow]
    cdef uint16_t link = nat.cache.records[2 * number + 1 - side].out
    cdef uint16_t entrance = entrance_of(nat, entry)
    cdef uint16_t port = entry.responder, exit = entry.originator
    entry.packets[side] += amount.packets
    entry.bytes[side] += amount.bytes
    nat.counters[C_FLOW_CACHE_PACKETS] += amount.packets
    if side == PEER_ORIGINATOR:
        # What others than environments send to a node or an endpoint is at that first.
        port = entry.originator
        if entrance and nat.attachments[link].kind != ATTACHMENT_ENVIRONMENT:
            port = entrance
        exit = record.out
        if nat.attachments[exit].kind == ATTACHMENT_INTERFACE:
            exit = nat.attachments[entry.responder].interface if entrance else entry.responder
    count_arrival(nat, link, port, amount)
    count_departure(nat, exit, link, link, amount)
    if entrance:
        count_at_balancer(nat, extension, side, amount)
    else:
        count_at_hop(nat, hop_of(entry, extension), side, amount)
        count_at_gateway(nat, entry, side, amount)


cdef inline int cache_take(Nat* nat, uint32_t number) noexcept nogil:
    """Take over what the records of a number have come to know; a bit for each side that has sent.

    What a predecessor's have is counted when it is known again where.
    """
    cdef Cached* cached = &nat.cache.cached[number]
    cdef Entry* entry = &nat.table.entries[cached.flow]
    cdef Track* track = &nat.table.tracks[cached.flow]
    cdef CacheRecord* record
    cdef Amount amount
    cdef uint32_t used
    cdef int side, sent = 0
    for side in range(2):
        if cached.armed & (1 << side):
            continue
        record = &nat.cache.records[2 * number + side]
        amount = Amount(0, 0)
        if nat.cache.settled or not cached.adopted:
            amount.packets = hp_exchange(&record.packets, 0) if record.packets else 0
            amount.bytes = hp_exchange(&record.bytes, 0) if record.bytes else 0
        if amount.packets or amount.bytes:
            count_hits(nat, number, side, amount)
            sent |= 1 << side
        used = <uint32_t>(record.last_use // NS_PER_MS)
        if <int32_t>(used - entry.last_seen) > 0:
            entry.last_seen = used
        if entry.protocol == 6:
            if <int32_t>(record.sequence_end - track.sequence_end[side]) > 0:
                track.sequence_end[side] = record.sequence_end
            if (
                (amount.packets or cached.adopted)
                and <int32_t>(record.acknowledged - track.acknowledged[side]) >= 0
            ):
                track.acknowledged[side] = record.acknowledged
                track.window[side] = record.window
    return sent


cdef inline void hold_off(FlowCache* cache, uint32_t flow, uint64_t now) noexcept nogil:
    """Have a flow earn it anew, and not at once."""
    cache.candidates[flow % CANDIDATES] = Candidate(flow, <uint32_t>now + HOLD_MS, 0)


cdef inline apart cache_demote(Nat* nat, uint32_t number) noexcept nogil:
    """Have packets of a flow come here from now on, and know what was sent before."""
    cdef FlowCache* cache = nat.cache
    cdef Cached* cached = &cache.cached[number]
    HP_STORE16_RELEASE(&cache.records[2 * number].in_generation, 0)
    HP_STORE16_RELEASE(&cache.records[2 * number + 1].in_generation, 0)
    HP_FENCE()
    cache_take(nat, number)
    cache.number_of[cached.flow] = NIL
    cached.flow = NIL
    cache_change(cache, number, CACHED_GONE)
    cache.used -= 1
    cache.limit_users[cache.records[2 * number].limit] -= 1
    count(nat, C_FLOW_CACHE_DEMOTIONS)
    nat.counters[C_FLOW_CACHE_FLOWS] = cache.used


cdef inline bint cache_promote(
    Nat* nat, uint32_t flow, uint16_t near, uint16_t far, uint64_t now
) noexcept nogil:
    """Have a flow's packets forwarded by the program, if there is room, once its keys are put."""
    cdef FlowCache* cache = nat.cache
    cdef const Track* track = &nat.table.tracks[flow]
    cdef CacheRecord records[2]
    cdef uint32_t number
    cdef int side
    cdef uint8_t limit = limit_take(nat, &nat.table.entries[flow])
    if limit >= CACHE_LIMITS:
        count(nat, C_FLOW_CACHE_FULL)
        return False
    if not cache_write(nat, flow, near, far, limit, records):
        return False
    number = cache_number(cache)
    if number == NIL:
        count(nat, C_FLOW_CACHE_FULL)
        return False
    cache.limit_users[limit] += 1
    for side in range(2):
        records[side].packets = ARMED
        records[side].last_use = now * NS_PER_MS
        if nat.table.entries[flow].protocol == 6:
            records[side].sequence_end = track.sequence_end[side]
            records[side].acknowledged = track.acknowledged[side]
            records[side].window = track.window[side]
        cache.records[2 * number + side] = records[side]
    cache.cached[number].flow = flow
    cache.cached[number].counted[0] = 0
    cache.cached[number].counted[1] = 0
    cache.cached[number].armed = 3
    cache.cached[number].waits = 0
    cache.cached[number].adopted = 0
    cache.cached[number].revision = cache.revision
    cache.number_of[flow] = number
    cache_change(cache, number, CACHED_NEW)
    cache.used += 1
    count(nat, C_FLOW_CACHE_PROMOTIONS)
    nat.counters[C_FLOW_CACHE_FLOWS] = cache.used
    return True


cdef inline bint consider(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    """Note a packet of a flow that is not cached; whether the flow has earned it."""
    cdef FlowCache* cache = nat.cache
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef Candidate* candidate = &cache.candidates[flow % CANDIDATES]
    cdef uint64_t packets = entry.packets[0] + entry.packets[1] + p.segments
    cdef uint32_t age = <uint32_t>now - candidate.since
    if not is_plain_flow(nat, flow):
        return False
    if not is_plain_packet(p):
        hold_off(cache, flow, now)
        return False
    if (
        candidate.flow != flow
        or (age > EARNED_MS and <int32_t>age > 0)
        # Another flow has begun in the entry.
        or packets < candidate.packets
    ):
        candidate[0] = Candidate(flow, <uint32_t>now, packets)
        return False
    return <int32_t>age >= 0 and packets - candidate.packets >= EARNED_PACKETS


cdef inline void note_passage(Nat* nat, uint32_t number, const Packet* p) noexcept nogil:
    """A frame of an armed direction passes here: what the other direction is judged by is known."""
    cdef FlowCache* cache = nat.cache
    cdef Cached* cached = &cache.cached[number]
    cdef uint32_t line = 2 * number + p.side
    cdef CacheRecord* record = &cache.records[line]
    cdef const Track* track = &nat.table.tracks[cached.flow]
    if p.protocol == 6:
        record.sequence_end = track.sequence_end[p.side]
        record.acknowledged = track.acknowledged[p.side]
        record.window = track.window[p.side]
    if p.counted:
        cached.counted[p.side] += 1
        if cache.activations < ACTIVATIONS_MAX:
            cache.lines[cache.activations] = line
            cache.activations += 1


cdef inline bint cache_passed(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    """A packet has acted on its flow and passes: what that means for the cache. Whether the flow is not
    cached, and has earned it.
    """
    cdef uint32_t number = nat.cache.number_of[flow]
    if number == NIL:
        return consider(nat, flow, p, now)
    if (
        is_plain_flow(nat, flow)
        and is_plain_packet(p)
        and nat.cache.cached[number].armed & (1 << p.side)
    ):
        note_passage(nat, number, p)
    else:
        cache_demote(nat, number)
        hold_off(nat.cache, flow, now)
    return False


cdef inline apart cache_meet(Nat* nat, uint32_t flow) noexcept nogil:
    """A packet is about to act on a flow: it is to be as the program has left it."""
    if nat.cache.number_of[flow] != NIL:
        cache_take(nat, nat.cache.number_of[flow])


cdef inline void cache_end(Nat* nat, uint32_t flow) noexcept nogil:
    """A flow ends, or another begins in its entry."""
    if unlikely(nat.cache != NULL) and nat.cache.number_of[flow] != NIL:
        cache_demote(nat, nat.cache.number_of[flow])


cdef inline void cache_activate(Nat* nat) noexcept nogil:
    """What has passed here has been sent: let the program forward what comes behind it."""
    cdef FlowCache* cache = nat.cache
    cdef Cached* cached
    cdef uint32_t i, line, side
    for i in range(cache.activations):
        line = cache.lines[i]
        side = line & 1
        cached = &cache.cached[line >> 1]
        if (
            cached.flow != NIL
            and cached.armed & (1 << side)
            and hp_replace(&cache.records[line].packets, ARMED | cached.counted[side], 0)
        ):
            cached.armed &= <uint8_t>~(1 << side)
            cached.waits = 0
    cache.activations = 0
