# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Flow records: what the engine tells about flows that are gone and packets it refused.

Theory of operation
-------------------
The state map shows every flow while its entry lives. What would be lost with the entry is written
to a ring in a file of its own: a record when an entry is freed, serves its owner again or
becomes nobody's, and one for a packet that no flow and no rule admits. The engine is the only
producer, the writer of flow logs the only consumer; each owns one of two counters, `head` and
`tail`, which only grow, so neither ever waits. A ring that is full loses the record: it is
counted, for all and for the interfaces and hosts on its way, and the packet goes on.

Refused packets come at whatever rate a stranger likes. They may fill half of the ring, and no
more than `REFUSALS_PER_PERIOD` in a tenth of a second are recorded, so that they never cost
an ended flow its record.

A packet that is refused on the way of a flow by a NAT gateway or a load balancer's node has passed whoever
is before the one that refuses it. What has no flow at a gateway's public address is nobody's to refuse
but an ACL's: it has reached the gateway, which does nothing with it.

Established flows have no part in any of this, and without a ring all of it is one comparison.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.admission cimport refusing_entrance
from hyperplane_nat.engine.flows.entries cimport entrance_of
from hyperplane_nat.engine.flows.nat cimport NOBODY, UNATTACHED, Nat, apart, count
from hyperplane_nat.engine.flows.network_acls cimport gateway_border, packet_border
from hyperplane_nat.engine.state.barriers cimport HP_LOAD64_ACQUIRE, HP_STORE64_RELEASE
from hyperplane_nat.engine.state.layout cimport (
    NIL,
    Entry,
    FlowRecord,
    RecordRing,
    Way,
    attachments_of,
    created_of,
    first_host,
    interface_number,
)
from hyperplane_nat.engine.state.snapshot cimport attached, of_host
from hyperplane_nat.engine.state.record_ring cimport (
    record_fill,
    ring_fits,
    ring_lost,
    ring_records,
    way_fill,
)
from hyperplane_nat.engine.wire.packet cimport Packet, wire_bytes

cdef enum:
    PERIOD_MS = 100
    REFUSALS_PER_PERIOD = 1000


cdef inline void note_end(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """A flow's entry is about to be freed, reused or nobody's."""
    if nat.sink.ring != NULL:
        record_end(nat, flow, now)


cdef inline void note_refusal(
    Nat* nat, const Packet* p, uint32_t flow, const Way* way, int reason, uint64_t now
) noexcept nogil:
    """A packet is dropped that its flow (NIL: it has none) does not let pass, or that begins none.

    `way` is that of a flow that it would have begun by a load balancer's node, NULL otherwise.
    """
    if nat.sink.ring != NULL:
        record_refusal(nat, p, flow, way, reason, now)


cdef inline bint sink_open(Nat* nat, uint8_t* memory, uint64_t bytes) noexcept nogil:
    """Write records to a mapped file, with NULL to none; False when it is no ring."""
    cdef RecordRing* ring = <RecordRing*>memory
    nat.sink.ring = NULL
    if ring == NULL:
        return True
    if not ring_fits(ring, bytes):
        return False
    nat.sink.lost = ring_lost(ring)
    nat.sink.records = ring_records(ring)
    nat.sink.ring = ring
    return True


cdef inline void lose_at(Nat* nat, uint16_t attachment) noexcept nogil:
    cdef uint16_t number = interface_number(nat.header, attachment)
    if (
        nat.header.slots_max <= attachment < attachments_of(nat.header)
        and number < nat.sink.ring.places
    ):
        nat.sink.lost[number] += 1


cdef inline void lose(Nat* nat, const FlowRecord* record) noexcept nogil:
    """Count a record that is lost, at the interfaces and hosts on its way too."""
    count(nat, C_FLOW_RECORDS_LOST)
    lose_at(nat, record.originator)
    lose_at(nat, record.responder)
    lose_at(nat, record.way.hop)
    lose_at(nat, record.way.endpoint)
    lose_at(nat, record.way.target)


cdef inline bint put(Nat* nat, const FlowRecord* record, uint32_t room) noexcept nogil:
    """Write a record, or lose it when `room` of them wait already."""
    cdef RecordRing* ring = nat.sink.ring
    if ring.head - HP_LOAD64_ACQUIRE(&ring.tail) >= room:
        lose(nat, record)
        return False
    nat.sink.records[ring.head & (ring.capacity - 1)] = record[0]
    HP_STORE64_RELEASE(&ring.head, ring.head + 1)
    return True


cdef inline void record_end(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """All that the entry knows of its flow."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef FlowRecord record
    # An orphan has had its record.
    if not attached(nat.header, entry) and not of_host(nat.header, entry):
        return
    record.entry = flow
    record.generation = entry.generation
    record.created = created_of(entry, &nat.table.tracks[flow])
    record_fill(&record, nat.header, entry, now)
    put(nat, &record, nat.sink.ring.capacity)


cdef inline bint refused(int reason) noexcept nogil:
    """Whether flow logs tell of it: rules, and packets without or after their connection."""
    return (
        reason == DROP_NO_FLOW
        or reason == DROP_TCP_NO_FLOW
        or reason == DROP_FLOW_HELD
        or reason == DROP_FILTERED
        or reason == DROP_TCP_IDLE_TIMEOUT
        or reason == DROP_TCP_SYN_UNSOLICITED
        or reason == DROP_SECURITY_GROUP_EGRESS
        or reason == DROP_SECURITY_GROUP_INGRESS
        or reason == DROP_NETWORK_ACL_EGRESS
        or reason == DROP_NETWORK_ACL_INGRESS
    )


cdef inline bint by_network_acl(int reason) noexcept nogil:
    return reason == DROP_NETWORK_ACL_EGRESS or reason == DROP_NETWORK_ACL_INGRESS


cdef inline void way_of_flow(
    const Nat* nat, const Packet* p, uint32_t flow, int reason, Way* way
) noexcept nogil:
    """The way of a packet that does not pass by its flow, without a hop if it has not got that far."""
    cdef const Entry* entry = &nat.table.entries[flow]
    if not attached(nat.header, entry) and not of_host(nat.header, entry):
        return
    way_fill(way, nat.header, entry, &nat.table.extensions[flow])
    if way.hop == 0:
        return
    if by_network_acl(reason):
        way.position = packet_border(nat, flow, p).position
    elif p.side == PEER_RESPONDER:
        way.position = AT_FAR
    elif reason == DROP_SECURITY_GROUP_INGRESS:
        way.position = refusing_entrance(nat, p, entrance_of(nat, entry))
    if way.position == AT_CLIENT and p.side == PEER_ORIGINATOR:
        way.hop = 0


cdef inline void way_by_gateway(
    const Nat* nat, const Packet* p, uint16_t gateway, uint8_t position, Way* way
) noexcept nogil:
    """That of a packet without a flow that has got as far as a NAT gateway."""
    cdef bint out = p.side == PEER_ORIGINATOR
    way.hop = gateway
    way.position = position
    way.internet = 1
    way.hop_address = nat.records[gateway].address
    way.source_address = way.hop_address
    way.source_port = p.source_port if out else p.destination_port
    way.far_address = p.destination if out else p.source
    way.far_port = p.destination_port if out else p.source_port


cdef inline void way_without_flow(
    const Nat* nat, const Packet* p, int reason, Way* way
) noexcept nogil:
    """The way of a packet that no flow admits, or that begins none."""
    cdef uint16_t serves = nat.attachments[p.port].serves
    cdef uint32_t client = p.source
    cdef uint8_t position
    if nat.attachments[p.port].role == ROLE_INTERNET_GATEWAY:
        way.internet = p.plain
        if not p.plain and 0 < serves < first_host(nat.header):
            way_by_gateway(nat, p, serves, AT_FAR, way)
    elif p.gateway and p.side == PEER_ORIGINATOR:
        way.internet = p.plain
        if nat.attachments[p.gateway].role == ROLE_NAT_GATEWAY and by_network_acl(reason):
            if nat.attachments[p.port].kind == ATTACHMENT_ENVIRONMENT:
                client = nat.records[nat.attachments[p.port].interface].address
            position = gateway_border(nat, p, client, p.gateway).position
            if position != AT_CLIENT:
                way_by_gateway(nat, p, p.gateway, position, way)


cdef inline void refusal_ends(const Nat* nat, const Packet* p, FlowRecord* record) noexcept nogil:
    """What a packet tells of its ends."""
    cdef bint inside = p.plain or p.side == PEER_ORIGINATOR
    cdef uint16_t interface = nat.attachments[p.port].interface
    record.originator = p.port if inside else NOBODY
    record.responder = p.host if p.plain and p.host else interface
    record.inside_address = p.source if inside else 0
    record.remote_address = p.destination if inside else p.source
    if p.plain and nat.attachments[p.port].role == ROLE_INTERNET_GATEWAY:
        # Its public address is known to the gateway alone.
        record.remote_address = nat.records[p.host].address
    record.nat_address = nat.records[interface].address
    record.inside_port = p.source_port if inside else 0
    record.remote_port = p.destination_port if inside else p.source_port
    record.nat_port = 0 if inside else p.destination_port


cdef inline void way_keep(
    FlowRecord* record, const Nat* nat, const Entry* entry, uint64_t now
) noexcept nogil:
    """What the entry knows of its flow, with the way as it is known already."""
    cdef Way way = record.way
    record.entry = <uint32_t>(entry - nat.table.entries)
    record_fill(record, nat.header, entry, now)
    record.way = way


cdef inline apart record_refusal(
    Nat* nat, const Packet* p, uint32_t flow, const Way* way, int reason, uint64_t now
) noexcept nogil:
    """One packet or super-frame, with what it tells of its ends, or what its flow does."""
    cdef bint inside = p.plain or p.side == PEER_ORIGINATOR
    cdef uint16_t role = nat.attachments[p.port].role
    cdef uint64_t period = now // PERIOD_MS
    cdef FlowRecord record
    if not refused(reason) or nat.attachments[p.port].interface == UNATTACHED:
        return
    memset(&record, 0, sizeof(FlowRecord))
    if way != NULL:
        record.way = way[0]
    elif flow != NIL:
        way_of_flow(nat, p, flow, reason, &record.way)
    else:
        way_without_flow(nat, p, reason, &record.way)
    if flow != NIL and record.way.hop:
        way_keep(&record, nat, &nat.table.entries[flow], now)
        inside = p.side == PEER_ORIGINATOR
    elif role == ROLE_NONE or record.way.hop or (role == ROLE_INTERNET_GATEWAY and p.plain):
        refusal_ends(nat, p, &record)
    else:
        # What a node or an endpoint refuses is at no interface of its VPC, and no public address is.
        return
    record.entry = 0xFFFFFFFF
    record.generation = 0
    record.protocol = p.protocol
    record.state = STATE_FREE
    record.reason = <uint8_t>reason
    record.flags = p.flags
    record.created = now
    record.last_seen = now
    record.packets[0] = p.segments if inside else 0
    record.packets[1] = 0 if inside else p.segments
    record.bytes[0] = wire_bytes(p) if inside else 0
    record.bytes[1] = 0 if inside else wire_bytes(p)
    if nat.sink.period != period:
        nat.sink.period = period
        nat.sink.refusals = 0
    if nat.sink.refusals == REFUSALS_PER_PERIOD:
        lose(nat, &record)
    elif put(nat, &record, nat.sink.ring.capacity // 2):
        nat.sink.refusals += 1
