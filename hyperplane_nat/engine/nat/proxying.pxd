# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The PROXY protocol's header (version 2), which a target reads before what its client has sent.

Theory of operation
-------------------
The header takes the first sequence numbers of the client's data, so of whatever the client sends from
then on the numbers are higher at the target, by its length, and of what the target acknowledges they are
lower at the client. The tracker has the target's: a client's segment is shifted before it is tracked
(`proxy_arrives`), an answer afterwards (`proxy_leaves`).

The header goes with each segment that begins where the client's data do, until the target has acknowledged
it. The first is the handshake's last, which need not carry anything: so a server that speaks first has the
header before it does. When that is lost the target sends its SYN-ACK again, and the client acknowledges it
again; when a segment with data is lost the client sends that again. So no timer is needed, and
of a flow nothing is kept but where its data begin. What the target has twice it knows how to drop.

A segment with the header is a copy in the arena (`extras`); that is one or two a connection. It takes no more
room than it had: the target's largest segment and the window of its SYN-ACK are told as that much less, and
what is too large nevertheless loses its tail, which the client sends again. Data in a SYN
(RFC 7413) are cut off for the same reason: they would come before the header.

A reset of the client's is shifted once the header was sent, as the target will have had it by then.

Numbers wrap, so what is before the client's data is told by comparing only until the header was
acknowledged; a client cannot be half a round ahead by then.

Source: "The PROXY protocol", section 2.2, haproxy.org; PP2_TYPE_AWS: Elastic Load Balancing, "Edit target
group attributes for your Network Load Balancer".
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, strlen, strncpy

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.extras cimport extra_hold, extra_room
from hyperplane_nat.engine.flows.nat cimport Nat, apart
from hyperplane_nat.engine.flows.tracker cimport in_opening
from hyperplane_nat.engine.state.layout cimport End, Entry, Extension
from hyperplane_nat.engine.wire.checksum cimport (
    complement,
    fold,
    load16,
    load32,
    pseudo_header,
    replaced16,
    replaced32,
    store16,
    store32,
    sum_bytes,
    swap16,
    swap32,
    updated,
)
from hyperplane_nat.engine.wire.packet cimport (
    ACK,
    ETHERNET_BYTES,
    FIN,
    KIND_FLOW,
    OFFLOAD_BYTES,
    TCP_BYTES,
    TCP_SYN,
    Packet,
    count_segments,
    next_option,
)

cdef enum:
    PROXY_FIXED_BYTES = 16
    PROXY_IPV4_BYTES = 12
    PROXY_VERSION_COMMAND = 0x21
    PROXY_TCP_IPV4 = 0x11
    PP2_TYPE_AWS = 0xEA
    PP2_SUBTYPE_AWS_VPCE_ID = 0x01
    # Type, length and subtype.
    TLV_BYTES = 4
    PACKET_MAX = 65535
    OPTION_MSS = 2
    OPTION_SACK = 5
    MSS_BYTES = 4

# In `proxy_state`: `proxy_sequence` is known, the header was sent, the target has acknowledged it.
cdef enum:
    PROXY_OPEN = 0x01
    PROXY_SENT = 0x02
    PROXY_ACKNOWLEDGED = 0x04

cdef extern from *:
    """
    static const char HP_PROXY_SIGNATURE[12] = "\\r\\n\\r\\n\\0\\r\\nQUIT\\n";
    """
    const char* HP_PROXY_SIGNATURE


# The header


cdef inline const char* endpoint_name(const Nat* nat, const Extension* extension) noexcept nogil:
    """The id of the endpoint that a flow's client sends to; NULL: it sends to the node."""
    if extension.endpoint == 0:
        return NULL
    return &nat.attachments[extension.endpoint].endpoint_id[0]


cdef inline uint8_t proxy_length(const Nat* nat, const Extension* extension) noexcept nogil:
    """Bytes of the header of a flow."""
    cdef const char* name = endpoint_name(nat, extension)
    cdef uint32_t length = PROXY_FIXED_BYTES + PROXY_IPV4_BYTES
    return <uint8_t>(length if name == NULL else length + TLV_BYTES + strlen(name))


cdef inline End client_end(const Nat* nat, uint32_t flow) noexcept nogil:
    """Address and port of a flow's client in its VPC: of an environment those of its interface."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef const Extension* extension = &nat.table.extensions[flow]
    if extension.hop:
        return End(nat.attachments[extension.hop].address, extension.hop_port)
    if nat.attachments[entry.originator].kind == ATTACHMENT_ENVIRONMENT:
        return End(entry.translated_address, entry.translated_port)
    return End(entry.source_address, entry.source_port)


cdef inline void header_write(const Nat* nat, uint32_t flow, uint8_t* to) noexcept nogil:
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef const Extension* extension = &nat.table.extensions[flow]
    cdef const char* name = endpoint_name(nat, extension)
    # As long as it was when the flow began, whatever the endpoint is called now.
    cdef int named = extension.proxy_bytes - PROXY_FIXED_BYTES - PROXY_IPV4_BYTES - TLV_BYTES
    cdef End client = client_end(nat, flow)
    memcpy(to, HP_PROXY_SIGNATURE, 12)
    to[12] = PROXY_VERSION_COMMAND
    to[13] = PROXY_TCP_IPV4
    store16(to + 14, swap16(<uint16_t>(extension.proxy_bytes - PROXY_FIXED_BYTES)))
    store32(to + 16, client.address)
    store32(to + 20, entry.destination_address)
    store16(to + 24, client.port)
    store16(to + 26, entry.destination_port)
    if name != NULL and named > 0:
        to[28] = PP2_TYPE_AWS
        store16(to + 29, swap16(<uint16_t>(1 + named)))
        to[31] = PP2_SUBTYPE_AWS_VPCE_ID
        strncpy(<char*>to + 32, name, named)


# Writing


cdef inline void put16(Packet* p, uint8_t* field, uint16_t value) noexcept nogil:
    """Replace 16 bits of the TCP header; a partial checksum has nothing of it."""
    cdef uint16_t delta = fold(replaced16(load16(field), value))
    store16(field, value)
    if not p.partial:
        # At an odd place it straddles two words of the sum, as if swapped.
        delta = swap16(delta) if (field - p.l4) & 1 else delta
        store16(p.l4 + 16, updated(load16(p.l4 + 16), delta))


cdef inline void put32(Packet* p, uint8_t* field, uint32_t value) noexcept nogil:
    """The same with 32 bits."""
    put16(p, field, <uint16_t>(value & 0xFFFF))
    put16(p, field + 2, <uint16_t>(value >> 16))


cdef inline void resize(Packet* p, uint32_t payload) noexcept nogil:
    """Let a segment have so many bytes behind its headers, which are there, and all that depends on it."""
    cdef uint16_t length = <uint16_t>((p.l4[12] >> 4) * 4 + payload)
    cdef uint64_t pseudo = pseudo_header(p.source, p.destination, 6, length)
    p.payload = <uint16_t>payload
    p.l4_length = length
    p.total_length = p.header_length + length
    p.length = ETHERNET_BYTES + p.total_length
    store16(p.ip + 2, swap16(p.total_length))
    store16(p.ip + 10, 0)
    store16(p.ip + 10, complement(sum_bytes(p.ip, p.header_length, 0)))
    if p.partial:
        store16(p.l4 + 16, fold(pseudo))
    else:
        store16(p.l4 + 16, 0)
        store16(p.l4 + 16, complement(sum_bytes(p.l4, length, pseudo)))
    count_segments(p)


cdef inline void cut_syn(Packet* p) noexcept nogil:
    """Take the data out of a SYN; it leaves without an offload request."""
    if p.payload == 0:
        return
    p.gso_size = 0
    p.partial = 0
    p.offload_changed = 1
    resize(p, 0)


cdef inline int put_header(Nat* nat, Packet* p, uint32_t flow, uint32_t mtu) noexcept nogil:
    """Let a segment be a copy of itself with the header before its payload; or why it cannot."""
    cdef uint32_t added = nat.table.extensions[flow].proxy_bytes
    cdef uint32_t headers = p.header_length + (p.l4[12] >> 4) * 4, payload = p.payload
    cdef uint32_t largest = PACKET_MAX if p.gso_size else mtu
    cdef uint32_t head = ETHERNET_BYTES + headers
    cdef uint8_t* frame
    if headers + added > largest:
        return DROP_MTU_EXCEEDED
    payload = min(payload, largest - headers - added)
    frame = extra_room(&nat.extras, head + added + payload)
    if frame == NULL:
        return DROP_FRAGMENT_QUOTA
    extra_hold(&nat.extras, head + added + payload)
    if p.gso_size:
        memcpy(frame - OFFLOAD_BYTES, p.frame - OFFLOAD_BYTES, OFFLOAD_BYTES)
    else:
        p.partial = 0
    memcpy(frame, p.frame, head)
    header_write(nat, flow, frame + head)
    memcpy(frame + head + added, p.frame + head, payload)
    p.frame = frame
    p.ip = frame + ETHERNET_BYTES
    p.l4 = p.ip + p.header_length
    if payload < p.payload and p.flags & FIN:
        p.flags &= <uint8_t>~FIN
        p.l4[13] = p.flags
        p.segment = SEGMENT_ACK
    resize(p, added + payload)
    return DROP_NONE


# Numbers


cdef inline uint32_t clients_number(const Extension* extension, uint32_t number) noexcept nogil:
    """A number of the client's side as the target has it, as the client has it."""
    cdef int32_t ahead = <int32_t>(number - extension.proxy_sequence)
    if extension.proxy_state & PROXY_ACKNOWLEDGED or ahead > <int32_t>extension.proxy_bytes:
        return number - extension.proxy_bytes
    return extension.proxy_sequence if ahead > 0 else number


cdef inline apart proxy_arrives(Nat* nat, Packet* p, uint32_t flow) noexcept nogil:
    """Let a client's segment have the target's numbers, and the header where that belongs; why it goes no
    further is in `p.reason`. `p.host` is where it leaves.
    """
    cdef Extension* extension = &nat.table.extensions[flow]
    cdef int32_t ahead = <int32_t>(p.sequence - extension.proxy_sequence)
    cdef bint acknowledged = extension.proxy_state & PROXY_ACKNOWLEDGED
    p.reason = DROP_NONE
    if p.kind != KIND_FLOW:
        p.reason = DROP_FRAGMENT_REFUSED
    elif p.flags & TCP_SYN:
        cut_syn(p)
    elif not extension.proxy_state & PROXY_OPEN:
        return
    elif p.segment == SEGMENT_RST:
        if extension.proxy_state & PROXY_SENT and (acknowledged or ahead >= 0):
            p.sequence += extension.proxy_bytes
    elif ahead == 0 and not acknowledged:
        extension.proxy_state |= PROXY_SENT
        p.reason = <uint8_t>put_header(nat, p, flow, nat.attachments[p.host].mtu)
    elif acknowledged or ahead > 0:
        p.sequence += extension.proxy_bytes


cdef inline void reduce_window(
    Packet* p, uint32_t bytes, int scale
) noexcept nogil:
    """Offer so many bytes less."""
    cdef uint32_t window = <uint32_t>p.window << scale
    window = window - bytes if window > bytes else 0
    put16(p, p.l4 + 14, swap16(<uint16_t>(window >> scale)))


cdef inline void renumber_options(Packet* p, const Extension* extension) noexcept nogil:
    """Let options of the target's be the client's: the largest segment, and what has come out of order."""
    cdef const uint8_t* end = p.l4 + (p.l4[12] >> 4) * 4
    cdef uint8_t* option = next_option(p.l4 + TCP_BYTES, end)
    cdef uint16_t largest
    cdef int at
    while option != NULL:
        if option[0] == OPTION_MSS and option[1] == MSS_BYTES and p.flags & TCP_SYN:
            largest = swap16(load16(option + 2))
            if largest > extension.proxy_bytes:
                put16(p, option + 2, swap16(<uint16_t>(largest - extension.proxy_bytes)))
        elif option[0] == OPTION_SACK and not p.flags & TCP_SYN:
            for at in range(2, <int>option[1] - 3, 4):
                put32(
                    p, option + at, swap32(clients_number(extension, swap32(load32(option + at))))
                )
        option = next_option(option + option[1], end)


cdef inline void proxy_leaves(Nat* nat, Packet* p, uint32_t flow) noexcept nogil:
    """Write the numbers of a translated packet as its receiver has them."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef Extension* extension = &nat.table.extensions[flow]
    cdef uint8_t scale = nat.table.tracks[flow].window_scale >> 4
    if p.side == PEER_ORIGINATOR:
        if swap32(load32(p.l4 + 4)) != p.sequence:
            put32(p, p.l4 + 4, swap32(p.sequence))
        return
    if p.flags & TCP_SYN:
        if in_opening(entry):
            extension.proxy_sequence = p.acknowledgement
            extension.proxy_state = PROXY_OPEN
        reduce_window(p, extension.proxy_bytes, 0)
        renumber_options(p, extension)
        return
    if not p.flags & ACK or not extension.proxy_state & PROXY_OPEN:
        return
    if <int32_t>(p.acknowledgement - extension.proxy_sequence) >= <int32_t>extension.proxy_bytes:
        extension.proxy_state |= PROXY_ACKNOWLEDGED
    elif not extension.proxy_state & PROXY_ACKNOWLEDGED:
        reduce_window(p, extension.proxy_bytes, scale if scale < 15 else 0)
    put32(p, p.l4 + 8, swap32(clients_number(extension, p.acknowledgement)))
    renumber_options(p, extension)


cdef inline void proxy_quoted(
    const Extension* extension, uint8_t* l4, uint32_t available
) noexcept nogil:
    """Let what an ICMP error quotes of a client's segment, at least its first eight bytes, be as the client
    has sent it.
    """
    cdef uint32_t number = load32(l4 + 4), known
    if not extension.proxy_state & PROXY_OPEN:
        return
    known = swap32(clients_number(extension, swap32(number)))
    store32(l4 + 4, known)
    if available >= 18:
        store16(l4 + 16, updated(load16(l4 + 16), replaced32(number, known)))
