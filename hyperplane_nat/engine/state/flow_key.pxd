# SPDX-License-Identifier: Apache-2.0
# By what a packet finds its flow, and an entry is found.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state.layout cimport (
    End,
    Entry,
    Extension,
    destination_translated,
    source_translated,
)

cdef struct FlowKey:
    uint64_t first
    uint64_t second


cdef inline FlowKey flow_key(
    uint8_t protocol,
    uint16_t attachment,
    uint32_t source,
    uint16_t source_port,
    uint32_t destination,
    uint16_t destination_port,
) noexcept nogil:
    """Key of one direction of a flow: what a packet of it says, and from which attachment it comes,
    so that tenants with the same addresses never share a key.
    """
    cdef FlowKey key
    key.first = (<uint64_t>source << 32) | destination
    key.second = (
        (<uint64_t>source_port << 48)
        | (<uint64_t>destination_port << 32)
        | (<uint64_t>attachment << 16)
        | (<uint64_t>protocol << 8)
    )
    return key


cdef inline FlowKey mapping_key(
    int side, uint8_t protocol, uint16_t attachment, uint32_t address, uint16_t port
) noexcept nogil:
    """Key of a mapping by its own end on this side; the other is everybody."""
    if side:
        return flow_key(protocol, attachment, 0, 0, address, port)
    return flow_key(protocol, attachment, address, port, 0, 0)


cdef inline FlowKey entry_key(
    const Entry* entry, const Extension* extension, int side
) noexcept nogil:
    """Key of one direction of the flow in an entry."""
    cdef End source, destination
    if side:
        source = source_translated(entry)
        destination = destination_translated(entry, extension)
        return flow_key(
            entry.protocol,
            entry.responder,
            destination.address,
            destination.port,
            source.address,
            source.port,
        )
    return flow_key(
        entry.protocol,
        entry.originator,
        entry.source_address,
        entry.source_port,
        entry.destination_address,
        entry.destination_port,
    )
