# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""What flows did since they were last looked at.

Theory of operation
-------------------
The state map and the ring of flow records have totals, flow logs want differences. So what was
counted of a flow is remembered by its entry, with generation and time of creation, which tell flows
of one entry apart. Looking at the map (`live`) yields the difference of every flow that had
packets; a record of the ring (`ended`) yields what was left.

The two are not read at one moment. When the map shows a new flow in an entry whose old one has no
record yet, what was counted of the old one waits among the unfinished until its record comes. A
record that was lost never comes: `forget` drops what waits for longer than a look at all.

Interfaces and hosts are told by one number, their place: an interface's own, and behind those a
host's, in the order of the map's attachments. A flow by a NAT gateway or a load balancer's node is
told with its way, on which these are places too.

Totals of a flow that began before somebody looked are unknown: after `begin_late` such flows count
from their first look on, and ended ones that were never seen not at all.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.wire.checksum cimport swap16
from hyperplane_nat.engine.state.record_ring cimport (
    record_fill,
    ring_fits,
    ring_head,
    ring_lost,
    ring_records,
    ring_take,
)
from hyperplane_nat.engine.state.layout cimport (
    NOBODY,
    Entry,
    FlowRecord,
    Header,
    RecordRing,
    Way as RecordedWay,
    is_mapping,
)
from hyperplane_nat.engine.state.snapshot cimport attached, entry_copy, entry_stands, of_host

from hyperplane_nat.engine.state.constants import Position
from hyperplane_nat.engine.state.settings import FlowDelta, HostDelta, Way

cdef tuple POSITIONS = tuple(Position)

cdef enum:
    FLAG_FIN = 1
    FLAG_SYN = 2
    FLAG_RST = 4
    FLAG_ACK = 16
    FLAG_SYNACK = 18

# What was counted of the flow in an entry, with the low bits of when it began; `used` 0 is nothing.
cdef struct Seen:
    uint32_t created
    uint16_t generation
    uint8_t state
    uint8_t used
    uint64_t packets[2]
    uint64_t bytes[2]


cdef inline bint established(uint8_t state) noexcept nogil:
    return STATE_ESTABLISHED <= state <= STATE_RESET


cdef inline bint closed_by(uint8_t state, int side) noexcept nogil:
    """Whether a side has sent its FIN; after a reset nobody knows."""
    if state == STATE_FIN_BOTH or state == STATE_TIME_WAIT:
        return True
    return state == (STATE_FIN_INSIDE if side == PEER_ORIGINATOR else STATE_FIN_OUTSIDE)


cdef int flags_of(uint8_t before, uint8_t after, int side) noexcept nogil:
    """TCP flags a side has sent between two states; which side reset is not kept, so both show it."""
    cdef int flags = 0
    if after == STATE_HELD:
        after = before
    if before == STATE_FREE and side == PEER_ORIGINATOR:
        flags |= FLAG_SYN
    if side == PEER_RESPONDER and established(after) and not established(before):
        if after != STATE_RESET:
            flags |= FLAG_SYNACK
    if closed_by(after, side) and not closed_by(before, side):
        flags |= FLAG_FIN
    if after == STATE_RESET and before != STATE_RESET:
        flags |= FLAG_RST
    return flags


cdef int flags_told(uint8_t flags) noexcept nogil:
    """What tcp-flags tells of one segment: FIN, SYN and RST, and ACK beside SYN only."""
    cdef int told = FLAG_FIN | FLAG_SYN | FLAG_RST
    if flags & FLAG_SYN:
        told |= FLAG_ACK
    return flags & told


cdef inline bint is_host_s(const FlowRecord* record, uint32_t slots_max) noexcept nogil:
    """Whether it is of a flow of a host: its originator is no environment."""
    return slots_max <= record.originator < NOBODY


cdef inline object host_place(uint16_t attachment, uint32_t slots_max, uint32_t first_host):
    """The place of a host, None for the VPC's router and who is in the internet."""
    return attachment - slots_max if attachment >= first_host else None


cdef object way_of(const RecordedWay* way, uint32_t slots_max):
    """How a flow goes on from its client's interface, None where it goes straight."""
    if way.hop < slots_max:
        return None
    return Way(
        way.hop - slots_max,
        way.hop_address,
        way.source_address,
        swap16(way.source_port),
        way.far_address,
        swap16(way.far_port),
        way.internet != 0,
        way.endpoint - slots_max if way.endpoint else None,
        way.target - slots_max if way.target else None,
        POSITIONS[way.position],
    )


cdef object delta_of(
    const FlowRecord* record, const Seen* seen, bint known, uint32_t slots_max, uint32_t first_host
):
    """A record's difference to what was seen, None when there is none."""
    cdef uint64_t packets[2]
    cdef uint64_t bytes[2]
    cdef uint8_t before = seen.state if known else STATE_FREE
    cdef int side
    cdef int flags[2]
    for side in range(2):
        packets[side] = record.packets[side] - (seen.packets[side] if known else 0)
        bytes[side] = record.bytes[side] - (seen.bytes[side] if known else 0)
    if packets[0] == 0 and packets[1] == 0:
        return None
    for side in range(2):
        if record.protocol != 6 or (record.reason and packets[side] == 0):
            flags[side] = 0
        elif record.reason:
            flags[side] = flags_told(record.flags)
        else:
            flags[side] = flags_of(before, record.state, side)
    if is_host_s(record, slots_max):
        return HostDelta(
            host_place(record.originator, slots_max, first_host),
            host_place(record.responder, slots_max, first_host),
            record.protocol,
            record.inside_address,
            swap16(record.inside_port),
            record.remote_address,
            swap16(record.remote_port),
            packets[0],
            bytes[0],
            packets[1],
            bytes[1],
            record.created,
            record.last_seen,
            flags[0],
            flags[1],
            record.reason,
            way_of(&record.way, slots_max),
            record.way.internet != 0 and record.way.hop == 0,
        )
    return FlowDelta(
        record.originator,
        record.responder - slots_max,
        record.protocol,
        record.inside_address,
        swap16(record.inside_port),
        record.remote_address,
        swap16(record.remote_port),
        record.nat_address,
        swap16(record.nat_port),
        packets[0],
        bytes[0],
        packets[1],
        bytes[1],
        record.created,
        record.last_seen,
        flags[0],
        flags[1],
        record.reason,
        way_of(&record.way, slots_max),
    )


cdef class FlowDeltas:
    """What was counted of every flow of one map; see the type stub for the signatures."""

    cdef Seen* seen
    cdef uint32_t flows_max
    cdef uint32_t slots_max
    cdef uint32_t first_host
    cdef bint late
    cdef uint64_t start
    cdef dict unfinished
    cdef uint64_t looks

    def __cinit__(self, uint32_t flows_max, uint32_t slots_max, uint32_t interfaces_max):
        self.seen = <Seen*>calloc(flows_max, sizeof(Seen))
        if self.seen == NULL:
            raise MemoryError

    def __init__(self, uint32_t flows_max, uint32_t slots_max, uint32_t interfaces_max):
        self.flows_max = flows_max
        self.slots_max = slots_max
        self.first_host = slots_max + interfaces_max
        self.unfinished = {}

    def __dealloc__(self):
        free(self.seen)

    def begin_late(self, uint64_t now_ms):
        """Flows from before `now_ms` count from their first look on."""
        self.late = True
        self.start = now_ms

    def live(
        self, const unsigned char[::1] memory not None, uint32_t start, uint32_t limit,
        uint64_t now_ms,
    ):
        """What the flows among `limit` entries from `start` did since the last look."""
        cdef const uint8_t* base = &memory[0]
        cdef const Header* header = <const Header*>base
        cdef uint64_t end = min(<uint64_t>start + limit, <uint64_t>header.entries_watermark)
        cdef uint64_t i
        cdef int side
        cdef Entry entry
        cdef FlowRecord record
        cdef Seen* seen
        cdef bint known
        cdef list found = []
        if end > self.flows_max:
            end = self.flows_max
        for i in range(start, end):
            if (
                not entry_copy(header, i, &entry, &record.created)
                or entry.state > STATE_HELD
                or is_mapping(&entry)
                or not (attached(header, &entry) or of_host(header, &entry))
            ):
                continue
            record.entry = <uint32_t>i
            record_fill(&record, header, &entry, now_ms)
            if not entry_stands(header, i, &entry):
                continue
            seen = &self.seen[i]
            known = seen.used and same(seen, entry.generation, record.created)
            if seen.used and not known:
                self.postpone(<uint32_t>i)
            # What an old flow did before its first look is unknown.
            if known or not self.late or not self.before(&record):
                delta = delta_of(&record, seen, known, self.slots_max, self.first_host)
                if delta is not None:
                    found.append(delta)
            if entry.state != STATE_HELD or not known:
                seen.state = entry.state
            seen.created = <uint32_t>record.created
            seen.generation = entry.generation
            seen.used = 1
            for side in range(2):
                seen.packets[side] = entry.packets[side]
                seen.bytes[side] = entry.bytes[side]
        return found

    cdef postpone(self, uint32_t entry):
        cdef Seen* seen = &self.seen[entry]
        self.unfinished[entry, seen.generation, seen.created] = (
            seen.state, seen.packets[0], seen.packets[1], seen.bytes[0], seen.bytes[1], self.looks,
        )

    def ended(self, unsigned char[::1] memory not None, uint32_t limit):
        """Take up to `limit` records; the differences, and the places of unknown ones."""
        cdef RecordRing* ring = <RecordRing*>&memory[0]
        if not ring_fits(ring, memory.shape[0]):
            raise ValueError("not a ring of flow records")
        cdef FlowRecord* records = ring_records(ring)
        cdef uint64_t tail = ring.tail, head = ring_head(ring)
        cdef uint64_t mask = ring.capacity - 1
        cdef FlowRecord record
        cdef Seen* seen
        cdef Seen old
        cdef bint known
        cdef list found = []
        cdef set unknown = set()
        while tail != head and limit:
            record = records[tail & mask]
            tail += 1
            limit -= 1
            known = False
            seen = &old
            if record.reason == 0 and record.entry < self.flows_max:
                seen = &self.seen[record.entry]
                known = seen.used and same(seen, record.generation, record.created)
                if known:
                    seen.used = 0
                else:
                    waiting = self.unfinished.pop(
                        (record.entry, record.generation, <uint32_t>record.created), None
                    )
                    if waiting is not None:
                        known = True
                        seen = &old
                        old.state = waiting[0]
                        old.packets[0], old.packets[1] = waiting[1], waiting[2]
                        old.bytes[0], old.bytes[1] = waiting[3], waiting[4]
                if not known and self.late and self.before(&record):
                    for attachment in (
                        record.originator,
                        record.responder,
                        record.way.hop,
                        record.way.endpoint,
                        record.way.target,
                    ):
                        if self.slots_max <= attachment < NOBODY:
                            unknown.add(attachment - self.slots_max)
                    continue
            delta = delta_of(&record, seen, known, self.slots_max, self.first_host)
            if delta is not None:
                found.append(delta)
        ring_take(ring, tail)
        return found, unknown

    cdef bint before(self, const FlowRecord* record):
        """Whether a flow ended before anybody looked."""
        return record.created < self.start

    def forget(self):
        """A look at the whole map is over: drop what waits since before the last one."""
        cdef uint64_t oldest = self.looks
        self.unfinished = {
            key: value for key, value in self.unfinished.items() if value[5] >= oldest
        }
        self.looks += 1


cdef inline bint same(const Seen* seen, uint16_t generation, uint64_t created) noexcept nogil:
    return seen.generation == generation and seen.created == <uint32_t>created


def read_lost(unsigned char[::1] memory not None):
    """Records lost so far by place, those that lost any."""
    cdef RecordRing* ring = <RecordRing*>&memory[0]
    if not ring_fits(ring, memory.shape[0]):
        raise ValueError("not a ring of flow records")
    cdef uint32_t* lost = ring_lost(ring)
    cdef uint32_t i
    return {i: lost[i] for i in range(ring.places) if lost[i]}
