# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What of a packet is rewritten by its flow, and to what.

Theory of operation
-------------------
A flow says which of its ends are rewritten: the source, the destination, both or none (`layout`). On its
way from the originator a packet gets the ends that the responder is to see, and on its way back those
that the originator knows; what is the flow's source is the packet's destination there. An ICMP error
goes the way of a packet, and what it quotes went the other way, with the same ends.

The identifier of an echo is its originator's port; the other end has none.
"""

from libc.stdint cimport uint32_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.identification cimport identification_of
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.state.layout cimport (
    End,
    Entry,
    destination_translated,
    keeps_source,
    rewrites_destination,
    rewrites_source,
    source_translated,
)
from hyperplane_nat.engine.wire.checksum cimport load16
from hyperplane_nat.engine.wire.packet cimport Packet, is_second
from hyperplane_nat.engine.wire.rewrite cimport readdress, rewrite_ip, rewrite_l4, take_hop

# Which ends of a packet are rewritten, and to what.
cdef struct Passage:
    bint source
    bint destination
    End new_source
    End new_destination


cdef inline Passage passage_of(const Nat* nat, uint32_t flow, int side) noexcept nogil:
    """What a flow, or a mapping, does to a packet that comes from this side."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef Passage passage
    if side == PEER_ORIGINATOR:
        passage.source = rewrites_source(entry) and not keeps_source(entry)
        passage.destination = rewrites_destination(entry, &nat.table.extensions[flow])
        passage.new_source = source_translated(entry)
        passage.new_destination = destination_translated(entry, &nat.table.extensions[flow])
    else:
        passage.source = rewrites_destination(entry, &nat.table.extensions[flow])
        passage.destination = rewrites_source(entry) and not keeps_source(entry)
        passage.new_source = End(entry.destination_address, entry.destination_port)
        passage.new_destination = End(entry.source_address, entry.source_port)
    return passage


cdef inline void put_source(Nat* nat, Packet* p, uint32_t address) noexcept nogil:
    """Give a packet another source address, and take one off the TTL."""
    rewrite_ip(p, 12, p.source, address, identification_of(&nat.identifications, p, address))


cdef inline void put_destination(Packet* p, uint32_t address, bint hop) noexcept nogil:
    """Give a packet another destination address, and take one off the TTL if it is to be taken here."""
    if hop:
        rewrite_ip(p, 16, p.destination, address, load16(p.ip + 4))
    else:
        readdress(p, 16, p.destination, address)
    # The next hop goes by it.
    p.destination = address


cdef inline void rewrite_addresses(Nat* nat, Packet* p, const Passage* passage) noexcept nogil:
    """Rewrite the IP header, and take one off the TTL, but not off a second packet's: its first has."""
    cdef bint hop = not is_second(p)
    if passage.destination:
        put_destination(p, passage.new_destination.address, hop and not passage.source)
    if passage.source:
        put_source(nat, p, passage.new_source.address)
    elif not passage.destination and hop:
        take_hop(p)


cdef inline void rewrite_one_end(Nat* nat, Packet* p, const Entry* entry) noexcept nogil:
    """Rewrite a packet by a flow, or a mapping, without DESTINATION: only its source is rewritten."""
    cdef bint echo = p.protocol == 1
    if p.side == PEER_ORIGINATOR:
        rewrite_l4(
            p, 4 if echo else 0, p.source, entry.translated_address, entry.translated_port
        )
        put_source(nat, p, entry.translated_address)
    else:
        rewrite_l4(
            p, 4 if echo else 2, p.destination, entry.source_address, entry.source_port
        )
        put_destination(p, entry.source_address, not is_second(p))


cdef inline void rewrite(Nat* nat, Packet* p, uint32_t flow) noexcept nogil:
    """Rewrite a packet by its flow, or by its mapping, with whichever ends of it are rewritten."""
    cdef Passage passage = passage_of(nat, flow, p.side)
    cdef bint echo = p.protocol == 1
    if passage.destination and not (echo and p.side == PEER_ORIGINATOR):
        rewrite_l4(
            p,
            4 if echo else 2,
            p.destination,
            passage.new_destination.address,
            passage.new_destination.port,
        )
    if passage.source and not (echo and p.side == PEER_RESPONDER):
        rewrite_l4(
            p, 4 if echo else 0, p.source, passage.new_source.address, passage.new_source.port
        )
    rewrite_addresses(nat, p, &passage)
