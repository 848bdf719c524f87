# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The engine's side of the flow cache, as Python sees it.

Theory of operation
-------------------
Records, links and control are memory: a test's, or that of the maps. Which keys are to be put and
removed is told (`take_changes`), and whoever has done it says so (`removed`, `refused`): no system call
is made here. The rest is `engine/flows/caching.pxd` and `engine/nat/cache_sweep.pxd`.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.flows.cache_table cimport (
    CACHED_FREE,
    CACHED_GONE,
    CACHED_KEPT,
    CACHED_NEW,
    FlowCache,
    cache_make,
    cache_rest,
    numbers_add,
    numbers_take,
)
from hyperplane_nat.engine.flows.caching cimport cache_demote, cache_describe, cache_link
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.nat.cache_sweep cimport (
    audit_cache,
    cache_adopt,
    cache_limits,
    cache_sweep,
)
from hyperplane_nat.engine.nat.engine cimport Engine
from hyperplane_nat.engine.state.cache_records cimport (
    CacheControl,
    CacheKey,
    CacheLink,
    CacheRecord,
    protocol_of,
)
from hyperplane_nat.engine.state.layout cimport NIL

from typing import NamedTuple


class KeyChange(NamedTuple):
    """What is to be done with both keys of a cached flow: see the type stub."""

    number: int
    put: bool
    keys: tuple


cdef class CachedFlows:
    """The flows of one engine that are cached. See the type stub for the signatures."""

    cdef Engine engine
    cdef Nat* nat
    cdef FlowCache* cache
    cdef unsigned char[::1] records
    cdef unsigned char[::1] links
    cdef unsigned char[::1] control

    def __init__(self, Engine engine not None, records, links, control, *, clock_offset_ms=0):
        cdef FlowCache* cache
        if self.nat != NULL or engine.nat.cache != NULL:
            raise RuntimeError("an engine has one flow cache")
        self.records = records
        self.links = links
        self.control = control
        if (
            self.records.shape[0] < <Py_ssize_t>(2 * sizeof(CacheRecord))
            or self.links.shape[0] < <Py_ssize_t>sizeof(CacheLink)
            or self.control.shape[0] < <Py_ssize_t>sizeof(CacheControl)
        ):
            raise ValueError("no room for a cached flow")
        cache = cache_make(
            <uint32_t>(self.records.shape[0] // (2 * sizeof(CacheRecord))),
            engine.nat.table.flows_max,
        )
        if cache == NULL:
            raise MemoryError
        cache.records = <CacheRecord*>&self.records[0]
        cache.links = <CacheLink*>&self.links[0]
        cache.control = <CacheControl*>&self.control[0]
        cache.links_max = min(
            <uint32_t>(self.links.shape[0] // sizeof(CacheLink)), engine.nat.attachments_max
        )
        self.engine = engine
        self.nat = engine.nat
        self.cache = cache
        engine.nat.cache = cache
        for number in range(min(cache.links_max, engine.nat.attachments_used)):
            if engine.nat.attachments[<uint32_t>number].active:
                cache_describe(engine.nat, number)
        cache_limits(engine.nat)
        self.set_clock(clock_offset_ms)
        cache_adopt(engine.nat)

    @property
    def used(self):
        """How many flows are cached."""
        return self.cache.used

    @property
    def room(self):
        """How many may be."""
        return self.cache.numbers_max

    @property
    def changing(self):
        """Whether keys are to be put or removed."""
        return self.cache.changes.count != 0

    @property
    def idle(self):
        """Whether a sweep has nothing to do."""
        return self.cache.used == 0 and self.cache.resting.count == 0

    def link(self, uint32_t attachment, uint32_t index):
        """Frames of an attachment come and go by the link with this index; 0 by none."""
        cache_link(self.nat, attachment, index)

    def settle(self):
        """Everything that is served is configured; timeouts are those of the engine from now on."""
        cache_limits(self.nat)
        self.cache.settled = True

    @property
    def settled(self):
        """Whether `settle` was called: sweeps compare with what is configured."""
        return bool(self.cache.settled)

    def set_clock(self, int64_t offset_ms):
        """The lab's clock is so far ahead of CLOCK_MONOTONIC."""
        self.cache.control.clock_offset = offset_ms * 1000000

    def take_changes(self, uint32_t most):
        """Up to so many changes of keys, in the order in which they are to be done."""
        cdef uint32_t number
        changes = []
        while len(changes) < most:
            number = numbers_take(&self.cache.changes, self.cache.numbers_max)
            if number == NIL:
                break
            self.cache.cached[number].queued = 0
            if self.cache.cached[number].state == CACHED_NEW:
                self.cache.cached[number].state = CACHED_KEPT
                changes.append(KeyChange(number, True, self._keys(number)))
            else:
                changes.append(KeyChange(number, False, self._keys(number)))
        return changes

    cdef tuple _keys(self, uint32_t number):
        """The keys of both records: each is what the other makes of a frame, turned round."""
        cdef CacheKey key
        cdef const CacheRecord* back
        cdef int side
        cdef list keys = []
        for side in range(2):
            back = &self.cache.records[2 * number + 1 - side]
            key = CacheKey(
                back.destination,
                back.source,
                back.destination_port,
                back.source_port,
                back.out,
                protocol_of(back),
                0,
            )
            keys.append((<const unsigned char*>&key)[: sizeof(CacheKey)])
        return tuple(keys)

    def removed(self, uint32_t number):
        """The keys of a number are away: it rests."""
        if number < self.cache.watermark and self.cache.cached[number].state == CACHED_GONE:
            cache_rest(self.cache, number)

    def refused(self, uint32_t number):
        """The keys of a number could not be put: its flow is not cached."""
        if number < self.cache.watermark and self.cache.cached[number].state == CACHED_KEPT:
            cache_demote(self.nat, number)

    def kept(self):
        """Number and keys of every flow whose keys are put."""
        cdef uint32_t number
        return [
            (number, self._keys(number))
            for number in range(self.cache.watermark)
            if self.cache.cached[number].state == CACHED_KEPT
        ]

    def rest(self):
        """Free what has rested for a grace period, and ask for another one for what has not.

        The word in `control` is odd while one is asked for; whoever has waited for it makes it even.
        """
        cdef FlowCache* cache = self.cache
        cdef uint32_t number
        if cache.control.grace & 1:
            return
        while cache.resting_asked:
            cache.resting_asked -= 1
            number = numbers_take(&cache.resting, cache.numbers_max)
            cache.records[2 * number].source = 0
            cache.cached[number].state = CACHED_FREE
            numbers_add(&cache.free, cache.numbers_max, number)
        if cache.resting.count:
            cache.resting_asked = cache.resting.count
            cache.control.grace += 1

    def sweep(self, uint64_t now_ms, uint32_t budget=0xFFFFFFFF):
        """Look at up to `budget` cached flows; returns at how many, fewer at the end of a round."""
        cdef uint32_t looked
        with nogil:
            looked = cache_sweep(self.nat, now_ms, budget)
        return looked

    def verify(self):
        """A line for each disagreement of cached flows and entries, [] when there is none."""
        return audit_cache(self.nat)
