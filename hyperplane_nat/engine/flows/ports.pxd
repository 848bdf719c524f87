# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.flows.flow_table cimport FlowTable
from hyperplane_nat.engine.state.layout cimport Header, Remote
from hyperplane_nat.engine.wire.siphash cimport HashKey

# Which ports of one crowded remote endpoint are taken.  `words` holds a bit per port of the
# range, `full` a bit per word without a free port, `top` a bit per word of `full`.
cdef struct Bitmap:
    uint32_t scanned
    uint32_t next_free
    uint64_t top
    uint64_t* full
    uint64_t* words

cdef struct PortAllocator:
    FlowTable* table
    Remote* remotes
    const uint32_t* interface_addresses
    uint32_t remote_cells
    uint32_t remotes_used
    uint32_t first
    uint32_t count
    uint32_t limit
    uint32_t crowded
    Bitmap* bitmaps
    uint32_t bitmaps_count
    uint32_t bitmap_free
    uint32_t full_words
    uint32_t words
    uint64_t* storage
    uint64_t storage_words
    HashKey key
    HashKey random_key
    uint64_t random_counter


cdef void ports_init(
    PortAllocator* ports, FlowTable* table, Header* header, HashKey key, HashKey random_key
) noexcept nogil
cdef int ports_configure(
    PortAllocator* ports, uint32_t first, uint32_t last, uint32_t limit
) noexcept nogil
cdef void ports_clear(PortAllocator* ports, bint blank) noexcept nogil
cdef void ports_release_memory(PortAllocator* ports) noexcept nogil
cdef uint32_t ports_random(PortAllocator* ports, uint32_t bound) noexcept nogil
cdef int ports_take(
    PortAllocator* ports,
    uint8_t protocol,
    uint16_t interface,
    uint32_t address,
    uint16_t remote_port,
    uint16_t* nat_port,
) noexcept nogil
cdef bint ports_adopt(
    PortAllocator* ports,
    uint8_t protocol,
    uint16_t interface,
    uint32_t address,
    uint16_t remote_port,
    uint16_t nat_port,
) noexcept nogil
cdef void ports_note(
    PortAllocator* ports,
    uint8_t protocol,
    uint16_t interface,
    uint32_t address,
    uint16_t remote_port,
    uint16_t nat_port,
) noexcept nogil
cdef void ports_give_back(
    PortAllocator* ports,
    uint8_t protocol,
    uint16_t interface,
    uint32_t address,
    uint16_t remote_port,
    uint16_t nat_port,
) noexcept nogil
cdef Remote* ports_remote(
    PortAllocator* ports, uint8_t protocol, uint16_t interface, uint32_t address, uint16_t port
) noexcept nogil
cdef int ports_bit(const PortAllocator* ports, const Remote* remote, uint16_t nat_port) noexcept nogil
