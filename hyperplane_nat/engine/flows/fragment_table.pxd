# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The memory of the fragments: contexts, one for each datagram on its way, and pieces that wait.

Theory of operation
-------------------
What becomes of a datagram is a table (`fragment_states`); its context says in which state it is. A
context is found by a keyed hash and is in three lists, each by age: of all contexts, of its
sender's, and of those of its place that are in the same state. So the oldest of each is at hand. A
place is a slot, or an interface with everybody behind it, whose sources can be forged. Places are
ranked by how many contexts, and by how many buffers they have: those that have as many are in a list,
and going up or down is a move to another one. So the place that has the most is at hand, too, and
every operation takes the same time however many there are. Which bytes have come is kept as one bit
for each eight, the unit of an offset, so that pieces may come in any order and an overlap is seen
whatever its shape.

Everything is allocated once; memory is only touched by what was ever in use at a time, for what was
freed last is taken first. In a free list a link is the next number plus one, and 0 means the one
behind: so zeroed memory is a list of all of them.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.flow_table cimport FlowKey
from hyperplane_nat.engine.flows.reassembly cimport Account
from hyperplane_nat.engine.wire.siphash cimport HashKey, siphash

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
    FRAGMENT_STATES = 3
    FRAGMENT_EVENTS = 7

# What follows from an event: see fragment_states.py.
cdef struct FragmentStep:
    uint8_t state
    uint8_t action

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
    uint8_t state
    uint8_t reason
    uint32_t new_source
    uint32_t new_destination
    # In network order; of a datagram that left, and then held for it.
    uint16_t identification
    uint8_t holds
    # The flow by which it was, and that by which a neighbour got it: the number of the address it was
    # sent to is UNATTACHED if none did (hairpin.pxd).
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

# An attachment, with all senders behind it.
cdef struct Place:
    List contexts[FRAGMENT_STATES]
    Rank ranks[RANKINGS]

cdef struct FragmentTable:
    Context* contexts
    Buffer* buffers
    Sender* senders
    Place* places
    Account* destinations
    uint32_t* cells
    uint32_t attachments_max
    uint32_t free_context
    uint32_t free_buffer
    uint32_t buffers_used
    List by_time
    Ranking rankings[RANKINGS]
    HashKey key
    FragmentStep steps[FRAGMENT_STATES][FRAGMENT_EVENTS]


cdef inline uint8_t key_side(const Context* context) noexcept nogil:
    return <uint8_t>(context.key.rest & 1)


cdef inline uint16_t key_port(const Context* context) noexcept nogil:
    return <uint16_t>(context.key.rest >> 32)


cdef inline uint8_t key_protocol(const Context* context) noexcept nogil:
    return <uint8_t>(context.key.rest >> 8)


cdef inline uint32_t key_source(const Context* context) noexcept nogil:
    return <uint32_t>(context.key.addresses >> 32)


cdef inline uint32_t key_destination(const Context* context) noexcept nogil:
    return <uint32_t>context.key.addresses


cdef inline bint context_begun(const Context* context) noexcept nogil:
    """Whether the first piece has come."""
    return context.units[0] & 1


cdef inline bint context_whole(const Context* context) noexcept nogil:
    """Whether every byte has come."""
    return context.end and context.received == context.end


cdef inline uint32_t cell_of(const FragmentTable* table, const DatagramKey* key) noexcept nogil:
    return <uint32_t>siphash(&table.key, key.addresses, key.rest) & (CONTEXT_CELLS - 1)


cdef inline void list_append(
    FragmentTable* table, List* items, int which, uint32_t number
) noexcept nogil:
    cdef Link* link = &table.contexts[number].links[which]
    link.following = NOTHING
    link.before = NOTHING
    if items.count == 0:
        items.first = number
    else:
        link.before = items.last
        table.contexts[items.last].links[which].following = number
    items.last = number
    items.count += 1


cdef inline void list_remove(
    FragmentTable* table, List* items, int which, uint32_t number
) noexcept nogil:
    cdef Link* link = &table.contexts[number].links[which]
    if link.before == NOTHING:
        items.first = link.following
    else:
        table.contexts[link.before].links[which].following = link.following
    if link.following == NOTHING:
        items.last = link.before
    else:
        table.contexts[link.following].links[which].before = link.before
    items.count -= 1


cdef inline void rank_change(
    FragmentTable* table, int which, uint32_t place, int change
) noexcept nogil:
    """A place has so many more of what it is compared by."""
    cdef Rank* rank = &table.places[place].ranks[which]
    cdef Ranking* ranking = &table.rankings[which]
    if rank.count:
        if rank.before:
            table.places[rank.before - 1].ranks[which].following = rank.following
        else:
            ranking.first[rank.count] = rank.following
        if rank.following:
            table.places[rank.following - 1].ranks[which].before = rank.before
    rank.count += change
    if rank.count:
        rank.before = 0
        rank.following = ranking.first[rank.count]
        if rank.following:
            table.places[rank.following - 1].ranks[which].before = place + 1
        ranking.first[rank.count] = place + 1
        ranking.highest = max(ranking.highest, rank.count)
    while ranking.highest and ranking.first[ranking.highest] == 0:
        ranking.highest -= 1


cdef inline const Place* largest(const FragmentTable* table, int which) noexcept nogil:
    """The place that has the most; some must have any."""
    cdef const Ranking* ranking = &table.rankings[which]
    return &table.places[ranking.first[ranking.highest] - 1]


cdef inline int fragments_init(
    FragmentTable* table,
    dict transitions,
    uint32_t attachments_max,
    HashKey key,
) except -1:
    """Make an empty table of a zeroed one, for these states; 1 when there is no memory for it."""
    for (known, happened), (following, action) in transitions.items():
        table.steps[<int>known][<int>happened] = FragmentStep(<uint8_t>following, <uint8_t>action)
    table.key = key
    table.attachments_max = attachments_max
    table.contexts = <Context*>calloc(CONTEXTS, sizeof(Context))
    table.buffers = <Buffer*>calloc(BUFFERS, sizeof(Buffer))
    table.senders = <Sender*>calloc(attachments_max + REMOTE_SENDERS, sizeof(Sender))
    table.places = <Place*>calloc(attachments_max, sizeof(Place))
    table.destinations = <Account*>calloc(DESTINATIONS, sizeof(Account))
    table.cells = <uint32_t*>calloc(CONTEXT_CELLS, 4)
    if (
        table.contexts == NULL
        or table.buffers == NULL
        or table.senders == NULL
        or table.places == NULL
        or table.destinations == NULL
        or table.cells == NULL
    ):
        return 1
    memset(table.cells, 0xFF, CONTEXT_CELLS * 4)
    return 0


cdef inline void fragments_release_memory(FragmentTable* table) noexcept nogil:
    free(table.contexts)
    free(table.buffers)
    free(table.senders)
    free(table.places)
    free(table.destinations)
    free(table.cells)


cdef inline DatagramKey datagram_key(
    uint8_t side,
    uint16_t port,
    uint8_t protocol,
    uint16_t identification,
    uint32_t source,
    uint32_t destination,
) noexcept nogil:
    cdef DatagramKey key
    key.addresses = (<uint64_t>source << 32) | destination
    key.rest = (
        (<uint64_t>port << 32) | (<uint64_t>identification << 16) | (<uint64_t>protocol << 8) | side
    )
    return key


cdef inline uint32_t sender_of(const FragmentTable* table, const DatagramKey* key) noexcept nogil:
    """Whose quota a datagram counts to: its environment's, or that of a source behind an interface."""
    if not key.rest & 1:
        return <uint32_t>(key.rest >> 32)
    return table.attachments_max + <uint32_t>(
        siphash(&table.key, key.addresses >> 32, key.rest >> 32) & (REMOTE_SENDERS - 1)
    )


cdef inline uint32_t destination_of(
    const FragmentTable* table, uint32_t vpc, uint32_t address
) noexcept nogil:
    """The number of the account of a destination outside."""
    return <uint32_t>siphash(&table.key, address, vpc) & (DESTINATIONS - 1)


cdef inline uint32_t context_find(
    const FragmentTable* table, const DatagramKey* key
) noexcept nogil:
    cdef uint32_t number = table.cells[cell_of(table, key)]
    cdef const Context* context
    while number != NOTHING:
        context = &table.contexts[number]
        if context.key.addresses == key.addresses and context.key.rest == key.rest:
            return number
        number = context.chain
    return NOTHING


cdef inline uint32_t context_make(
    FragmentTable* table, const DatagramKey* key, uint64_t now
) noexcept nogil:
    """A new context, in which nothing has come yet; NOTHING when there is no room."""
    cdef uint32_t number = table.free_context, cell = cell_of(table, key)
    cdef Context* context
    if number >= CONTEXTS:
        return NOTHING
    context = &table.contexts[number]
    table.free_context = context.chain - 1 if context.chain else number + 1
    memset(context, 0, sizeof(Context))
    context.key = key[0]
    context.created = now
    context.sender = sender_of(table, key)
    context.place = key_port(context)
    context.chain = table.cells[cell]
    table.cells[cell] = number
    list_append(table, &table.by_time, BY_TIME, number)
    list_append(table, &table.senders[context.sender].contexts, BY_SENDER, number)
    list_append(table, &table.places[context.place].contexts[context.state], BY_STATE, number)
    rank_change(table, BY_CONTEXTS, context.place, 1)
    return number


cdef inline void context_enter(FragmentTable* table, uint32_t number, uint8_t state) noexcept nogil:
    cdef Context* context = &table.contexts[number]
    cdef Place* place = &table.places[context.place]
    list_remove(table, &place.contexts[context.state], BY_STATE, number)
    context.state = state
    list_append(table, &place.contexts[state], BY_STATE, number)


cdef inline uint32_t context_of_the_largest(const FragmentTable* table) noexcept nogil:
    """What the place with the most contexts can do without best; there must be a context.

    That is the oldest of those of which nothing passes, before those that wait for their first
    piece, before those that are on their way.
    """
    cdef const Place* place = largest(table, BY_CONTEXTS)
    if place.contexts[<int>FRAGMENT_REFUSED].count:
        return place.contexts[<int>FRAGMENT_REFUSED].first
    if place.contexts[<int>FRAGMENT_WAITING].count:
        return place.contexts[<int>FRAGMENT_WAITING].first
    return place.contexts[<int>FRAGMENT_ANSWERED].first


cdef inline uint32_t waiting_of_the_largest(const FragmentTable* table) noexcept nogil:
    """The oldest context of the place with the most buffers that has any; there must be one."""
    return largest(table, BY_BUFFERS).contexts[<int>FRAGMENT_WAITING].first


cdef inline void context_free(FragmentTable* table, uint32_t number) noexcept nogil:
    """Forget a datagram, and what waits of it."""
    cdef Context* context = &table.contexts[number]
    cdef uint32_t* link = &table.cells[cell_of(table, &context.key)]
    buffers_give_back(table, number)
    while link[0] != number:
        link = &table.contexts[link[0]].chain
    link[0] = context.chain
    list_remove(table, &table.by_time, BY_TIME, number)
    list_remove(table, &table.senders[context.sender].contexts, BY_SENDER, number)
    list_remove(table, &table.places[context.place].contexts[context.state], BY_STATE, number)
    rank_change(table, BY_CONTEXTS, context.place, -1)
    context.chain = table.free_context + 1
    table.free_context = number


cdef inline int context_covers(
    const Context* context, uint32_t offset, uint32_t end
) noexcept nogil:
    """Of the bytes from `offset` to `end`: 0 none has come, 1 some have, 2 all have."""
    cdef uint32_t unit = offset >> 3, last = (end + 7) >> 3, word, count
    cdef uint64_t mask
    cdef bint some = False, every = True
    while unit < last:
        word = unit >> 6
        count = min(last - unit, 64 - (unit & 63))
        mask = (~<uint64_t>0 >> (64 - count)) << (unit & 63)
        if context.units[word] & mask:
            some = True
        if context.units[word] & mask != mask:
            every = False
        unit += count
    if not some:
        return 0
    return 2 if every else 1


cdef inline void context_mark(Context* context, uint32_t offset, uint32_t end) noexcept nogil:
    """The bytes from `offset` to `end` have come."""
    cdef uint32_t unit = offset >> 3, last = (end + 7) >> 3, count
    while unit < last:
        count = min(last - unit, 64 - (unit & 63))
        context.units[unit >> 6] |= (~<uint64_t>0 >> (64 - count)) << (unit & 63)
        unit += count
    context.received += end - offset


cdef inline Buffer* buffer_take(FragmentTable* table, uint32_t number) noexcept nogil:
    """Room for one more piece of a datagram, behind those that wait; NULL when there is none."""
    cdef Context* context = &table.contexts[number]
    cdef uint32_t taken = table.free_buffer
    cdef Buffer* buffer
    if taken >= BUFFERS:
        return NULL
    buffer = &table.buffers[taken]
    table.free_buffer = buffer.following - 1 if buffer.following else taken + 1
    if context.waiting == 0:
        context.waiting_first = taken
    else:
        table.buffers[context.waiting_last].following = taken + 1
    context.waiting_last = taken
    context.waiting += 1
    table.buffers_used += 1
    table.senders[context.sender].buffers += 1
    rank_change(table, BY_BUFFERS, context.place, 1)
    return buffer


cdef inline uint32_t buffers_give_back(FragmentTable* table, uint32_t number) noexcept nogil:
    """Forget what waits of a datagram; returns how many pieces that were."""
    cdef Context* context = &table.contexts[number]
    cdef uint32_t count = context.waiting
    if count == 0:
        return 0
    table.buffers[context.waiting_last].following = table.free_buffer + 1
    table.free_buffer = context.waiting_first
    context.waiting = 0
    table.buffers_used -= count
    table.senders[context.sender].buffers -= count
    rank_change(table, BY_BUFFERS, context.place, -<int>count)
    return count
