# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The flow table by itself: the engine's own functions in a loop, without a socket.

Keys are shuffled once and then taken in that order, so every access goes to a random place of
index and entries while the list of keys itself is read in sequence. Each loop reports the time for
all of its operations; the clock is read twice.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from bench.native.clock cimport now_ns
from hyperplane_nat.engine.state._constants cimport ACTION_FORWARD
from hyperplane_nat.engine.wire.checksum cimport complement, load32, store16, sum_bytes, swap16
from hyperplane_nat.engine.nat.engine cimport Engine
from hyperplane_nat.engine.flows.flow_table cimport (
    FlowKey,
    flow_key,
    table_find,
    table_free,
    table_hash,
    table_prefetch_entry,
    table_prefetch_index,
)
from hyperplane_nat.engine.state.layout cimport NIL, Entry
from hyperplane_nat.engine.flows.lifecycle cimport flow_create, flows_expire
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.packet cimport KIND_FLOW, Packet
from hyperplane_nat.engine.flows.ports cimport ports_give_back
from hyperplane_nat.engine.flows.timers cimport wheel_remove

cdef enum:
    UDP = 17
    # So many flows share one destination port: far fewer than a remote endpoint may have.
    PORTS = 1000
    FRAME = 64
    BATCH = 128
    # Entries and counters of removed flows are of no interest.
    NEVER = 1000000000

cdef struct Flow:
    uint16_t inside_port
    uint16_t remote_port
    uint32_t number


cdef class FlowTable:
    """One engine and a set of shuffled UDP keys; see the type stub."""

    cdef Engine engine
    cdef Nat* nat
    cdef Flow* keys
    cdef uint32_t count
    cdef uint32_t remote
    cdef uint64_t now

    def __cinit__(self, Engine engine not None, *, uint32_t flows, bytes remote not None):
        cdef uint32_t i, other
        cdef uint64_t random = 0x9E3779B97F4A7C15
        cdef Flow held
        if len(remote) != 4 or flows < 1:
            raise ValueError("an IPv4 address in four bytes and at least one flow are needed")
        self.engine = engine
        self.nat = engine.nat
        self.remote = load32(<const uint8_t*><const unsigned char*>remote)
        self.count = flows
        self.now = 1000
        self.keys = <Flow*>calloc(flows, sizeof(Flow))
        if self.keys == NULL:
            raise MemoryError
        for i in range(flows):
            self.keys[i].remote_port = swap16(<uint16_t>(1 + i % PORTS))
            self.keys[i].inside_port = swap16(<uint16_t>(1024 + i // PORTS))
            self.keys[i].number = NIL
        for i in range(flows - 1, 0, -1):
            random ^= random << 13
            random ^= random >> 7
            random ^= random << 17
            other = <uint32_t>((random >> 16) % (i + 1))
            held = self.keys[i]
            self.keys[i] = self.keys[other]
            self.keys[other] = held

    def __dealloc__(self):
        free(self.keys)

    cdef FlowKey _key(self, uint32_t i, uint16_t changed) noexcept nogil:
        return flow_key(
            UDP,
            0,
            self.nat.attachments[0].address,
            self.keys[i].inside_port ^ changed,
            self.remote,
            self.keys[i].remote_port,
        )

    def insert(self):
        """Make every flow."""
        cdef Packet packet
        cdef uint32_t i
        cdef int reason = 0
        cdef uint64_t start
        memset(&packet, 0, sizeof(Packet))
        packet.protocol = UDP
        packet.source = self.nat.attachments[0].address
        packet.destination = self.remote
        with nogil:
            start = now_ns()
            for i in range(self.count):
                packet.source_port = self.keys[i].inside_port
                packet.destination_port = self.keys[i].remote_port
                self.keys[i].number = flow_create(self.nat, &packet, self.now, &reason)
                if self.keys[i].number == NIL:
                    break
            start = now_ns() - start
        if reason:
            raise RuntimeError(f"the engine refused a flow: drop reason {reason}")
        return start

    def look_up(self, uint64_t times, bint hit):
        """Look keys up; an error when the outcome is not what it must be."""
        cdef uint64_t start, done, found = 0
        cdef uint32_t i = 0
        # The highest bit of a port in network order: no flow here has such a port.
        cdef uint16_t changed = 0 if hit else 0x0080
        cdef FlowKey key
        with nogil:
            start = now_ns()
            for done in range(times):
                key = self._key(i, changed)
                found += table_find(
                    &self.nat.table, key, table_hash(&self.nat.table, key)
                ) != NIL
                i = i + 1 if i + 1 < self.count else 0
            start = now_ns() - start
        if found != (times if hit else 0):
            raise RuntimeError(f"{found} of {times} look-ups found a flow")
        return start

    def look_up_batches(self, uint64_t times):
        """Look keys up that are there, a batch at a time and prefetched, as the data path does."""
        cdef FlowKey keys[BATCH]
        cdef uint64_t hashes[BATCH]
        cdef uint64_t start, done = 0, found = 0
        cdef uint32_t i, next = 0
        with nogil:
            start = now_ns()
            while done < times:
                for i in range(BATCH):
                    keys[i] = self._key(next, 0)
                    next = next + 1 if next + 1 < self.count else 0
                    hashes[i] = table_hash(&self.nat.table, keys[i])
                    table_prefetch_index(&self.nat.table, hashes[i])
                for i in range(BATCH):
                    table_prefetch_entry(&self.nat.table, hashes[i])
                for i in range(BATCH):
                    found += table_find(&self.nat.table, keys[i], hashes[i]) != NIL
                done += BATCH
            start = now_ns() - start
        if found != done:
            raise RuntimeError(f"{found} of {done} look-ups found a flow")
        return start * times // done

    def translate(self, uint64_t times):
        """Whole frames of the flows through the engine, in batches as the forwarder makes them."""
        cdef uint8_t* frames = <uint8_t*>calloc(self.count, FRAME)
        cdef uint8_t* work = <uint8_t*>calloc(BATCH, FRAME)
        cdef Packet* packets = <Packet*>calloc(BATCH, sizeof(Packet))
        cdef uint64_t start, done = 0, forwarded = 0
        cdef uint32_t i, next = 0
        try:
            if frames == NULL or work == NULL or packets == NULL:
                raise MemoryError
            for i in range(self.count):
                self._frame(frames + <size_t>i * FRAME, i)
            with nogil:
                start = now_ns()
                while done < times:
                    for i in range(BATCH):
                        memcpy(work + i * FRAME, frames + <size_t>next * FRAME, FRAME)
                        next = next + 1 if next + 1 < self.count else 0
                        packets[i].frame = work + i * FRAME
                        packets[i].length = FRAME
                        packets[i].port = 0
                    self.engine.classify(packets, BATCH)
                    for i in range(BATCH):
                        if packets[i].action == ACTION_FORWARD:
                            self.engine.apply(&packets[i], self.now)
                        forwarded += packets[i].action == ACTION_FORWARD
                    done += BATCH
                start = now_ns() - start
            if forwarded != done:
                raise RuntimeError(f"{done - forwarded} of {done} frames were dropped")
            return start * times // done
        finally:
            free(frames)
            free(work)
            free(packets)

    cdef void _frame(self, uint8_t* frame, uint32_t i) noexcept nogil:
        cdef uint8_t* ip = frame + 14
        memcpy(frame, self.nat.attachments[0].mac, 6)
        memcpy(frame + 6, self.nat.attachments[0].peer_mac, 6)
        frame[12] = 8
        ip[0] = 0x45
        store16(ip + 2, swap16(FRAME - 14))
        ip[8] = 64
        ip[9] = UDP
        memcpy(ip + 12, &self.nat.attachments[0].address, 4)
        memcpy(ip + 16, &self.remote, 4)
        store16(ip + 10, complement(sum_bytes(ip, 20, 0)))
        # The UDP checksum stays zero: there is none (RFC 768).
        store16(ip + 20, self.keys[i].inside_port)
        store16(ip + 22, self.keys[i].remote_port)
        store16(ip + 24, swap16(FRAME - 34))

    def remove(self):
        """Take every flow out, with its port and its timer."""
        cdef Entry* entry
        cdef uint32_t i, number
        cdef uint64_t start
        with nogil:
            start = now_ns()
            for i in range(self.count):
                number = self.keys[i].number
                entry = &self.nat.table.entries[number]
                wheel_remove(&self.nat.wheel, number)
                ports_give_back(
                    &self.nat.ports,
                    entry.protocol,
                    entry.responder,
                    entry.destination_address,
                    entry.destination_port,
                    entry.translated_port,
                )
                table_free(&self.nat.table, number)
            start = now_ns() - start
        return start

    def expire(self, uint64_t after_ms):
        """Let every flow time out; the engine's hold time must be 0."""
        cdef uint64_t start
        cdef int examined
        self.now += after_ms
        with nogil:
            start = now_ns()
            examined = flows_expire(self.nat, self.now, NEVER)
            start = now_ns() - start
        if self.nat.table.used:
            raise RuntimeError(f"{self.nat.table.used} flows are left, {examined} were examined")
        return start

    def load_factor(self):
        """Ids in the index by its cells."""
        return 2 * self.nat.table.used / <double>(self.nat.table.mask + 1)
