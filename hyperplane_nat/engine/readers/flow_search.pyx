# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=True, wraparound=False
"""Finding flows in a state map that another process writes.

Theory of operation
-------------------
The index of the map is hashed under a key that only the forwarder knows, so a reader goes through
the entries instead, once for many keys: they stand in a table of its own, and each entry in use is
looked up in it with both its keys. A million entries take some 30 milliseconds, without the
interpreter's lock. Nothing is locked in the map: an entry may be another's as soon as it was read,
so whoever uses what was found reads the entry again and compares.
"""

from collections import namedtuple

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.state.flow_key cimport FlowKey, entry_key, flow_key
from hyperplane_nat.engine.state.layout cimport (
    Entry,
    Extension,
    Header,
    extensions_of,
    first_host,
)
from hyperplane_nat.engine.wire.siphash cimport HashKey, siphash
from hyperplane_nat.engine.state.snapshot cimport entry_copy

import os

SearchKey = namedtuple(
    "SearchKey",
    [
        "side",
        "protocol",
        "owner",
        "remote_address",
        "remote_port",
        "local_address",
        "local_port",
    ],
)
SearchKey.__doc__ = """One direction of a flow; addresses and ports as they stand in a packet.

`owner` is the slot on the inside, the interface's number on the outside, and a host's number at a host,
of which the flow is at whichever end it has it.
"""

cdef struct Cell:
    FlowKey key
    int64_t found
    bint used


cdef inline uint64_t probe(
    const Cell* cells, uint64_t mask, const HashKey* hash_key, FlowKey key
) noexcept nogil:
    """Position of `key`, or of the free cell where it belongs."""
    cdef uint64_t position = siphash(hash_key, key.first, key.second) & mask
    while cells[position].used and (
        cells[position].key.first != key.first or cells[position].key.second != key.second
    ):
        position = (position + 1) & mask
    return position


cdef FlowKey packed(const Header* header, object key) except *:
    cdef uint32_t remote, local
    cdef uint16_t remote_port, local_port, attachment = key.owner
    cdef bytes text = key.remote_address + key.remote_port + key.local_address + key.local_port
    if len(text) != 12:
        raise ValueError("a search key has 4 bytes of address and 2 of port for each end")
    memcpy(&remote, <const char*>text, 4)
    memcpy(&remote_port, <const char*>text + 4, 2)
    memcpy(&local, <const char*>text + 6, 4)
    memcpy(&local_port, <const char*>text + 10, 2)
    if key.side == SIDE_OUTSIDE:
        attachment += header.slots_max
        return flow_key(key.protocol, attachment, remote, remote_port, local, local_port)
    if key.side == SIDE_HOST:
        attachment += first_host(header)
    return flow_key(key.protocol, attachment, local, local_port, remote, remote_port)


def find_flows(const unsigned char[::1] memory not None, list keys not None):
    """The entry of each key, None where there is no such flow."""
    cdef const Header* header = <const Header*>&memory[0]
    cdef Entry entry
    cdef const Extension* extensions = extensions_of(header)
    cdef uint64_t watermark = min(header.entries_watermark, header.flows_max)
    cdef uint64_t cell_count = 4
    cdef uint64_t mask, position, i
    cdef HashKey hash_key
    cdef FlowKey key
    cdef Cell* cells
    cdef int side
    cdef bytes secret = os.urandom(16)
    memcpy(&hash_key, <const char*>secret, 16)
    while cell_count < 4 * <uint64_t>len(keys):
        cell_count *= 2
    mask = cell_count - 1
    cells = <Cell*>calloc(cell_count, sizeof(Cell))
    if cells is NULL:
        raise MemoryError
    try:
        for wanted in keys:
            key = packed(header, wanted)
            position = probe(cells, mask, &hash_key, key)
            cells[position].key = key
            cells[position].found = -1
            cells[position].used = True
        with nogil:
            for i in range(watermark):
                if not entry_copy(header, i, &entry, NULL):
                    continue
                for side in range(2):
                    position = probe(
                        cells, mask, &hash_key, entry_key(&entry, &extensions[i], side)
                    )
                    if cells[position].used:
                        cells[position].found = <int64_t>i
        result = []
        for wanted in keys:
            position = probe(cells, mask, &hash_key, packed(header, wanted))
            result.append(None if cells[position].found < 0 else cells[position].found)
        return result
    finally:
        free(cells)
