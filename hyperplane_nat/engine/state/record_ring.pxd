# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The ring of flow records in its file, as both of its ends see it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport ROLE_INTERNET_GATEWAY
from hyperplane_nat.engine.state.barriers cimport HP_LOAD64_ACQUIRE, HP_STORE64_RELEASE
from hyperplane_nat.engine.state.layout cimport (
    AttachmentRecord,
    End,
    Entry,
    Extension,
    FlowRecord,
    Header,
    RecordRing,
    Way,
    age_of,
    attachments_of,
    destination_translated,
    extensions_of,
    first_host,
    hop_of,
    is_balanced,
    records_of,
    rewrites_destination,
    rewrites_source,
)

cdef enum:
    RING_HEADER_BYTES = 4096


cdef inline uint32_t* ring_lost(RecordRing* ring) noexcept nogil:
    """Records lost of each interface, by its number, and behind them of each host."""
    return <uint32_t*>(<uint8_t*>ring + RING_HEADER_BYTES)


cdef inline FlowRecord* ring_records(RecordRing* ring) noexcept nogil:
    """The records; `capacity` is a power of two."""
    cdef uint64_t lost = (<uint64_t>ring.places * 4 + 4095) // 4096 * 4096
    return <FlowRecord*>(<uint8_t*>ring + RING_HEADER_BYTES + lost)


cdef inline bint ring_fits(const RecordRing* ring, uint64_t bytes) noexcept nogil:
    """Whether a mapping of so many bytes holds what its header says."""
    cdef uint64_t lost = (<uint64_t>ring.places * 4 + 4095) // 4096 * 4096
    return (
        bytes >= RING_HEADER_BYTES
        and ring.capacity != 0
        and (ring.capacity & (ring.capacity - 1)) == 0
        and RING_HEADER_BYTES + lost + <uint64_t>ring.capacity * sizeof(FlowRecord) <= bytes
    )


cdef inline uint64_t ring_head(RecordRing* ring) noexcept nogil:
    """Records ever written; those below it may be read."""
    return HP_LOAD64_ACQUIRE(&ring.head)


cdef inline void ring_take(RecordRing* ring, uint64_t tail) noexcept nogil:
    """Everything below `tail` has been read."""
    HP_STORE64_RELEASE(&ring.tail, tail)


cdef inline bint is_public(const Header* header, uint16_t attachment) noexcept nogil:
    """Whether an end of a flow is a public address of an internet gateway."""
    return (
        header.slots_max <= attachment < attachments_of(header)
        and records_of(header)[attachment].role == ROLE_INTERNET_GATEWAY
    )


cdef inline bint is_address(const Header* header, uint16_t attachment) noexcept nogil:
    """Whether an attachment is an interface address of the map."""
    return header.slots_max <= attachment < first_host(header)


cdef inline void way_fill(
    Way* way, const Header* header, const Entry* entry, const Extension* extension
) noexcept nogil:
    """How a flow goes on from its client; what a reader of another process has copied may be anything."""
    cdef const AttachmentRecord* records = records_of(header)
    cdef bint balanced = is_balanced(entry, extension)
    cdef End far
    memset(way, 0, sizeof(Way))
    if balanced:
        way.hop = extension.node
    elif rewrites_source(entry) and is_address(header, entry.responder):
        way.hop = records[entry.responder].serves
    if not is_address(header, way.hop):
        way.hop = 0
        way.internet = is_public(header, entry.responder) or is_public(header, entry.originator)
        return
    way.internet = not balanced
    if balanced:
        way.endpoint = extension.endpoint
        way.target = extension.target
    far = destination_translated(entry, extension)
    way.hop_address = records[way.hop].address
    way.source_address = entry.translated_address if balanced else way.hop_address
    way.source_port = entry.translated_port
    way.far_address = far.address
    way.far_port = far.port


cdef inline void record_fill(
    FlowRecord* record, const Header* header, const Entry* entry, uint64_t now
) noexcept nogil:
    """What the entry itself says of its flow; `generation` and `created` are its place's, and so is
    `entry`, which is set.

    A flow by a NAT gateway is one of the environment's interface, with the port that it has there; one
    to a public address of a host is one to the host's own.  A balanced one of a host is its client's
    and the node's.
    """
    cdef const Extension* extension = &extensions_of(header)[record.entry]
    cdef uint16_t hop = hop_of(entry, extension)
    cdef int side
    record.protocol = entry.protocol
    record.state = entry.state
    record.inside_address = entry.source_address
    record.remote_address = entry.destination_address
    record.nat_address = entry.translated_address
    record.inside_port = entry.source_port
    record.remote_port = entry.destination_port
    record.nat_port = entry.translated_port
    record.originator = entry.originator
    record.responder = entry.responder
    if is_address(header, hop):
        record.responder = hop
        record.nat_address = records_of(header)[hop].address
        record.nat_port = extension.hop_port
    elif is_balanced(entry, extension):
        if entry.originator >= header.slots_max:
            record.responder = extension.node
    elif rewrites_destination(entry, extension) and not rewrites_source(entry):
        record.remote_address = entry.translated_address
        record.remote_port = entry.translated_port
    record.reason = 0
    record.flags = 0
    record.last_seen = now - age_of(entry, now)
    for side in range(2):
        record.packets[side] = entry.packets[side]
        record.bytes[side] = entry.bytes[side]
    way_fill(&record.way, header, entry, extension)
