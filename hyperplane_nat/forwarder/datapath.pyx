# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""From the ring through the engine to the sender, a batch at a time.

Theory of operation
-------------------
One call (`run`) handles up to a budget of frames without the GIL. What has arrived is queued by
sender, a batch is gathered from the queue, classified as a whole while the flow index comes into
the cache, then applied frame by frame and sent with one system call. Nothing is allocated:
packets and reply buffers exist from the start.

Fairness (`hyperplane_nat.io.fair_queue`). A sender is an environment, a host, or one of the
connections from a VPC's router, told apart by a hash of addresses and ports: so an environment that
floods delays itself, and a large download does not delay a small one. Frames of one sender stay
in order. A frame of several UDP datagrams is cut up by whoever receives it, often in the system call
that sends it, and costs as many frames of one; TCP takes its super-frames whole. A batch is as many
datagrams as frames at most, so that the ring is looked at before it overflows.

When the ring is empty the call does not always end: it may be worth looking again before it
returns to the loop, where it would sleep (`hyperplane_nat.forwarder.patience`). One call
never lasts longer than RUN_NS_MAX, so that timers and commands have their turn.

Datagrams of one flow that follow each other leave as one frame
(`hyperplane_nat.forwarder.coalescing`).

The clock is read once per batch; `clock_offset_ms` is what the lab's is ahead of CLOCK_MONOTONIC.
Questions for the next hops that a batch has met leave behind it; what becomes due later is done by
`resolve`.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.state.layout cimport first_host
from hyperplane_nat.engine.wire.checksum cimport load16, swap16
from hyperplane_nat.engine.nat.engine cimport Engine
from hyperplane_nat.engine.flows.caching cimport cache_link
from hyperplane_nat.engine.flows.extras cimport Extra, Extras, extras_clear
from hyperplane_nat.engine.flows.nat cimport Nat, count_at
from hyperplane_nat.engine.wire.packet cimport (
    ETHERNET_BYTES,
    REPLY_BYTES,
    Packet,
    parse_ip,
    settle_offload,
)
from hyperplane_nat.forwarder.coalescing cimport (
    Coalescer,
    coalescer_flush,
    coalescer_init,
    coalescer_send,
)
from hyperplane_nat.forwarder.patience cimport (
    Patience,
    patience_arrived,
    patience_begin,
    patience_end,
    patience_init,
)
from hyperplane_nat.io.fair_queue cimport (
    NO_POSITION,
    Queue,
    queue_charge,
    queue_free,
    queue_init,
    queue_pop,
    queue_push,
    queue_share,
    queue_shed,
)
from hyperplane_nat.io.ring cimport (
    FRAME_BAD,
    FRAME_LATER,
    FRAME_NONE,
    FRAME_OK,
    OVERSIZE_BUFFERS,
    OVERSIZE_CACHED,
    Frame,
    Offload,
    PacketIO,
    Ring,
    ring_disown,
    ring_filled,
    ring_frame,
    ring_next,
    ring_release,
    ring_waiting,
)
from hyperplane_nat.io.sender cimport BATCH_MAX, Sender
from hyperplane_nat.io.virtio_net cimport VNET_BYTES

from secrets import randbits

cdef extern from *:
    """
    #include <time.h>
    static inline uint64_t hp_now_ns(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
    }
    #if defined(__x86_64__) || defined(__i386__)
    #define HP_RELAX() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define HP_RELAX() __asm__ volatile("yield")
    #else
    #define HP_RELAX() __asm__ volatile("" ::: "memory")
    #endif
    static inline int hp_log2(unsigned value) { return 31 - __builtin_clz(value); }
    """
    uint64_t hp_now_ns() noexcept nogil
    void HP_RELAX() noexcept nogil
    int hp_log2(unsigned int value) noexcept nogil

cdef enum:
    NO_LINK = 0xFFFFFFFF
    INTERFACE_INDEX_MAX = 4194304
    RUN_NS_MAX = 2000000
    CONNECTION_BUCKETS = 1024
    FEW_SENDERS = 4
    # Looks at an empty ring between two at the clock.
    LOOKS = 16
    FILL_STEP = 64
    # Sending 2 KiB more takes about as long as a frame of its own.
    COST_SHIFT = 11


cdef class Datapath:
    """The packet path of one forwarder. See the type stub for the signatures."""

    cdef Engine engine
    cdef PacketIO io
    cdef Nat* nat
    cdef Ring* ring
    cdef Sender* sender
    cdef Coalescer coalescer
    cdef uint32_t batch_frames
    cdef uint32_t gathered
    cdef readonly bint busy
    cdef Patience patience
    cdef uint32_t fill_peak
    cdef uint32_t* links
    cdef uint32_t links_size
    cdef uint32_t* index_of
    cdef uint8_t* served
    cdef Queue queue
    cdef uint64_t seed
    cdef Packet* packets
    cdef uint32_t* positions
    cdef uint8_t* replies
    cdef readonly uint64_t due
    cdef public uint64_t clock_offset_ms

    def __cinit__(
        self,
        Engine engine not None,
        PacketIO io not None,
        *,
        uint32_t batch_frames,
        uint32_t spin_microseconds=0,
        bint coalesce_udp=True,
    ):
        cdef int i
        if not 1 <= batch_frames <= BATCH_MAX:
            raise ValueError(f"batch_frames must be 1 to {BATCH_MAX}")
        self.engine = engine
        self.io = io
        self.nat = engine.nat
        self.ring = &io.ring
        self.sender = &io.sender
        coalescer_init(&self.coalescer, self.sender, coalesce_udp)
        self.batch_frames = batch_frames
        patience_init(&self.patience, <uint64_t>spin_microseconds * 1000)
        self.index_of = <uint32_t*>calloc(engine.nat.attachments_max, 4)
        self.served = <uint8_t*>calloc(engine.nat.attachments_max, 1)
        self.seed = randbits(64) | 1
        self.packets = <Packet*>calloc(batch_frames, sizeof(Packet))
        self.positions = <uint32_t*>calloc(batch_frames, 4)
        self.replies = <uint8_t*>calloc(batch_frames, VNET_BYTES + REPLY_BYTES)
        if (
            queue_init(
                &self.queue, self.ring.slots, engine.nat.attachments_max + CONNECTION_BUCKETS
            )
            or self.index_of == NULL
            or self.served == NULL
            or self.packets == NULL
            or self.positions == NULL
            or self.replies == NULL
        ):
            raise MemoryError
        for i in range(<int>batch_frames):
            self.packets[i].reply = self.replies + i * (VNET_BYTES + REPLY_BYTES) + VNET_BYTES

    def __dealloc__(self):
        queue_free(&self.queue)
        free(self.links)
        free(self.index_of)
        free(self.served)
        free(self.packets)
        free(self.positions)
        free(self.replies)

    cdef int _link(self, uint32_t interface_index, uint16_t attachment) except -1:
        cdef uint32_t size = self.links_size, i
        cdef uint32_t* links
        if not 0 < interface_index < INTERFACE_INDEX_MAX:
            raise ValueError(f"interface index {interface_index} is out of range")
        if interface_index >= size:
            size = max(1024, interface_index * 2)
            links = <uint32_t*>realloc(self.links, <size_t>size * 4)
            if links == NULL:
                raise MemoryError
            for i in range(self.links_size, size):
                links[i] = NO_LINK
            self.links = links
            self.links_size = size
        if self.ring.punted and self.index_of[attachment] not in (0, interface_index):
            ring_disown(self.ring, attachment)
        self.links[interface_index] = attachment
        self.index_of[attachment] = interface_index
        self.served[attachment] = 1
        cache_link(self.nat, attachment, interface_index)
        return 0

    def link_slot(self, uint16_t number, uint32_t interface_index):
        """Frames that arrive on this link belong to this slot."""
        if number >= self.nat.header.slots_max:
            raise ValueError(f"slot {number} is out of range")
        self._link(interface_index, number)

    def link_interface(self, uint16_t number, uint32_t interface_index):
        """Frames that arrive on this link belong to this network interface."""
        self._link(interface_index, self.engine._interface(number))

    def link_host(self, uint16_t number, uint32_t interface_index):
        """Frames that arrive on this link belong to this host."""
        self._link(interface_index, self.engine._host(number))

    def unlink(self, uint32_t interface_index):
        """Frames of this link are nobody's."""
        cdef uint32_t number
        if interface_index < self.links_size:
            number = self.links[interface_index]
            self.links[interface_index] = NO_LINK
            if number != NO_LINK and self.index_of[number] == interface_index:
                self.served[number] = 0
                cache_link(self.nat, number, 0)

    cdef inline uint32_t link_of(self, uint32_t origin) noexcept nogil:
        if self.ring.punted:
            if origin >= self.nat.attachments_max or not self.served[origin]:
                return NO_LINK
            return origin
        if origin >= self.links_size:
            return NO_LINK
        return self.links[origin]

    cdef void refuse(self, uint32_t origin, int reason, uint32_t times) noexcept nogil:
        """Count a frame that never becomes a packet, as so many."""
        cdef uint32_t link = self.link_of(origin)
        cdef Nat* nat = self.nat
        nat.counters[C_DROP_BASE + reason] += times
        if link != NO_LINK and nat.attachments[link].kind != ATTACHMENT_INTERFACE:
            count_at(nat, link, A_DROPS, times)

    cdef void give_up(self, uint32_t position, int reason) noexcept nogil:
        """Refuse a frame that has waited."""
        cdef Frame frame
        cdef Offload offload
        cdef Packet p
        ring_frame(self.ring, position, &frame, &offload)
        p.segments = 1
        if (
            offload.gso_size
            and frame.length >= ETHERNET_BYTES
            and load16(frame.data + 12) == swap16(0x0800)
        ):
            p.frame = frame.data
            p.length = frame.length
            p.gso_size = offload.gso_size
            parse_ip(&p)
        self.refuse(frame.origin, reason, p.segments)
        ring_release(self.ring, position)

    cdef inline uint32_t bucket_of(self, const Frame* frame, uint32_t link) noexcept nogil:
        """Whose frame it is, in terms of the queue."""
        cdef const uint8_t* ip = frame.data + 14
        cdef uint64_t addresses
        cdef uint32_t ports = 0
        if self.nat.attachments[link].kind != ATTACHMENT_INTERFACE:
            return link
        if frame.length < 38 or load16(frame.data + 12) != swap16(0x0800):
            return self.nat.attachments_max
        memcpy(&addresses, ip + 12, 8)
        # Later fragments and IP options: told apart by addresses alone.
        if ip[0] == 0x45 and not load16(ip + 6) & swap16(0x3FFF):
            memcpy(&ports, ip + 20, 4)
        addresses = (addresses ^ self.seed) * <uint64_t>0x9E3779B97F4A7C15
        addresses = (addresses ^ (addresses >> 29) ^ ports ^ link) * (self.seed | 1)
        return self.nat.attachments_max + <uint32_t>(addresses >> 54)

    cdef uint32_t arrivals(self) noexcept nogil:
        """Queue what has arrived; returns how many frames went no further.

        Frames of unknown links and without data are refused.
        """
        cdef uint32_t looked = 0, lost = 0, link
        cdef Frame frame
        cdef int status = FRAME_OK
        cdef Nat* nat = self.nat
        # While we look the kernel may go on filling the ring.
        while looked < self.ring.slots:
            # Looking far ahead is for the sake of others; large frames would leave the cache.
            if (
                OVERSIZE_BUFFERS - self.ring.free_count >= OVERSIZE_CACHED
                and self.queue.active <= FEW_SENDERS
                and not self.crowded()
            ):
                break
            status = ring_next(self.ring, &frame)
            if status != FRAME_OK and status != FRAME_BAD:
                break
            looked += 1
            if status == FRAME_BAD:
                lost += 1
                self.refuse(frame.origin, DROP_OVERSIZE, 1)
                continue
            link = self.link_of(frame.origin)
            nat.counters[C_RING_RECEIVED] += 1
            nat.counters[C_RING_BYTES] += frame.length
            if link == NO_LINK or frame.vlan:
                lost += 1
                self.refuse(
                    frame.origin, DROP_VLAN if link != NO_LINK else DROP_UNKNOWN_LINK, 1
                )
                ring_release(self.ring, frame.position)
                continue
            queue_push(&self.queue, self.bucket_of(&frame, link), frame.position)
        self.note_fill(status != FRAME_NONE)
        return lost + self.shed(status == FRAME_LATER)

    cdef inline void note_fill(self, bint more) noexcept nogil:
        """Remember the fullest that the ring was; `more` may have arrived than is queued."""
        cdef uint32_t used = self.queue.used
        if used > self.fill_peak:
            self.fill_peak = used
        if not more:
            return
        # Where it is no fuller than it was, that is two looks.
        while self.fill_peak + FILL_STEP <= self.ring.slots and ring_filled(
            self.ring, self.fill_peak + FILL_STEP - 1 - used
        ):
            self.fill_peak += FILL_STEP
        while self.fill_peak < self.ring.slots and ring_filled(self.ring, self.fill_peak - used):
            self.fill_peak += 1

    cdef uint32_t shed(self, bint full) noexcept nogil:
        """Make room in a ring that fills up at the expense of who fills it."""
        cdef uint32_t share = queue_share(&self.queue, full), bucket = NO_POSITION, position
        cdef uint32_t count = 0
        while share:
            position = queue_shed(&self.queue, share, &bucket)
            if position == NO_POSITION:
                break
            self.give_up(position, DROP_FAIR_SHARE)
            count += 1
        return count

    cdef inline bint crowded(self) noexcept nogil:
        """Whether what is queued and what has not been looked at fill the ring so far that it is shed."""
        cdef uint32_t used = self.queue.used, high = self.queue.high
        return used >= high or ring_filled(self.ring, high - used)

    cdef uint32_t gather(self, uint32_t limit) noexcept nogil:
        """Fill packets from the queue; `gathered` is the number of datagrams."""
        cdef uint32_t count = 0, link, position
        cdef Frame frame
        cdef Offload offload
        cdef Packet* p
        self.gathered = 0
        while count < limit and self.gathered < limit:
            position = queue_pop(&self.queue)
            if position == NO_POSITION:
                break
            ring_frame(self.ring, position, &frame, &offload)
            queue_charge(&self.queue, offload.datagrams + (frame.length >> COST_SHIFT))
            self.gathered += offload.datagrams
            link = self.link_of(frame.origin)
            if link == NO_LINK:
                # Removed while the frame waited.
                self.give_up(position, DROP_UNKNOWN_LINK)
                continue
            p = &self.packets[count]
            self.positions[count] = position
            count += 1
            p.frame = frame.data
            p.length = frame.length
            p.port = <uint16_t>link
            p.partial = offload.partial
            p.checked = offload.checked
            p.counted = frame.counted
            p.gso_size = offload.gso_size
            p.checksum_start = offload.checksum_start
            p.checksum_offset = offload.checksum_offset
        return count

    cdef void transmit(self, uint8_t* frame, uint32_t length, uint16_t port) noexcept nogil:
        coalescer_send(&self.coalescer, frame, length, self.index_of[port])

    cdef void dispatch(self, Packet* p) noexcept nogil:
        """Send a frame and those that leave with it."""
        if p.action == ACTION_FORWARD or p.action == ACTION_REPLY:
            settle_offload(p, p.out_frame - VNET_BYTES)
            self.transmit(p.out_frame, p.out_length, p.out_port)
        self.transmit_extras()

    cdef void transmit_extras(self) noexcept nogil:
        """Send the extra frames, and those that have no room before they have left; what leaves in
        place of the frame that came may lie among them.
        """
        cdef Extras* extras = &self.nat.extras
        cdef Extra* extra
        cdef uint32_t i
        while extras.used:
            for i in range(extras.count):
                extra = &extras.frames[i]
                self.transmit(extra.frame, extra.length, extra.port)
            # The next extra frames lie where these do.
            coalescer_flush(&self.coalescer)
            extras_clear(extras)
            self.engine.let_go()

    cdef uint32_t batch(self, uint32_t limit) noexcept nogil:
        cdef Nat* nat = self.nat
        cdef uint64_t now
        cdef uint32_t i, count, lost
        cdef Packet* p
        lost = self.arrivals()
        count = self.gather(limit)
        if count:
            now = hp_now_ns()
            patience_arrived(&self.patience, now, count)
            now = now // 1000000 + self.clock_offset_ms
            self.engine.classify(self.packets, count)
            for i in range(count):
                p = &self.packets[i]
                if p.action == ACTION_FORWARD:
                    self.engine.apply(p, now)
                if p.action != ACTION_DROP:
                    self.dispatch(p)
                elif nat.extras.count == 0:
                    # What was made in its place leaves no more than it.
                    extras_clear(&nat.extras)
            coalescer_flush(&self.coalescer)
            self.engine.activate()
            while self.engine.ask(now):
                self.transmit_extras()
            nat.counters[C_BATCHES] += 1
            nat.counters[C_BATCH_FRAMES] += count
            nat.counters[
                C_BATCH_SIZE_BUCKET_1 + (hp_log2(count - 1) + 1 if count > 1 else 0)
            ] += 1
            for i in range(count):
                ring_release(self.ring, self.positions[i])
        return self.gathered + lost

    def run(self, uint32_t budget):
        """Handle about `budget` frames, those of several datagrams as so many; returns how many it was.

        `busy` tells afterwards that the call ended for its time or budget, not for want of frames;
        `due`, when `resolve` has something to do, in ms.
        """
        cdef uint32_t done = 0, taken, empty = 0
        cdef bint busy = True
        cdef uint64_t start, now, until = 0
        with nogil:
            start = hp_now_ns()
            while done < budget:
                taken = self.batch(min(budget - done, self.batch_frames))
                done += taken
                if taken:
                    empty = 0
                    continue
                if empty == 0:
                    until = patience_begin(&self.patience)
                if empty % LOOKS == 0:
                    now = hp_now_ns()
                    busy = now < until
                    if not busy:
                        patience_end(&self.patience, now)
                        break
                    if now - start > RUN_NS_MAX:
                        break
                empty += 1
                HP_RELAX()
            self.due = self.engine.neighbours_due()
        self.busy = busy
        return done

    def resolve(self, uint64_t now_ms):
        """Do what is due about next hops; when something will be, in ms, or None."""
        cdef uint64_t deadline
        with nogil:
            while self.engine.tick(now_ms):
                self.transmit_extras()
            deadline = self.engine.neighbours_due()
        return None if deadline == <uint64_t>0xFFFFFFFFFFFFFFFF else deadline

    def send_outside(self, uint16_t interface, bytes frame not None):
        """Send a frame, virtio-net header included, on a network interface."""
        self.io.send(frame, self.index_of[self.engine._interface(interface)])

    def take_peak(self):
        """The most slots of the ring that were filled at a time since the last call."""
        cdef uint32_t peak = max(self.fill_peak, self.queue.used + ring_waiting(self.ring))
        self.fill_peak = 0
        return peak

    def publish(self, uint64_t ring_dropped, uint32_t ring_peak):
        """Copy the I/O layer's counts, and ports by interface, to the state map.

        `ring_dropped` is since the last call; `ring_peak` is for the readers of the map.
        """
        cdef Nat* nat = self.nat
        cdef uint64_t* counters = nat.counters
        cdef uint64_t* ports
        cdef uint32_t number, taken
        counters[C_RING_SLOTS] = self.ring.slots
        counters[C_RING_SLOTS_USED] = self.queue.used + ring_waiting(self.ring)
        counters[C_RING_SLOTS_PEAK] = ring_peak
        for number in range(nat.header.slots_max, first_host(nat.header)):
            ports = &nat.records[number].counters[<int>A_PORTS]
            taken = nat.attachments[number].entries - nat.attachments[number].plain
            if ports[0] != taken:
                ports[0] = taken
        counters[C_RING_DROPPED] += ring_dropped
        counters[C_RING_OVERSIZE] += self.ring.oversize_received
        counters[C_TRANSMITTED] += self.sender.sent
        counters[C_TRANSMIT_COALESCED] += self.sender.joined
        counters[C_TRANSMIT_FULL] += self.sender.full
        counters[C_TRANSMIT_ERRORS] += self.sender.errors
        self.ring.oversize_received = 0
        self.sender.sent = 0
        self.sender.joined = 0
        self.sender.full = 0
        self.sender.errors = 0
