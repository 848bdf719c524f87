# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Environments that reach each other by their interfaces' addresses (RFC 4787 REQ-9).

Theory of operation
-------------------
A packet from inside to the address of an interface of the same VPC is translated as any other that
leaves. Instead of leaving it becomes a second packet, in the same frame, which arrives at that
address like any from outside: the receiver sees the sender's external address and port, both have
flows, and the filter decides. What becomes of the second packet is the verdict of the first. The two
are one hop, so the second keeps its TTL, and nobody is told when it is too large for its receiver's
link: the sender knows nothing of the translated packet that an error would quote.

A packet to an address where no mapping is makes no flow (HAIRPIN_NO_MAPPING): an environment that
scans an interface leaves nothing behind. Of a fragmented datagram the first piece is translated like
this, and the others go where it went (`fragments`). ICMP echo has no port to be sent to and reaches nobody;
ICMP errors about what came by a hairpin go back by one (RFC 5508 REQ-7).
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.counting cimport amount_of, count_sent
from hyperplane_nat.engine.flows.flow_table cimport table_hash
from hyperplane_nat.engine.flows.mapping cimport mapping_find, mapping_in_use
from hyperplane_nat.engine.flows.nat cimport UNATTACHED, Nat
from hyperplane_nat.engine.nat.classification cimport number_of_address, packet_key
from hyperplane_nat.engine.wire.packet cimport Packet


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
        nat, PEER_RESPONDER, p.protocol, target, p.destination, p.destination_port, now
    )
    return mapping_in_use(nat, mapping)


cdef inline Packet second_of(
    const Nat* nat, const Packet* p, uint16_t target, uint32_t source, uint16_t source_port
) noexcept nogil:
    """The packet that arrives at the address `target`, of one that has this source by now."""
    cdef Packet second = p[0]
    second.side = PEER_RESPONDER
    second.port = target
    second.link = target
    second.source = source
    second.source_port = source_port
    second.hash = table_hash(&nat.table, packet_key(&second))
    second.reply = NULL
    return second


cdef inline Packet hairpin_turn(
    Nat* nat, const Packet* p, uint16_t target, uint32_t source, uint16_t source_port
) noexcept nogil:
    """The same, counted: the first packet is done, but for the verdict."""
    count_sent(nat, p.link, amount_of(p))
    nat.counters[C_PACKETS_HAIRPINNED] += p.segments
    return second_of(nat, p, target, source, source_port)
