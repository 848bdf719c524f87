# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.waiting_frames cimport FrameQueue, WaitingFrames

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
    # By interface number; by slot number, and last what no environment asked for.
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


cdef int neighbours_init(
    NeighbourTable* table, uint64_t key, uint32_t slots_max, uint32_t interfaces_max
) noexcept
cdef void neighbours_release_memory(NeighbourTable* table) noexcept
cdef Neighbour* neighbour_add(
    NeighbourTable* table, uint16_t interface, uint32_t address, uint16_t asker
) noexcept nogil
cdef void neighbour_free(NeighbourTable* table, Neighbour* neighbour) noexcept nogil
cdef void neighbour_schedule(
    NeighbourTable* table, Neighbour* neighbour, int timer, uint64_t since
) noexcept nogil
cdef void neighbour_answered(NeighbourTable* table, Neighbour* neighbour) noexcept nogil
