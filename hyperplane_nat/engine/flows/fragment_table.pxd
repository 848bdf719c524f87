# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.flows.flow_table cimport FlowKey
from hyperplane_nat.engine.flows.reassembly cimport Account
from hyperplane_nat.engine.wire.siphash cimport HashKey

cdef enum:
    # As many as there are holders of an identification: a context is one.
    CONTEXTS = 4096
    CONTEXT_CELLS = 8192
    BUFFERS = 4096
    BUFFER_BYTES = 9216
    # Senders outside share so many places; two that meet share a quota.
    REMOTE_SENDERS = 1024
    SENDER_CONTEXTS = 64
    SENDER_BUFFERS = 128
    # Destinations outside share so many accounts; two that meet share what there is.
    DESTINATIONS = 1024
    UNIT_WORDS = 128
    NOTHING = 0xFFFFFFFF

cdef enum:
    CONTEXT_WAITING = 0
    CONTEXT_ANSWERED = 1
    CONTEXT_REFUSED = 2
    CONTEXT_STATES = 3

# The lists that a context is in.
cdef enum:
    BY_TIME = 0
    BY_SENDER = 1
    # Of those of its place that are in the same state.
    BY_STATE = 2
    LISTS = 3

# What places are compared by.
cdef enum:
    BY_CONTEXTS = 0
    BY_BUFFERS = 1
    RANKINGS = 2
    # Neither contexts nor buffers are more.
    RANKS = 4097

cdef struct Link:
    uint32_t following
    uint32_t before

# Zeroed memory is an empty one; `first` and `last` mean nothing then.
cdef struct List:
    uint32_t first
    uint32_t last
    uint32_t count

# What identifies a datagram (RFC 791), and the link that its pieces come from.
cdef struct DatagramKey:
    uint64_t addresses
    uint64_t rest

cdef struct Context:
    DatagramKey key
    Link links[LISTS]
    uint32_t chain
    uint32_t sender
    uint32_t place
    uint64_t created
    # What the pieces were charged so far, and the number of the destination's account.
    uint32_t charged
    uint32_t destination
    # What tells the first piece from that of another datagram with the same key.
    uint64_t first_piece
    # Payload of the datagram in bytes: what has come, and all of it or 0 while unknown.
    uint32_t received
    uint32_t end
    uint32_t waiting_first
    uint32_t waiting_last
    uint16_t waiting
    # What the first piece was translated to.
    uint16_t out_port
    uint8_t out_side
    uint8_t state
    uint8_t reason
    uint32_t new_source
    uint32_t new_destination
    # In network order; of a datagram that left, and then held for it.
    uint16_t identification
    uint8_t holds
    # The flow by which it was, and that by which a neighbour got it: the number of the address it was
    # sent to is UNATTACHED if none did (hairpin.pyx).
    FlowKey flow_key
    uint64_t flow_hash
    FlowKey arriving_key
    uint64_t arriving_hash
    uint16_t arrived_at
    # One bit for each eight bytes that have come.
    uint64_t units[UNIT_WORDS]

# `following` is the number of the next piece that waits plus one; the last one's means nothing.
cdef struct Buffer:
    uint32_t following
    uint32_t length
    uint8_t frame[BUFFER_BYTES]

cdef struct Sender:
    List contexts
    uint32_t buffers
    Account account

# How much a place has, and its neighbours among those that have as much, as number plus one.
cdef struct Rank:
    uint32_t count
    uint32_t following
    uint32_t before

# The first place of each rank, as number plus one, and the highest rank that anybody has.
cdef struct Ranking:
    uint32_t highest
    uint32_t first[RANKS]

# A slot, or an interface with all senders behind it.
cdef struct Place:
    List contexts[CONTEXT_STATES]
    Rank ranks[RANKINGS]

cdef struct FragmentTable:
    Context* contexts
    Buffer* buffers
    Sender* senders
    Place* places
    Account* destinations
    uint32_t* cells
    uint32_t slots_max
    uint32_t free_context
    uint32_t free_buffer
    uint32_t buffers_used
    List by_time
    Ranking rankings[RANKINGS]
    HashKey key


cdef inline uint8_t key_side(const Context* context) noexcept nogil:
    return <uint8_t>(context.key.rest & 1)


cdef inline uint16_t key_port(const Context* context) noexcept nogil:
    return <uint16_t>(context.key.rest >> 32)


cdef inline uint8_t key_protocol(const Context* context) noexcept nogil:
    return <uint8_t>(context.key.rest >> 8)


cdef inline uint32_t key_destination(const Context* context) noexcept nogil:
    return <uint32_t>context.key.addresses


cdef inline bint context_begun(const Context* context) noexcept nogil:
    """Whether the first piece has come."""
    return context.units[0] & 1


cdef inline bint context_whole(const Context* context) noexcept nogil:
    """Whether every byte has come."""
    return context.end and context.received == context.end


cdef int fragments_init(FragmentTable* table, uint32_t slots_max, uint32_t interfaces_max, HashKey key) noexcept nogil
cdef void fragments_release_memory(FragmentTable* table) noexcept nogil
cdef DatagramKey datagram_key(uint8_t side, uint16_t port, uint8_t protocol, uint16_t identification, uint32_t source, uint32_t destination) noexcept nogil
cdef uint32_t sender_of(const FragmentTable* table, const DatagramKey* key) noexcept nogil
cdef uint32_t context_find(const FragmentTable* table, const DatagramKey* key) noexcept nogil
cdef uint32_t context_make(FragmentTable* table, const DatagramKey* key, uint64_t now) noexcept nogil
cdef void context_enter(FragmentTable* table, uint32_t number, uint8_t state) noexcept nogil
cdef uint32_t context_of_the_largest(const FragmentTable* table) noexcept nogil
cdef uint32_t waiting_of_the_largest(const FragmentTable* table) noexcept nogil
cdef uint32_t destination_of(const FragmentTable* table, uint32_t vpc, uint32_t address) noexcept nogil
cdef void context_free(FragmentTable* table, uint32_t number) noexcept nogil
cdef int context_covers(const Context* context, uint32_t offset, uint32_t end) noexcept nogil
cdef void context_mark(Context* context, uint32_t offset, uint32_t end) noexcept nogil
cdef Buffer* buffer_take(FragmentTable* table, uint32_t number) noexcept nogil
cdef uint32_t buffers_give_back(FragmentTable* table, uint32_t number) noexcept nogil
