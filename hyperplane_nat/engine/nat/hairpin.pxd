# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Environments that reach each other by their interfaces' addresses (RFC 4787 REQ-9).

Theory of operation
-------------------
A packet from inside to the address of an interface of the same VPC is translated as any other that
leaves, and then, without leaving, as one that arrives: the receiver sees the sender's external
address and port, and both have flows.  It is one hop, so the TTL falls once.  Filtering is the same
as for a packet from outside.

A packet to an address where no mapping is makes no flow (HAIRPIN_NO_MAPPING): an environment that
scans an interface leaves nothing behind.  Of a fragmented datagram the first piece is translated like
this, and the others go where it went (:mod:`fragments`).  ICMP echo has no port to be sent to and reaches nobody;
ICMP errors about what came by a hairpin go back by one (RFC 5508 REQ-7).
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.flow_table cimport table_find, table_hash
from hyperplane_nat.engine.flows.lifecycle cimport flow_settle, flow_track
from hyperplane_nat.engine.flows.mapping cimport mapping_admit, mapping_find
from hyperplane_nat.engine.flows.nat cimport (
    UNATTACHED,
    Nat,
    count_at_entry,
    count_sent,
    drop,
)
from hyperplane_nat.engine.nat.classification cimport number_of_address, packet_key
from hyperplane_nat.engine.nat.outbound cimport send_inside
from hyperplane_nat.engine.state.layout cimport NIL, Entry
from hyperplane_nat.engine.wire.packet cimport Packet
from hyperplane_nat.engine.wire.rewrite cimport readdress, rewrite_l4


cdef inline uint16_t target_of(const Nat* nat, const Packet* p) noexcept nogil:
    """The number of the address that a packet from inside is for."""
    return number_of_address(
        nat, nat.attachments[nat.attachments[p.port].interface].vpc, p.destination
    )


cdef inline bint hairpin_reachable(Nat* nat, const Packet* p, uint64_t now) noexcept nogil:
    """Whether a mapping in use is where a packet from inside wants to go."""
    cdef uint16_t target = target_of(nat, p)
    cdef uint32_t mapping
    if p.protocol == 1 or target == UNATTACHED:
        return False
    mapping = mapping_find(
        nat, SIDE_OUTSIDE, p.protocol, target, p.destination, p.destination_port, now
    )
    return mapping != NIL and nat.table.entries[mapping].state == STATE_MAPPING


cdef inline void hairpin_arrive(Nat* nat, Packet* p, uint16_t target) noexcept nogil:
    """From here on a packet from inside is one that arrives at the address with this number."""
    count_sent(nat, p)
    nat.counters[C_PACKETS_HAIRPINNED] += p.segments
    p.side = SIDE_OUTSIDE
    p.port = target


cdef inline void hairpin_turn(Nat* nat, Packet* p, const Entry* entry) noexcept nogil:
    """From here on a packet that was translated as one that leaves is one that arrives."""
    hairpin_arrive(nat, p, target_of(nat, p))
    p.source = entry.translated_address
    p.source_port = entry.translated_port


cdef inline void hairpin_deliver(
    Nat* nat, Packet* p, const Entry* source, uint64_t now
) noexcept nogil:
    """Bring a packet to its receiver that is translated by its flow `source` already."""
    cdef uint32_t flow
    cdef int reason = DROP_NONE
    cdef Entry* entry
    hairpin_turn(nat, p, source)
    key = packet_key(p)
    flow = table_find(&nat.table, key, table_hash(&nat.table, key))
    if flow != NIL and flow_settle(nat, flow, now):
        flow = NIL
    if flow == NIL:
        reason = mapping_admit(nat, p, now, &flow)
    else:
        reason = flow_track(nat, flow, p, now)
        if reason == DROP_NONE:
            count_at_entry(&nat.table.entries[flow], p)
    if reason:
        drop(nat, p, reason)
        return
    entry = &nat.table.entries[flow]
    rewrite_l4(p, 2, p.destination, entry.source_address, entry.source_port)
    readdress(p, 16, p.destination, entry.source_address)
    send_inside(nat, p, entry.originator)
