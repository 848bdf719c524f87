# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Reading frames that anybody may have made.

Each function returns a drop reason, DROP_NONE when the packet may go on. A length is compared
with what is there before anything behind it is read; afterwards `header_length`,
`l4_length` and `payload` are true and the rest of the engine relies on them.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

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
    ETHERNET_BYTES = 14
    REPLY_BYTES = 128
    TCP_BYTES = 20
    UDP_BYTES = 8
    # The virtio-net header, for which there is room before each frame, and its field for the size
    # of a segment.
    OFFLOAD_BYTES = 10
    OFFLOAD_GSO_SIZE = 4

cdef enum:
    ARP_BYTES = 28
    ARP_REQUEST = 1
    ARP_REPLY = 2

cdef enum:
    KIND_FLOW = 0
    KIND_ICMP_ERROR = 1
    KIND_ARP = 2
    KIND_FRAGMENT = 3

cdef enum:
    DONT_FRAGMENT = 0x4000
    MORE_FRAGMENTS = 0x2000
    FRAGMENT_OFFSET = 0x1FFF
    TCP_SYN = 0x02

cdef enum:
    IP_BYTES = 20
    OPTION_END = 0
    OPTION_NOTHING = 1
    OPTION_COPIED = 0x80
    OPTION_LOOSE_SOURCE_ROUTE = 131
    OPTION_STRICT_SOURCE_ROUTE = 137

# A frame on its way through the engine.  The first group is the caller's, but for `side` and `hairpin`;
# the second what parsing found, the third the verdict.  `port` is the attachment that it comes from, `link` the one on whose link it came,
# which differs where an address of an interface was meant; `host` the host that it is for, 0 if it is
# for none; `plain`: it is from or for a host, which has its ports for itself, and of which an address one to
# one is all that may be translated; `gateway` that by which it leaves, a NAT gateway or the sender's public
# address, 0 if by none.  `astray`: why it leads nowhere, which is said once its flow is known to be none
# that leads elsewhere.  `offload_changed`: what the frame's virtio-net header says is
# no longer so; `gso_size`, if not 0, is the new segment size, else the frame leaves as it is.
#
# A frame that is yet to be segmented (a super-frame, `gso_size` bytes of payload to a segment) is
# counted, limited and charged as its `segments`, each with `headers` bytes from the IP header on.
cdef struct Packet:
    uint8_t* frame
    uint32_t length
    uint8_t side
    uint8_t partial
    uint8_t checked
    # For an interface address, of an environment that may reach it, or the second packet that this
    # became: see hairpin.pxd.
    uint8_t hairpin
    # A partial checksum that is not the transport's own: it lies in what a tunnel carries.
    uint8_t inner
    uint8_t plain
    uint8_t astray
    # The flow cache's program has counted it at an armed record.
    uint8_t counted
    uint16_t gso_size
    uint16_t port
    uint16_t link
    uint16_t host
    uint16_t gateway
    uint16_t checksum_start
    uint16_t checksum_offset
    # Room for an answer; NULL when there shall be none.
    uint8_t* reply

    uint8_t* ip
    uint8_t* l4
    uint32_t source
    uint32_t destination
    uint16_t header_length
    uint16_t total_length
    uint16_t l4_length
    uint16_t segments
    uint16_t headers
    uint16_t source_port
    uint16_t destination_port
    uint8_t protocol
    uint8_t kind
    uint8_t segment
    uint8_t flags
    uint32_t sequence
    uint32_t acknowledgement
    uint16_t window
    uint16_t payload
    uint64_t hash

    uint8_t action
    uint8_t reason
    uint16_t out_port
    uint8_t* out_frame
    uint32_t out_length
    uint8_t offload_changed

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


cdef inline int protocol_index(uint8_t protocol) noexcept nogil:
    """0 for TCP, 1 for UDP, 2 for ICMP: the order of the per-protocol counters."""
    if protocol == 6:
        return 0
    return 1 if protocol == 17 else 2


cdef inline void settle_offload(const Packet* p, uint8_t* header) noexcept nogil:
    """Let the virtio-net header of a frame that came say what is so of the one that leaves."""
    if p.action == ACTION_REPLY or (p.offload_changed and p.gso_size == 0):
        # The header of what came says nothing of the answer, or of a piece.
        memset(header, 0, OFFLOAD_BYTES)
    elif p.offload_changed:
        memcpy(header + OFFLOAD_GSO_SIZE, &p.gso_size, 2)


cdef inline bint is_second(const Packet* p) noexcept nogil:
    """Whether it is what a packet became that turned round: see hairpin.pxd."""
    return p.hairpin and p.side == PEER_RESPONDER


cdef inline void judge(Packet* p, const Packet* other) noexcept nogil:
    """Give a packet the verdict of another one in the same frame."""
    p.gso_size = other.gso_size
    p.action = other.action
    p.reason = other.reason
    p.out_port = other.out_port
    p.out_frame = other.out_frame
    p.out_length = other.out_length
    p.offload_changed = other.offload_changed


cdef inline uint32_t prefix_mask(int length) noexcept nogil:
    """Network-order mask of a prefix length."""
    if length <= 0:
        return 0
    return swap32(<uint32_t>(~<uint64_t>0 << (32 - length)))


cdef inline bint never_a_host(uint32_t address) noexcept nogil:
    """0/8, 127/8, 224/4 and 240/4: no source and no destination of a unicast packet."""
    cdef uint8_t first = <uint8_t>(address & 0xFF)
    return first == 0 or first == 127 or first >= 224


cdef inline uint16_t fragment_field(const Packet* p) noexcept nogil:
    """Flags and offset of the IPv4 header, in host order."""
    return swap16(load16(p.ip + 6))


cdef inline uint32_t fragment_offset(const Packet* p) noexcept nogil:
    """Where in its datagram the payload begins, in bytes."""
    return <uint32_t>(fragment_field(p) & FRAGMENT_OFFSET) * 8


cdef inline void count_segments(Packet* p) noexcept nogil:
    """Find how many segments a frame whose IP header is right will be."""
    cdef uint32_t headers = p.header_length
    p.segments = 1
    p.headers = p.header_length
    if p.gso_size == 0:
        return
    if p.protocol == 17:
        headers += UDP_BYTES
    elif p.protocol == 6 and p.l4_length >= TCP_BYTES:
        headers += (p.l4[12] >> 4) * 4
    if p.header_length < headers <= p.total_length:
        p.headers = <uint16_t>headers
        if p.total_length - headers > p.gso_size:
            p.segments = <uint16_t>((p.total_length - headers + p.gso_size - 1) // p.gso_size)


cdef inline uint32_t wire_bytes(const Packet* p) noexcept nogil:
    """Bytes of IP that a frame is on a wire: each of its segments has headers of its own."""
    return p.total_length + <uint32_t>(p.segments - 1) * p.headers


cdef inline bint too_large(const Packet* p, uint32_t mtu) noexcept nogil:
    """Whether a packet, or of a super-frame a segment, is larger than a link carries."""
    return p.total_length > mtu and (p.gso_size == 0 or <uint32_t>p.headers + p.gso_size > mtu)


cdef inline uint8_t* next_option(uint8_t* at, const uint8_t* end) noexcept nogil:
    """The first option from `at` on that has a length, which lies before `end`; NULL when there is none.

    IPv4 and TCP write options alike (RFC 791 section 3.1, RFC 9293 section 3.1).  Nothing behind one
    whose length cannot be is read: where the next begins is unknown.
    """
    while at < end and at[0] == OPTION_NOTHING:
        at += 1
    if end - at < 2 or at[0] == OPTION_END or at[1] < 2 or at[1] > end - at:
        return NULL
    return at


cdef inline int parse_ip(Packet* p) noexcept nogil:
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


cdef inline bint source_routed(const Packet* p) noexcept nogil:
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


cdef inline int parse_l4(Packet* p) noexcept nogil:
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


cdef inline int parse_fragment(Packet* p) noexcept nogil:
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


cdef inline uint8_t window_scale_option(const Packet* p) noexcept nogil:
    """Shift of the window scale option (RFC 7323, at most 14), 15 when it is absent."""
    cdef const uint8_t* end = p.l4 + (p.l4[12] >> 4) * 4
    cdef uint8_t* option = next_option(p.l4 + TCP_BYTES, end)
    while option != NULL:
        if option[0] == OPTION_WINDOW_SCALE and option[1] == WINDOW_SCALE_BYTES:
            return option[2] if option[2] < SHIFT_MAX else SHIFT_MAX
        option = next_option(option + option[1], end)
    return 15
