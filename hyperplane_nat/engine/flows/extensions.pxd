# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Where the extensions of entries lie, in pages that exist when they are used.

Theory of operation
-------------------
The last part of the map has room for an extension of every entry, but no memory: the file is longer
than what was allocated of it. Memory is had a chunk at a time, when the first entry of a chunk needs its
extension, and kept. It is asked for and not merely touched (MADV_POPULATE_WRITE, Linux 5.14): where a
tmpfs is full that is an answer and not a SIGBUS, and whoever wanted the extension goes without.

Which chunks there are is the forwarder's own memory. A successor has them from its entries: it asks
again for those that these need.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from hyperplane_nat.engine.flows.flow_table cimport FlowTable
from hyperplane_nat.engine.state.layout cimport EXTENSION_BYTES, EXTENSION_CHUNK

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifndef MADV_POPULATE_WRITE
    #define MADV_POPULATE_WRITE 23
    #endif
    static inline int hp_populate(void* start, size_t length) {
        return madvise(start, length, MADV_POPULATE_WRITE);
    }
    """
    int hp_populate(void* start, size_t length) noexcept nogil


cdef inline bint extension_open(FlowTable* table, uint32_t flow) noexcept nogil:
    """Have memory for the extension of an entry; False where there is none."""
    cdef uint32_t chunk = flow // EXTENSION_CHUNK, first = chunk * EXTENSION_CHUNK
    cdef uint32_t count = min(<uint32_t>EXTENSION_CHUNK, table.flows_max - first)
    # The part ends with a whole page.
    cdef uint64_t length = (<uint64_t>count * EXTENSION_BYTES + 4095) // 4096 * 4096
    if not table.chunks[chunk]:
        table.chunks[chunk] = hp_populate(&table.extensions[first], length) == 0
    return table.chunks[chunk]
