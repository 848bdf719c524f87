# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Selecting, sorting and writing the flows of a state map that another process writes.

Theory of operation
-------------------
A list of a million flows is hundreds of megabytes of JSON. It is made here, slice by slice, from
copies of entries that read the same before and after (see `snapshot`), without an object for a
flow and without the interpreter's lock, so that whoever shares the process does not notice.

A sorted list cannot be written before its last flow is known. It is therefore bounded: a heap
keeps the first `limit` of what the walk has met so far, and one walk is enough. Flows that compare
equal come in the order of their entries.
"""

import json

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.wire.checksum cimport swap16
from hyperplane_nat.engine.state.layout cimport (
    NOBODY,
    Entry,
    Header,
    age_of,
    first_host,
    interface_number,
    is_mapping,
    is_plain,
)
from hyperplane_nat.engine.state.snapshot cimport Hops, attached, entry_copy, hops_copy, of_host

import socket

from hyperplane_nat.engine.state.constants import State

cdef extern from *:
    """
    #define HP_SWAP32(value) __builtin_bswap32(value)
    """
    uint32_t HP_SWAP32(uint32_t value) noexcept nogil

cdef enum:
    NUMBERS = 65_536
    # A flow takes about 450 characters besides names, and a hop 60.
    FLOW_CHARACTERS = 2048
    NAME_CHARACTERS = 256
    TARGET_CHARACTERS = 64

cdef enum Field:
    NO_FIELD = -1
    AGE = 0
    IDLE
    PACKETS_OUT
    BYTES_OUT
    PACKETS_IN
    BYTES_IN
    PACKETS
    BYTES
    ENVIRONMENT
    REMOTE
    INSIDE_PORT
    NAT_PORT

cdef tuple FIELDS = (
    "age", "idle", "packets_out", "bytes_out", "packets_in", "bytes_in", "packets", "bytes",
    "environment", "remote", "inside_port", "nat_port",
)

cdef list STATE_TEXTS = [state.name.encode() for state in State]
cdef const char* STATE_NAMES[16]
for _state in range(len(STATE_TEXTS)):
    STATE_NAMES[_state] = STATE_TEXTS[_state]

cdef struct Kept:
    uint64_t key
    uint64_t created
    uint32_t number
    Entry entry
    Hops hops


cdef inline const char* protocol_name(uint8_t protocol) noexcept nogil:
    if protocol == 6:
        return "tcp"
    if protocol == 17:
        return "udp"
    return "icmp" if protocol == 1 else "?"


cdef inline uint64_t elapsed(uint64_t now, uint64_t then) noexcept nogil:
    """Milliseconds since `then`; 0 for what was noted after the clock was read."""
    return now - then if now > then else 0


cdef inline bint before(const Kept* one, const Kept* other) noexcept nogil:
    """Whether one flow leaves the heap earlier than another: it is further back in the list."""
    if one.key != other.key:
        return one.key < other.key
    return one.number > other.number


cdef void sift_down(Kept* heap, uint32_t count, uint32_t at) noexcept nogil:
    cdef uint32_t child
    cdef Kept moving
    while True:
        child = 2 * at + 1
        if child >= count:
            return
        if child + 1 < count and before(&heap[child + 1], &heap[child]):
            child += 1
        if not before(&heap[child], &heap[at]):
            return
        moving = heap[at]
        heap[at] = heap[child]
        heap[child] = moving
        at = child


cdef void sift_up(Kept* heap, uint32_t at) noexcept nogil:
    cdef uint32_t parent
    cdef Kept moving
    while at:
        parent = (at - 1) // 2
        if not before(&heap[at], &heap[parent]):
            return
        moving = heap[at]
        heap[at] = heap[parent]
        heap[parent] = moving
        at = parent


cdef inline uint16_t interface_of(const Header* header, const Entry* entry) noexcept nogil:
    """The number of the interface at either end of a flow of a host, NOBODY between hosts."""
    if entry.responder < first_host(header):
        return interface_number(header, entry.responder)
    if entry.originator < first_host(header):
        return interface_number(header, entry.originator)
    return NOBODY


cdef uint8_t* marks(numbers) except? NULL:
    """A byte for every number that there may be, 1 for these; NULL stands for all."""
    cdef uint8_t* result
    if numbers is None:
        return NULL
    result = <uint8_t*>calloc(NUMBERS, 1)
    if result == NULL:
        raise MemoryError
    for number in numbers:
        if 0 <= number < NUMBERS:
            result[<uint32_t>number] = 1
    return result


cdef class FlowScan:
    """One walk through the flows of a map. See the type stub."""

    cdef uint8_t* slots
    cdef uint8_t* interfaces
    cdef const char** names
    cdef list texts
    cdef uint8_t protocol
    cdef uint32_t states
    cdef uint32_t address
    cdef bint any_address
    cdef uint16_t port
    cdef bint any_port
    cdef uint64_t youngest
    cdef uint64_t oldest
    cdef int field
    cdef bint reverse
    cdef uint32_t left
    cdef bint bounded
    cdef Kept* heap
    cdef uint32_t count
    cdef uint32_t written
    cdef bint ordered
    cdef uint64_t now
    cdef uint32_t first_host
    cdef uint32_t slots_max
    cdef const char** hosts

    def __cinit__(
        self, names, *, hosts=None, slots=None, interfaces=None, protocol=None, state=None, address=None,
        port=None, uint64_t min_age_ms=0, max_age_ms=None, sort=None, bint reverse=False,
        limit=None,
    ):
        cdef uint32_t number
        cdef bytes text
        self.slots = marks(slots)
        self.interfaces = marks(interfaces)
        self.names = <const char**>calloc(NUMBERS, sizeof(char*))
        self.hosts = <const char**>calloc(NUMBERS, sizeof(char*))
        if self.names == NULL or self.hosts == NULL:
            raise MemoryError
        self.texts = []
        for number, name in names.items():
            text = self.quoted(number, name)
            self.names[number] = text
        for number, name in (hosts or {}).items():
            text = self.quoted(number, name)
            self.hosts[number] = text
        self.protocol = 0 if protocol is None else {"icmp": 1, "tcp": 6, "udp": 17}[protocol]
        self.states = ~<uint32_t>0 if state is None else <uint32_t>1 << <int>State[state].value
        self.any_address = address is None
        if address is not None:
            text = socket.inet_aton(address)
            memcpy(&self.address, <const unsigned char*>text, 4)
        self.any_port = port is None
        self.port = 0 if port is None else swap16(port)
        self.youngest = min_age_ms
        self.oldest = ~<uint64_t>0 if max_age_ms is None else max_age_ms
        self.field = NO_FIELD if sort is None else FIELDS.index(sort)
        self.reverse = reverse
        self.bounded = limit is not None
        self.left = 0 if limit is None else limit
        if sort is not None:
            if limit is None:
                raise ValueError("a sorted list needs a limit")
            self.heap = <Kept*>calloc(max(self.left, 1), sizeof(Kept))
            if self.heap == NULL:
                raise MemoryError

    cdef bytes quoted(self, number, name):
        """A name as JSON, which is kept."""
        cdef bytes text = json.dumps(name).encode()
        if number >= NUMBERS or len(text) > NAME_CHARACTERS:
            raise ValueError(f"number {number}: there is none, or its name is too long")
        self.texts.append(text)
        return text

    def __dealloc__(self):
        free(self.slots)
        free(self.interfaces)
        free(self.names)
        free(self.hosts)
        free(self.heap)

    @property
    def done(self):
        """Whether no more flows are wanted than were written."""
        return self.field == NO_FIELD and self.bounded and self.left == 0

    cdef bint accepts(self, const Entry* entry, uint64_t age) noexcept nogil:
        if (
            not (self.states >> entry.state) & 1
            or (self.protocol and entry.protocol != self.protocol)
            or (self.slots != NULL and not self.slots[entry.originator])
            or (self.interfaces != NULL and not self.interfaces[entry.responder])
            or not (self.any_address or entry.destination_address == self.address)
            or not (self.any_port or entry.destination_port == self.port)
        ):
            return False
        return self.youngest <= age <= self.oldest

    cdef uint64_t key_of(self, const Entry* entry, uint64_t created, uint64_t now) noexcept nogil:
        cdef uint64_t key = 0
        if self.field == AGE:
            key = elapsed(now, created)
        elif self.field == IDLE:
            key = age_of(entry, now)
        elif self.field == PACKETS_OUT:
            key = entry.packets[0]
        elif self.field == BYTES_OUT:
            key = entry.bytes[0]
        elif self.field == PACKETS_IN:
            key = entry.packets[1]
        elif self.field == BYTES_IN:
            key = entry.bytes[1]
        elif self.field == PACKETS:
            key = entry.packets[0] + entry.packets[1]
        elif self.field == BYTES:
            key = entry.bytes[0] + entry.bytes[1]
        elif self.field == ENVIRONMENT:
            key = entry.originator
        elif self.field == REMOTE:
            key = <uint64_t>HP_SWAP32(entry.destination_address) << 16
            key |= swap16(entry.destination_port)
        elif self.field == INSIDE_PORT:
            key = swap16(entry.source_port)
        else:
            key = swap16(entry.translated_port)
        return ~key if self.reverse else key

    cdef void keep(
        self, const Entry* entry, const Hops* hops, uint64_t created, uint32_t number, uint64_t now
    ) noexcept nogil:
        """Put a flow on the heap, if it is among the first so far."""
        cdef Kept flow
        flow.key = self.key_of(entry, created, now)
        flow.created = created
        flow.number = number
        flow.entry = entry[0]
        flow.hops = hops[0]
        if self.count < self.left:
            self.heap[self.count] = flow
            sift_up(self.heap, self.count)
            self.count += 1
        elif self.left and before(&self.heap[0], &flow):
            self.heap[0] = flow
            sift_down(self.heap, self.count, 0)

    cdef uint32_t write(
        self,
        char* out,
        const Entry* entry,
        const Hops* hops,
        uint64_t created,
        uint32_t number,
        uint64_t now,
    ) noexcept nogil:
        """Write a flow as JSON; returns how many characters it took."""
        cdef const uint8_t* inside = <const uint8_t*>&entry.source_address
        cdef bint plain = is_plain(entry)
        cdef bint of_host = entry.originator >= self.slots_max
        cdef uint32_t length
        cdef const uint8_t* ours = <const uint8_t*>&entry.translated_address
        cdef const uint8_t* remote = <const uint8_t*>&entry.destination_address
        cdef uint64_t age = elapsed(now, created)
        cdef uint32_t idle = age_of(entry, now)
        cdef char[16] unnamed, slot
        cdef char[32] environment
        cdef char[NAME_CHARACTERS + 16] host
        cdef const char* name = self.names[entry.responder]
        cdef uint32_t number_of_host
        if name == NULL:
            snprintf(unnamed, 16, b'"%u"', <unsigned int>entry.responder)
            name = unnamed
        host[0] = 0
        if plain and of_host:
            ours = inside
        if not of_host:
            snprintf(slot, 16, b"%u", <unsigned int>entry.originator)
            snprintf(environment, 32, b'"env-%u"', <unsigned int>entry.originator)
        else:
            if entry.responder == NOBODY:
                name = b"null"
            snprintf(slot, 16, b"null")
            snprintf(environment, 32, b"null")
            number_of_host = entry.originator - self.first_host
            if entry.originator < self.first_host:
                snprintf(host, sizeof(host), b'"host":null,')
            elif self.hosts[number_of_host] == NULL:
                snprintf(host, sizeof(host), b'"host":"host-%u",', <unsigned int>number_of_host)
            else:
                snprintf(host, sizeof(host), b'"host":%s,', self.hosts[number_of_host])
        length = <uint32_t>snprintf(
            out,
            FLOW_CHARACTERS,
            b'{"entry":%u,"protocol":"%s","state":"%s","slot":%s,"interface":%s,%s'
            b'"inside_address":"%u.%u.%u.%u","inside_port":%u,'
            b'"remote_address":"%u.%u.%u.%u","remote_port":%u,'
            b'"nat_address":"%u.%u.%u.%u","nat_port":%u,'
            b'"packets_out":%llu,"bytes_out":%llu,"packets_in":%llu,"bytes_in":%llu,'
            b'"created_ms":%llu,"last_seen_ms":%llu,"environment":%s,'
            b'"age_seconds":%llu.%03u,"idle_seconds":%u.%03u',
            <unsigned int>number,
            protocol_name(entry.protocol),
            STATE_NAMES[entry.state],
            slot,
            name,
            host,
            <unsigned int>inside[0],
            <unsigned int>inside[1],
            <unsigned int>inside[2],
            <unsigned int>inside[3],
            <unsigned int>swap16(entry.source_port),
            <unsigned int>remote[0],
            <unsigned int>remote[1],
            <unsigned int>remote[2],
            <unsigned int>remote[3],
            <unsigned int>swap16(entry.destination_port),
            <unsigned int>ours[0],
            <unsigned int>ours[1],
            <unsigned int>ours[2],
            <unsigned int>ours[3],
            <unsigned int>swap16(entry.source_port if plain and of_host else entry.translated_port),
            <unsigned long long>entry.packets[0],
            <unsigned long long>entry.bytes[0],
            <unsigned long long>entry.packets[1],
            <unsigned long long>entry.bytes[1],
            <unsigned long long>created,
            <unsigned long long>(now - idle),
            environment,
            <unsigned long long>(age // 1000),
            <unsigned int>(age % 1000),
            <unsigned int>(idle // 1000),
            <unsigned int>(idle % 1000),
        )
        if hops.count:
            length += self.write_hops(out + length, hops)
        if hops.target.port:
            remote = <const uint8_t*>&hops.target.address
            length += <uint32_t>snprintf(
                out + length,
                TARGET_CHARACTERS,
                b',"target":{"address":"%u.%u.%u.%u","port":%u}',
                <unsigned int>remote[0],
                <unsigned int>remote[1],
                <unsigned int>remote[2],
                <unsigned int>remote[3],
                <unsigned int>swap16(hops.target.port),
            )
        out[length] = b"}"
        return length + 1

    cdef uint32_t write_hops(self, char* out, const Hops* hops) noexcept nogil:
        """Write the hops of a flow by a NAT gateway or a load balancer's node, as a further field."""
        cdef uint32_t length = 0, i
        cdef const uint8_t* address
        cdef const char* name
        cdef char[16] unnamed
        for i in range(hops.count):
            address = <const uint8_t*>&hops.hops[i].address
            name = self.names[hops.hops[i].attachment]
            if name == NULL:
                snprintf(unnamed, 16, b'"%u"', <unsigned int>hops.hops[i].attachment)
                name = unnamed
            length += <uint32_t>snprintf(
                out + length,
                NAME_CHARACTERS + 128,
                b'%s{"interface":%s,"address":"%u.%u.%u.%u","port":%u}',
                b"," if i else b',"hops":[',
                name,
                <unsigned int>address[0],
                <unsigned int>address[1],
                <unsigned int>address[2],
                <unsigned int>address[3],
                <unsigned int>swap16(hops.hops[i].port),
            )
        out[length] = b"]"
        return length + 1

    def read(
        self, const unsigned char[::1] memory not None, uint32_t start, uint32_t limit,
        uint64_t now_ms,
    ):
        """The flows wanted among `limit` entries from `start`; none yet when they are sorted."""
        cdef const uint8_t* base = &memory[0]
        cdef const Header* header = <const Header*>base
        cdef uint64_t i = start, created
        cdef uint64_t end = min(<uint64_t>start + limit, <uint64_t>header.entries_watermark)
        cdef Entry entry
        cdef Hops hops
        cdef uint32_t hop
        cdef char* out = NULL
        cdef size_t used = 0
        self.now = now_ms
        self.first_host = first_host(header)
        self.slots_max = header.slots_max
        if i >= end:
            return b""
        if self.field == NO_FIELD:
            out = <char*>malloc((end - i) * FLOW_CHARACTERS)
            if out == NULL:
                raise MemoryError
        with nogil:
            while i < end and not (self.field == NO_FIELD and self.bounded and self.left == 0):
                i += 1
                if (
                    not entry_copy(header, i - 1, &entry, &created)
                    or entry.state >= STATE_MAPPING
                    or is_mapping(&entry)
                    or not (attached(header, &entry) or of_host(header, &entry))
                    or not hops_copy(header, i - 1, &entry, &hops)
                ):
                    continue
                # Names and what is wanted go by that.
                for hop in range(hops.count):
                    hops.hops[hop].attachment = interface_number(
                        header, hops.hops[hop].attachment
                    )
                if hops.count:
                    entry.responder = hops.hops[0].attachment
                elif entry.originator >= header.slots_max:
                    entry.responder = interface_of(header, &entry)
                else:
                    entry.responder = interface_number(header, entry.responder)
                if not self.accepts(&entry, elapsed(now_ms, created)):
                    continue
                if self.field != NO_FIELD:
                    self.keep(&entry, &hops, created, <uint32_t>(i - 1), now_ms)
                    continue
                if used:
                    out[used] = b","
                    out[used + 1] = b"\n"
                    used += 2
                used += self.write(
                    out + used, &entry, &hops, created, <uint32_t>(i - 1), now_ms
                )
                if self.bounded:
                    self.left -= 1
        try:
            return out[:used] if used else b""
        finally:
            free(out)

    def rest(self, uint32_t limit):
        """The next `limit` flows of a sorted list, after the walk; b"" at its end."""
        cdef uint32_t end, i
        cdef Kept last
        cdef char* out
        cdef size_t used = 0
        if self.heap != NULL and not self.ordered:
            with nogil:
                # What leaves the heap first is the last of the list.
                end = self.count
                while end > 1:
                    end -= 1
                    last = self.heap[end]
                    self.heap[end] = self.heap[0]
                    self.heap[0] = last
                    sift_down(self.heap, end, 0)
            self.ordered = True
        end = min(self.written + limit, self.count)
        if self.written == end:
            return b""
        out = <char*>malloc(<size_t>(end - self.written) * FLOW_CHARACTERS)
        if out == NULL:
            raise MemoryError
        with nogil:
            for i in range(self.written, end):
                if used:
                    out[used] = b","
                    out[used + 1] = b"\n"
                    used += 2
                used += self.write(
                    out + used,
                    &self.heap[i].entry,
                    &self.heap[i].hops,
                    self.heap[i].created,
                    self.heap[i].number,
                    self.now,
                )
        self.written = end
        try:
            return out[:used]
        finally:
            free(out)
