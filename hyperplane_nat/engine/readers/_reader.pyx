# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=True, wraparound=False
"""Reading a state map that another process writes.

Nothing is locked. Entries are copied by `snapshot`; counters are single aligned words.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.wire.checksum cimport swap16
from hyperplane_nat.engine.state.layout cimport (
    AttachmentRecord,
    Entry,
    Header,
    first_host,
    interface_number,
    is_mapping,
    is_plain,
    records_of,
)
from hyperplane_nat.engine.state.layout cimport Exhaustion as ExhaustionRecord
from hyperplane_nat.engine.state.barriers cimport HP_FENCE_ACQUIRE
from hyperplane_nat.engine.state.snapshot cimport Hops, attached, entry_copy, hops_copy, of_host
from hyperplane_nat.engine.wire.text cimport dotted

from hyperplane_nat.engine.state.constants import DropReason, Side, State
from hyperplane_nat.engine.state.settings import Exhaustion, Flow, Hop, HostFlow, Target

cdef list STATE_NAMES = [state.name for state in State]
cdef list SIDES = list(Side)
cdef dict REASONS = {int(reason): reason for reason in DropReason}
cdef dict PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp"}


def read_counters(const unsigned char[::1] memory not None):
    """All counters of the map by index."""
    cdef const Header* header = <const Header*>&memory[0]
    cdef const uint64_t* counters = <const uint64_t*>(&memory[0] + header.counters_offset)
    cdef int i
    return [counters[i] for i in range(COUNTERS_MAX)]


def read_sums(const unsigned char[::1] memory not None, numbers):
    """The counters of many attachments by index, summed; the caller has checked the numbers."""
    cdef const AttachmentRecord* records = records_of(<const Header*>&memory[0])
    cdef uint64_t sums[ATTACHMENT_COUNTERS]
    cdef int i, number
    memset(sums, 0, sizeof(sums))
    for number in numbers:
        for i in range(ATTACHMENT_COUNTERS):
            sums[i] += records[number].counters[i]
    return [sums[i] for i in range(ATTACHMENT_COUNTERS)]


def read_attachment(const unsigned char[::1] memory not None, int number):
    """The counters of one attachment by index, and its address; the caller has checked the number."""
    cdef const Header* header = <const Header*>&memory[0]
    cdef const AttachmentRecord* record = &records_of(header)[number]
    cdef const AttachmentRecord* each
    cdef uint64_t sums[ATTACHMENT_COUNTERS]
    cdef uint32_t other
    cdef int i
    memcpy(sums, record.counters, sizeof(sums))
    if header.slots_max <= <uint32_t>number < first_host(header) and record.role == ROLE_NAT_GATEWAY:
        # What passes it is counted at the public address that stands for it; its ports at both.
        for other in range(header.slots_max, first_host(header)):
            each = &records_of(header)[other]
            if each.serves != number:
                continue
            for i in range(ATTACHMENT_COUNTERS):
                if i != A_PORTS:
                    sums[i] += each.counters[i]
    return [sums[i] for i in range(ATTACHMENT_COUNTERS)], dotted(record.address)


def read_node(const unsigned char[::1] memory not None, int number):
    """What only a load balancer's node counts, by index; the caller has checked the attachment."""
    cdef const AttachmentRecord* record = &records_of(<const Header*>&memory[0])[number]
    cdef int i
    return [record.balanced[i] for i in range(NODE_COUNTERS)]


def read_served(const unsigned char[::1] memory not None, int number):
    """The number of the NAT gateway's address that an interface number stands for, or its own."""
    cdef const Header* header = <const Header*>&memory[0]
    cdef uint16_t serves = records_of(header)[header.slots_max + number].serves
    if header.slots_max <= serves < first_host(header):
        return interface_number(header, serves)
    return number


cdef inline object target_of(const Hops* hops):
    if hops.target.port == 0:
        return None
    return Target(dotted(hops.target.address), swap16(hops.target.port))


cdef inline tuple hops_of(const Header* header, const Hops* hops):
    cdef uint32_t i
    cdef list found = []
    for i in range(hops.count):
        found.append(
            Hop(
                interface_number(header, hops.hops[i].attachment),
                dotted(hops.hops[i].address),
                swap16(hops.hops[i].port),
            )
        )
    return tuple(found)


def read_exhaustions(const unsigned char[::1] memory not None):
    """Where ports ran out, in no order; a record that changes meanwhile may be left out."""
    cdef const uint8_t* base = &memory[0]
    cdef const Header* header = <const Header*>base
    cdef const ExhaustionRecord* records = <const ExhaustionRecord*>(
        base + header.exhaustions_offset
    )
    cdef ExhaustionRecord record
    cdef list found = []
    cdef int i
    for i in range(EXHAUSTIONS):
        if records[i].errors == 0:
            continue
        HP_FENCE_ACQUIRE()
        memcpy(&record, &records[i], sizeof(ExhaustionRecord))
        HP_FENCE_ACQUIRE()
        if records[i].errors != record.errors or record.reason not in REASONS:
            continue
        found.append(
            Exhaustion(
                PROTOCOLS.get(record.protocol, "?"),
                interface_number(header, record.responder),
                dotted(record.address),
                swap16(record.port),
                record.originator,
                REASONS[record.reason],
                record.errors,
                record.last,
            )
        )
    return found


def read_flows(
    const unsigned char[::1] memory not None, uint32_t start, uint32_t limit, bint mappings=False
):
    """Flows, or mappings, among `limit` entries from `start`."""
    cdef const uint8_t* base = &memory[0]
    cdef const Header* header = <const Header*>base
    cdef uint64_t end = min(<uint64_t>start + limit, <uint64_t>header.entries_watermark)
    cdef uint64_t i, created
    cdef Entry entry
    cdef Hops hops
    cdef list found = []
    for i in range(start, end):
        if (
            not entry_copy(header, i, &entry, &created)
            or entry.state > STATE_MAPPING
            or is_mapping(&entry) != mappings
            or not attached(header, &entry)
            or not hops_copy(header, i, &entry, &hops)
        ):
            continue
        found.append(
            Flow(
                i,
                PROTOCOLS.get(entry.protocol, "?"),
                STATE_NAMES[entry.state],
                entry.originator,
                interface_number(
                    header, hops.hops[0].attachment if hops.count else entry.responder
                ),
                dotted(entry.source_address),
                swap16(entry.source_port),
                dotted(entry.destination_address),
                swap16(entry.destination_port),
                dotted(entry.translated_address),
                swap16(entry.translated_port),
                entry.packets[0],
                entry.bytes[0],
                entry.packets[1],
                entry.bytes[1],
                created,
                entry.last_seen,
                hops_of(header, &hops),
                target_of(&hops),
            )
        )
    return found


cdef inline tuple place_of(const Header* header, uint16_t attachment):
    """Side and number of an attachment that hosts have flows with."""
    if attachment < first_host(header):
        return SIDES[<int>SIDE_OUTSIDE], interface_number(header, attachment)
    return SIDES[<int>SIDE_HOST], attachment - first_host(header)


def read_host_flows(const unsigned char[::1] memory not None, uint32_t start, uint32_t limit):
    """Flows of hosts among `limit` entries from `start`."""
    cdef const uint8_t* base = &memory[0]
    cdef const Header* header = <const Header*>base
    cdef uint64_t end = min(<uint64_t>start + limit, <uint64_t>header.entries_watermark)
    cdef uint64_t i, created
    cdef Entry entry
    cdef Hops hops
    cdef bint plain
    cdef list found = []
    for i in range(start, end):
        if (
            not entry_copy(header, i, &entry, &created)
            or entry.state >= STATE_MAPPING
            or not of_host(header, &entry)
            or not hops_copy(header, i, &entry, &hops)
        ):
            continue
        plain = is_plain(&entry)
        found.append(
            HostFlow(
                i,
                PROTOCOLS.get(entry.protocol, "?"),
                STATE_NAMES[entry.state],
                *place_of(header, entry.originator),
                *place_of(header, entry.responder),
                dotted(entry.source_address),
                swap16(entry.source_port),
                dotted(entry.destination_address),
                swap16(entry.destination_port),
                dotted(entry.source_address if plain else entry.translated_address),
                swap16(entry.source_port if plain else entry.translated_port),
                entry.packets[0],
                entry.bytes[0],
                entry.packets[1],
                entry.bytes[1],
                created,
                entry.last_seen,
                hops_of(header, &hops),
                target_of(&hops),
            )
        )
    return found
