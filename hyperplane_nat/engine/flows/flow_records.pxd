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
counted, for all and for the interface and hosts at its ends, and the packet goes on.

Refused packets come at whatever rate a stranger likes. They may fill half of the ring, and no
more than `REFUSALS_PER_PERIOD` in a tenth of a second are recorded, so that they never cost
an ended flow its record.

Established flows have no part in any of this, and without a ring all of it is one comparison.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.nat cimport NOBODY, UNATTACHED, Nat, count
from hyperplane_nat.engine.state.barriers cimport HP_LOAD64_ACQUIRE, HP_STORE64_RELEASE
from hyperplane_nat.engine.state.layout cimport (
    Entry,
    FlowRecord,
    RecordRing,
    attachments_of,
    created_of,
    hop_of,
    interface_number,
)
from hyperplane_nat.engine.state.snapshot cimport attached, of_host
from hyperplane_nat.engine.state.record_ring cimport (
    record_fill,
    ring_fits,
    ring_lost,
    ring_records,
)
from hyperplane_nat.engine.wire.packet cimport Packet, wire_bytes

cdef enum:
    PERIOD_MS = 100
    REFUSALS_PER_PERIOD = 1000


cdef inline void note_end(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """A flow's entry is about to be freed, reused or nobody's."""
    if nat.sink.ring != NULL:
        record_end(nat, flow, now)


cdef inline void note_refusal(Nat* nat, const Packet* p, int reason, uint64_t now) noexcept nogil:
    """A packet is dropped that no flow admits."""
    if nat.sink.ring != NULL:
        record_refusal(nat, p, reason, now)


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


cdef inline void lose(Nat* nat, uint16_t originator, uint16_t responder) noexcept nogil:
    """Count a record that is lost, at the interface and the hosts among these ends too."""
    count(nat, C_FLOW_RECORDS_LOST)
    lose_at(nat, originator)
    lose_at(nat, responder)


cdef inline FlowRecord* reserve(
    Nat* nat, uint16_t originator, uint16_t responder, uint32_t room
) noexcept nogil:
    """The next record to fill, or NULL when `room` records wait already."""
    cdef RecordRing* ring = nat.sink.ring
    if ring.head - HP_LOAD64_ACQUIRE(&ring.tail) >= room:
        lose(nat, originator, responder)
        return NULL
    return &nat.sink.records[ring.head & (ring.capacity - 1)]


cdef inline void record_end(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """All that the entry knows of its flow."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef FlowRecord* record
    cdef uint16_t hop
    # An orphan has had its record.
    if not attached(nat.header, entry) and not of_host(nat.header, entry):
        return
    hop = hop_of(entry, &nat.table.extensions[flow])
    record = reserve(
        nat, entry.originator, hop if hop else entry.responder, nat.sink.ring.capacity
    )
    if record == NULL:
        return
    record.entry = flow
    record.generation = entry.generation
    record.created = created_of(entry, &nat.table.tracks[flow])
    record_fill(record, nat.header, entry, now)
    HP_STORE64_RELEASE(&nat.sink.ring.head, nat.sink.ring.head + 1)


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


cdef inline void record_refusal(Nat* nat, const Packet* p, int reason, uint64_t now) noexcept nogil:
    """One packet or super-frame, with what it tells of its ends."""
    cdef bint inside = p.plain or p.side == PEER_ORIGINATOR
    cdef uint16_t interface = nat.attachments[p.port].interface
    cdef uint16_t originator = p.port if inside else NOBODY
    cdef uint16_t responder = p.host if p.plain and p.host else interface
    cdef uint64_t period = now // PERIOD_MS
    cdef FlowRecord* record
    # What a public address refuses is at no interface of its VPC.
    if not refused(reason) or interface == UNATTACHED or nat.attachments[p.port].role:
        return
    if nat.sink.period != period:
        nat.sink.period = period
        nat.sink.refusals = 0
    if nat.sink.refusals == REFUSALS_PER_PERIOD:
        lose(nat, originator, responder)
        return
    record = reserve(nat, originator, responder, nat.sink.ring.capacity // 2)
    if record == NULL:
        return
    nat.sink.refusals += 1
    record.entry = 0xFFFFFFFF
    record.generation = 0
    record.protocol = p.protocol
    record.state = STATE_FREE
    record.inside_address = p.source if inside else 0
    record.remote_address = p.destination if inside else p.source
    record.nat_address = nat.records[interface].address
    record.inside_port = p.source_port if inside else 0
    record.remote_port = p.destination_port if inside else p.source_port
    record.nat_port = 0 if inside else p.destination_port
    record.originator = originator
    record.responder = responder
    record.reason = <uint8_t>reason
    record.flags = p.flags
    record.created = now
    record.last_seen = now
    record.packets[0] = p.segments if inside else 0
    record.packets[1] = 0 if inside else p.segments
    record.bytes[0] = wire_bytes(p) if inside else 0
    record.bytes[1] = 0 if inside else wire_bytes(p)
    HP_STORE64_RELEASE(&nat.sink.ring.head, nat.sink.ring.head + 1)
