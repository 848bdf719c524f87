# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The engine: a frame, a side, a clock in; a verdict out.

Theory of operation
-------------------
This is the engine as Python sees it: what it serves is set here, time is told to it here, and single
frames are handed in. The packet path of a forwarder calls the compiled methods, `classify` to
`neighbours_due`. All state is in one C structure and in the state map.

The rest of the engine is .pxd files, compiled as part of this module: calls between them are direct,
and inlined where that pays.
"""

import os

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.nat.audit cimport audit
from hyperplane_nat.engine.nat.classification cimport addresses_index
from hyperplane_nat.engine.flows.extras cimport EXTRAS_BYTES, Extra, extras_clear
from hyperplane_nat.engine.flows.flow_records cimport sink_open
from hyperplane_nat.engine.flows.flow_table cimport table_init, table_release_memory
from hyperplane_nat.engine.flows.fragment_table cimport fragments_init, fragments_release_memory
from hyperplane_nat.engine.nat.fragments cimport fragments_deadline, fragments_expire, fragments_forget
from hyperplane_nat.engine.state.layout cimport (
    DESTINATIONS_MAX,
    NIL,
    AttachmentRecord,
    Exhaustion,
    Header,
    attachments_of,
    interface_number,
    records_of,
)
from hyperplane_nat.engine.flows.lifecycle cimport flows_expire, flows_rebuild
from hyperplane_nat.engine.flows.nat cimport UNATTACHED, Attachment, BehaviourRecord, Nat
from hyperplane_nat.engine.nat.neighbour_audit cimport audit_neighbours
from hyperplane_nat.engine.flows.neighbour_table cimport (
    TIMER_FAILED,
    TIMER_REACHABLE,
    TIMER_RETRY,
    Neighbour,
    NeighbourTable,
    neighbour_add,
    neighbour_find,
    neighbours_init,
    neighbours_release_memory,
)
from hyperplane_nat.engine.flows.neighbours cimport (
    neighbour_forget,
    neighbour_learn,
    neighbours_ask,
    neighbours_asking,
    neighbours_check,
    neighbours_deadline,
    neighbours_forget,
    neighbours_let_go,
    neighbours_tick,
)
from hyperplane_nat.engine.wire.packet cimport ETHERNET_BYTES, OFFLOAD_BYTES, REPLY_BYTES, Packet
from hyperplane_nat.engine.flows.policy cimport Policy
from hyperplane_nat.engine.flows.ports cimport ports_configure, ports_init, ports_release_memory
from hyperplane_nat.engine.flows.retirement cimport attachment_retire, strangers_retire, sweep
from hyperplane_nat.engine.wire.siphash cimport HashKey
from hyperplane_nat.engine.wire.text cimport address_number, mac_bytes, prefix_numbers
from hyperplane_nat.engine.flows.timers cimport wheel_deadline
from hyperplane_nat.engine.flows.tombstones cimport tombstones_resize
from hyperplane_nat.engine.flows.tracker cimport tracker_load
from hyperplane_nat.engine.nat.translation cimport classify_batch, nat_apply, nat_classify
from hyperplane_nat.engine.nat.views cimport attachment_of, events_of, next_hops_of, place_of

from hyperplane_nat.engine.state.constants import Action, DropReason, Side, counter_names
from hyperplane_nat.engine.state.settings import Behaviour, NeighbourSettings, Ports, Timeouts, Verdict
from hyperplane_nat.engine.flows.fragment_states import TRANSITIONS as FRAGMENTS
from hyperplane_nat.engine.flows.neighbour_states import TRANSITIONS as NEIGHBOURS
from hyperplane_nat.engine.flows.tcp_states import STEPS, TIMER_OF_STATE


cdef enum:
    # A mapping lasts as long as its flows: its timer only keeps its clock from turning over.
    MAPPING_LOOK_MS = 86_400_000


cdef int check_mtu(str what, uint32_t number, mtu) except -1:
    # The least that every link carries (RFC 791): any header, and eight bytes.
    if not 68 <= mtu <= 65535:
        raise ValueError(f"{what} {number}: an MTU is 68 to 65535, not {mtu}")
    return 0


cdef uint64_t owner_of(interface, uint32_t link) except? 0:
    """Environment and interface as one number, never 0: that is an attachment nobody has had."""
    cdef uint64_t attached = UNATTACHED if interface is None else interface
    return (<uint64_t>1 << 63) | (<uint64_t>link << 16) | attached


cdef class Engine:
    """The NAT engine over one state map. See the type stub for the signatures."""

    def __cinit__(self):
        self.nat = <Nat*>calloc(1, sizeof(Nat))
        if self.nat == NULL:
            raise MemoryError

    def __init__(self, state, *, seed=None, now_ms=0):
        cdef Nat* nat = self.nat
        cdef HashKey keys[3]
        cdef HashKey fragment_key
        cdef uint64_t neighbour_key
        cdef bytes material = os.urandom(88) if seed is None else (seed * 88)[:88]
        cdef Header* header
        cdef uint8_t* base
        if not state.writable:
            raise ValueError("the engine needs a state map that is open for writing")
        if nat.attachments != NULL:
            raise RuntimeError("an engine is initialised once")
        self.state = state
        self.policies = {}
        self.extra = []
        self.memory = state.memory
        memcpy(keys, <const unsigned char*>material, 48)
        memcpy(&neighbour_key, <const unsigned char*>material + 48, 8)
        memcpy(&fragment_key, <const unsigned char*>material + 56, 16)
        memcpy(&nat.identifications.key, <const unsigned char*>material + 72, 16)
        base = <uint8_t*>&self.memory[0]
        header = <Header*>base
        nat.header = header
        nat.counters = <uint64_t*>(base + header.counters_offset)
        nat.records = records_of(header)
        nat.exhaustions = <Exhaustion*>(base + header.exhaustions_offset)
        nat.attachments_max = attachments_of(header)
        nat.attachments = <Attachment*>calloc(nat.attachments_max, sizeof(Attachment))
        nat.own_mask = 1
        while nat.own_mask < 2 * header.interfaces_max:
            nat.own_mask = nat.own_mask * 2 + 1
        nat.own_addresses = <uint64_t*>calloc(nat.own_mask + 1, sizeof(uint64_t))
        nat.own_numbers = <uint16_t*>calloc(nat.own_mask + 1, sizeof(uint16_t))
        nat.extras.arena = <uint8_t*>calloc(1, EXTRAS_BYTES)
        if (
            nat.attachments == NULL
            or nat.own_addresses == NULL
            or nat.own_numbers == NULL
            or nat.extras.arena == NULL
            or fragments_init(&nat.fragments, FRAGMENTS, nat.attachments_max, fragment_key)
            or neighbours_init(&nat.neighbours, NEIGHBOURS, neighbour_key, nat.attachments_max)
            or table_init(&nat.table, header, keys[0])
        ):
            raise MemoryError
        nat.counters[C_FRAGMENTS_WAITING] = 0
        ports_init(&nat.ports, &nat.table, header, keys[1], keys[2])
        tracker_load(&nat.tracker, STEPS)
        nat.timeouts[<int>STATE_MAPPING] = MAPPING_LOOK_MS
        self._load_timeouts(Timeouts())
        self._load_ports(Ports())
        self._load_behaviour(Behaviour())
        self._load_neighbours(NeighbourSettings())
        state.clear_derived()
        self._rebuild(now_ms, True)

    def __dealloc__(self):
        if self.nat != NULL:
            table_release_memory(&self.nat.table)
            ports_release_memory(&self.nat.ports)
            fragments_release_memory(&self.nat.fragments)
            neighbours_release_memory(&self.nat.neighbours)
            free(self.nat.extras.arena)
            free(self.nat.attachments)
            free(self.nat.own_addresses)
            free(self.nat.own_numbers)
            tombstones_resize(self.nat, 0)
            free(self.nat)

    def _load_timeouts(self, timeouts):
        for state, name in TIMER_OF_STATE.items():
            self.nat.timeouts[<int>state] = getattr(timeouts, name)
        self.timeouts = timeouts

    def _load_ports(self, ports):
        if not 1 <= ports.first <= ports.last <= 65535 or not 1 <= ports.limit_per_remote <= 65535:
            raise ValueError(f"no usable port range: {ports}")
        if ports_configure(
            &self.nat.ports, ports.first, ports.last, ports.limit_per_remote
        ):
            raise MemoryError
        self.nat.behaviour.limit_per_interface = ports.limit_per_interface
        self.nat.behaviour.limit_per_environment = ports.limit_per_environment
        self.ports = ports

    def _load_behaviour(self, behaviour):
        cdef BehaviourRecord* record = &self.nat.behaviour
        if tombstones_resize(self.nat, behaviour.tombstones):
            raise MemoryError
        record.mapping = behaviour.mapping
        record.filtering = behaviour.filtering
        record.hairpinning = behaviour.hairpinning
        record.paired_pooling = behaviour.paired_pooling
        record.exhaustion_icmp = behaviour.exhaustion_icmp
        record.idle_reset = behaviour.idle_reset
        record.tcp_fragments = behaviour.tcp_fragments
        record.udp_fragments = behaviour.udp_fragments
        record.icmp_fragments = behaviour.icmp_fragments
        record.mss_clamping = behaviour.mss_clamping
        record.tombstones = behaviour.tombstones
        record.fragment_ms = behaviour.fragment_ms
        self.behaviour = behaviour

    def _load_neighbours(self, settings):
        cdef NeighbourTable* table = &self.nat.neighbours
        table.periods[<int>TIMER_RETRY] = settings.retry_ms
        table.periods[<int>TIMER_REACHABLE] = settings.reachable_ms
        table.periods[<int>TIMER_FAILED] = settings.failed_ms
        table.attempts = settings.attempts
        table.queue_frames = settings.queue_frames
        self.neighbour_settings = settings

    def _rebuild(self, uint64_t now_ms, bint blank):
        with nogil:
            flows_rebuild(self.nat, now_ms, blank)

    def configure(
        self, *, timeouts_ms=None, ports=None, behaviour=None, neighbours=None, uint64_t now_ms=0
    ):
        """Set timeouts, port range and behaviour; flows keep what they have, ports outside a new range too.

        Other timeouts take effect with the next `expire`, within its budget.  Another port range or
        kind of mapping derives index, ports and timers anew, which takes as long as opening the map.
        """
        new_timeouts = timeouts_ms is not None and timeouts_ms != self.timeouts
        new_ports = ports is not None and ports != self.ports
        if new_timeouts:
            self._load_timeouts(timeouts_ms)
            self.nat.retimed = 0 if self.nat.header.entries_watermark else NIL
        if new_ports:
            self._load_ports(ports)
        if behaviour is not None:
            # Flows of the other kind of mapping have ports that bitmaps may not know.
            new_ports = new_ports or behaviour.mapping != self.behaviour.mapping
            self._load_behaviour(behaviour)
        if neighbours is not None:
            self._load_neighbours(neighbours)
        if new_ports:
            self._rebuild(now_ms, False)

    def set_interface(
        self, uint32_t number, *, address, mac, subnet, router, destinations,
        uint32_t vpc=0, Policy policy=None, primary=None, mtu=65535,
    ):
        """Make or change a network interface; ValueError when the number has another's flows.

        With `primary` it is a further address of that interface, which is set before it and has the
        link, the next hops and the policy.

        Without a policy everything may be reached.  A new policy concerns new flows only.
        `mtu` is what its link carries, in bytes.
        """
        cdef uint16_t place = self._interface(number)
        if len(destinations) > DESTINATIONS_MAX:
            raise ValueError(f"interface {number}: at most {DESTINATIONS_MAX} destinations")
        if not self.admits_interface(number, address):
            raise ValueError(f"interface {number} still has flows of another (sweep first)")
        check_mtu("interface", number, mtu)
        cdef Attachment record
        memset(&record, 0, sizeof(Attachment))
        record.kind = ATTACHMENT_INTERFACE
        cdef bytes raw = mac_bytes(mac)
        record.address = address_number(address)
        record.subnet, record.subnet_mask = prefix_numbers(subnet)
        record.router = address_number(router)
        record.vpc = vpc
        record.mtu = mtu
        if self.nat.attachments[place].address != record.address:
            fragments_forget(self.nat, place)
        memcpy(record.mac, <const unsigned char*>raw, 6)
        for destination in destinations:
            prefix, mask = prefix_numbers(destination)
            record.destinations[record.destinations_count] = prefix
            record.destination_masks[record.destinations_count] = mask
            record.destinations_count += 1
        record.active = 1
        record.primary = place if primary is None else self._interface(primary)
        record.interface = place
        record.entries = self.nat.attachments[place].entries
        record.policy = NULL if policy is None else &policy.record
        if self.nat.records[place].address != record.address:
            memset(&self.nat.records[place], 0, sizeof(AttachmentRecord))
        neighbours_check(self.nat, place, &record)
        self.policies[number] = policy
        self._set(place, &record)
        addresses_index(self.nat)

    def admits_interface(self, uint32_t number, address):
        """Whether no flow of an interface with another address has this number."""
        cdef uint16_t place = self._interface(number)
        cdef const Attachment* interface = &self.nat.attachments[place]
        return interface.retiring == 0 and (
            interface.entries == 0 or self.nat.records[place].address == address_number(address)
        )

    def remove_interface(self, uint32_t number):
        """Nothing passes an interface any more; `sweep` removes its flows."""
        cdef uint16_t place
        if number < self.nat.header.interfaces_max:
            place = self._interface(number)
            attachment_retire(self.nat, place)
            fragments_forget(self.nat, place)
            neighbours_forget(self.nat, place)
            self.policies.pop(number, None)
            addresses_index(self.nat)

    def set_slot(
        self, uint32_t number, *, address, gateway, environment_mac, gateway_mac, interface,
        subnet=None, uint32_t link=0, mtu=65535,
    ):
        """Make or change a slot; without `subnet` the inside network is a /30.

        With `interface` None the environment waits in the pool, and everything it sends is dropped.
        `link` tells environments apart that have the number one after the other; ValueError while
        flows of another remain.  `mtu` is what its link carries, in bytes.
        """
        if number >= self.nat.header.slots_max:
            raise ValueError(f"slot {number}: the state map has {self.nat.header.slots_max}")
        cdef uint16_t leaves_by = UNATTACHED if interface is None else self._interface(interface)
        if not self.admits_slot(number, interface, link):
            raise ValueError(f"slot {number} still has flows of another environment (sweep first)")
        check_mtu("slot", number, mtu)
        cdef Attachment record
        memset(&record, 0, sizeof(Attachment))
        record.kind = ATTACHMENT_ENVIRONMENT
        cdef bytes environment = mac_bytes(environment_mac), ours = mac_bytes(gateway_mac)
        cdef uint64_t owner = owner_of(interface, link)
        cdef AttachmentRecord* former = &self.nat.records[number]
        record.address = address_number(address)
        record.router = address_number(gateway)
        record.subnet, record.subnet_mask = prefix_numbers(subnet or f"{address}/30")
        record.interface = leaves_by
        record.primary = <uint16_t>number
        record.mtu = mtu
        if former.owner != owner:
            fragments_forget(self.nat, <uint16_t>number)
        memcpy(record.peer_mac, <const unsigned char*>environment, 6)
        memcpy(record.mac, <const unsigned char*>ours, 6)
        record.active = 1
        record.entries = self.nat.attachments[number].entries
        if former.owner and (former.owner >> 16) != (owner >> 16):
            memset(former, 0, sizeof(AttachmentRecord))
        former.owner = owner
        self._set(<uint16_t>number, &record)

    def admits_slot(self, uint32_t number, interface, uint32_t link=0):
        """Whether no flow of another environment, or by another interface, has this number."""
        cdef uint64_t owner = self.nat.records[number].owner
        return self.nat.attachments[number].retiring == 0 and (
            self.nat.attachments[number].entries == 0
            or owner == 0
            or owner == owner_of(interface, link)
        )

    def remove_slot(self, uint32_t number):
        """Nothing passes a slot any more; `sweep` ends its flows."""
        if number < self.nat.header.slots_max:
            attachment_retire(self.nat, number)
            fragments_forget(self.nat, <uint16_t>number)

    cdef uint16_t _interface(self, number) except? 0:
        """The attachment of an interface number; ValueError where the map has no room for it."""
        if not 0 <= number < self.nat.header.interfaces_max:
            raise ValueError(
                f"interface {number}: the state map has {self.nat.header.interfaces_max}"
            )
        return <uint16_t>(self.nat.header.slots_max + <uint32_t>number)

    cdef void _set(self, uint16_t number, const Attachment* attachment):
        self.nat.attachments[number] = attachment[0]
        self.nat.records[number].address = attachment.address
        if number >= self.nat.attachments_used:
            self.nat.attachments_used = number + 1

    def remove_strangers(self):
        """Remove every slot and interface that flows of a predecessor name and nobody has set."""
        strangers_retire(self.nat)

    def retiring(self):
        """Numbers of the slots and of the interfaces whose flows `sweep` has not dealt with yet."""
        cdef uint32_t i, slots = self.nat.header.slots_max
        if self.nat.retiring == 0:
            return [], []
        return (
            [i for i in range(slots) if self.nat.attachments[i].retiring],
            [
                interface_number(self.nat.header, <uint16_t>i)
                for i in range(slots, self.nat.attachments_max)
                if self.nat.attachments[i].retiring
            ],
        )

    def sweep(self, uint64_t now_ms, uint32_t budget=0xFFFFFFFF):
        """Go on ending the flows of what was removed; returns what of the budget was used.

        A unit is an entry looked at; 0 when nothing is retiring.
        """
        cdef uint32_t used
        with nogil:
            used = sweep(self.nat, now_ms, budget)
        return used

    def set_neighbour(self, interface, address, mac, uint64_t now_ms=0):
        """A next hop is known without a question, or (None) is forgotten; MemoryError without room.

        What waited for it leaves (`take_extra`), or is dropped.
        """
        cdef NeighbourTable* table = &self.nat.neighbours
        cdef uint32_t number = address_number(address)
        cdef bytes raw
        cdef Neighbour* neighbour
        cdef uint16_t place = self._interface(interface)
        neighbour = neighbour_find(table, place, number)
        if mac is None:
            if neighbour != NULL:
                neighbour_forget(self.nat, neighbour)
            return
        raw = mac_bytes(mac)
        if neighbour == NULL:
            neighbour = neighbour_add(table, place, number, <uint16_t>self.nat.attachments_max)
        if neighbour == NULL:
            raise MemoryError("the neighbour table is full")
        self.extra = []
        neighbour_learn(self.nat, neighbour, <const unsigned char*>raw, now_ms)
        self._collect()

    def resolve(self, uint64_t now_ms):
        """Do what is due about next hops; when something will be, in ms, or None.

        Questions leave (`take_extra`).
        """
        cdef uint64_t deadline
        self.extra = []
        while self.tick(now_ms):
            self._collect()
        deadline = neighbours_deadline(self.nat)
        return None if deadline == <uint64_t>0xFFFFFFFFFFFFFFFF else deadline

    def next_hops(self):
        """What is known of every next hop, in no order."""
        return next_hops_of(self.nat)

    def translate(self, frame, uint8_t side, uint16_t port, uint64_t now_ms, *, bint partial=False,
                  uint16_t gso_size=0, checksum_at=None):
        """One frame through the engine; the frame given is not changed.

        `partial`: its transport checksum is the sum of the pseudo-header; `checksum_at` instead says
        where a checksum is to be completed, as the virtio-net header does: the first byte that it is
        about, and the field's place from there.

        When more than one frame leaves, `take_extra` has the others until the next call.
        """
        cdef bytearray work = bytearray(OFFLOAD_BYTES) + frame
        cdef unsigned char reply[REPLY_BYTES]
        cdef Packet p
        memset(&p, 0, sizeof(Packet))
        cdef Py_ssize_t length = len(frame)
        cdef unsigned char[::1] view = work
        p.frame = &view[0] + OFFLOAD_BYTES
        p.length = <uint32_t>length
        p.port = attachment_of(self.nat, side, port)
        p.partial = partial
        p.gso_size = gso_size
        p.reply = reply
        if checksum_at is not None:
            p.partial = 1
            p.checksum_start, p.checksum_offset = checksum_at
        elif partial and length >= ETHERNET_BYTES + 20:
            p.checksum_start = ETHERNET_BYTES + (p.frame[14] & 15) * 4
            p.checksum_offset = 16 if p.frame[23] == 6 else 6
        with nogil:
            nat_classify(self.nat, &p)
            if p.action == ACTION_FORWARD:
                nat_apply(self.nat, &p, now_ms)
        self.extra = []
        self._collect()
        neighbours_ask(self.nat, now_ms)
        self._collect()
        if p.action == ACTION_DROP or p.action == ACTION_WAIT or p.action == ACTION_LEARN:
            reason = p.reason if p.action == ACTION_DROP else DROP_NONE
            return Verdict(Action(p.action), DropReason(reason), Side(side), port, b"")
        return Verdict(
            Action(p.action),
            DropReason.NONE,
            *place_of(self.nat, p.out_port),
            <bytes>p.out_frame[: p.out_length],
            p.gso_size,
        )

    cdef void classify(self, Packet* packets, uint32_t count) noexcept nogil:
        classify_batch(self.nat, packets, count)

    cdef void apply(self, Packet* p, uint64_t now) noexcept nogil:
        nat_apply(self.nat, p, now)

    cdef bint ask(self, uint64_t now) noexcept nogil:
        """Let questions leave; False when there is none."""
        if not neighbours_asking(self.nat):
            return False
        neighbours_ask(self.nat, now)
        return True

    cdef void let_go(self) noexcept nogil:
        neighbours_let_go(self.nat)

    cdef bint tick(self, uint64_t now) noexcept nogil:
        """Do some of what is due about next hops; False when nothing is."""
        if neighbours_deadline(self.nat) > now:
            return False
        neighbours_tick(self.nat, now)
        return True

    cdef uint64_t neighbours_due(self) noexcept nogil:
        return neighbours_deadline(self.nat)

    cdef void _collect(self):
        """Remember every extra frame, and those that have no room before others have left."""
        cdef Extra* extra
        cdef uint32_t i
        while self.nat.extras.count:
            for i in range(self.nat.extras.count):
                extra = &self.nat.extras.frames[i]
                self.extra.append(
                    Verdict(
                        Action(extra.action),
                        DropReason.NONE,
                        *place_of(self.nat, extra.port),
                        <bytes>extra.frame[: extra.length],
                    )
                )
            extras_clear(&self.nat.extras)
            neighbours_let_go(self.nat)

    def take_extra(self):
        """The frames that left besides the verdict of the last `translate`, in order."""
        verdicts, self.extra = self.extra, []
        return verdicts

    def record_flows(self, ring):
        """Write flow records to a mapped :class:`FlowRecordRing` file; None ends it."""
        sink_open(self.nat, NULL, 0)
        self.ring = ring
        if ring is not None and not sink_open(self.nat, &self.ring[0], self.ring.shape[0]):
            raise ValueError("not a ring of flow records")

    def next_deadline(self):
        """When `expire` should be called next, in ms, or None when nothing waits."""
        if self.nat.retimed != NIL:
            return 0
        cdef uint64_t deadline = min(
            wheel_deadline(&self.nat.wheel), fragments_deadline(self.nat)
        )
        return None if deadline == <uint64_t>0xFFFFFFFFFFFFFFFF else deadline

    def expire(self, uint64_t now_ms, int budget=1_000_000_000):
        """Examine up to `budget` flows whose deadline may have passed; returns how many."""
        cdef int examined
        with nogil:
            examined = flows_expire(self.nat, now_ms, budget)
            fragments_expire(self.nat, now_ms, budget)
        return examined

    def drain_events(self):
        """What happened since the last call, oldest first; lost ones are counted."""
        events = events_of(self.nat)
        self.nat.events_count = 0
        return events

    def flows(self):
        """Every committed entry of a flow."""
        return self.state.flows()

    def mappings(self):
        """Every committed entry of an endpoint-independent mapping."""
        return self.state.mappings()

    def counters(self):
        """Every counter by name."""
        return self.state.counters()

    def add_to_counter(self, name, uint64_t amount=1):
        """Count something that happened outside the engine (I/O, neighbours)."""
        cdef int index = counter_names()[name]
        self.nat.counters[index] += amount

    def verify(self):
        """Walk all tables; a line for each disagreement, [] when none."""
        return audit(self.nat) + audit_neighbours(self.nat)
