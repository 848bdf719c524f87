# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Identifications of the packets that leave from an address of ours.

Theory of operation
-------------------
The environments behind an address choose their identifications without knowing of each other, and a
receiver that puts fragments together goes by source, destination, protocol and identification
(RFC 791): two datagrams that have all four in common become a mixture. So whatever is or may yet be
fragmented, which is everything but an atomic datagram (RFC 6864 section 4), gets one that is unique
for its new source, its destination and its protocol (RFC 6864 section 5.3.1, RFC 7857 section 9).

As in Linux there is a counter for each, and since there are more of them than counters, several share
one that a keyed hash chooses; each begins at a place of its own, which is another part of that hash.
A counter comes round after 65,536 packets, within a second at the rates that we forward; no receiver
expects more of a sender than that (RFC 6864 section 5.2), but a datagram that was begun and is not
whole yet keeps its identification from others until it is given up.

Such holdings are in the order in which their counter will come to them again: what was counted last
is last, and a holding that is stepped over goes to the end. So only the first has to be looked at,
and each is stepped over once in a round.

A frame that is yet to be segmented takes as many as it has segments: the kernel counts up from the
first. One of more segments than there are identifications in a row between two that are held, which
takes segments of a few bytes, runs into one.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.wire.checksum cimport load16, swap16
from hyperplane_nat.engine.wire.packet cimport (
    DONT_FRAGMENT,
    FRAGMENT_OFFSET,
    MORE_FRAGMENTS,
    Packet,
)
from hyperplane_nat.engine.wire.siphash cimport HashKey, siphash

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


cdef inline uint64_t hash_of(
    const IdentificationTable* table, uint32_t source, uint32_t destination, uint8_t protocol
) noexcept nogil:
    return siphash(&table.key, (<uint64_t>source << 32) | destination, protocol)


cdef inline uint32_t counter_of(uint64_t hash) noexcept nogil:
    return <uint32_t>hash & (COUNTERS - 1)


cdef inline uint16_t beginning_of(uint64_t hash) noexcept nogil:
    return <uint16_t>(hash >> 48)


cdef inline void append(IdentificationTable* table, uint32_t holder) noexcept nogil:
    """Put a holding behind all others of its counter."""
    cdef Holding* holding = &table.holdings[holder]
    cdef Counter* counter = &table.counters[holding.counter]
    holding.following = 0
    holding.before = counter.last
    if counter.last:
        table.holdings[counter.last - 1].following = <uint16_t>(holder + 1)
    else:
        counter.first = <uint16_t>(holder + 1)
    counter.last = <uint16_t>(holder + 1)


cdef inline void remove(IdentificationTable* table, uint32_t holder) noexcept nogil:
    cdef Holding* holding = &table.holdings[holder]
    cdef Counter* counter = &table.counters[holding.counter]
    if holding.before:
        table.holdings[holding.before - 1].following = holding.following
    else:
        counter.first = holding.following
    if holding.following:
        table.holdings[holding.following - 1].before = holding.before
    else:
        counter.last = holding.before


cdef inline void step_over(
    IdentificationTable* table, Counter* counter, uint32_t count
) noexcept nogil:
    """Move a counter to where `count` values in a row are nobody's."""
    cdef uint32_t begun_with = counter.first, holder
    cdef Holding* holding
    while True:
        holder = counter.first - 1
        holding = &table.holdings[holder]
        if <uint16_t>(holding.value - counter.next) >= count:
            return
        counter.next = holding.value + 1
        remove(table, holder)
        append(table, holder)
        if counter.first == begun_with:
            return


cdef inline uint16_t identification_next(
    IdentificationTable* table,
    uint32_t source,
    uint32_t destination,
    uint8_t protocol,
    uint32_t count,
) noexcept nogil:
    """The first of `count` consecutive identifications, modulo 65536, for packets from `source`.

    Addresses are in network order, the result is in host order.
    """
    cdef uint64_t hash = hash_of(table, source, destination, protocol)
    cdef Counter* counter = &table.counters[counter_of(hash)]
    cdef uint16_t first
    if counter.first:
        step_over(table, counter, count)
    first = counter.next
    counter.next = <uint16_t>(first + count)
    return <uint16_t>(first + beginning_of(hash))


cdef inline void identification_hold(
    IdentificationTable* table,
    uint32_t holder,
    uint32_t source,
    uint32_t destination,
    uint8_t protocol,
    uint16_t identification,
) noexcept nogil:
    """Keep the identification that was given last from others, until `holder` releases it."""
    cdef uint64_t hash = hash_of(table, source, destination, protocol)
    table.holdings[holder].counter = <uint16_t>counter_of(hash)
    table.holdings[holder].value = <uint16_t>(identification - beginning_of(hash))
    append(table, holder)


cdef inline void identification_release(IdentificationTable* table, uint32_t holder) noexcept nogil:
    """The datagram whose number `holder` is holds an identification no longer."""
    remove(table, holder)
