# SPDX-License-Identifier: Apache-2.0
# The records of the state map and of the engine's own memory.
#
# Addresses and ports are kept in network byte order, as they stand in a packet.  All
# records of the map are of fixed size and naturally aligned.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport ATTACHMENT_COUNTERS, NODE_COUNTERS

cdef enum:
    ENTRY_BYTES = 64
    TRACK_BYTES = 32
    REMOTE_BYTES = 16
    ATTACHMENT_BYTES = 192
    EXTENSION_BYTES = 32
    # Entries whose extensions are allocated together.
    EXTENSION_CHUNK = 1024
    EXHAUSTION_BYTES = 32
    HEADER_BYTES = 4096
    STATES = 16
    SEGMENTS = 16
    DESTINATIONS_MAX = 16

cdef enum:
    NIL = 0xFFFFFFFF
    # The interface of an environment in the pool, and the originator of an entry that is nobody's any
    # more: maps have at most 65535 attachments, so no number is as high.
    UNATTACHED = 0xFFFF
    NOBODY = 0xFFFF
    # What 32 bits tell of an age in ms: beyond 37 days it is a time that lies ahead.
    AGE_MAX = 0xBFFFFFFF

# In `flags`, above the tracker's own bits: what the entry is (KIND), the flow has its port from a
# mapping, the SYN in its track may begin another connection.  Of a flow without a bit of its kind the
# source is rewritten, of one with DESTINATION that instead, with both bits both; the other bit alone
# is a mapping's, which is no flow.  A destination that is rewritten to itself is not rewritten.
cdef enum:
    MAPPING = 0x10
    DESTINATION = 0x20
    KIND = 0x30
    MAPPED = 0x40
    SYN_REMEMBERED = 0x80

# One flow, one cache line: everything a UDP packet needs.  Its originator, an attachment, sends
# from the source to the destination; its responder, another one, sees what is translated in place of
# the one of them that is rewritten.  `state` is the commit mark: it is stored last when an entry is made and first when it is
# freed.  `generation` is what readers of another process go by (`snapshot`).
cdef struct Entry:
    uint32_t source_address
    uint32_t destination_address
    uint16_t source_port
    uint16_t destination_port
    uint16_t originator
    uint8_t protocol
    uint8_t state
    uint32_t translated_address
    uint16_t translated_port
    uint16_t responder
    uint32_t last_seen
    uint16_t generation
    uint8_t flags
    uint8_t created_high
    uint64_t packets[2]
    uint64_t bytes[2]

# One endpoint-independent mapping, which takes the place of an entry: `flags` says MAPPING.  What the
# table, its timers and readers of other processes go by stands where an Entry has it.  Its destination
# is everybody, 0 and 0, which no flow has; where a flow has its counters there are its flows.
cdef struct Mapping:
    uint32_t source_address
    uint32_t everybody
    uint16_t source_port
    uint16_t every_port
    uint16_t originator
    uint8_t protocol
    uint8_t state
    uint32_t translated_address
    uint16_t translated_port
    uint16_t responder
    uint32_t last_seen
    uint16_t generation
    uint8_t flags
    uint8_t created_high
    uint64_t flows
    uint64_t nothing[3]

# What a flow's later packets do not need unless they are TCP's: next sequence number expected from,
# last acknowledgement sent and window offered by each side; the SYN that is remembered; and the low
# bits of when the flow began (`created_of`).  What else is in `syn_scale` the tracker knows.
cdef struct Track:
    uint32_t sequence_end[2]
    uint32_t acknowledged[2]
    uint16_t window[2]
    uint32_t syn_sequence
    uint16_t syn_payload
    uint8_t window_scale
    uint8_t syn_scale
    uint32_t created

# What only flows need of which there is more than an entry has room for: the destination as the
# responder has it, and, of an environment's flow by a NAT gateway, the interface address where it is
# counted too (an attachment, 0: none) and the port that it has there.  Of a balanced flow besides: the
# load balancer's node (an attachment, 0: it is not balanced), the host that its target is (0: it is behind
# the VPC's router), how long it may be idle, in ms, and the address of the endpoint that its client
# sends to (an attachment, 0: it sends to the node); where the client's data begin, how long the PROXY
# protocol's header before them is (0: there is none) and what became of that (`proxying`).
cdef struct Extension:
    uint32_t destination_address
    uint16_t destination_port
    uint16_t hop
    uint16_t hop_port
    uint16_t node
    uint16_t target
    uint16_t endpoint
    uint32_t idle
    uint32_t proxy_sequence
    uint8_t proxy_bytes
    uint8_t proxy_state
    uint8_t room[6]

# An address and its port, one end of a flow.
cdef struct End:
    uint32_t address
    uint16_t port

# One remote endpoint of one attachment: how many source ports are in use or held towards it.
cdef struct Remote:
    uint32_t address
    uint16_t port
    uint16_t attachment
    uint8_t protocol
    uint8_t foreign
    uint16_t bitmap
    uint16_t count
    uint16_t high_water

# A remote endpoint towards which ports ran out; `errors` 0 is an empty cell.
cdef struct Exhaustion:
    uint64_t errors
    uint64_t last
    uint32_t address
    uint16_t port
    uint16_t responder
    uint16_t originator
    uint8_t protocol
    uint8_t reason
    uint32_t reserved

# What outlives a forwarder of an attachment: its counters, whose it is (0: nobody has had it), so that
# a successor does not take another's flows for its, and the address that its flows have.
cdef struct AttachmentRecord:
    uint64_t counters[ATTACHMENT_COUNTERS]
    uint64_t owner
    uint32_t address
    # Of an internet gateway's address: the host, or the address of a NAT gateway, that it stands for
    # (an attachment, 0: none).
    uint16_t serves
    # Of an interface address: what it is besides (ROLE_...).
    uint16_t role
    # Since when a host has its address, in ms of the map's clock.
    uint64_t since
    # Of a load balancer's node (N_...).
    uint64_t balanced[NODE_COUNTERS]

# How a flow goes on from the interface of its client: by an address of a NAT gateway or the node of a
# load balancer (`hop`, an attachment; 0: straight), before it by an endpoint, and to a host as the target
# of a node.  Behind the hop it has another source, and of a node another destination: the far end.  Of a
# packet that was refused, `position` says where (AT_...).  `internet` is whether it goes by an internet
# gateway.
cdef struct Way:
    uint32_t hop_address
    uint32_t source_address
    uint32_t far_address
    uint16_t source_port
    uint16_t far_port
    uint16_t hop
    uint16_t endpoint
    uint16_t target
    uint8_t position
    uint8_t internet

# What is left of a flow that has ended, or (reason not 0) a packet that was refused.  Its ends are
# attachments of the map, the originator NOBODY for a packet from outside that has no flow; of a packet of
# a host they are who sent it and who was to have it.
cdef struct FlowRecord:
    uint32_t entry
    uint16_t generation
    uint8_t protocol
    uint8_t state
    uint32_t inside_address
    uint32_t remote_address
    uint32_t nat_address
    uint16_t inside_port
    uint16_t remote_port
    uint16_t nat_port
    uint16_t originator
    uint16_t responder
    uint8_t reason
    # Of a TCP segment that was refused.
    uint8_t flags
    uint64_t created
    uint64_t last_seen
    uint64_t packets[2]
    uint64_t bytes[2]
    Way way

# The head of the file of flow records; what each of the two processes writes is in cache lines of
# its own.  A page of it is followed by the records lost of each interface and host, and the records.
cdef struct RecordRing:
    char magic[8]
    uint32_t version
    uint32_t capacity
    uint32_t places
    uint32_t attached
    uint8_t padding[40]
    uint64_t head
    uint8_t producer[56]
    uint64_t tail
    uint64_t lines
    uint64_t lines_lost

cdef struct Header:
    char magic[8]
    uint32_t layout_version
    uint32_t header_bytes
    uint64_t total_bytes
    uint32_t flows_max
    uint32_t slots_max
    uint32_t interfaces_max
    uint32_t index_cells
    uint32_t remote_cells
    uint32_t bitmap_bytes
    uint64_t counters_offset
    uint64_t attachments_offset
    uint64_t exhaustions_offset
    uint64_t entries_offset
    uint64_t tracks_offset
    uint64_t index_offset
    uint64_t remotes_offset
    uint64_t bitmaps_offset
    uint64_t extensions_offset
    # Entries at or above this index were never used: nobody need read their pages.
    uint32_t entries_watermark
    uint32_t hosts_max


cdef inline uint32_t first_host(const Header* header) noexcept nogil:
    """The attachment of host 0: behind the environments and the interface addresses."""
    return header.slots_max + header.interfaces_max


cdef inline uint32_t attachments_of(const Header* header) noexcept nogil:
    """How many attachments there may be: first the environments, in the order of their slots, then
    the interface addresses, then the hosts.
    """
    return first_host(header) + header.hosts_max


cdef inline AttachmentRecord* records_of(const Header* header) noexcept nogil:
    return <AttachmentRecord*>(<uint8_t*>header + header.attachments_offset)


cdef inline uint16_t interface_number(const Header* header, uint16_t attachment) noexcept nogil:
    """The number by which others than the engine know an interface address."""
    return <uint16_t>(attachment - header.slots_max)


cdef inline Extension* extensions_of(const Header* header) noexcept nogil:
    return <Extension*>(<uint8_t*>header + header.extensions_offset)


cdef inline bint is_mapping(const Entry* entry) noexcept nogil:
    return (entry.flags & KIND) == MAPPING


cdef inline bint rewrites_source(const Entry* entry) noexcept nogil:
    return (entry.flags & KIND) != DESTINATION


cdef inline bint rewrites_destination(
    const Entry* entry, const Extension* extension
) noexcept nogil:
    if not entry.flags & DESTINATION:
        return False
    if is_extended(entry):
        return (
            extension.destination_address != entry.destination_address
            or extension.destination_port != entry.destination_port
        )
    return (
        entry.translated_address != entry.destination_address
        or entry.translated_port != entry.destination_port
    )


cdef inline bint is_plain(const Entry* entry) noexcept nogil:
    """Whether nothing is rewritten."""
    return not rewrites_source(entry) and not rewrites_destination(entry, NULL)


cdef inline bint is_extended(const Entry* entry) noexcept nogil:
    """Whether the entry's extension counts: the others may have no page."""
    return (entry.flags & KIND) == KIND


cdef inline bint is_balanced(const Entry* entry, const Extension* extension) noexcept nogil:
    """Whether the flow goes by a node of a load balancer."""
    return is_extended(entry) and extension.node != 0


cdef inline bint keeps_source(const Entry* entry) noexcept nogil:
    """Whether the responder has the flow's source as the originator has it."""
    return (
        entry.translated_address == entry.source_address
        and entry.translated_port == entry.source_port
    )


cdef inline uint16_t hop_of(const Entry* entry, const Extension* extension) noexcept nogil:
    """The interface address where a flow is counted besides its responder, or 0."""
    return extension.hop if is_extended(entry) else <uint16_t>0


cdef inline End source_translated(const Entry* entry) noexcept nogil:
    """The flow's source as its responder has it."""
    if rewrites_source(entry):
        return End(entry.translated_address, entry.translated_port)
    return End(entry.source_address, entry.source_port)


cdef inline End destination_translated(
    const Entry* entry, const Extension* extension
) noexcept nogil:
    """The flow's destination as its responder has it."""
    if is_extended(entry):
        return End(extension.destination_address, extension.destination_port)
    if entry.flags & DESTINATION:
        return End(entry.translated_address, entry.translated_port)
    return End(entry.destination_address, entry.destination_port)


cdef inline uint64_t created_of(const Entry* entry, const Track* track) noexcept nogil:
    """When a flow or mapping began, in ms of the map's clock: 40 bits, 34 years."""
    return (<uint64_t>entry.created_high << 32) | track.created


cdef inline void set_created(Entry* entry, Track* track, uint64_t now) noexcept nogil:
    entry.created_high = <uint8_t>(now >> 32)
    track.created = <uint32_t>now


cdef inline uint32_t age_of(const Entry* entry, uint64_t now) noexcept nogil:
    """Milliseconds since a flow's last packet; 0 for one noted after the clock was read.

    Timeouts are below 25 days and the wheel examines every flow once in a turn, so an entry that is
    older than its state allows is met long before 37 days.
    """
    cdef uint32_t age = <uint32_t>now - entry.last_seen
    return 0 if age > AGE_MAX else age
