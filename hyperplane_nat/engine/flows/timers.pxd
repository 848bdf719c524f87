# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The timer wheel that finds flows whose time may have come.

Theory of operation
-------------------
8192 buckets of 64 ms. A flow is linked into one bucket. A packet does not move its flow: it
stores `last_seen` and no more. When the bucket comes up, the flow is examined; if packets came
meanwhile it goes to the bucket of its new deadline. So a flow is touched once per timeout, however
many packets it carries. A deadline beyond the wheel waits in the last bucket and is examined there.

The links are double because a flow whose deadline comes nearer (it closes) must leave its
bucket. A link of the first flow of a bucket names the bucket, marked by WHEEL_HEAD.

One rule: a committed entry is in exactly one list, that of a tick no later than its deadline or
that of the flows to be examined, until it is freed. Into the latter a bucket is emptied whole when
its tick has come. The wheel decides nothing: the caller looks at the first flow of that list
(`wheel_next`), within a budget, and frees it or moves it to its tick, either of which takes it out.
So the bucket of the present tick, which is looked at again and again since deadlines are exact to
the millisecond, takes what is not due yet without its being met again in the same round, which
lasts until that list is empty: with a bucket of more than the budget, no round would end otherwise
before its tick has.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from hyperplane_nat.engine.flows.flow_table cimport FlowTable, Links
from hyperplane_nat.engine.state.barriers cimport HP_CTZ64
from hyperplane_nat.engine.state.layout cimport NIL

cdef enum:
    WHEEL_BUCKETS = 8192
    # The list of flows whose tick has come and that wait to be examined, by the number of a bucket.
    WHEEL_DUE = 8192
    WHEEL_LISTS = 8193
    WHEEL_WORDS = 129
    WHEEL_SHIFT = 6
    WHEEL_HEAD = 0x80000000

cdef struct TimerWheel:
    FlowTable* table
    uint64_t tick
    # Whether the bucket of that tick was emptied in this round.
    bint taken
    uint32_t heads[WHEEL_LISTS]
    uint64_t occupied[WHEEL_WORDS]


cdef inline void wheel_init(TimerWheel* wheel, FlowTable* table, uint64_t now) noexcept nogil:
    wheel.table = table
    wheel.tick = now >> WHEEL_SHIFT
    wheel.taken = False
    memset(wheel.heads, 0xFF, sizeof(wheel.heads))
    memset(wheel.occupied, 0, sizeof(wheel.occupied))


cdef inline void link(TimerWheel* wheel, uint32_t flow, uint32_t bucket) noexcept nogil:
    cdef Links* links = wheel.table.links
    cdef uint32_t head = wheel.heads[bucket]
    links[flow] = Links(head, WHEEL_HEAD | bucket)
    if head != NIL:
        links[head].previous = flow
    wheel.heads[bucket] = flow
    wheel.occupied[bucket >> 6] |= <uint64_t>1 << (bucket & 63)


cdef inline void wheel_add(TimerWheel* wheel, uint32_t flow, uint64_t deadline) noexcept nogil:
    """Link a flow that is in no bucket; `deadline` in ms."""
    cdef uint64_t tick = deadline >> WHEEL_SHIFT
    if tick < wheel.tick:
        tick = wheel.tick
    elif tick >= wheel.tick + WHEEL_BUCKETS:
        tick = wheel.tick + WHEEL_BUCKETS - 1
    link(wheel, flow, <uint32_t>(tick % WHEEL_BUCKETS))


cdef inline void wheel_remove(TimerWheel* wheel, uint32_t flow) noexcept nogil:
    cdef Links* links = wheel.table.links
    cdef uint32_t before = links[flow].previous, after = links[flow].following
    cdef uint32_t bucket
    if before == NIL:
        return
    if after != NIL:
        links[after].previous = before
    if before & WHEEL_HEAD:
        bucket = before & ~<uint32_t>WHEEL_HEAD
        wheel.heads[bucket] = after
        if after == NIL:
            wheel.occupied[bucket >> 6] &= ~(<uint64_t>1 << (bucket & 63))
    else:
        links[before].following = after
    links[flow] = Links(NIL, NIL)


cdef inline uint32_t distance_to_occupied(const TimerWheel* wheel, uint32_t limit) noexcept nogil:
    """Ticks from the present one to the next bucket with flows, `limit` if there is none before."""
    cdef uint32_t start = <uint32_t>(wheel.tick % WHEEL_BUCKETS)
    cdef uint32_t distance = 0, bucket
    cdef uint64_t word
    while distance < limit:
        bucket = (start + distance) % WHEEL_BUCKETS
        word = wheel.occupied[bucket >> 6] >> (bucket & 63)
        if word:
            distance += HP_CTZ64(word)
            return distance if distance < limit else limit
        distance += 64 - (bucket & 63)
    return limit


cdef inline void take(TimerWheel* wheel) noexcept nogil:
    """Empty the present tick's bucket into the list of flows to be examined, which is empty."""
    cdef uint32_t bucket = <uint32_t>(wheel.tick % WHEEL_BUCKETS)
    cdef uint32_t flow = wheel.heads[bucket]
    wheel.taken = True
    if flow == NIL:
        return
    wheel.heads[WHEEL_DUE] = flow
    wheel.occupied[WHEEL_DUE >> 6] |= <uint64_t>1 << (WHEEL_DUE & 63)
    wheel.table.links[flow].previous = WHEEL_HEAD | WHEEL_DUE
    wheel.heads[bucket] = NIL
    wheel.occupied[bucket >> 6] &= ~(<uint64_t>1 << (bucket & 63))


cdef inline void wheel_begin(TimerWheel* wheel, bint anew) noexcept nogil:
    """A round of `wheel_next` begins, in which the bucket of the present tick is looked at once more; one
    that a budget has cut short goes on, unless what it has met is to be met `anew`.
    """
    if anew or wheel.heads[WHEEL_DUE] == NIL:
        wheel.taken = False


cdef inline uint32_t wheel_next(TimerWheel* wheel, uint64_t now) noexcept nogil:
    """A flow whose tick has come, or NIL; the caller moves it to another tick or removes it."""
    cdef uint64_t target = now >> WHEEL_SHIFT
    cdef uint32_t ahead
    while wheel.heads[WHEEL_DUE] == NIL:
        if wheel.taken:
            if wheel.tick >= target:
                return NIL
            # One turn visits every bucket: nothing can wait for a tick that is skipped.
            ahead = distance_to_occupied(wheel, <uint32_t>min(target - wheel.tick, WHEEL_BUCKETS))
            wheel.tick = target if ahead == WHEEL_BUCKETS else wheel.tick + ahead
        take(wheel)
    return wheel.heads[WHEEL_DUE]


cdef inline uint64_t wheel_deadline(const TimerWheel* wheel) noexcept nogil:
    """Start of the earliest tick with flows, in ms, or the largest number when there is none."""
    cdef uint32_t distance = 0
    if wheel.heads[WHEEL_DUE] == NIL:
        distance = distance_to_occupied(wheel, WHEEL_BUCKETS)
    if distance == WHEEL_BUCKETS:
        return <uint64_t>0xFFFFFFFFFFFFFFFF
    return (wheel.tick + distance) << WHEEL_SHIFT
