# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Endpoint-independent mapping (RFC 4787 REQ-1, RFC 5382 REQ-1, RFC 5508 REQ-1) and its filtering.

Theory of operation
-------------------
A mapping is one inside port of one slot and the address and port it has outside, towards everybody.
It is an entry of the flow table, marked MAPPING, with a destination that no flow has, 0; so it is
found from either side like a flow, and its port is taken towards that, so nobody else has it.  ICMP
echo has a mapping for each identifier.  `packets[0]` of a mapping counts the flows behind it::

    (nothing) --first flow--> MAPPING --last flow gone--> HELD --hold time--> (nothing)
                                 ^                          |
                                 +---------- a flow --------+

A flow of a mapping is marked MAPPED and takes no port.  It counts in a record of its own among the
remote endpoints, keyed (protocol | PERMISSION, interface, remote address, NAT port): that record is
the permission which address-dependent filtering asks for (RFC 4787 REQ-8).

Filtering concerns packets from outside that belong to no flow.  One that may pass is translated by
the mapping alone: it makes no entry and refreshes nothing, so a flood from outside makes no state.
The flow begins with the environment's answer, which is why the first segment of a TCP flow may be a
SYN-ACK when its mapping exists (RFC 5382 REQ-2).

A mapping outlives each of its flows, also in a map whose forwarder is killed between two stores: it
is committed before the first of them and held after the last is free.  Counts are made anew when a
map is opened.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.allocation cimport admit_entry, allocate, refused
from hyperplane_nat.engine.flows.entries cimport (
    deadline_of,
    fill,
    join,
    leave,
    relink,
)
from hyperplane_nat.engine.flows.flow_table cimport (
    flow_key,
    mapping_key,
    table_allocate,
    table_commit,
    table_find,
    table_free,
    table_give_back,
    table_hash,
)
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.flows.ports cimport ports_adopt, ports_give_back, ports_remote
from hyperplane_nat.engine.flows.timers cimport wheel_add, wheel_remove
from hyperplane_nat.engine.state.layout cimport (
    MAPPED,
    MAPPING,
    NIL,
    Entry,
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
        SIDE_OUTSIDE,
        flow.protocol,
        flow.responder,
        flow.translated_address,
        flow.translated_port,
    )
    return table_find(&nat.table, key, table_hash(&nat.table, key))


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
    mapping = table_find(&nat.table, key, table_hash(&nat.table, key))
    if mapping == NIL or nat.table.entries[mapping].state != STATE_HELD:
        return mapping
    if age_of(&nat.table.entries[mapping], now) < nat.timeouts[STATE_HELD]:
        return mapping
    wheel_remove(&nat.wheel, mapping)
    mapping_free(nat, mapping)
    return NIL


cdef inline uint32_t mapping_open(
    Nat* nat, const Packet* p, uint64_t now, int* reason
) noexcept nogil:
    """The mapping for a new flow, made if there is none; NIL with the reason."""
    cdef uint32_t mapping = mapping_find(
        nat, SIDE_INSIDE, p.protocol, p.port, p.source, p.source_port, now
    )
    cdef uint16_t interface = 0, nat_port = 0
    cdef Entry* entry
    if mapping != NIL:
        reason[0] = admit_entry(nat, p, nat.table.entries[mapping].responder, now)
        return NIL if reason[0] else mapping
    mapping = table_allocate(&nat.table)
    if mapping == NIL:
        reason[0] = DROP_FLOW_TABLE_FULL
        return NIL
    reason[0] = allocate(nat, p, 0, 0, 2, now, &interface, &nat_port)
    if reason[0]:
        table_give_back(&nat.table, mapping)
        return NIL
    entry = &nat.table.entries[mapping]
    fill(nat, entry, p, interface, nat_port)
    entry.destination_address = 0
    entry.destination_port = 0
    entry.flags = MAPPING
    set_created(entry, &nat.table.tracks[mapping], now)
    entry.last_seen = <uint32_t>now
    entry.packets[0] = 0
    entry.packets[1] = 0
    entry.bytes[0] = 0
    entry.bytes[1] = 0
    join(nat, entry)
    table_commit(&nat.table, mapping, STATE_MAPPING)
    wheel_add(&nat.wheel, mapping, deadline_of(nat, entry, now))
    nat.counters[C_MAPPINGS_ACTIVE] += 1
    return mapping


cdef inline int mapping_join(
    Nat* nat, uint32_t mapping, const Packet* p, uint64_t now
) noexcept nogil:
    """Count one more flow, that of a packet from inside, before it is committed.

    Returns PORT_ALLOCATION when the flow cannot be told from another: one that had its port from an
    address-and-port-dependent mapping made before, or one too many towards an address.
    """
    cdef Entry* entry = &nat.table.entries[mapping]
    cdef Remote* permission = ports_remote(
        &nat.ports, p.protocol | PERMISSION, entry.responder, p.destination, entry.translated_port
    )
    key = flow_key(
        p.protocol,
        entry.responder,
        p.destination,
        p.destination_port,
        entry.translated_address,
        entry.translated_port,
    )
    if (permission != NULL and permission.count == PERMISSIONS_MAX) or (
        table_find(&nat.table, key, table_hash(&nat.table, key)) != NIL
    ):
        refused(nat, p, p.destination, p.destination_port, DROP_PORT_ALLOCATION, now)
        if entry.packets[0] == 0 and entry.state == STATE_MAPPING:
            wheel_remove(&nat.wheel, mapping)
            mapping_free(nat, mapping)
        return DROP_PORT_ALLOCATION
    entry.packets[0] += 1
    entry.last_seen = <uint32_t>now
    if entry.state == STATE_HELD:
        entry.state = STATE_MAPPING
        nat.counters[C_MAPPINGS_ACTIVE] += 1
    return DROP_NONE


cdef inline void mapping_leave(
    Nat* nat, const Entry* flow, uint32_t ended, uint64_t now
) noexcept nogil:
    """A flow of a mapping is free since `ended`; with the last one the mapping is held."""
    cdef uint32_t mapping
    cdef Entry* entry
    permission_give_back(nat, flow)
    mapping = mapping_of(nat, flow)
    if mapping == NIL:
        return
    entry = &nat.table.entries[mapping]
    entry.packets[0] -= 1
    # The order in which ends are noticed does not matter: the latest counts.
    if <int32_t>(ended - entry.last_seen) > 0:
        entry.last_seen = ended
    if entry.packets[0]:
        return
    entry.state = STATE_HELD
    nat.counters[C_MAPPINGS_ACTIVE] -= 1
    if age_of(entry, now) < nat.timeouts[STATE_HELD]:
        relink(nat, mapping, now)
        return
    wheel_remove(&nat.wheel, mapping)
    mapping_free(nat, mapping)


cdef inline void mapping_free(Nat* nat, uint32_t mapping) noexcept nogil:
    """A mapping, which is in no bucket of the wheel, and its port are free."""
    cdef Entry* entry = &nat.table.entries[mapping]
    if entry.state == STATE_MAPPING:
        nat.counters[C_MAPPINGS_ACTIVE] -= 1
    ports_give_back(&nat.ports, entry.protocol, entry.responder, 0, 0, entry.translated_port)
    leave(nat, entry.originator)
    leave(nat, entry.responder)
    table_free(&nat.table, mapping)
    nat.counters[C_FLOWS_ENTRIES_USED] = nat.table.used


cdef inline bint mapping_answers(Nat* nat, const Packet* p, uint64_t now) noexcept nogil:
    """Whether a segment from inside without a flow may answer a SYN that a mapping let in."""
    cdef uint32_t mapping
    if p.segment != SEGMENT_SYNACK or nat.behaviour.mapping != MAPPING_ENDPOINT_INDEPENDENT:
        return False
    mapping = mapping_find(nat, SIDE_INSIDE, p.protocol, p.port, p.source, p.source_port, now)
    return mapping != NIL and nat.table.entries[mapping].state == STATE_MAPPING


cdef inline int mapping_admit(
    Nat* nat, const Packet* p, uint64_t now, uint32_t* mapping
) noexcept nogil:
    """Whether a packet from outside without a flow may pass, and by which mapping."""
    mapping[0] = mapping_find(
        nat, SIDE_OUTSIDE, p.protocol, p.port, p.destination, p.destination_port, now
    )
    if mapping[0] == NIL:
        return DROP_NO_FLOW
    if nat.table.entries[mapping[0]].state == STATE_HELD:
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
    cdef uint32_t flow, mapping
    cdef Entry* entry
    for flow in range(nat.header.entries_watermark):
        entry = &nat.table.entries[flow]
        if entry.state == STATE_FREE or is_mapping(entry) or not entry.flags & MAPPED:
            continue
        mapping = mapping_of(nat, entry)
        if mapping != NIL:
            nat.table.entries[mapping].packets[0] += 1
            continue
        permission_give_back(nat, entry)
        entry.flags &= <uint8_t>~MAPPED
        ports_adopt(
            &nat.ports,
            entry.protocol,
            entry.responder,
            entry.destination_address,
            entry.destination_port,
            entry.translated_port,
        )
    nat.counters[C_MAPPINGS_ACTIVE] = 0
    for flow in range(nat.header.entries_watermark):
        entry = &nat.table.entries[flow]
        if entry.state == STATE_FREE or not is_mapping(entry):
            continue
        if entry.packets[0]:
            entry.state = STATE_MAPPING
            nat.counters[C_MAPPINGS_ACTIVE] += 1
        elif entry.state == STATE_MAPPING:
            # Its last flow was free already, or its first was not committed yet.
            entry.state = STATE_HELD
            entry.last_seen = <uint32_t>now
            relink(nat, flow, now)
