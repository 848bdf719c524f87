# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Which flows are in the kernel's flow cache, and what is to become of its keys.

Theory of operation
-------------------
A cached flow has a number of its own, n: its records are lines 2n, of what its originator sends, and
2n + 1. A number goes round::

    FREE --promotion--> NEW --keys are put--> KEPT --demotion--> GONE --keys are away--> RESTING --> FREE

Keys are the kernel's and changed by a system call, which is never made here: numbers that are NEW or
GONE wait in `changes`, each once, in the order in which it happened, for whoever makes them. One that
is GONE before its keys were put has them removed all the same. A program may still be at work with a
line whose key is away, and would send a packet to whom it means next: so a number rests until a grace
period has passed (`CacheControl.grace`), and keeps what it says until then.

What is free says nothing: the source of its first line is 0, which no flow has. So a successor knows
from the records which numbers are in use. One that was at rest is GONE for it, and its keys may lead to
another number by then: those stay.

Flows that may deserve it are noted in `candidates`, a cell for each by its number, which the next one
takes: what does not fit is promoted later.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from hyperplane_nat.engine.state.cache_records cimport (
    CACHE_LIMITS,
    CacheControl,
    CacheLink,
    CacheRecord,
)
from hyperplane_nat.engine.state.layout cimport NIL

cdef enum:
    CANDIDATES = 4096
    ACTIVATIONS_MAX = 512

cdef enum:
    CACHED_FREE = 0
    CACHED_NEW = 1
    CACHED_KEPT = 2
    CACHED_GONE = 3
    CACHED_RESTING = 4

# `counted`: frames of each direction that the program has counted while it was armed, and that have
# passed here; `armed`: a bit for each direction that is; `waits`: how many sweeps have found frames of
# it that have not; `adopted`: a predecessor has promoted it, and its next hop may not be known here.
cdef struct Cached:
    uint32_t flow
    uint32_t counted[2]
    uint8_t state
    uint8_t armed
    uint8_t queued
    uint8_t waits
    uint8_t adopted
    # When it was asked last which way its packets go.
    uint32_t revision

# Since when its packets are counted, and how many it had then; while that lies ahead it is not to be
# promoted.
cdef struct Candidate:
    uint32_t flow
    uint32_t since
    uint64_t packets

# Numbers, first in, first out; as many as there are.
cdef struct Numbers:
    uint32_t* numbers
    uint32_t first
    uint32_t count

cdef struct FlowCache:
    CacheRecord* records
    CacheLink* links
    CacheControl* control
    uint32_t numbers_max
    # Of attachments that the program knows.
    uint32_t links_max
    uint32_t used
    # Numbers at or above it were never used.
    uint32_t watermark
    # By entry, NIL where it is not cached; the others by number.
    uint32_t* number_of
    Cached* cached
    Numbers free
    Numbers changes
    Numbers resting
    # How many of `resting` the grace period is for that was asked for last.
    uint32_t resting_asked
    # Everything is configured: a change is one, and not the first that is said of an attachment.
    bint settled
    # Another one with whatever decides which way packets go.
    uint32_t revision
    # How many cached flows have each of the program's limits.
    uint32_t limit_users[CACHE_LIMITS]
    uint32_t sweep_position
    # Lines whose frames were seen in this batch, to be activated behind it.
    uint32_t activations
    uint32_t lines[ACTIVATIONS_MAX]
    Candidate candidates[CANDIDATES]


cdef inline void numbers_add(Numbers* numbers, uint32_t most, uint32_t number) noexcept nogil:
    cdef uint32_t place = numbers.first + numbers.count
    numbers.numbers[place if place < most else place - most] = number
    numbers.count += 1


cdef inline uint32_t numbers_take(Numbers* numbers, uint32_t most) noexcept nogil:
    """The first, or NIL."""
    cdef uint32_t number
    if numbers.count == 0:
        return NIL
    number = numbers.numbers[numbers.first]
    numbers.first = numbers.first + 1 if numbers.first + 1 < most else 0
    numbers.count -= 1
    return number


cdef inline void cache_release(FlowCache* cache) noexcept:
    if cache != NULL:
        free(cache.number_of)
        free(cache.cached)
        free(cache.free.numbers)
        free(cache.changes.numbers)
        free(cache.resting.numbers)
        free(cache)


cdef inline FlowCache* cache_make(uint32_t numbers_max, uint32_t flows_max) noexcept:
    """An empty one; NULL without memory."""
    cdef FlowCache* cache = <FlowCache*>calloc(1, sizeof(FlowCache))
    if cache == NULL:
        return NULL
    cache.numbers_max = numbers_max
    cache.number_of = <uint32_t*>calloc(flows_max, 4)
    cache.cached = <Cached*>calloc(numbers_max, sizeof(Cached))
    cache.free.numbers = <uint32_t*>calloc(numbers_max, 4)
    cache.changes.numbers = <uint32_t*>calloc(numbers_max, 4)
    cache.resting.numbers = <uint32_t*>calloc(numbers_max, 4)
    if (
        cache.number_of == NULL
        or cache.cached == NULL
        or cache.free.numbers == NULL
        or cache.changes.numbers == NULL
        or cache.resting.numbers == NULL
    ):
        cache_release(cache)
        return NULL
    memset(cache.number_of, 0xFF, <uint64_t>flows_max * 4)
    memset(cache.candidates, 0xFF, sizeof(cache.candidates))
    return cache


cdef inline uint32_t cache_number(FlowCache* cache) noexcept nogil:
    """A number that is free, or NIL."""
    cdef uint32_t number = numbers_take(&cache.free, cache.numbers_max)
    if number == NIL and cache.watermark < cache.numbers_max:
        number = cache.watermark
        cache.watermark += 1
    return number


cdef inline void cache_change(FlowCache* cache, uint32_t number, uint8_t state) noexcept nogil:
    """A number's keys are to be put, or to be removed."""
    cdef Cached* cached = &cache.cached[number]
    cached.state = state
    if not cached.queued:
        cached.queued = 1
        numbers_add(&cache.changes, cache.numbers_max, number)


cdef inline void cache_rest(FlowCache* cache, uint32_t number) noexcept nogil:
    """The keys of a number are away."""
    cache.cached[number].state = CACHED_RESTING
    numbers_add(&cache.resting, cache.numbers_max, number)
