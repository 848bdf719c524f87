# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from libc.string cimport memcpy, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.wire.checksum cimport load16, swap16, swap32

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

# A frame on its way through the engine.  The first group is the caller's, the second what
# parsing found, the third the verdict.  `offload_changed`: what the frame's virtio-net header says is
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
    # For an interface address, of an environment that may reach it: see hairpin.pyx.
    uint8_t hairpin
    # A partial checksum that is not the transport's own: it lies in what a tunnel carries.
    uint8_t inner
    uint16_t gso_size
    uint16_t port
    uint16_t checksum_start
    uint16_t checksum_offset
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
    uint8_t out_side
    uint16_t out_port
    uint8_t* out_frame
    uint32_t out_length
    uint8_t offload_changed


cdef inline void settle_offload(const Packet* p, uint8_t* header) noexcept nogil:
    """Let the virtio-net header of a frame that came say what is so of the one that leaves."""
    if p.action == ACTION_REPLY or (p.offload_changed and p.gso_size == 0):
        # The header of what came says nothing of the answer, or of a piece.
        memset(header, 0, OFFLOAD_BYTES)
    elif p.offload_changed:
        memcpy(header + OFFLOAD_GSO_SIZE, &p.gso_size, 2)


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


cdef int parse_ip(Packet* p) noexcept nogil
cdef bint source_routed(const Packet* p) noexcept nogil
cdef int parse_fragment(Packet* p) noexcept nogil
cdef int parse_l4(Packet* p) noexcept nogil
cdef uint8_t window_scale_option(const Packet* p) noexcept nogil
