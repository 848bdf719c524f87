# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Source port allocation.

Theory of operation
-------------------
A port is unique per (interface address, protocol, remote address, remote port); the same port
serves any number of different remote endpoints. For each remote endpoint a 16-byte record
counts the ports in use or held, so that exhaustion is one comparison, and tells the high-water
mark.

Which port: any free one with equal probability, as RFC 6056 asks, from a keyed generator that
an observer cannot continue. While a remote endpoint holds few ports (a sixteenth of the range),
a random port is free at the first try with probability 15/16, and the flow index tells whether
it is. Beyond that the endpoint is "crowded" and gets a bitmap of the range with two levels of
summary: the next free port after a random one is found in at most six word operations, even
when it is the last one. No path probes until it gives up.

A bitmap begins with the port that makes its endpoint crowded (`ports_adopt`). It is not filled at
once, which would stall the packets behind it: every allocation looks up SCAN more ports, and until
all are known ports are still drawn at random, which stays cheap because the endpoint has then
filled at most an eighth of the range. A rebuild may find endpoints that are all but full; it adds
what it met before their bitmaps began (`ports_note`), so they are complete when the first packet
comes.

Bitmaps live in the state map beside the table. A range of SMALL_RANGE ports or fewer needs
none: a walk over it is short. Everything here is derived from the committed flows and rebuilt
when a map is opened.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.flow_table cimport FlowTable, flow_key, table_flow
from hyperplane_nat.engine.state.barriers cimport HP_CTZ64
from hyperplane_nat.engine.state.layout cimport (
    NIL,
    AttachmentRecord,
    Header,
    Remote,
    records_of,
)
from hyperplane_nat.engine.wire.checksum cimport swap16
from hyperplane_nat.engine.wire.siphash cimport HashKey, siphash

# Which ports of one crowded remote endpoint are taken.  `words` holds a bit per port of the
# range, `full` a bit per word without a free port, `top` a bit per word of `full`.
cdef struct Bitmap:
    uint32_t scanned
    uint32_t next_free
    uint64_t top
    uint64_t* full
    uint64_t* words

cdef struct PortAllocator:
    FlowTable* table
    Remote* remotes
    const AttachmentRecord* records
    uint32_t remote_cells
    uint32_t remotes_used
    uint32_t first
    uint32_t count
    uint32_t limit
    uint32_t crowded
    Bitmap* bitmaps
    uint32_t bitmaps_count
    uint32_t bitmap_free
    uint32_t full_words
    uint32_t words
    uint64_t* storage
    uint64_t storage_words
    HashKey key
    HashKey random_key
    uint64_t random_counter

cdef enum:
    SMALL_RANGE = 256
    SCAN = 32
    CROWDED_SHARE = 16


cdef inline void ports_init(
    PortAllocator* ports, FlowTable* table, Header* header, HashKey key, HashKey random_key
) noexcept nogil:
    cdef uint8_t* base = <uint8_t*>header
    memset(ports, 0, sizeof(PortAllocator))
    ports.table = table
    ports.records = records_of(header)
    ports.remotes = <Remote*>(base + header.remotes_offset)
    ports.remote_cells = header.remote_cells
    ports.storage = <uint64_t*>(base + header.bitmaps_offset)
    ports.storage_words = header.bitmap_bytes // 8
    ports.key = key
    ports.random_key = random_key


cdef inline int ports_configure(
    PortAllocator* ports, uint32_t first, uint32_t last, uint32_t limit
) noexcept nogil:
    """Set the range and carve the bitmap storage for it; -1 when memory is short.

    Any change of range leaves the allocator empty: the caller re-adopts the ports of all flows.
    """
    cdef uint32_t i
    cdef uint64_t stride
    ports_release_memory(ports)
    ports.first = first
    ports.count = last - first + 1
    ports.limit = limit
    ports.crowded = ports.count // CROWDED_SHARE
    ports.words = (ports.count + 63) // 64
    ports.full_words = (ports.words + 63) // 64
    ports.bitmaps_count = 0
    ports.bitmap_free = NIL
    if ports.count > SMALL_RANGE:
        stride = ports.words + ports.full_words
        # Index 0 of `bitmaps` means "none" in a remote record.
        ports.bitmaps_count = <uint32_t>min(ports.storage_words // stride, 65534) + 1
        ports.bitmaps = <Bitmap*>calloc(ports.bitmaps_count, sizeof(Bitmap))
        if ports.bitmaps == NULL:
            ports.bitmaps_count = 0
            return -1
        for i in range(1, ports.bitmaps_count):
            ports.bitmaps[i].words = ports.storage + (i - 1) * stride
            ports.bitmaps[i].full = ports.bitmaps[i].words + ports.words
    return 0


cdef inline void ports_release_memory(PortAllocator* ports) noexcept nogil:
    free(ports.bitmaps)
    ports.bitmaps = NULL


cdef inline void ports_clear(PortAllocator* ports, bint blank) noexcept nogil:
    """Forget every port; `blank` tells that the records read as zero already."""
    cdef uint32_t i
    if not blank:
        memset(ports.remotes, 0, <uint64_t>ports.remote_cells * sizeof(Remote))
    ports.remotes_used = 0
    ports.bitmap_free = NIL
    i = ports.bitmaps_count
    while i > 1:
        i -= 1
        ports.bitmaps[i].next_free = ports.bitmap_free
        ports.bitmap_free = i


cdef inline uint32_t remote_home(
    const PortAllocator* ports,
    uint8_t protocol,
    uint16_t attachment,
    uint32_t address,
    uint16_t port,
) noexcept nogil:
    cdef uint64_t hash = siphash(
        &ports.key,
        (<uint64_t>address << 32) | (<uint64_t>port << 16) | attachment,
        <uint64_t>protocol,
    )
    return <uint32_t>(((hash >> 32) * ports.remote_cells) >> 32)


cdef inline uint32_t remote_cell(
    const PortAllocator* ports,
    uint8_t protocol,
    uint16_t attachment,
    uint32_t address,
    uint16_t port,
) noexcept nogil:
    """Cell of the record of a remote endpoint, or the empty cell where it would go."""
    cdef uint32_t cell = remote_home(ports, protocol, attachment, address, port)
    cdef const Remote* remote
    while True:
        remote = &ports.remotes[cell]
        if remote.count == 0 or (
            remote.address == address
            and remote.port == port
            and remote.protocol == protocol
            and remote.attachment == attachment
        ):
            return cell
        cell += 1
        if cell == ports.remote_cells:
            cell = 0


cdef inline Remote* ports_remote(
    PortAllocator* ports, uint8_t protocol, uint16_t attachment, uint32_t address, uint16_t port
) noexcept nogil:
    """The record of a remote endpoint, or NULL when no port is in use towards it."""
    cdef Remote* remote = &ports.remotes[remote_cell(ports, protocol, attachment, address, port)]
    return remote if remote.count else NULL


cdef inline void remote_remove(PortAllocator* ports, uint32_t gap) noexcept nogil:
    cdef uint32_t cells = ports.remote_cells
    cdef uint32_t cell = gap, home
    cdef const Remote* remote
    ports.remotes_used -= 1
    while True:
        cell = cell + 1 if cell + 1 < cells else 0
        remote = &ports.remotes[cell]
        if remote.count == 0:
            break
        home = remote_home(
            ports, remote.protocol, remote.attachment, remote.address, remote.port
        )
        if (cell + cells - home) % cells >= (cell + cells - gap) % cells:
            ports.remotes[gap] = remote[0]
            gap = cell
    memset(&ports.remotes[gap], 0, sizeof(Remote))


cdef inline bint in_use(
    const PortAllocator* ports,
    uint8_t protocol,
    uint16_t attachment,
    uint32_t address,
    uint16_t remote_port,
    uint32_t offset,
) noexcept nogil:
    cdef uint16_t nat_port = swap16(<uint16_t>(ports.first + offset))
    key = flow_key(
        protocol,
        attachment,
        address,
        remote_port,
        ports.records[attachment].address,
        nat_port,
    )
    return table_flow(ports.table, key) != NIL


cdef inline void bit_set(PortAllocator* ports, Bitmap* bitmap, uint32_t offset) noexcept nogil:
    cdef uint32_t word = offset >> 6, group = offset >> 12
    bitmap.words[word] |= <uint64_t>1 << (offset & 63)
    if bitmap.words[word] == ~<uint64_t>0:
        bitmap.full[group] |= <uint64_t>1 << (word & 63)
        if bitmap.full[group] == ~<uint64_t>0:
            bitmap.top |= <uint64_t>1 << group


cdef inline void bit_clear(PortAllocator* ports, Bitmap* bitmap, uint32_t offset) noexcept nogil:
    cdef uint32_t word = offset >> 6, group = offset >> 12
    bitmap.words[word] &= ~(<uint64_t>1 << (offset & 63))
    bitmap.full[group] &= ~(<uint64_t>1 << (word & 63))
    bitmap.top &= ~(<uint64_t>1 << group)


cdef inline uint32_t next_free(const Bitmap* bitmap, uint32_t start) noexcept nogil:
    """First free offset at or after `start`, or NIL."""
    cdef uint32_t word = start >> 6, group = start >> 12
    cdef uint64_t open = ~bitmap.words[word] & (~<uint64_t>0 << (start & 63))
    if open:
        return (word << 6) + HP_CTZ64(open)
    open = ~bitmap.full[group] & ((~<uint64_t>0 << (word & 63)) & ~(<uint64_t>1 << (word & 63)))
    if open == 0:
        open = ~bitmap.top & ((~<uint64_t>0 << group) & ~(<uint64_t>1 << group))
        if open == 0:
            return NIL
        group = HP_CTZ64(open)
        open = ~bitmap.full[group]
    word = (group << 6) + HP_CTZ64(open)
    return (word << 6) + HP_CTZ64(~bitmap.words[word])


cdef inline void bitmap_start(PortAllocator* ports, Remote* remote) noexcept nogil:
    """Give a remote endpoint an empty bitmap in which only ports outside the range are taken."""
    cdef uint32_t i, chosen = ports.bitmap_free
    cdef Bitmap* bitmap
    if chosen == NIL:
        return
    bitmap = &ports.bitmaps[chosen]
    ports.bitmap_free = bitmap.next_free
    remote.bitmap = <uint16_t>chosen
    bitmap.scanned = 0
    memset(bitmap.words, 0, ports.words * 8)
    memset(bitmap.full, 0, ports.full_words * 8)
    if ports.count & 63:
        bitmap.words[ports.words - 1] = ~<uint64_t>0 << (ports.count & 63)
    if ports.words & 63:
        bitmap.full[ports.full_words - 1] = ~<uint64_t>0 << (ports.words & 63)
    bitmap.top = 0 if ports.full_words == 64 else ~<uint64_t>0 << ports.full_words


cdef inline void bitmap_stop(PortAllocator* ports, Remote* remote) noexcept nogil:
    ports.bitmaps[remote.bitmap].next_free = ports.bitmap_free
    ports.bitmap_free = remote.bitmap
    remote.bitmap = 0


cdef inline const Bitmap* bitmap_of(PortAllocator* ports, const Remote* remote) noexcept nogil:
    """The bitmap of a remote endpoint if it is complete; one that is not learns SCAN more ports."""
    cdef Bitmap* bitmap
    cdef uint32_t end
    if remote.bitmap == 0:
        return NULL
    bitmap = &ports.bitmaps[remote.bitmap]
    end = min(bitmap.scanned + SCAN, ports.count)
    while bitmap.scanned < end:
        if in_use(
            ports,
            remote.protocol,
            remote.attachment,
            remote.address,
            remote.port,
            bitmap.scanned,
        ):
            bit_set(ports, bitmap, bitmap.scanned)
        bitmap.scanned += 1
    return bitmap if bitmap.scanned == ports.count else NULL


cdef inline uint32_t found(const Bitmap* bitmap, uint32_t start) noexcept nogil:
    """The first free offset from `start` on, round the range, or NIL."""
    cdef uint32_t offset = next_free(bitmap, start)
    return next_free(bitmap, 0) if offset == NIL else offset


cdef inline uint32_t drawn(
    PortAllocator* ports, const Remote* remote, uint32_t offset
) noexcept nogil:
    """`offset` or others at random while they are likely to be free, then a walk, or NIL.

    The range is small then or few of it are taken, unless there was no bitmap left.
    """
    cdef uint32_t tries
    for tries in range(16 + ports.count):
        if not in_use(
            ports, remote.protocol, remote.attachment, remote.address, remote.port, offset
        ):
            return offset
        if tries < 15:
            offset = ports_random(ports, ports.count)
        else:
            offset = offset + 1 if offset + 1 < ports.count else 0
    return NIL


cdef inline uint32_t ports_random(PortAllocator* ports, uint32_t bound) noexcept nogil:
    """A number below `bound` that nobody can foretell."""
    ports.random_counter += 1
    return <uint32_t>(
        ((siphash(&ports.random_key, ports.random_counter, 0) >> 32) * bound) >> 32
    )


cdef inline int ports_take(
    PortAllocator* ports,
    uint8_t protocol,
    uint16_t attachment,
    uint32_t address,
    uint16_t remote_port,
    uint16_t* nat_port,
) noexcept nogil:
    """Choose and count a free port towards a remote endpoint.

    Returns 0 with the port in network order, or -1 when the limit is reached or every port is
    in use or held.  Ports are counted here and become findable when the flow is committed.
    """
    cdef Remote* remote = &ports.remotes[
        remote_cell(ports, protocol, attachment, address, remote_port)
    ]
    cdef const Bitmap* bitmap
    cdef uint32_t offset
    if remote.count >= ports.limit or (remote.count >= ports.count and not remote.foreign):
        return -1
    offset = ports_random(ports, ports.count)
    if remote.count:
        bitmap = bitmap_of(ports, remote)
        offset = drawn(ports, remote, offset) if bitmap == NULL else found(bitmap, offset)
    if offset == NIL:
        return -1
    nat_port[0] = swap16(<uint16_t>(ports.first + offset))
    ports_adopt(ports, protocol, attachment, address, remote_port, nat_port[0])
    return 0


cdef inline bint ports_full(
    PortAllocator* ports, uint8_t protocol, uint16_t attachment, uint32_t address, uint16_t port
) noexcept nogil:
    """Whether no more ports may be taken towards a remote endpoint."""
    cdef const Remote* remote = ports_remote(ports, protocol, attachment, address, port)
    return remote != NULL and (remote.count >= ports.limit or remote.count >= ports.count)


cdef inline bint ports_adopt(
    PortAllocator* ports,
    uint8_t protocol,
    uint16_t attachment,
    uint32_t address,
    uint16_t remote_port,
    uint16_t nat_port,
) noexcept nogil:
    """Count a port as in use; it may lie outside the present range.

    True when the remote endpoint's bitmap begins with it, which then lacks those adopted before.
    """
    cdef Remote* remote = &ports.remotes[
        remote_cell(ports, protocol, attachment, address, remote_port)
    ]
    cdef uint32_t offset = <uint32_t>swap16(nat_port) - ports.first
    cdef bint begins = False
    if remote.count == 0:
        remote.address = address
        remote.port = remote_port
        remote.attachment = attachment
        remote.protocol = protocol
        remote.bitmap = 0
        remote.foreign = 0
        remote.high_water = 0
        ports.remotes_used += 1
    remote.count += 1
    if remote.count > remote.high_water:
        remote.high_water = remote.count
    if offset >= ports.count:
        # Chosen from an earlier range: the count no longer tells how full this range is.
        remote.foreign = 1
        return False
    if remote.bitmap == 0 and remote.count >= ports.crowded:
        bitmap_start(ports, remote)
        begins = remote.bitmap != 0
    if remote.bitmap:
        bit_set(ports, &ports.bitmaps[remote.bitmap], offset)
    return begins


cdef inline void ports_note(
    PortAllocator* ports,
    uint8_t protocol,
    uint16_t attachment,
    uint32_t address,
    uint16_t remote_port,
    uint16_t nat_port,
) noexcept nogil:
    """Mark an adopted port in its remote endpoint's bitmap, if there is one.

    Whoever begins with one notes them all, so the bitmap need not be scanned for.
    """
    cdef const Remote* remote = ports_remote(ports, protocol, attachment, address, remote_port)
    cdef uint32_t offset = <uint32_t>swap16(nat_port) - ports.first
    if remote != NULL and remote.bitmap and offset < ports.count:
        bit_set(ports, &ports.bitmaps[remote.bitmap], offset)
        ports.bitmaps[remote.bitmap].scanned = ports.count


cdef inline void ports_give_back(
    PortAllocator* ports,
    uint8_t protocol,
    uint16_t attachment,
    uint32_t address,
    uint16_t remote_port,
    uint16_t nat_port,
) noexcept nogil:
    """A port is free again, its hold time included."""
    cdef uint32_t cell = remote_cell(ports, protocol, attachment, address, remote_port)
    cdef Remote* remote = &ports.remotes[cell]
    cdef uint32_t offset = <uint32_t>swap16(nat_port) - ports.first
    if remote.count == 0:
        return
    if remote.bitmap:
        if offset < ports.count:
            bit_clear(ports, &ports.bitmaps[remote.bitmap], offset)
        if remote.count <= ports.crowded // 2:
            bitmap_stop(ports, remote)
    remote.count -= 1
    if remote.count == 0:
        remote_remove(ports, cell)


cdef inline int ports_bit(
    const PortAllocator* ports, const Remote* remote, uint16_t nat_port
) noexcept nogil:
    """What the bitmap says of a port: 1 taken, 0 free, -1 not known."""
    cdef uint32_t offset = <uint32_t>swap16(nat_port) - ports.first
    cdef const Bitmap* bitmap
    if remote.bitmap == 0 or offset >= ports.count:
        return -1
    bitmap = &ports.bitmaps[remote.bitmap]
    if offset >= bitmap.scanned:
        return -1
    return <int>((bitmap.words[offset >> 6] >> (offset & 63)) & 1)
