# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Which way packets of a flow go, as far as the flow cache is concerned: by which links.

Theory of operation
-------------------
A record has what a flow says, and by which link its frames leave. That is asked of the same functions
that a packet meets, with one that has nothing but its ends: who it is from, where it is, which flow finds it,
whom it is for. A flow whose packets come by one link and leave by another, and come back just so, can be
cached. It is asked before a flow is cached, and again of each when something of what decides it has
changed (`FlowCache.revision`): the generations have made all miss by then.

By an endpoint goes nothing that is larger than ENDPOINT_MTU, which is dropped in silence. The program knows
what links carry, and nothing else: where that is more, flows by endpoints are not cached.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.admission cimport newcomer_refusal
from hyperplane_nat.engine.flows.caching cimport cache_promote, hold_off
from hyperplane_nat.engine.flows.entries cimport (
    endpoint_of,
    entrance_of,
    leads_somewhere,
    node_of,
)
from hyperplane_nat.engine.flows.flow_table cimport table_find_id, table_hash
from hyperplane_nat.engine.flows.nat cimport UNATTACHED, Attachment, Nat, count, is_entrance
from hyperplane_nat.engine.flows.network_acls cimport meets_network_acl
from hyperplane_nat.engine.nat.classification cimport (
    arrive,
    check_addresses,
    packet_key,
    presumed_side,
)
from hyperplane_nat.engine.nat.mtu cimport ENDPOINT_MTU
from hyperplane_nat.engine.nat.outbound cimport exit_of, goes_another_way, goes_back, leaves_by
from hyperplane_nat.engine.nat.routing cimport way_back_refusal
from hyperplane_nat.engine.state.layout cimport (
    NIL,
    End,
    Entry,
    destination_translated,
    source_translated,
)
from hyperplane_nat.engine.wire.packet cimport Packet


cdef inline Packet packet_of(const Nat* nat, uint32_t flow, int side, uint16_t link) noexcept nogil:
    """A packet with the ends that a flow's have on one side, come by a link."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef End source = End(entry.source_address, entry.source_port)
    cdef End destination = End(entry.destination_address, entry.destination_port)
    cdef Packet p
    memset(&p, 0, sizeof(Packet))
    if side == PEER_RESPONDER:
        source = destination_translated(entry, &nat.table.extensions[flow])
        destination = source_translated(entry)
    p.port = link
    p.link = link
    p.side = presumed_side(&nat.attachments[link])
    p.protocol = entry.protocol
    p.source = source.address
    p.source_port = source.port
    p.destination = destination.address
    p.destination_port = destination.port
    return p


cdef inline uint32_t found(const Nat* nat, Packet* p) noexcept nogil:
    p.hash = table_hash(&nat.table, packet_key(p))
    return table_find_id(&nat.table, packet_key(p), p.hash)


cdef inline bint is_known(const Nat* nat, uint16_t number) noexcept nogil:
    """Whether packets that are for an attachment do not meet more there than is asked here."""
    cdef uint16_t role = nat.attachments[number].role
    return (
        role == ROLE_NONE
        or role == ROLE_INTERNET_GATEWAY
        or role == ROLE_GATEWAY_ENDPOINT
        or is_entrance(nat, number)
    )


cdef inline uint16_t way(const Nat* nat, uint32_t flow, int side, uint16_t link) noexcept nogil:
    """By which attachment a packet of a flow leaves that comes from one side by a link; UNATTACHED when it
    is not the flow's there, or does not pass.
    """
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef const Attachment* own = &nat.attachments[link]
    cdef Packet p = packet_of(nat, flow, side, link)
    cdef uint32_t id
    if not own.active or own.silent or own.interface == UNATTACHED:
        return UNATTACHED
    if arrive(nat, &p) or check_addresses(nat, &p) or p.hairpin:
        return UNATTACHED
    if not is_known(nat, p.port) or (p.host and not is_known(nat, p.host)):
        return UNATTACHED
    id = found(nat, &p)
    if id == NIL and is_entrance(nat, p.port):
        # A client's, as `node_turn` has it.
        p.host = p.port
        p.port = link
        p.side = PEER_ORIGINATOR
        id = found(nat, &p)
    if id == NIL or id >> 1 != flow or <int>(id & 1) != side:
        return UNATTACHED
    p.side = <unsigned char>side
    if p.astray and not goes_back(nat, &p, entry):
        return UNATTACHED
    if goes_another_way(nat, &p, entry):
        return UNATTACHED
    if p.host and is_entrance(nat, p.host) and side == PEER_ORIGINATOR:
        if entrance_of(nat, entry) != p.host or way_back_refusal(
            nat, entry.originator, node_of(nat, entry), entry.source_address
        ):
            return UNATTACHED
    elif p.host and newcomer_refusal(nat, flow, &p):
        return UNATTACHED
    if side == PEER_RESPONDER:
        return entry.originator
    return exit_of(nat, flow) if node_of(nat, entry) else leaves_by(nat, &p, entry)


cdef inline uint16_t way_out(const Nat* nat, uint32_t flow) noexcept nogil:
    """By which attachment packets of a flow's originator leave, or UNATTACHED."""
    cdef uint16_t originator = nat.table.entries[flow].originator
    return way(nat, flow, PEER_ORIGINATOR, nat.attachments[originator].primary)


cdef inline bint is_open(const Nat* nat, const Entry* entry) noexcept nogil:
    """Whether a balanced flow's node is there, and its endpoint leads to one; any other flow is open."""
    cdef uint16_t node = node_of(nat, entry), endpoint = endpoint_of(nat, entry)
    if node and not nat.attachments[node].active:
        return False
    return endpoint == 0 or leads_somewhere(nat, endpoint)


cdef inline uint16_t most_of(const Nat* nat, const Entry* entry) noexcept nogil:
    """How large a packet of a flow may be, in bytes of IP, whatever its links carry."""
    return ENDPOINT_MTU if endpoint_of(nat, entry) else <uint16_t>0xFFFF


cdef inline bint ways_of(const Nat* nat, uint32_t flow, uint16_t* near, uint16_t* far) noexcept nogil:
    """By whose links a flow's originator and responder are reached; False when it cannot be cached."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef uint16_t most = most_of(nat, entry), there, back
    if not is_open(nat, entry):
        return False
    near[0] = nat.attachments[entry.originator].primary
    there = way_out(nat, flow)
    if there == UNATTACHED or meets_network_acl(nat, flow, there):
        return False
    far[0] = nat.attachments[there].primary
    back = way(nat, flow, PEER_RESPONDER, far[0])
    # The program goes by the MTU of links alone.
    return (
        back != UNATTACHED
        and nat.attachments[there].active
        and nat.attachments[back].active
        and nat.attachments[there].mtu >= nat.attachments[far[0]].mtu
        and nat.attachments[back].mtu >= nat.attachments[near[0]].mtu
        and nat.attachments[far[0]].mtu <= most
        and nat.attachments[near[0]].mtu <= most
    )


cdef inline void cache_if_possible(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """A flow has earned it: promote it, if its packets go a way that the program knows."""
    cdef uint16_t near, far
    if nat.network_acls != NULL and meets_network_acl(nat, flow, way_out(nat, flow)):
        count(nat, C_FLOW_CACHE_NETWORK_ACL)
        hold_off(nat.cache, flow, now)
        return
    if not ways_of(nat, flow, &near, &far) or not cache_promote(nat, flow, near, far, now):
        hold_off(nat.cache, flow, now)
