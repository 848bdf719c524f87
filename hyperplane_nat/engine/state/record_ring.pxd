# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The ring of flow records in its file, as both of its ends see it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state.barriers cimport HP_LOAD64_ACQUIRE, HP_STORE64_RELEASE
from hyperplane_nat.engine.state.layout cimport (
    Entry,
    Extension,
    FlowRecord,
    Header,
    RecordRing,
    age_of,
    extensions_of,
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


cdef inline void record_fill(
    FlowRecord* record, const Header* header, const Entry* entry, uint64_t now
) noexcept nogil:
    """What the entry itself says of its flow; `generation` and `created` are its place's, and so is
    `entry`, which is set.

    A flow by a NAT gateway is one of the environment's interface, with the port that it has there; one
    to a public address of a host is one to the host's own.  A balanced one is its client's and the
    node's, or the endpoint's.
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
    if hop:
        record.responder = hop
        record.nat_address = records_of(header)[hop].address
        record.nat_port = extension.hop_port
    elif is_balanced(entry, extension):
        if entry.originator >= header.slots_max:
            record.responder = extension.endpoint if extension.endpoint else extension.node
    elif rewrites_destination(entry, extension) and not rewrites_source(entry):
        record.remote_address = entry.translated_address
        record.remote_port = entry.translated_port
    record.reason = 0
    record.flags = is_balanced(entry, extension) and extension.endpoint == record.responder
    record.last_seen = now - age_of(entry, now)
    for side in range(2):
        record.packets[side] = entry.packets[side]
        record.bytes[side] = entry.bytes[side]
