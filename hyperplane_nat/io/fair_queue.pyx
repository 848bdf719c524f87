# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Whose frame is next, and whose frame goes when the ring fills up.

Theory of operation
-------------------
The ring is one queue for everybody: served in order of arrival, who sends most gets most of it,
and once it is full the kernel refuses whoever comes next. So a frame is first put into the
bucket of its sender, and buckets are served in turn: deficit round robin (Shreedhar and Varghese,
1995), where a frame costs as much as it takes to send. Within a bucket the order is that of
arrival. Frames stay where they are; the queue holds their positions in the ring.

A ring more than three quarters full is shed: a bucket with over 1.25 times its share of what waits
(all of it by the number of buckets) gives up what it has above it, oldest first. A sender alone is
left half of the ring: in a full one the kernel refuses who comes next as well as who filled it.
Where several wait alike nobody is over his share, and dropping is left to the kernel, which does it
for nothing.

Everything is O(1) but shedding, which looks once at each bucket that is not empty.
"""

from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc, free

cdef enum:
    QUANTUM = 16


cdef int queue_init(Queue* queue, uint32_t positions, uint32_t buckets) noexcept:
    """An empty queue; -1 where there is no memory for it."""
    queue.buckets = <Bucket*>calloc(buckets, sizeof(Bucket))
    queue.next = <uint32_t*>calloc(positions, 4)
    queue.buckets_max = buckets
    queue.positions = positions
    queue.first = queue.last = NO_POSITION
    queue.active = queue.used = 0
    queue.high = positions - positions // 4
    return -1 if queue.buckets == NULL or queue.next == NULL else 0


cdef void queue_free(Queue* queue) noexcept:
    """Give back the memory."""
    free(queue.buckets)
    free(queue.next)


cdef inline void append(Queue* queue, uint32_t number) noexcept nogil:
    """Make a bucket the last in turn."""
    queue.buckets[number].next = NO_POSITION
    if queue.first == NO_POSITION:
        queue.first = number
    else:
        queue.buckets[queue.last].next = number
    queue.last = number


cdef inline uint32_t take(Queue* queue, Bucket* bucket) noexcept nogil:
    """The oldest position of a bucket that is not empty."""
    cdef uint32_t position = bucket.head
    bucket.head = queue.next[position]
    bucket.count -= 1
    queue.used -= 1
    return position


cdef void queue_push(Queue* queue, uint32_t bucket, uint32_t position) noexcept nogil:
    """A frame has arrived at a position that is not in the queue."""
    cdef Bucket* b = &queue.buckets[bucket]
    if b.count == 0:
        b.head = position
        b.credit = QUANTUM
        queue.active += 1
        append(queue, bucket)
    else:
        queue.next[b.tail] = position
    b.tail = position
    b.count += 1
    queue.used += 1


cdef uint32_t queue_pop(Queue* queue) noexcept nogil:
    """The position whose turn it is; NO_POSITION if there is none.

    `queue_charge` must follow, with what the frame costs, before the next call.
    """
    cdef uint32_t number
    cdef Bucket* b
    if queue.first == NO_POSITION:
        return NO_POSITION
    while True:
        number = queue.first
        b = &queue.buckets[number]
        if b.credit > 0:
            return take(queue, b)
        b.credit += QUANTUM
        if b.next != NO_POSITION:
            queue.first = b.next
            append(queue, number)


cdef void queue_charge(Queue* queue, uint32_t cost) noexcept nogil:
    """The bucket just served pays; it keeps its turn while it has credit."""
    cdef Bucket* b = &queue.buckets[queue.first]
    b.credit -= <int32_t>cost
    if b.count == 0:
        queue.first = b.next
        queue.active -= 1


cdef uint32_t queue_share(const Queue* queue, bint full) noexcept nogil:
    """How many positions a bucket may keep; 0 while nothing is to be shed.

    `full`: there is no buffer for the next frame, however much of the ring is queued; a sender alone
    then waits for one.
    """
    if queue.active == 1:
        return queue.positions // 2 if queue.used > queue.high else 0
    if (queue.used <= queue.high and not full) or queue.active == 0:
        return 0
    return max(queue.used // queue.active, <uint32_t>1)


cdef uint32_t queue_shed(Queue* queue, uint32_t share, uint32_t* bucket) noexcept nogil:
    """The next position to give up, and whose; NO_POSITION when no bucket is over the share.

    `bucket` is where to go on looking: NO_POSITION at first.
    """
    cdef uint32_t number = queue.first if bucket[0] == NO_POSITION else bucket[0]
    cdef Bucket* b
    while number != NO_POSITION:
        b = &queue.buckets[number]
        # A bucket that is being cut is cut down to the share, not to a quarter above it.
        if b.count > share and (number == bucket[0] or b.count * 4 > share * 5):
            bucket[0] = number
            return take(queue, b)
        number = b.next
    return NO_POSITION


cdef class FairQueue:
    """The queue by itself, for tests. See the type stub."""

    cdef Queue queue

    def __cinit__(self, uint32_t positions, uint32_t buckets):
        if queue_init(&self.queue, positions, buckets):
            raise MemoryError

    def __dealloc__(self):
        queue_free(&self.queue)

    def __len__(self):
        return self.queue.used

    def push(self, uint32_t bucket, uint32_t position):
        if bucket >= self.queue.buckets_max or position >= self.queue.positions:
            raise ValueError("no such bucket or position")
        queue_push(&self.queue, bucket, position)

    def pop(self, uint32_t cost=1):
        cdef uint32_t position = queue_pop(&self.queue)
        if position == NO_POSITION:
            return None
        queue_charge(&self.queue, cost)
        return position

    def shed(self, bint full=False):
        cdef uint32_t share = queue_share(&self.queue, full), bucket = NO_POSITION, position
        shed = []
        while share:
            position = queue_shed(&self.queue, share, &bucket)
            if position == NO_POSITION:
                break
            shed.append((bucket, position))
        return shed
