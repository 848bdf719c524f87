# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Endpoint-independent mapping (RFC 4787 REQ-1, RFC 5382 REQ-1, RFC 5508 REQ-1) and its filtering.

Theory of operation
-------------------
A mapping is one inside port of one slot and the address and port it has outside, towards everybody.
It is a record of its own, and takes the place of an entry in the flow table: so it is found from either
side, timed and read by others like a flow. Its destination is one that no flow has, 0, and its port is
taken towards that, so nobody else has it. ICMP echo has a mapping for each identifier. `flows` counts
those behind it::

    (nothing) --first flow--> MAPPING --last flow gone--> HELD --hold time--> (nothing)
                                 ^                          |
                                 +---------- a flow --------+

A flow of a mapping is marked MAPPED and takes no port. It counts in a record of its own among the
remote endpoints, keyed (protocol | PERMISSION, interface, remote address, NAT port): that record is
the permission which address-dependent filtering asks for (RFC 4787 REQ-8).

Filtering concerns packets from outside that belong to no flow. One that may pass is translated by
the mapping alone: it makes no entry and refreshes nothing, so a flood from outside makes no state.
The flow begins with the environment's answer, which is why the first segment of a TCP flow may be a
SYN-ACK when its mapping exists (RFC 5382 REQ-2).

A mapping outlives each of its flows, also in a map whose forwarder is killed between two stores: it
is committed before the first of them and held after the last is free. Counts are made anew when a
map is opened.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.allocation cimport admit_entry, allocate, refused_by_interface
from hyperplane_nat.engine.flows.entries cimport (
    deadline_of,
    disown,
    join,
    leave,
    relink,
)
from hyperplane_nat.engine.flows.flow_table cimport (
    flow_key,
    mapping_key,
    table_allocate,
    table_commit,
    table_flow,
    table_free,
    table_give_back,
)
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.flows.ports cimport ports_adopt, ports_give_back, ports_remote
from hyperplane_nat.engine.flows.timers cimport wheel_add, wheel_remove
from hyperplane_nat.engine.state.layout cimport (
    MAPPED,
    MAPPING,
    NIL,
    Entry,
    Mapping,
    Remote,
    age_of,
    is_mapping,
    set_created,
)
from hyperplane_nat.engine.wire.packet cimport Packet

cdef enum:
    # In the protocol of a Remote record: it is a permission, and `port` a NAT port.
    PERMISSION = 0x80

cdef enum:
    PERMISSIONS_MAX = 65535


cdef inline void permission_adopt(Nat* nat, const Entry* flow) noexcept nogil:
    """Count a flow of a mapping in the record that permits its remote address."""
    ports_adopt(
        &nat.ports,
        flow.protocol | PERMISSION,
        flow.responder,
        flow.destination_address,
        flow.translated_port,
        0,
    )


cdef inline void permission_give_back(Nat* nat, const Entry* flow) noexcept nogil:
    """The reverse; with the last flow the permission ends."""
    ports_give_back(
        &nat.ports,
        flow.protocol | PERMISSION,
        flow.responder,
        flow.destination_address,
        flow.translated_port,
        0,
    )


cdef inline uint32_t mapping_of(const Nat* nat, const Entry* flow) noexcept nogil:
    """The mapping that a flow has its port from, or NIL."""
    key = mapping_key(
        PEER_RESPONDER,
        flow.protocol,
        flow.responder,
        flow.translated_address,
        flow.translated_port,
    )
    return table_flow(&nat.table, key)


cdef inline Mapping* mapping_at(const Nat* nat, uint32_t number) noexcept nogil:
    """The record of a mapping in an entry of the flow table."""
    return <Mapping*>&nat.table.entries[number]


cdef inline bint mapping_in_use(const Nat* nat, uint32_t mapping) noexcept nogil:
    """Whether there is a mapping, and a flow behind it."""
    return mapping != NIL and mapping_at(nat, mapping).state == STATE_MAPPING


cdef inline uint32_t mapping_find(
    Nat* nat,
    int side,
    uint8_t protocol,
    uint16_t attachment,
    uint32_t address,
    uint16_t port,
    uint64_t now,
) noexcept nogil:
    """The mapping of a source (or, on the outside, of what that is translated to), or NIL.

    One whose hold time is over is freed first.
    """
    cdef uint32_t mapping
    key = mapping_key(side, protocol, attachment, address, port)
    mapping = table_flow(&nat.table, key)
    if mapping == NIL or mapping_at(nat, mapping).state == STATE_MAPPING:
        return mapping
    return NIL if mapping_settle(nat, mapping, now) else mapping


cdef inline void mapping_begin(
    Nat* nat, uint32_t mapping, const Packet* p, uint16_t responder, uint16_t nat_port, uint64_t now
) noexcept nogil:
    """Make the mapping of a packet's source, which no flow is behind yet."""
    cdef Mapping* record = mapping_at(nat, mapping)
    cdef Entry* entry = &nat.table.entries[mapping]
    memset(&record.nothing, 0, sizeof(record.nothing))
    record.source_address = p.source
    record.source_port = p.source_port
    record.everybody = 0
    record.every_port = 0
    record.originator = p.port
    record.protocol = p.protocol
    record.translated_address = nat.attachments[responder].address
    record.translated_port = nat_port
    record.responder = responder
    record.last_seen = <uint32_t>now
    record.flags = MAPPING
    record.flows = 0
    set_created(entry, &nat.table.tracks[mapping], now)
    join(nat, mapping)
    table_commit(&nat.table, mapping, STATE_MAPPING)
    wheel_add(&nat.wheel, mapping, deadline_of(nat, entry, now))
    nat.counters[C_MAPPINGS_ACTIVE] += 1


cdef inline uint32_t mapping_open(
    Nat* nat, const Packet* p, uint64_t now, int* reason
) noexcept nogil:
    """The mapping for a new flow, made if there is none; NIL with the reason."""
    cdef uint32_t mapping = mapping_find(
        nat, PEER_ORIGINATOR, p.protocol, p.port, p.source, p.source_port, now
    )
    cdef uint16_t responder = 0, nat_port = 0
    if mapping != NIL:
        reason[0] = admit_entry(nat, p, mapping_at(nat, mapping).responder, now)
        return NIL if reason[0] else mapping
    mapping = table_allocate(&nat.table)
    if mapping == NIL:
        reason[0] = DROP_FLOW_TABLE_FULL
        return NIL
    reason[0] = allocate(nat, p, 0, 0, 2, now, &responder, &nat_port)
    if reason[0]:
        table_give_back(&nat.table, mapping)
        return NIL
    mapping_begin(nat, mapping, p, responder, nat_port, now)
    return mapping


cdef inline bint joinable(Nat* nat, const Mapping* record, const Packet* p) noexcept nogil:
    """Whether a new flow of a mapping can be told from others.

    It cannot from one that had its port from an address-and-port-dependent mapping made before, nor
    when it is one too many towards an address.
    """
    cdef const Remote* permission = ports_remote(
        &nat.ports, p.protocol | PERMISSION, record.responder, p.destination, record.translated_port
    )
    key = flow_key(
        p.protocol,
        record.responder,
        p.destination,
        p.destination_port,
        record.translated_address,
        record.translated_port,
    )
    if permission != NULL and permission.count == PERMISSIONS_MAX:
        return False
    return table_flow(&nat.table, key) == NIL


cdef inline int mapping_join(
    Nat* nat, uint32_t mapping, const Packet* p, uint64_t now
) noexcept nogil:
    """Count one more flow, that of a packet from inside, before it is committed.

    Returns PORT_ALLOCATION when it cannot be told from another.
    """
    cdef Mapping* record = mapping_at(nat, mapping)
    if not joinable(nat, record, p):
        refused_by_interface(
            nat, p, p.destination, p.destination_port, DROP_PORT_ALLOCATION, now
        )
        mapping_abandon(nat, mapping)
        return DROP_PORT_ALLOCATION
    record.flows += 1
    record.last_seen = <uint32_t>now
    if record.state == STATE_HELD:
        record.state = STATE_MAPPING
        nat.counters[C_MAPPINGS_ACTIVE] += 1
    return DROP_NONE


cdef inline void mapping_abandon(Nat* nat, uint32_t mapping) noexcept nogil:
    """No flow was made after all: a mapping that was opened for it is free."""
    cdef const Mapping* record = mapping_at(nat, mapping)
    if record.flows == 0 and record.state == STATE_MAPPING:
        mapping_free(nat, mapping)


cdef inline void mapping_leave(
    Nat* nat, const Entry* flow, uint32_t ended, uint64_t now
) noexcept nogil:
    """A flow of a mapping is free since `ended`; with the last one the mapping is held."""
    cdef uint32_t mapping
    cdef Mapping* record
    permission_give_back(nat, flow)
    mapping = mapping_of(nat, flow)
    if mapping == NIL:
        return
    record = mapping_at(nat, mapping)
    record.flows -= 1
    # The order in which ends are noticed does not matter: the latest counts.
    if <int32_t>(ended - record.last_seen) > 0:
        record.last_seen = ended
    if record.flows:
        return
    record.state = STATE_HELD
    nat.counters[C_MAPPINGS_ACTIVE] -= 1
    if not mapping_settle(nat, mapping, now):
        relink(nat, mapping, now)


cdef inline bint mapping_settle(Nat* nat, uint32_t mapping, uint64_t now) noexcept nogil:
    """Free a mapping whose hold time is over; whether it was.

    One that is in use lasts as long as its flows: its clock is kept from turning over.
    """
    cdef Mapping* record = mapping_at(nat, mapping)
    if age_of(<const Entry*>record, now) < nat.timeouts[record.state]:
        return False
    if record.state == STATE_MAPPING:
        record.last_seen = <uint32_t>now
        return False
    mapping_free(nat, mapping)
    return True


cdef inline void mapping_free(Nat* nat, uint32_t mapping) noexcept nogil:
    """A mapping and its port are free."""
    cdef Mapping* record = mapping_at(nat, mapping)
    if record.state == STATE_MAPPING:
        nat.counters[C_MAPPINGS_ACTIVE] -= 1
    wheel_remove(&nat.wheel, mapping)
    ports_give_back(&nat.ports, record.protocol, record.responder, 0, 0, record.translated_port)
    leave(nat, record.originator)
    leave(nat, record.responder)
    table_free(&nat.table, mapping)
    nat.counters[C_FLOWS_ENTRIES_USED] = nat.table.used


cdef inline void mapping_remove(Nat* nat, uint32_t mapping) noexcept nogil:
    """Forget a mapping whose interface is gone, unless it has flows: then it goes after them."""
    if mapping_at(nat, mapping).flows == 0:
        mapping_free(nat, mapping)


cdef inline void mapping_orphan(Nat* nat, uint32_t mapping, uint64_t now) noexcept nogil:
    """Let a mapping whose slot is gone be held and nobody's, unless it has flows: then after them."""
    if mapping_at(nat, mapping).state == STATE_HELD:
        disown(nat, mapping, now)


cdef inline bint mapping_plausible(const Mapping* record) noexcept nogil:
    """Whether a record of a map that is opened can be a mapping."""
    return (
        record.flags == MAPPING
        and (record.state == STATE_MAPPING or record.state == STATE_HELD)
        and record.everybody == 0
        and record.every_port == 0
        and record.protocol in (1, 6, 17)
    )


cdef inline bint mapping_adopt(Nat* nat, uint32_t mapping) noexcept nogil:
    """Count the port of a mapping, whose flows are yet to come; whether a bitmap begins with it."""
    cdef Mapping* record = mapping_at(nat, mapping)
    record.flows = 0
    return ports_adopt(
        &nat.ports, record.protocol, record.responder, 0, 0, record.translated_port
    )


cdef inline bint mapping_answers(Nat* nat, const Packet* p, uint64_t now) noexcept nogil:
    """Whether a segment from inside without a flow may answer a SYN that a mapping let in."""
    cdef uint32_t mapping
    if (
        p.segment != SEGMENT_SYNACK
        or nat.behaviour.mapping != MAPPING_ENDPOINT_INDEPENDENT
        or p.gateway
    ):
        return False
    mapping = mapping_find(nat, PEER_ORIGINATOR, p.protocol, p.port, p.source, p.source_port, now)
    return mapping_in_use(nat, mapping)


cdef inline int mapping_admit(
    Nat* nat, const Packet* p, uint64_t now, uint32_t* mapping
) noexcept nogil:
    """Whether a packet from outside without a flow may pass, and by which mapping."""
    mapping[0] = mapping_find(
        nat, PEER_RESPONDER, p.protocol, p.port, p.destination, p.destination_port, now
    )
    if mapping[0] == NIL:
        return DROP_NO_FLOW
    if not mapping_in_use(nat, mapping[0]):
        return DROP_FLOW_HELD
    if filter_admits(nat, p.protocol, p.port, p.source, p.destination_port):
        return DROP_NONE
    return DROP_FILTERED


cdef inline bint filter_admits(
    Nat* nat, uint8_t protocol, uint16_t interface, uint32_t remote, uint16_t nat_port
) noexcept nogil:
    """Whether a remote address may send to a mapping's port (RFC 4787 REQ-8)."""
    if nat.behaviour.filtering == FILTERING_ENDPOINT_INDEPENDENT:
        return True
    return nat.behaviour.filtering == FILTERING_ADDRESS_DEPENDENT and ports_remote(
        &nat.ports, protocol | PERMISSION, interface, remote, nat_port
    ) != NULL


cdef inline void mappings_recount(Nat* nat, uint64_t now) noexcept nogil:
    """Count the flows of the adopted mappings, whose counts are 0.

    A flow whose mapping is missing (damage) goes on with its port as its own.
    """
    cdef uint32_t number, mapping
    cdef Entry* flow
    cdef Mapping* record
    for number in range(nat.header.entries_watermark):
        flow = &nat.table.entries[number]
        if flow.state == STATE_FREE or not flow.flags & MAPPED:
            continue
        mapping = mapping_of(nat, flow)
        if mapping != NIL:
            mapping_at(nat, mapping).flows += 1
            continue
        permission_give_back(nat, flow)
        flow.flags &= <uint8_t>~MAPPED
        ports_adopt(
            &nat.ports,
            flow.protocol,
            flow.responder,
            flow.destination_address,
            flow.destination_port,
            flow.translated_port,
        )
    nat.counters[C_MAPPINGS_ACTIVE] = 0
    for number in range(nat.header.entries_watermark):
        record = mapping_at(nat, number)
        if record.state == STATE_FREE or not is_mapping(<const Entry*>record):
            continue
        if record.flows:
            record.state = STATE_MAPPING
            nat.counters[C_MAPPINGS_ACTIVE] += 1
        elif record.state == STATE_MAPPING:
            # Its last flow was free already, or its first was not committed yet.
            record.state = STATE_HELD
            record.last_seen = <uint32_t>now
            relink(nat, number, now)
