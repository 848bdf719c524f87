# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.wire.checksum cimport load16, swap16
from hyperplane_nat.engine.wire.packet cimport DONT_FRAGMENT, FRAGMENT_OFFSET, MORE_FRAGMENTS, Packet
from hyperplane_nat.engine.wire.siphash cimport HashKey

cdef enum:
    # A power of two; Linux has 2,048 at least.
    COUNTERS = 8192
    # Whoever holds an identification is known by a number below this.
    HOLDERS = 4096

# What was counted last is what is given next.  `first` and `last` are holders, as number plus one.
cdef struct Counter:
    uint16_t next
    uint16_t first
    uint16_t last

# What a holder keeps of a counter; `following` and `before` are holders, as number plus one.
cdef struct Holding:
    uint16_t following
    uint16_t before
    uint16_t counter
    uint16_t value

# Zeroed memory with a key is a table that has given nothing yet.
cdef struct IdentificationTable:
    HashKey key
    Counter counters[COUNTERS]
    Holding holdings[HOLDERS]


cdef inline uint16_t identification_of(
    IdentificationTable* table, const Packet* p, uint32_t source
) noexcept nogil:
    """The identification, in network order, that a packet leaves with from the address `source`.

    An atomic datagram keeps its own (RFC 6864 section 4.1).
    """
    if load16(p.ip + 6) & swap16(DONT_FRAGMENT | MORE_FRAGMENTS | FRAGMENT_OFFSET) == swap16(
        DONT_FRAGMENT
    ):
        return load16(p.ip + 4)
    return swap16(
        identification_next(table, source, p.destination, p.protocol, p.segments)
    )


cdef uint16_t identification_next(IdentificationTable* table, uint32_t source, uint32_t destination, uint8_t protocol, uint32_t count) noexcept nogil
cdef void identification_hold(IdentificationTable* table, uint32_t holder, uint32_t source, uint32_t destination, uint8_t protocol, uint16_t identification) noexcept nogil
cdef void identification_release(IdentificationTable* table, uint32_t holder) noexcept nogil
