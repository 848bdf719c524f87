# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Addressing a translated packet to its next hop.

On the link of an environment or of a host there is nobody else, and the MAC address is known; whoever
is behind an interface is found by `neighbours`. All addresses of an interface share the link and the next
hops of the primary. What an environment sends to a host is translated as if it left by its interface, and
is counted there, but leaves by the host's link.

A packet that is larger than the link leaves in pieces (RFC 791) unless that is forbidden; whoever
may be told so was told before (`mtu`). The first piece is the packet itself, made shorter;
the others are extra frames. A UDP super-frame whose datagrams are too large is first cut into them,
as Linux would (`__udp_gso_segment`): their identifications count up from that of the whole.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.counting cimport amount_of, count_departure
from hyperplane_nat.engine.flows.entries cimport node_of
from hyperplane_nat.engine.flows.extras cimport (
    EXTRAS_BYTES,
    EXTRAS_MAX,
    EXTRA_ROOM,
    extra_add,
    extra_room,
    extra_set,
)
from hyperplane_nat.engine.flows.nat cimport (
    Attachment,
    Nat,
    count,
    drop,
    drop_frozen,
    unlikely,
)
from hyperplane_nat.engine.flows.neighbours cimport neighbour_send
from hyperplane_nat.engine.state.layout cimport Entry
from hyperplane_nat.engine.wire.checksum cimport (
    complement,
    load16,
    load32,
    pseudo_header,
    store16,
    sum_bytes,
    swap16,
)
from hyperplane_nat.engine.wire.packet cimport (
    DONT_FRAGMENT,
    ETHERNET_BYTES,
    FRAGMENT_OFFSET,
    IP_BYTES,
    MORE_FRAGMENTS,
    OPTION_COPIED,
    OPTION_NOTHING,
    UDP_BYTES,
    Packet,
    fragment_field,
    next_option,
    too_large,
)
from hyperplane_nat.engine.wire.rewrite cimport address_frame, forward

cdef enum:
    UDP_CHECKSUM = 6


cdef inline uint16_t leaves_by(const Nat* nat, const Packet* p, const Entry* entry) noexcept nogil:
    """By which attachment a packet of a flow's originator leaves."""
    return p.host if p.host and not p.plain else entry.responder


cdef inline bint goes_back(const Nat* nat, const Packet* p, const Entry* entry) noexcept nogil:
    """Whether a packet is a target's answer: it goes back by its load balancer, wherever its sender's route
    leads.
    """
    return p.side == PEER_RESPONDER and node_of(nat, entry) != 0


cdef inline bint goes_another_way(
    const Nat* nat, const Packet* p, const Entry* entry
) noexcept nogil:
    """Whether a packet's route leads it by another gateway than its flow, or by other endpoints."""
    if p.side == PEER_ORIGINATOR:
        if unlikely(p.plain and p.host != entry.responder and p.gateway == 0):
            if (
                nat.attachments[p.host].role == ROLE_GATEWAY_ENDPOINT
                or nat.attachments[entry.responder].role == ROLE_GATEWAY_ENDPOINT
            ):
                return True
        return p.gateway != nat.attachments[entry.responder].gateway
    return (
        unlikely(p.gateway)
        and p.gateway != nat.attachments[entry.originator].gateway
        and not goes_back(nat, p, entry)
    )


cdef inline uint16_t exit_of(const Nat* nat, uint32_t flow) noexcept nogil:
    """By which attachment a balanced flow reaches its target."""
    cdef uint16_t target = nat.table.extensions[flow].target
    return target if target else nat.attachments[nat.table.entries[flow].responder].interface


cdef inline void send_inside(Nat* nat, Packet* p, uint16_t number) noexcept nogil:
    """Send a packet to an environment or a host."""
    cdef const Attachment* target = &nat.attachments[number]
    if not target.active:
        drop(nat, p, DROP_UNKNOWN_LINK)
        return
    if target.silent:
        drop_frozen(nat, p, number)
        return
    if must_be_cut(p, target.mtu):
        send_cut(nat, p, number, target.mtu)
        return
    address_frame(p, target.peer_mac, target.mac)
    forward(p, number)
    count_departure(nat, number, p.port, p.link, amount_of(p))


cdef inline void send_outside(Nat* nat, Packet* p, uint16_t number) noexcept nogil:
    """Send a packet from an address of an interface to whom it is for."""
    cdef uint16_t primary = nat.attachments[number].primary
    cdef const Attachment* link = &nat.attachments[primary]
    cdef int reason
    if not link.active or not nat.attachments[number].active:
        drop(nat, p, DROP_UNKNOWN_LINK)
        return
    if must_be_cut(p, link.mtu):
        send_cut(nat, p, number, link.mtu)
        return
    reason = neighbour_send(nat, primary, p)
    if reason:
        drop(nat, p, reason)
        return
    count_departure(nat, number, p.port, p.link, amount_of(p))


cdef inline void send(Nat* nat, Packet* p, uint16_t number) noexcept nogil:
    """Send a packet, translated as it is, by an attachment."""
    if nat.attachments[number].kind == ATTACHMENT_INTERFACE:
        send_outside(nat, p, number)
    else:
        send_inside(nat, p, number)


cdef inline bint must_be_cut(const Packet* p, uint32_t mtu) noexcept nogil:
    """Whether a packet leaves as several: what is of TCP and yet to be segmented fits (:mod:`mtu`)."""
    return too_large(p, mtu) and (p.gso_size == 0 or p.protocol == 17)


cdef inline void complete_checksum(Packet* p) noexcept nogil:
    """Finish a partial checksum: the pieces leave without an offload request."""
    cdef uint8_t* start = p.frame + p.checksum_start
    cdef uint32_t covered = p.l4_length
    cdef bint udp = p.protocol == 17
    cdef uint16_t checksum
    if udp:
        covered = swap16(load16(p.l4 + 4))
    if p.inner:
        # Of what the tunnel carries: to its end.  The offset of the field tells which transport's.
        covered -= <uint32_t>(start - p.l4)
        udp = p.checksum_offset == UDP_CHECKSUM
    checksum = complement(sum_bytes(start, covered, 0))
    if udp and checksum == 0:
        checksum = 0xFFFF
    store16(start + p.checksum_offset, checksum)
    p.partial = p.inner = 0


cdef inline void blank_options(uint8_t* ip, uint32_t header) noexcept nogil:
    """What only the first piece carries (RFC 791 section 3.1) becomes no operation in a later one."""
    cdef uint8_t* end = ip + header
    cdef uint8_t* option = next_option(ip + IP_BYTES, end)
    cdef uint8_t* following
    while option != NULL:
        following = option + option[1]
        if not option[0] & OPTION_COPIED:
            memset(option, OPTION_NOTHING, following - option)
        option = next_option(following, end)


cdef inline void cut(Packet* p, uint32_t length, uint16_t field) noexcept nogil:
    """Give a piece its own lengths, flags and offset, and the header checksum for them."""
    p.l4_length = <uint16_t>length
    p.total_length = <uint16_t>(p.header_length + length)
    store16(p.ip + 2, swap16(p.total_length))
    store16(p.ip + 6, swap16(field))
    store16(p.ip + 10, 0)
    store16(p.ip + 10, complement(sum_bytes(p.ip, p.header_length, 0)))


cdef inline void send_cut(Nat* nat, Packet* p, uint16_t number, uint32_t mtu) noexcept nogil:
    if p.gso_size:
        send_datagrams(nat, p, number, mtu)
    else:
        send_in_pieces(nat, p, number, mtu)


cdef inline void become_datagram(
    Packet* p, uint32_t payload, uint16_t number, bint summed
) noexcept nogil:
    """Make a frame, which holds the headers of a super-frame and this payload, its datagram `number`.

    `summed`: it has a checksum.
    """
    cdef uint16_t length = <uint16_t>(UDP_BYTES + payload), checksum = 0
    p.gso_size = 0
    p.segments = 1
    p.partial = 0
    p.l4_length = length
    p.total_length = p.header_length + length
    store16(p.ip + 2, swap16(p.total_length))
    store16(p.ip + 4, swap16(swap16(load16(p.ip + 4)) + number))
    store16(p.ip + 10, 0)
    store16(p.ip + 10, complement(sum_bytes(p.ip, p.header_length, 0)))
    store16(p.l4 + 4, swap16(length))
    store16(p.l4 + UDP_CHECKSUM, 0)
    if summed:
        checksum = complement(
            sum_bytes(
                p.l4,
                length,
                pseudo_header(load32(p.ip + 12), load32(p.ip + 16), p.protocol, length),
            )
        )
        store16(p.l4 + UDP_CHECKSUM, checksum if checksum else 0xFFFF)


cdef inline void send_datagrams(
    Nat* nat, Packet* p, uint16_t number, uint32_t mtu
) noexcept nogil:
    """Cut a UDP super-frame; what is still too large leaves in pieces."""
    cdef uint32_t room = (mtu - p.header_length) & ~<uint32_t>7, head = ETHERNET_BYTES + p.headers
    cdef uint32_t payload = p.total_length - p.headers, size = min(p.gso_size, payload)
    cdef uint32_t position = size
    cdef uint32_t datagrams = p.segments, pieces = datagrams * ((UDP_BYTES + size + room - 1) // room)
    cdef uint32_t i, others, used
    cdef bint summed = p.partial or load16(p.l4 + UDP_CHECKSUM) != 0
    cdef uint8_t[ETHERNET_BYTES + 60 + UDP_BYTES] header
    cdef uint8_t* frame
    cdef Packet datagram
    if fragment_field(p) & DONT_FRAGMENT:
        drop(nat, p, DROP_MTU_EXCEEDED)
        return
    # A datagram is copied whole and then, but for its first piece, once more.
    if (
        nat.extras.count + pieces > EXTRAS_MAX
        or nat.extras.used + 2 * payload + (pieces + datagrams) * (head + EXTRA_ROOM + 16)
        > EXTRAS_BYTES
    ):
        drop(nat, p, DROP_FRAGMENT_QUOTA)
        return
    p.offload_changed = 1
    memcpy(header, p.frame, head)
    become_datagram(p, size, 0, summed)
    send(nat, p, number)
    if p.action == ACTION_DROP:
        # So it would be with the others.
        p.segments = <uint16_t>(datagrams - 1)
        drop(nat, p, p.reason)
        return
    for i in range(1, datagrams):
        size = min(size, payload - position)
        others = nat.extras.count
        used = nat.extras.used
        frame = extra_room(&nat.extras, head + size)
        memcpy(frame, header, head)
        memcpy(frame + head, p.ip + p.headers + position, size)
        datagram = p[0]
        datagram.frame = frame
        datagram.ip = frame + ETHERNET_BYTES
        datagram.l4 = datagram.ip + p.header_length
        become_datagram(&datagram, size, <uint16_t>i, summed)
        # Its pieces come behind it.
        extra_add(&nat.extras, frame, head + size, ACTION_DROP, 0)
        send(nat, &datagram, number)
        if datagram.action == ACTION_FORWARD:
            extra_set(
                &nat.extras.frames[others],
                datagram.out_length,
                datagram.action,
                datagram.out_port,
            )
        else:
            # Dropped, or copied to where it waits; all its pieces have the same next hop.
            nat.extras.count = others
            nat.extras.used = used
        position += size


cdef inline void send_in_pieces(
    Nat* nat, Packet* p, uint16_t number, uint32_t mtu
) noexcept nogil:
    cdef uint32_t room = (mtu - p.header_length) & ~<uint32_t>7, length = p.l4_length
    cdef uint32_t position = room, size, head = ETHERNET_BYTES + p.header_length
    cdef uint32_t pieces = (length + room - 1) // room
    cdef uint16_t field = fragment_field(p), offset = field & FRAGMENT_OFFSET, flags
    cdef uint8_t[ETHERNET_BYTES + 60] header
    cdef uint8_t* frame
    cdef Packet piece
    if field & DONT_FRAGMENT:
        drop(nat, p, DROP_MTU_EXCEEDED)
        return
    if (
        nat.extras.count + pieces > EXTRAS_MAX
        or nat.extras.used + length + pieces * (head + EXTRA_ROOM + 16) > EXTRAS_BYTES
    ):
        drop(nat, p, DROP_FRAGMENT_QUOTA)
        return
    if p.partial or p.inner:
        complete_checksum(p)
    p.offload_changed = 1
    memcpy(header, p.frame, head)
    cut(p, room, field | MORE_FRAGMENTS)
    send(nat, p, number)
    if p.action == ACTION_DROP:
        return
    blank_options(header + ETHERNET_BYTES, p.header_length)
    while position < length:
        size = min(room, length - position)
        frame = extra_room(&nat.extras, head + size)
        memcpy(frame, header, head)
        memcpy(frame + head, p.l4 + position, size)
        piece = p[0]
        piece.frame = frame
        piece.ip = frame + ETHERNET_BYTES
        piece.l4 = frame + head
        flags = MORE_FRAGMENTS if position + size < length else field & MORE_FRAGMENTS
        cut(&piece, size, flags | <uint16_t>(offset + (position >> 3)))
        send(nat, &piece, number)
        if piece.action == ACTION_FORWARD:
            extra_add(&nat.extras, frame, piece.out_length, piece.action, piece.out_port)
        position += size
    count(nat, C_PACKETS_FRAGMENTED)
