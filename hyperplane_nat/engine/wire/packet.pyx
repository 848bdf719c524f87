# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reading frames that anybody may have made.

Each function returns a drop reason, DROP_NONE when the packet may go on.  A length is compared
with what is there before anything behind it is read; afterwards ``header_length``,
``l4_length`` and ``payload`` are true and the rest of the engine relies on them.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.wire.checksum cimport (
    fold,
    load16,
    load32,
    pseudo_header,
    sum_bytes,
    swap16,
    swap32,
)

cdef enum:
    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    ACK = 0x10
    ICMP_BYTES = 8
    OPTION_WINDOW_SCALE = 3
    WINDOW_SCALE_BYTES = 3
    SHIFT_MAX = 14
    # UDP_MAX_SEGMENTS of Linux: no socket makes more, and each is work for whoever sends it on.
    DATAGRAMS_MAX = 128


cdef int parse_ip(Packet* p) noexcept nogil:
    """IPv4 header (RFC 791): version, lengths, checksum.

    Linux writes a total length of 0 where a super-frame is longer than the field can say.
    """
    cdef uint32_t available = p.length - ETHERNET_BYTES
    cdef uint8_t* ip = p.frame + ETHERNET_BYTES
    if available < 20:
        return DROP_IP_TRUNCATED
    p.ip = ip
    p.header_length = (ip[0] & 15) * 4
    if (ip[0] >> 4) != 4 or p.header_length < 20 or p.header_length > available:
        return DROP_IP_HEADER
    p.total_length = swap16(load16(ip + 2))
    if p.total_length == 0 and p.gso_size:
        return DROP_BIG_TCP
    if p.total_length < p.header_length or p.total_length > available:
        return DROP_IP_LENGTH
    if fold(sum_bytes(ip, p.header_length, 0)) != 0xFFFF:
        return DROP_IP_CHECKSUM
    p.source = load32(ip + 12)
    p.destination = load32(ip + 16)
    p.protocol = ip[9]
    p.l4 = ip + p.header_length
    p.l4_length = p.total_length - p.header_length
    count_segments(p)
    return DROP_NONE


cdef bint source_routed(const Packet* p) noexcept nogil:
    """Whether the sender says by which hosts the packet travels (RFC 791: loose or strict).

    Its destination is then only the next of them, and what was said of destinations and rules is
    not said of the last.  RFC 7126 sections 4.3 and 4.4 have such packets dropped.
    """
    cdef const uint8_t* end = p.ip + p.header_length
    cdef uint8_t* option = next_option(p.ip + IP_BYTES, end)
    while option != NULL:
        if option[0] == OPTION_LOOSE_SOURCE_ROUTE or option[0] == OPTION_STRICT_SOURCE_ROUTE:
            return True
        option = next_option(option + option[1], end)
    return False


cdef inline uint8_t classify(uint8_t flags) noexcept nogil:
    cdef uint8_t control = flags & (FIN | SYN | RST | ACK)
    if control == ACK:
        return SEGMENT_ACK
    if control == SYN:
        return SEGMENT_SYN
    if control == (SYN | ACK):
        return SEGMENT_SYNACK
    if control == FIN or control == (FIN | ACK):
        return SEGMENT_FIN
    if control == RST or control == (RST | ACK):
        return SEGMENT_RST
    return SEGMENT_INVALID


cdef inline int check_offload(Packet* p, uint32_t covered, uint16_t field) noexcept nogil:
    """Where the kernel will complete a partial checksum, of a transport that covers so many bytes.

    It is the transport's own, or UDP carries a tunnel (RFC 7348, RFC 8926) and it lies in there.  The
    checksum of the tunnel's datagram is then whole: none, or right as soon as the inner one is.
    """
    cdef uint32_t l4 = <uint32_t>(p.l4 - p.frame)
    if p.checksum_start == l4:
        return DROP_NONE if p.checksum_offset == field else DROP_OFFLOAD
    if (
        p.protocol != 17
        or p.gso_size
        or p.checksum_start < l4 + UDP_BYTES
        or <uint32_t>p.checksum_start + p.checksum_offset + 2 > l4 + covered
    ):
        return DROP_OFFLOAD
    p.partial = 0
    p.inner = 1
    return DROP_NONE


cdef int parse_l4(Packet* p) noexcept nogil:
    """TCP (RFC 9293), UDP (RFC 768) or ICMP (RFC 792) header and checksum."""
    cdef uint8_t* l4 = p.l4
    cdef uint32_t length = p.l4_length, covered = p.l4_length
    cdef uint32_t offset
    cdef uint16_t field
    cdef int reason
    if p.protocol == 6:
        if length < TCP_BYTES:
            return DROP_TCP_HEADER
        offset = (l4[12] >> 4) * 4
        if offset < TCP_BYTES or offset > length:
            return DROP_TCP_HEADER
        field = 16
        p.flags = l4[13]
        p.sequence = swap32(load32(l4 + 4))
        p.acknowledgement = swap32(load32(l4 + 8))
        p.window = swap16(load16(l4 + 14))
        p.payload = <uint16_t>(length - offset)
    elif p.protocol == 17:
        if length < UDP_BYTES:
            return DROP_UDP_HEADER
        covered = swap16(load16(l4 + 4))
        if covered < UDP_BYTES or covered > length:
            return DROP_UDP_HEADER
        if p.segments > DATAGRAMS_MAX:
            return DROP_OFFLOAD
        field = 6
    elif p.protocol == 1:
        if length < ICMP_BYTES:
            return DROP_ICMP_HEADER
        if p.partial or p.gso_size:
            return DROP_OFFLOAD
        if fold(sum_bytes(l4, length, 0)) != 0xFFFF:
            return DROP_L4_CHECKSUM
        return DROP_NONE
    else:
        return DROP_PROTOCOL
    if p.partial:
        reason = check_offload(p, covered, field)
        if reason:
            return reason
    elif not p.checked and (p.protocol == 6 or load16(l4 + 6) != 0):
        if (
            fold(
                sum_bytes(
                    l4,
                    covered,
                    pseudo_header(p.source, p.destination, p.protocol, <uint16_t>covered),
                )
            )
            != 0xFFFF
        ):
            return DROP_L4_CHECKSUM
    p.source_port = load16(l4)
    p.destination_port = load16(l4 + 2)
    if p.protocol == 6:
        p.segment = classify(p.flags)
        if p.segment == SEGMENT_INVALID:
            return DROP_TCP_FLAGS
    return DROP_NONE


cdef int parse_fragment(Packet* p) noexcept nogil:
    """A piece of a datagram (RFC 791): its place, and of the first the transport header.

    A checksum covers the whole datagram and is not verified.  The first piece must hold the
    transport header and no later one may reach into it (RFC 1858, RFC 3128).
    """
    cdef uint8_t* l4 = p.l4
    cdef uint32_t length = p.l4_length, offset = fragment_offset(p), header
    if p.partial or p.gso_size:
        return DROP_OFFLOAD
    if p.header_length + offset + length > 65535:
        return DROP_FRAGMENT
    if length == 0 or (length & 7 and fragment_field(p) & MORE_FRAGMENTS):
        return DROP_FRAGMENT_TINY
    if offset:
        return DROP_FRAGMENT_TINY if p.protocol == 6 and offset < TCP_BYTES else DROP_NONE
    if p.protocol == 6:
        if length < TCP_BYTES:
            return DROP_FRAGMENT_TINY
        header = (l4[12] >> 4) * 4
        if header < TCP_BYTES:
            return DROP_TCP_HEADER
        if header > length:
            return DROP_FRAGMENT_TINY
        p.flags = l4[13]
        p.sequence = swap32(load32(l4 + 4))
        p.acknowledgement = swap32(load32(l4 + 8))
        p.window = swap16(load16(l4 + 14))
        p.payload = <uint16_t>(length - header)
        p.segment = classify(p.flags)
        if p.segment == SEGMENT_INVALID:
            return DROP_TCP_FLAGS
    elif p.protocol == 17 and swap16(load16(l4 + 4)) < UDP_BYTES:
        return DROP_UDP_HEADER
    p.source_port = load16(l4)
    p.destination_port = load16(l4 + 2)
    return DROP_NONE


cdef uint8_t window_scale_option(const Packet* p) noexcept nogil:
    """Shift of the window scale option (RFC 7323, at most 14), 15 when it is absent."""
    cdef const uint8_t* end = p.l4 + (p.l4[12] >> 4) * 4
    cdef uint8_t* option = next_option(p.l4 + TCP_BYTES, end)
    while option != NULL:
        if option[0] == OPTION_WINDOW_SCALE and option[1] == WINDOW_SCALE_BYTES:
            return option[2] if option[2] < SHIFT_MAX else SHIFT_MAX
        option = next_option(option + option[1], end)
    return 15
