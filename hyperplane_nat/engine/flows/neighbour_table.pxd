# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The records of next hops: found by interface and address, chained by what is due of them.

Theory of operation
-------------------
Records never move, so chains are pointers. A record is in the chain of one timer; all that a timer
governs have the same period, so that the first is due first and setting or taking one costs the same
however many there are. While it has not answered it is also in the chain of its link and in that of
the environment that asked for it, oldest first: these are the ones that may have to make room
(`neighbours`).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.waiting_frames cimport (
    FrameQueue,
    WaitingFrames,
    waiting_init,
    waiting_release_memory,
)

cdef enum:
    NEIGHBOURS_MAX = 16384
    NEIGHBOUR_BUCKETS = 16384
    # Next hops without an answer that one environment may have.
    UNANSWERED_MAX = 256
    NEIGHBOUR_STATES = 5
    NEIGHBOUR_EVENTS = 4

# What a neighbour is in a chain for: its timer, and while it has not answered its link and the
# environment that asked for it.
cdef enum:
    BY_TIME = 0
    BY_LINK = 1
    BY_ASKER = 2
    CHAINS = 3

# A timer for each time that is waited for, so that each chain is in the order of its deadlines.
cdef enum:
    TIMER_NOW = 0
    TIMER_RETRY = 1
    TIMER_REACHABLE = 2
    TIMER_FAILED = 3
    TIMERS = 4

# What a packet needs of its next hop stands first.
cdef struct Neighbour:
    Neighbour* following
    uint32_t address
    uint16_t interface
    uint8_t state
    uint8_t used
    uint8_t mac[6]
    # Whether the question that was asked last has been answered with another MAC address, and
    # whether questions go to everybody although there is one.
    uint8_t changed
    uint8_t doubted
    uint8_t timer
    uint8_t attempts
    uint16_t asker
    FrameQueue queue
    uint64_t since
    # An answer to the question that was asked last is believed before then.
    uint64_t open_until
    Neighbour* before[CHAINS]
    Neighbour* after[CHAINS]

cdef struct Chain:
    Neighbour* first
    Neighbour* last
    uint32_t count

# What a link has of what all share, and how many questions hints have led to in the second that
# began at `hinted`.
cdef struct Link:
    uint32_t neighbours
    uint32_t hints
    uint64_t hinted
    Chain unanswered

cdef struct Step:
    uint8_t state
    uint8_t action

cdef struct NeighbourTable:
    uint32_t used
    uint32_t free_count
    Neighbour* free
    uint64_t multiplier
    uint32_t queue_frames
    uint32_t attempts
    uint64_t periods[TIMERS]
    Chain timers[TIMERS]
    Step steps[NEIGHBOUR_STATES][NEIGHBOUR_EVENTS]
    # By attachment: of whose link; who asked, and last what no environment asked for.
    Link* links
    Chain* askers
    # Whose waiting frames leave at the moment.
    Neighbour* released
    WaitingFrames waiting
    Neighbour* buckets[NEIGHBOUR_BUCKETS]
    Neighbour records[NEIGHBOURS_MAX]


cdef inline uint32_t neighbour_bucket(
    const NeighbourTable* table, uint16_t interface, uint32_t address
) noexcept nogil:
    return <uint32_t>((((<uint64_t>interface << 32) | address) * table.multiplier) >> 50)


cdef inline Neighbour* neighbour_find(
    const NeighbourTable* table, uint16_t interface, uint32_t address
) noexcept nogil:
    """What is known of a next hop, NULL when nothing is."""
    cdef Neighbour* neighbour = table.buckets[neighbour_bucket(table, interface, address)]
    while neighbour != NULL and not (
        neighbour.address == address and neighbour.interface == interface
    ):
        neighbour = neighbour.following
    return neighbour


cdef inline bint has_mac(const Neighbour* neighbour) noexcept nogil:
    """Whether frames can be sent to it."""
    return neighbour.state == NEIGHBOUR_REACHABLE or neighbour.state == NEIGHBOUR_PROBING


cdef inline int neighbours_init(
    NeighbourTable* table,
    dict transitions,
    uint64_t key,
    uint32_t attachments_max,
) except -2:
    """Make an empty table of a zeroed one, for these states; -1 where there is no memory for it."""
    cdef int state, event
    table.multiplier = key | 1
    table.free_count = NEIGHBOURS_MAX
    for state in range(NEIGHBOUR_STATES):
        for event in range(NEIGHBOUR_EVENTS):
            table.steps[state][event].state = <uint8_t>state
    for (known, happened), (following, action) in transitions.items():
        table.steps[<int>known][<int>happened].state = <uint8_t>following
        table.steps[<int>known][<int>happened].action = <uint8_t>action
    table.links = <Link*>calloc(attachments_max, sizeof(Link))
    table.askers = <Chain*>calloc(attachments_max + 1, sizeof(Chain))
    if (
        table.links == NULL
        or table.askers == NULL
        or waiting_init(&table.waiting, attachments_max)
    ):
        return -1
    return 0


cdef inline void neighbours_release_memory(NeighbourTable* table) noexcept:
    free(table.links)
    free(table.askers)
    waiting_release_memory(&table.waiting)


cdef inline void chain_append(Chain* chain, Neighbour* neighbour, int kind) noexcept nogil:
    neighbour.before[kind] = chain.last
    neighbour.after[kind] = NULL
    if chain.last == NULL:
        chain.first = neighbour
    else:
        chain.last.after[kind] = neighbour
    chain.last = neighbour
    chain.count += 1


cdef inline void chain_remove(Chain* chain, Neighbour* neighbour, int kind) noexcept nogil:
    cdef Neighbour* before = neighbour.before[kind]
    cdef Neighbour* after = neighbour.after[kind]
    if before == NULL:
        chain.first = after
    else:
        before.after[kind] = after
    if after == NULL:
        chain.last = before
    else:
        after.before[kind] = before
    chain.count -= 1


cdef inline Neighbour* neighbour_add(
    NeighbourTable* table, uint16_t interface, uint32_t address, uint16_t asker
) noexcept nogil:
    """A next hop that is to be asked for now; NULL when there is no record left."""
    cdef Neighbour* neighbour = table.free
    cdef Neighbour** bucket = &table.buckets[neighbour_bucket(table, interface, address)]
    if neighbour != NULL:
        table.free = neighbour.following
    elif table.used < NEIGHBOURS_MAX:
        neighbour = &table.records[table.used]
        table.used += 1
    else:
        return NULL
    table.free_count -= 1
    memset(neighbour, 0, sizeof(Neighbour))
    neighbour.address = address
    neighbour.interface = interface
    neighbour.asker = asker
    neighbour.state = NEIGHBOUR_INCOMPLETE
    neighbour.following = bucket[0]
    bucket[0] = neighbour
    table.links[interface].neighbours += 1
    chain_append(&table.links[interface].unanswered, neighbour, BY_LINK)
    chain_append(&table.askers[asker], neighbour, BY_ASKER)
    neighbour.timer = TIMER_NOW
    chain_append(&table.timers[<int>TIMER_NOW], neighbour, BY_TIME)
    return neighbour


cdef inline void neighbour_answered(NeighbourTable* table, Neighbour* neighbour) noexcept nogil:
    """It has a MAC address and need make room for nobody; idempotent."""
    if has_mac(neighbour):
        return
    chain_remove(&table.links[neighbour.interface].unanswered, neighbour, BY_LINK)
    chain_remove(&table.askers[neighbour.asker], neighbour, BY_ASKER)


cdef inline void neighbour_free(NeighbourTable* table, Neighbour* neighbour) noexcept nogil:
    """Forget a next hop for which nothing waits."""
    cdef Neighbour** place = &table.buckets[
        neighbour_bucket(table, neighbour.interface, neighbour.address)
    ]
    while place[0] != neighbour:
        place = &place[0].following
    place[0] = neighbour.following
    neighbour_answered(table, neighbour)
    chain_remove(&table.timers[neighbour.timer], neighbour, BY_TIME)
    table.links[neighbour.interface].neighbours -= 1
    neighbour.state = NEIGHBOUR_NONE
    neighbour.following = table.free
    table.free = neighbour
    table.free_count += 1


cdef inline void neighbour_schedule(
    NeighbourTable* table, Neighbour* neighbour, int timer, uint64_t since
) noexcept nogil:
    """Let a timer begin at `since`, which is not before that of any other it governs."""
    chain_remove(&table.timers[neighbour.timer], neighbour, BY_TIME)
    neighbour.timer = <uint8_t>timer
    neighbour.since = since
    chain_append(&table.timers[timer], neighbour, BY_TIME)
