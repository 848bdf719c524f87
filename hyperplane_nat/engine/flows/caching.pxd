# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Flows in the kernel's flow cache: which are, from when on, and what of them is known here.

Theory of operation
-------------------
The program (`flow_cache.bpf.c`) forwards packets of flows that have records here; all others come, as
misses. It decides nothing, so nothing but a plain rewrite is left to it: a flow between an environment
and an address of its interface, answered UDP or ESTABLISHED TCP, that nothing else is known of
(`is_plain_flow`). It earns its records by EARNED_PACKETS packets within EARNED_MS, each of which the
program could have forwarded, and none that it could not in the last HOLD_MS. Floods of new flows and
single questions do not.

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
too, is another generation (`cache_forget`), and all its flows miss at once; the sweep demotes them.
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
from hyperplane_nat.engine.flows.nat cimport (
    UNATTACHED,
    Attachment,
    Nat,
    apart,
    count,
    next_hop_to,
    unlikely,
)
from hyperplane_nat.engine.flows.neighbour_table cimport Neighbour, has_mac, neighbour_find
from hyperplane_nat.engine.flows.network_acls cimport crosses_border
from hyperplane_nat.engine.state.barriers cimport HP_STORE16_RELEASE
from hyperplane_nat.engine.state.cache_records cimport (
    ARMED,
    CACHE_LIMIT_TCP,
    CACHE_LIMIT_UDP,
    HP_FENCE,
    CacheLink,
    CacheRecord,
    hp_exchange,
    hp_replace,
)
from hyperplane_nat.engine.state.layout cimport KIND, MAPPED, NIL, SYN_REMEMBERED, Entry, Track
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
    link = &nat.cache.links[number]
    if link.generation:
        HP_STORE16_RELEASE(
            &link.generation, <uint16_t>(link.generation + 1) if link.generation < 0xFFFF else 1
        )


cdef inline apart cache_forget_interfaces(Nat* nat) noexcept nogil:
    """Flows through any interface, which is all, are cached no longer."""
    cdef uint32_t number
    if nat.cache == NULL or not nat.cache.settled:
        return
    for number in range(nat.header.slots_max, nat.attachments_used):
        if nat.attachments[number].kind == ATTACHMENT_INTERFACE and nat.attachments[number].active:
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

    They leave by the near end: what is behind it is seen by who taps links there.
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
    link.flags = 0


cdef inline bint is_plain_flow(const Nat* nat, uint32_t flow) noexcept nogil:
    """Whether a flow is one that the program may forward, for all that its entry says."""
    cdef const Entry* entry = &nat.table.entries[flow]
    if entry.flags & (KIND | MAPPED | SYN_REMEMBERED):
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
        and not (p.hairpin or p.host or p.gateway or p.plain or p.inner)
    )


cdef inline const Neighbour* next_hop_of(const Nat* nat, const Entry* entry) noexcept nogil:
    """Who is sent what a flow's originator sends, if that is known; or NULL."""
    cdef uint16_t primary = nat.attachments[entry.responder].primary
    cdef const Neighbour* neighbour = neighbour_find(
        &nat.neighbours, primary, next_hop_to(&nat.attachments[primary], entry.destination_address)
    )
    return neighbour if neighbour != NULL and has_mac(neighbour) else NULL


cdef inline uint16_t difference32(uint32_t new, uint32_t old) noexcept nogil:
    """New less old, in one's complement of 16 bits."""
    cdef uint32_t sum = (new & 0xFFFF) + (new >> 16) + (0xFFFF - (old & 0xFFFF)) + (0xFFFF - (old >> 16))
    sum = (sum & 0xFFFF) + (sum >> 16)
    return <uint16_t>((sum & 0xFFFF) + (sum >> 16))


cdef inline uint16_t difference16(uint16_t new, uint16_t old) noexcept nogil:
    cdef uint32_t sum = <uint32_t>new + (0xFFFF - <uint32_t>old)
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


cdef inline bint meets_network_acl(const Nat* nat, const Entry* entry) noexcept nogil:
    """Whether packets of an environment's flow are asked for one by one."""
    return crosses_border(
        nat,
        nat.attachments[entry.responder].vpc,
        entry.translated_address,
        entry.destination_address,
    )


cdef inline bint cache_write(const Nat* nat, uint32_t flow, CacheRecord* records) noexcept nogil:
    """Both records of a flow as they are to be, but for what they remember; False if it has none."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef const Attachment* environment
    cdef const Attachment* address
    cdef const Neighbour* hop
    cdef const CacheLink* links = nat.cache.links
    cdef CacheRecord* out = &records[0]
    cdef CacheRecord* back = &records[1]
    if not is_plain_flow(nat, flow) or entry.originator >= nat.header.slots_max:
        return False
    environment = &nat.attachments[entry.originator]
    address = &nat.attachments[entry.responder]
    if (
        address.kind != ATTACHMENT_INTERFACE
        or not address.active
        or address.role != ROLE_NONE
        or address.serves
        or environment.interface == UNATTACHED
        or not served(nat, entry.originator)
        or not served(nat, address.primary)
        or meets_network_acl(nat, entry)
    ):
        return False
    hop = next_hop_of(nat, entry)
    if hop == NULL:
        return False
    memset(records, 0, 2 * sizeof(CacheRecord))
    out.source = entry.translated_address
    out.source_port = entry.translated_port
    out.destination = entry.destination_address
    out.destination_port = entry.destination_port
    out.address_difference = difference32(entry.translated_address, entry.source_address)
    out.port_difference = difference16(entry.translated_port, entry.source_port)
    memcpy(out.next_hop, hop.mac, 6)
    out.out = address.primary
    back.source = entry.destination_address
    back.source_port = entry.destination_port
    back.destination = entry.source_address
    back.destination_port = entry.source_port
    back.address_difference = difference32(entry.source_address, entry.translated_address)
    back.port_difference = difference16(entry.source_port, entry.translated_port)
    memcpy(back.next_hop, environment.peer_mac, 6)
    back.out = entry.originator
    out.in_generation = links[entry.originator].generation
    out.out_generation = links[address.primary].generation
    back.in_generation = out.out_generation
    back.out_generation = out.in_generation
    out.limit = CACHE_LIMIT_TCP if entry.protocol == 6 else CACHE_LIMIT_UDP
    back.limit = out.limit
    return True


cdef inline bint same_rewrite(const CacheRecord* one, const CacheRecord* other) noexcept nogil:
    """Whether two records are alike, but for what they remember: that stands around the rest."""
    return one.limit == other.limit and memcmp(&one.source, &other.source, 28) == 0


cdef inline void count_hits(
    Nat* nat, uint32_t flow, int side, uint64_t packets, uint64_t bytes
) noexcept nogil:
    """Count what the program has forwarded as if it had been forwarded here."""
    cdef Entry* entry = &nat.table.entries[flow]
    cdef uint16_t interface = nat.attachments[entry.originator].interface
    cdef uint64_t* environment = nat.records[entry.originator].counters
    cdef uint64_t* responder = nat.records[entry.responder].counters
    cdef uint64_t* counters = nat.counters
    cdef int came, left
    entry.packets[side] += packets
    entry.bytes[side] += bytes
    counters[C_FLOW_CACHE_PACKETS] += packets
    if side == PEER_ORIGINATOR:
        came = C_PACKETS_IN_FROM_SOURCE
        left = C_PACKETS_OUT_TO_DESTINATION
        environment[<int>A_PACKETS_OUT_TO_DESTINATION] += packets
        environment[<int>A_BYTES_OUT_TO_DESTINATION] += bytes
        responder[<int>A_PACKETS_OUT_TO_DESTINATION] += packets
        responder[<int>A_BYTES_OUT_TO_DESTINATION] += bytes
    else:
        came = C_PACKETS_IN_FROM_DESTINATION
        left = C_PACKETS_OUT_TO_SOURCE
        environment[<int>A_PACKETS_OUT_TO_SOURCE] += packets
        environment[<int>A_BYTES_OUT_TO_SOURCE] += bytes
        responder[<int>A_PACKETS_IN_FROM_DESTINATION] += packets
        responder[<int>A_BYTES_IN_FROM_DESTINATION] += bytes
    counters[came] += packets
    counters[came + 1] += bytes
    counters[left] += packets
    counters[left + 1] += bytes
    if interface < nat.attachments_max:
        # What an environment has sent, or is sent, is counted at the interface that it is attached to.
        came = A_PACKETS_OUT_TO_SOURCE if side else A_PACKETS_IN_FROM_SOURCE
        nat.records[interface].counters[came] += packets
        nat.records[interface].counters[came + 1] += bytes


cdef inline bint cache_take(Nat* nat, uint32_t number) noexcept nogil:
    """Take over what the records of a number have come to know; whether the originator has sent."""
    cdef Cached* cached = &nat.cache.cached[number]
    cdef Entry* entry = &nat.table.entries[cached.flow]
    cdef Track* track = &nat.table.tracks[cached.flow]
    cdef CacheRecord* record
    cdef uint64_t packets, bytes
    cdef uint32_t used
    cdef int side
    cdef bint sent = False
    for side in range(2):
        if cached.armed & (1 << side):
            continue
        record = &nat.cache.records[2 * number + side]
        packets = hp_exchange(&record.packets, 0) if record.packets else 0
        bytes = hp_exchange(&record.bytes, 0) if record.bytes else 0
        if packets or bytes:
            count_hits(nat, cached.flow, side, packets, bytes)
            sent = sent or side == PEER_ORIGINATOR
        used = <uint32_t>(record.last_use // NS_PER_MS)
        if <int32_t>(used - entry.last_seen) > 0:
            entry.last_seen = used
        if entry.protocol == 6:
            if <int32_t>(record.sequence_end - track.sequence_end[side]) > 0:
                track.sequence_end[side] = record.sequence_end
            if packets and <int32_t>(record.acknowledged - track.acknowledged[side]) >= 0:
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
    count(nat, C_FLOW_CACHE_DEMOTIONS)
    nat.counters[C_FLOW_CACHE_FLOWS] = cache.used


cdef inline apart cache_promote(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """Have a flow's packets forwarded by the program, if there is room, once its keys are put."""
    cdef FlowCache* cache = nat.cache
    cdef const Track* track = &nat.table.tracks[flow]
    cdef CacheRecord records[2]
    cdef uint32_t number
    cdef int side
    if meets_network_acl(nat, &nat.table.entries[flow]):
        count(nat, C_FLOW_CACHE_NETWORK_ACL)
        hold_off(cache, flow, now)
        return
    if not cache_write(nat, flow, records):
        return
    number = cache_number(cache)
    if number == NIL:
        count(nat, C_FLOW_CACHE_FULL)
        return
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
    cache.number_of[flow] = number
    cache_change(cache, number, CACHED_NEW)
    cache.used += 1
    count(nat, C_FLOW_CACHE_PROMOTIONS)
    nat.counters[C_FLOW_CACHE_FLOWS] = cache.used


cdef inline void consider(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    """Note a packet of a flow that is not cached, and promote the flow when it has earned it."""
    cdef FlowCache* cache = nat.cache
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef Candidate* candidate = &cache.candidates[flow % CANDIDATES]
    cdef uint64_t packets = entry.packets[0] + entry.packets[1] + p.segments
    cdef uint32_t age = <uint32_t>now - candidate.since
    if not is_plain_flow(nat, flow):
        return
    if not is_plain_packet(p):
        hold_off(cache, flow, now)
    elif candidate.flow != flow or (age > EARNED_MS and <int32_t>age > 0):
        candidate[0] = Candidate(flow, <uint32_t>now, packets)
    elif <int32_t>age >= 0 and packets - candidate.packets >= EARNED_PACKETS:
        cache_promote(nat, flow, now)


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


cdef inline apart cache_passed(Nat* nat, uint32_t flow, const Packet* p, uint64_t now) noexcept nogil:
    """A packet has acted on its flow and passes: what that means for the cache."""
    cdef uint32_t number = nat.cache.number_of[flow]
    if number == NIL:
        consider(nat, flow, p, now)
    elif (
        is_plain_flow(nat, flow)
        and is_plain_packet(p)
        and nat.cache.cached[number].armed & (1 << p.side)
    ):
        note_passage(nat, number, p)
    else:
        cache_demote(nat, number)
        hold_off(nat.cache, flow, now)


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
