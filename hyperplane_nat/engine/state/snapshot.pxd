# SPDX-License-Identifier: Apache-2.0
# How an entry is read by one process while another writes it.
#
# `generation` is a sequence number.  It is odd while an entry is free or while what its flow is (its
# key, its owner, when it began) is written, and even while that stands; each step is one more.  A
# reader takes a copy for true when the number was even before and the same after.  What a packet
# changes, counters and `last_seen`, is no part of this: each is one aligned word.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from hyperplane_nat.engine.state._constants cimport STATE_FREE
from hyperplane_nat.engine.state.barriers cimport (
    HP_FENCE_ACQUIRE,
    HP_FENCE_RELEASE,
    HP_LOAD16,
    HP_LOAD16_ACQUIRE,
    HP_STORE16,
    HP_STORE16_RELEASE,
)
from hyperplane_nat.engine.state.layout cimport (
    AttachmentRecord,
    End,
    Entry,
    Extension,
    Header,
    Track,
    attachments_of,
    created_of,
    extensions_of,
    first_host,
    is_extended,
    keeps_source,
    records_of,
    rewrites_source,
)

# An address that a flow has a port of, on its way to its responder, and towards whom it has it.
cdef struct Hop:
    uint32_t address
    uint16_t port
    uint16_t attachment
    End remote

# The target is that of a balanced flow; of another one it is of port 0.
cdef struct Hops:
    Hop hops[3]
    uint32_t count
    End target


cdef inline void entry_unsettle(Entry* entry) noexcept nogil:
    """What the entry's flow is will be written: nobody is to believe a copy until it is settled."""
    HP_STORE16(&entry.generation, entry.generation | 1)
    HP_FENCE_RELEASE()


cdef inline void entry_settle(Entry* entry) noexcept nogil:
    """It is written, whether by this process or by one that was killed just then."""
    HP_STORE16_RELEASE(&entry.generation, <uint16_t>((entry.generation | 1) + 1))


cdef inline bint entry_copy(
    const Header* header, uint64_t number, Entry* entry, uint64_t* created
) noexcept nogil:
    """Copy a committed entry and, unless NULL, when it began (ms); False when there is none to copy.

    A reader of another process may call it for any number below `flows_max`.
    """
    cdef const uint8_t* base = <const uint8_t*>header
    cdef const Entry* source = <const Entry*>(base + header.entries_offset) + number
    cdef uint16_t generation = HP_LOAD16_ACQUIRE(&source.generation)
    if generation & 1 or source.state == STATE_FREE:
        return False
    memcpy(entry, source, sizeof(Entry))
    if created != NULL:
        created[0] = created_of(entry, <const Track*>(base + header.tracks_offset) + number)
    HP_FENCE_ACQUIRE()
    return HP_LOAD16(&source.generation) == generation and entry.state != STATE_FREE


cdef inline bint entry_stands(
    const Header* header, uint64_t number, const Entry* entry
) noexcept nogil:
    """Whether what was read of a copied entry's extension since belongs to it."""
    cdef const uint8_t* base = <const uint8_t*>header
    cdef const Entry* source = <const Entry*>(base + header.entries_offset) + number
    HP_FENCE_ACQUIRE()
    return HP_LOAD16(&source.generation) == entry.generation


cdef inline bint hops_copy(
    const Header* header, uint64_t number, const Entry* entry, Hops* hops
) noexcept nogil:
    """The hops of a copied entry whose flow goes by a NAT gateway or a load balancer's node, none of
    another; False when the entry has changed since.
    """
    cdef const AttachmentRecord* records = records_of(header)
    cdef Extension extension
    cdef uint16_t gateway = 0
    cdef End remote = End(entry.destination_address, entry.destination_port)
    hops.count = 0
    hops.target = End(0, 0)
    if is_extended(entry):
        memcpy(&extension, &extensions_of(header)[number], sizeof(Extension))
        if not entry_stands(header, number, entry):
            return False
        if header.slots_max <= extension.hop < first_host(header):
            hops.hops[0] = Hop(
                records[extension.hop].address, extension.hop_port, extension.hop, remote
            )
            hops.count = 1
        if header.slots_max <= extension.node < first_host(header):
            balanced_hops(header, entry, &extension, hops)
            return True
    if rewrites_source(entry) and header.slots_max <= entry.responder < first_host(header):
        gateway = records[entry.responder].serves
    if not header.slots_max <= gateway < first_host(header):
        hops.count = 0
        return True
    hops.hops[hops.count] = Hop(records[gateway].address, entry.translated_port, gateway, remote)
    hops.count += 1
    return True


cdef inline void balanced_hops(
    const Header* header, const Entry* entry, const Extension* extension, Hops* hops
) noexcept nogil:
    """Those of a balanced flow: the node's is the last, with its port if the source is the node's, before it
    that of an endpoint, which has none.
    """
    cdef End target = End(extension.destination_address, extension.destination_port)
    cdef bint of_environment = entry.originator < header.slots_max
    hops.target = target
    if of_environment and hops.count == 0:
        hops.hops[0] = Hop(
            entry.translated_address, entry.translated_port, entry.responder, target
        )
        hops.count = 1
    elif not keeps_source(entry):
        if header.slots_max <= extension.endpoint < first_host(header):
            hops.hops[hops.count] = Hop(
                entry.destination_address,
                0,
                extension.endpoint,
                End(entry.destination_address, entry.destination_port),
            )
            hops.count += 1
        hops.hops[hops.count] = Hop(
            entry.translated_address, entry.translated_port, entry.responder, target
        )
        hops.count += 1
        return
    hops.hops[hops.count] = Hop(
        records_of(header)[extension.node].address, 0, extension.node, target
    )
    hops.count += 1


cdef inline bint of_host(const Header* header, const Entry* entry) noexcept nogil:
    """Whether an entry is of a host's flow, between attachments of the map."""
    return (
        header.slots_max <= entry.originator < attachments_of(header)
        and header.slots_max <= entry.responder < attachments_of(header)
    )


cdef inline bint attached(const Header* header, const Entry* entry) noexcept nogil:
    """Whether an entry is of an environment by an interface of the map: nobody's is not."""
    return (
        entry.originator < header.slots_max
        and header.slots_max <= entry.responder < first_host(header)
    )
