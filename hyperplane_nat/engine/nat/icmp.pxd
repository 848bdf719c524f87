# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""ICMP errors: those that cross the translation and those the gateway sends itself.

Theory of operation
-------------------
An error quotes the packet that caused it, as its sender saw it after translation. The quoted
addresses and port name the flow; the quotation and the outer header are translated back
together (RFC 5508, requirements 4 and 5). The quoted IP header must be whole and its checksum
right (requirement 3), unless it has options: routers on the way write into those, and what is
quoted need not have its checksum made anew, so it is adjusted for the address, right or not.
Of the quoted transport header eight bytes suffice, so a TCP checksum is usually not there and is
adjusted only when it is.

A next hop with an MTU below 68 bytes cannot be: every module forwards as many unfragmented (RFC 791
section 3.2), and no host believes less (RFC 1191 section 3). An MTU of 0 is of a router older than
RFC 1191, whose section 5 tells hosts what to make of it.

An error neither refreshes nor ends a flow (requirement 6, RFC 5382 REQ-10, RFC 4787 REQ-12):
anybody can forge one. It is translated as long as the port is held, whatever has become of the
flow: what it speaks of may have left long ago (requirement 4 asks for any mapping there is).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.entries cimport entrance_of
from hyperplane_nat.engine.flows.flow_table cimport FlowKey, flow_key, table_find_id, table_hash
from hyperplane_nat.engine.flows.identification cimport identification_next
from hyperplane_nat.engine.flows.lifecycle cimport flow_settle
from hyperplane_nat.engine.flows.mapping cimport filter_admits, mapping_find
from hyperplane_nat.engine.flows.nat cimport (
    NOBODY,
    Attachment,
    Nat,
    count,
    drop,
    is_entrance,
    unlikely,
)
from hyperplane_nat.engine.flows.network_acls cimport packet_refusal
from hyperplane_nat.engine.nat.balancing cimport stopped
from hyperplane_nat.engine.nat.hairpin cimport hairpin_turn, target_of
from hyperplane_nat.engine.nat.outbound cimport exit_of, goes_back, leaves_by, send
from hyperplane_nat.engine.nat.passage cimport Passage, passage_of, rewrite_addresses
from hyperplane_nat.engine.nat.proxying cimport proxy_quoted
from hyperplane_nat.engine.state.layout cimport NIL, End, Entry, is_balanced, is_mapping
from hyperplane_nat.engine.wire.checksum cimport (
    complement,
    fold,
    load16,
    load32,
    replaced16,
    replaced32,
    store16,
    store32,
    sum_bytes,
    swap16,
    updated,
)
from hyperplane_nat.engine.wire.packet cimport ETHERNET_BYTES, IP_BYTES, Packet, judge

cdef enum:
    ICMP_UNREACHABLE = 3
    ICMP_FRAGMENTATION_NEEDED = 4
    ICMP_TIME_EXCEEDED = 11
    ICMP_PROHIBITED = 13

cdef enum:
    ICMP_BYTES = 8
    QUOTED_MIN = 8
    MTU_MIN = 68

# The packet that an error quotes.  An echo's identifier is the port of its originator's end.
cdef struct Quote:
    uint8_t* ip
    uint8_t* l4
    uint32_t available
    uint32_t source
    uint32_t destination
    uint16_t source_port
    uint16_t destination_port
    uint8_t protocol


cdef inline bint impossible_mtu(const Packet* p) noexcept nogil:
    """Whether fragmentation is called needed for a link that no packet could pass."""
    cdef uint16_t mtu = swap16(load16(p.l4 + 6))
    return (
        p.l4[0] == ICMP_UNREACHABLE
        and p.l4[1] == ICMP_FRAGMENTATION_NEEDED
        and 0 < mtu < MTU_MIN
    )


cdef inline int quote_parse(const Nat* nat, const Packet* p, Quote* quote) noexcept nogil:
    """What an error quotes; or why it cannot be of a packet that passed here."""
    cdef uint8_t* ip = p.l4 + ICMP_BYTES
    cdef uint32_t available = p.l4_length - ICMP_BYTES, header
    # A client in the internet tells of what the public address has sent it.
    cdef bint from_inside = (
        p.side == PEER_ORIGINATOR and nat.attachments[p.port].kind != ATTACHMENT_INTERFACE
    )
    if available < IP_BYTES:
        return DROP_ICMP_HEADER
    header = (ip[0] & 15) * 4
    if (
        (ip[0] >> 4) != 4
        or header < IP_BYTES
        or available < header + QUOTED_MIN
        or (header == IP_BYTES and fold(sum_bytes(ip, header, 0)) != 0xFFFF)
        or impossible_mtu(p)
        or (load16(ip + 6) & swap16(0x1FFF)) != 0
    ):
        return DROP_ICMP_ERROR_MALFORMED
    quote.ip = ip
    quote.l4 = ip + header
    quote.available = available - header
    quote.protocol = ip[9]
    quote.source = load32(ip + 12)
    quote.destination = load32(ip + 16)
    if quote.protocol == 6 or quote.protocol == 17:
        quote.source_port = load16(quote.l4)
        quote.destination_port = load16(quote.l4 + 2)
    elif quote.protocol == 1 and quote.l4[0] == 8 and (p.plain or not from_inside):
        quote.source_port = load16(quote.l4 + 4)
        quote.destination_port = 0
    elif quote.protocol == 1 and quote.l4[0] == 0 and (p.plain or from_inside):
        quote.source_port = 0
        quote.destination_port = load16(quote.l4 + 4)
    else:
        return DROP_ICMP_ERROR_MALFORMED
    # Nobody else is on a host's link.
    if nat.attachments[p.link].kind == ATTACHMENT_HOST and quote.destination != p.source:
        return DROP_ICMP_ERROR_MISMATCH
    if p.plain:
        if quote.source != p.destination:
            return DROP_ICMP_ERROR_MISMATCH
    elif from_inside:
        if quote.destination != nat.attachments[p.port].address or quote.source != p.destination:
            return DROP_ICMP_ERROR_MISMATCH
    elif quote.source != p.destination:
        return DROP_ICMP_ERROR_MISMATCH
    return DROP_NONE


cdef inline uint32_t quote_find(
    Nat* nat, Packet* p, const Quote* quote, uint64_t now
) noexcept nogil:
    """The flow of the quoted packet, or the mapping that alone let it in; NIL without either.

    An error comes from where the answers to the quoted packet would.
    """
    cdef FlowKey key = flow_key(
        quote.protocol,
        p.port,
        quote.destination,
        quote.destination_port,
        quote.source,
        quote.source_port,
    )
    cdef uint32_t id = table_find_id(&nat.table, key, table_hash(&nat.table, key)), flow = id >> 1
    cdef const Entry* entry
    cdef bint to_node = p.host != 0 and is_entrance(nat, p.host)
    if id == NIL and unlikely(is_entrance(nat, p.port)):
        # A client's, about what its target has sent.
        key = flow_key(
            quote.protocol,
            p.link,
            quote.destination,
            quote.destination_port,
            quote.source,
            quote.source_port,
        )
        id = table_find_id(&nat.table, key, table_hash(&nat.table, key))
        flow = id >> 1
    if id != NIL and not is_mapping(&nat.table.entries[flow]) and not flow_settle(nat, flow, now):
        p.side = <uint8_t>(id & 1)
        entry = &nat.table.entries[flow]
        if entry.originator == NOBODY or (to_node and entrance_of(nat, entry) != p.host):
            return NIL
        return flow
    if p.side == PEER_RESPONDER or not nat.behaviour.mapping or p.gateway or to_node:
        return NIL
    flow = mapping_find(
        nat, PEER_ORIGINATOR, quote.protocol, p.port, quote.destination, quote.destination_port, now
    )
    if flow == NIL:
        return NIL
    entry = &nat.table.entries[flow]
    if filter_admits(nat, quote.protocol, entry.responder, quote.source, entry.translated_port):
        return flow
    return NIL


cdef inline void quote_rewrite(
    const Quote* quote, bint source, const End* end, bint has_port
) noexcept nogil:
    """Give the quoted packet this source, or destination; `has_port` tells whether with its port."""
    cdef uint32_t field = 16 if quote.protocol == 6 else (6 if quote.protocol == 17 else 2)
    cdef uint64_t moved = replaced32(quote.source if source else quote.destination, end.address)
    cdef uint64_t delta = 0
    cdef uint16_t checksum
    store16(quote.ip + 10, updated(load16(quote.ip + 10), moved))
    store32(quote.ip + (12 if source else 16), end.address)
    if has_port:
        delta = replaced16(quote.source_port if source else quote.destination_port, end.port)
        store16(quote.l4 + (4 if quote.protocol == 1 else (0 if source else 2)), end.port)
    if quote.protocol != 1:
        delta += moved
    if field + 2 <= quote.available:
        checksum = load16(quote.l4 + field)
        if quote.protocol != 17 or checksum != 0:
            checksum = updated(checksum, delta)
            if quote.protocol == 17 and checksum == 0:
                checksum = 0xFFFF
            store16(quote.l4 + field, checksum)


cdef inline void translate_error(Nat* nat, Packet* p, uint64_t now) noexcept nogil:
    """An ICMP error of type 3, 11 or 12 from either end, or from a router on the way to it."""
    cdef Quote quote
    cdef Passage passage
    cdef const Entry* entry
    cdef Packet second
    cdef uint32_t flow
    cdef bint echo
    cdef int reason = quote_parse(nat, p, &quote)
    if reason:
        drop(nat, p, reason)
        return
    flow = quote_find(nat, p, &quote, now)
    if flow == NIL:
        drop(nat, p, p.astray if p.astray else DROP_ICMP_ERROR_NO_FLOW)
        return
    entry = &nat.table.entries[flow]
    if unlikely(p.astray) and not goes_back(nat, p, entry):
        drop(nat, p, p.astray)
        return
    if unlikely(is_balanced(entry, &nat.table.extensions[flow])):
        if stopped(nat, p, flow):
            return
        if p.side == PEER_ORIGINATOR:
            p.host = exit_of(nat, flow)
            p.plain = 0
    if unlikely(nat.network_acls != NULL):
        packet_refusal(nat, flow, p, &reason)
        if reason:
            drop(nat, p, reason)
            return
    passage = passage_of(nat, flow, p.side)
    echo = quote.protocol == 1
    # What is quoted went the other way.
    if passage.source:
        quote_rewrite(&quote, False, &passage.new_source, not echo or p.side == PEER_ORIGINATOR)
    if passage.destination:
        quote_rewrite(&quote, True, &passage.new_destination, not echo or p.side == PEER_RESPONDER)
    if unlikely(is_balanced(entry, &nat.table.extensions[flow])) and p.side == PEER_RESPONDER:
        if nat.table.extensions[flow].proxy_bytes:
            proxy_quoted(&nat.table.extensions[flow], quote.l4, quote.available)
    store16(p.l4 + 2, 0)
    store16(p.l4 + 2, complement(sum_bytes(p.l4, p.l4_length, 0)))
    rewrite_addresses(nat, p, &passage)
    if p.hairpin and p.side == PEER_ORIGINATOR:
        second = hairpin_turn(nat, p, target_of(nat, p), passage.new_source.address, 0)
        translate_error(nat, &second, now)
        judge(p, &second)
        return
    send(nat, p, entry.originator if p.side else leaves_by(nat, p, entry))
    if p.action != ACTION_DROP:
        count(nat, C_ICMP_ERRORS_TRANSLATED)


cdef inline void reply_error(
    Nat* nat, Packet* p, uint8_t kind, uint8_t code, uint16_t mtu
) noexcept nogil:
    """Answer a packet that was dropped with an error (RFC 792), in its reply buffer.

    The quotation is the IP header and eight bytes as received: it must not be translated yet.  The
    source is the gateway address inside, so that a traceroute names the first hop, and the
    interface's address outside.  A host is answered by its router.  `mtu` is that of the next hop in bytes (RFC 1191), else 0.  Without
    a buffer there is no answer.
    """
    cdef const Attachment* own = &nat.attachments[p.port]
    cdef const Attachment* link = &nat.attachments[p.link]
    if link.kind == ATTACHMENT_HOST:
        own = link
    cdef uint32_t source = own.router
    cdef uint16_t identification = 0
    cdef uint8_t* frame = p.reply
    cdef uint8_t* ip = frame + ETHERNET_BYTES
    cdef uint8_t* icmp = ip + 20
    cdef uint32_t quoted = p.header_length + min(<uint32_t>p.l4_length, <uint32_t>QUOTED_MIN)
    cdef uint32_t total = 20 + ICMP_BYTES + quoted
    if frame == NULL:
        return
    if own.kind == ATTACHMENT_INTERFACE:
        source = own.address
        identification = identification_next(&nat.identifications, source, p.source, 1, 1)
        # Nobody sends from a group address: the answer would be for everybody.
        if p.frame[6] & 1:
            return
    memset(frame, 0, ETHERNET_BYTES + 20 + ICMP_BYTES)
    memcpy(frame, p.frame + 6, 6)
    memcpy(frame + 6, link.mac, 6)
    frame[12] = 0x08
    ip[0] = 0x45
    ip[1] = 0xC0
    store16(ip + 2, swap16(<uint16_t>total))
    store16(ip + 4, swap16(identification))
    ip[8] = 64
    ip[9] = 1
    store32(ip + 12, source)
    store32(ip + 16, p.source)
    store16(ip + 10, complement(sum_bytes(ip, 20, 0)))
    icmp[0] = kind
    icmp[1] = code
    store16(icmp + 6, swap16(mtu))
    memcpy(icmp + ICMP_BYTES, p.ip, quoted)
    store16(icmp + 2, complement(sum_bytes(icmp, ICMP_BYTES + quoted, 0)))
    p.action = ACTION_REPLY
    p.out_port = link.primary
    p.out_frame = frame
    p.out_length = ETHERNET_BYTES + total
    count(nat, C_REPLIES_ICMP)
