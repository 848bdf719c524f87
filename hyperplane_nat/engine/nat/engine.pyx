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
from libc.stdlib cimport calloc
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.nat.attaching cimport (
    admits_address, admits_owner, attachment_set, environment_attachment, host_attachment,
    endpoint_attachment, interface_attachment, interface_role, listeners_from, nat_gateway_attachment,
    node_attachment, protocol_number, owner_of, owner_of_host, served_by, table_number,
)
from hyperplane_nat.engine.nat.acl_setting cimport network_acls_set
from hyperplane_nat.engine.nat.audit cimport audit
from hyperplane_nat.engine.nat.deregistration cimport end_flows
from hyperplane_nat.engine.nat.classification cimport addresses_index
from hyperplane_nat.engine.flows.caching cimport cache_activate
from hyperplane_nat.engine.flows.extras cimport extras_clear
from hyperplane_nat.engine.flows.flow_records cimport sink_open
from hyperplane_nat.engine.nat.fragments cimport fragments_deadline, fragments_expire, fragments_forget
from hyperplane_nat.engine.state.layout cimport NIL, AttachmentRecord, first_host
from hyperplane_nat.engine.flows.lifecycle cimport flows_expire
from hyperplane_nat.engine.flows.entries cimport derive_soonest
from hyperplane_nat.engine.flows.nat cimport (
    UNATTACHED, Attachment, BalancedTarget, Listeners, Nat, listeners_free, listeners_release,
)
from hyperplane_nat.engine.nat.loading cimport behaviour_load, neighbours_load
from hyperplane_nat.engine.nat.memory cimport SECRET_BYTES, memory_init, memory_release
from hyperplane_nat.engine.nat.neighbour_audit cimport audit_neighbours
from hyperplane_nat.engine.flows.neighbour_table cimport (
    Neighbour, NeighbourTable, neighbour_add, neighbour_find,
)
from hyperplane_nat.engine.flows.neighbours cimport (
    neighbour_forget, neighbour_learn, neighbours_ask, neighbours_asking, neighbours_check,
    neighbours_deadline, neighbours_forget, neighbours_let_go, neighbours_tick,
)
from hyperplane_nat.engine.wire.packet cimport Packet
from hyperplane_nat.engine.flows.policy cimport Policy
from hyperplane_nat.engine.flows.ports cimport ports_configure
from hyperplane_nat.engine.flows.rebuilding cimport flows_rebuild
from hyperplane_nat.engine.flows.retirement cimport attachment_retire, strangers_retire, sweep
from hyperplane_nat.engine.wire.checksum cimport swap16
from hyperplane_nat.engine.wire.text cimport address_number, mac_bytes
from hyperplane_nat.engine.flows.timers cimport wheel_deadline
from hyperplane_nat.engine.flows.tombstones cimport tombstones_resize
from hyperplane_nat.engine.flows.tracker cimport tracker_load
from hyperplane_nat.engine.nat.routing cimport route_table_set
from hyperplane_nat.engine.nat.single cimport extras_of, translate_frame
from hyperplane_nat.engine.nat.translation cimport classify_batch, nat_apply
from hyperplane_nat.engine.nat.views cimport events_of, next_hops_of, retiring_of

from hyperplane_nat.engine.state.constants import Role, RouteTarget, Side, counter_names
from hyperplane_nat.engine.state.settings import Behaviour, NeighbourSettings, Ports, Timeouts
from hyperplane_nat.engine.flows.fragment_states import TRANSITIONS as FRAGMENTS
from hyperplane_nat.engine.flows.neighbour_states import TRANSITIONS as NEIGHBOURS
from hyperplane_nat.engine.flows.tcp_states import STEPS, TIMER_OF_STATE


cdef enum:
    # A mapping lasts as long as its flows: its timer only keeps its clock from turning over.
    MAPPING_LOOK_MS = 86_400_000


cdef class Engine:
    """The NAT engine over one state map. See the type stub for the signatures."""

    def __cinit__(self):
        self.nat = <Nat*>calloc(1, sizeof(Nat))
        if self.nat == NULL:
            raise MemoryError

    def __init__(self, state, *, seed=None, now_ms=0):
        cdef Nat* nat = self.nat
        cdef bytes secret = os.urandom(SECRET_BYTES) if seed is None else (seed * 88)[:SECRET_BYTES]
        if not state.writable:
            raise ValueError("the engine needs a state map that is open for writing")
        if nat.attachments != NULL:
            raise RuntimeError("an engine is initialised once")
        self.state = state
        self.policies = {}
        self.host_policies = {}
        self.extra = []
        self.memory = state.memory
        memory_init(nat, <uint8_t*>&self.memory[0], secret, FRAGMENTS, NEIGHBOURS)
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
            memory_release(self.nat)

    def _load_timeouts(self, timeouts):
        for state, name in TIMER_OF_STATE.items():
            self.nat.timeouts[<int>state] = getattr(timeouts, name)
        derive_soonest(self.nat)
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
        if tombstones_resize(self.nat, behaviour.tombstones):
            raise MemoryError
        behaviour_load(&self.nat.behaviour, behaviour)
        self.behaviour = behaviour

    def _load_neighbours(self, settings):
        neighbours_load(&self.nat.neighbours, settings)
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
        self, uint32_t number, *, address, mac, subnet, router, destinations, uint32_t vpc=0,
        Policy policy=None, primary=None, mtu=65535, route_table=None, host=None, nat_gateway=None,
        node=None, bint internet_gateway=False, bint gateway_endpoint=False,
    ):
        """Make or change a network interface; ValueError when the number has another's flows.

        With `primary` it is a further address of that interface, which is set before it and has the
        link, the next hops and the policy.  Without a policy everything may be reached; a new one
        concerns new flows only.  `mtu` is what its link carries, in bytes.  `route_table` is that of
        its environments.  An address of an `internet_gateway` may stand for a `host`, the address
        of a `nat_gateway` or a `node`.  A `gateway_endpoint` is in the VPC that is led to it.
        """
        cdef uint16_t place = self._interface(number)
        cdef Attachment record = interface_attachment(
            number, address, mac, subnet, router, destinations, vpc, mtu
        )
        record.role = interface_role(internet_gateway, gateway_endpoint)
        record.serves = served_by(self.nat, host, nat_gateway, node)
        record.route_table = table_number(f"interface {number}", route_table)
        record.primary = place if primary is None else self._interface(primary)
        record.policy = NULL if policy is None else &policy.record
        neighbours_check(self.nat, place, &record)
        self._set_address(number, &record)
        self.policies[number] = policy

    def set_nat_gateway(
        self, uint32_t number, *, address, uint32_t vpc=0, primary=None, mtu=65535,
        bint draining=False, route_table=None,
    ):
        """Make or change an address of a NAT gateway; ValueError when the number has another's flows.

        With `primary` it is a further one.  One that is `draining` takes no new flows.  `route_table`
        is that of the subnet which the gateway is in.
        """
        cdef uint16_t place = self._interface(number)
        cdef Attachment record = nat_gateway_attachment(
            number, address, vpc, mtu, draining, route_table
        )
        record.primary = place if primary is None else self._interface(primary)
        self._set_address(number, &record)

    def set_load_balancer_node(
        self, uint32_t number, *, address, interface, uint32_t vpc=0, primary=None,
        Policy policy=None, mtu=65535, listeners=(), route_table=None,
    ):
        """Make or change an address of a load balancer's node; ValueError when the number has another's
        flows.

        With `primary` it is a further one, from which flows get ports.  `interface` leads to its VPC's
        router, `route_table` to the internet.  New policy and listeners concern new flows only.
        """
        cdef uint16_t place = self._interface(number)
        cdef Listeners* known = listeners_from(number, list(listeners))
        cdef uint16_t behind = self._interface(interface)
        cdef Attachment record = node_attachment(number, address, vpc, behind, mtu, route_table)
        record.primary = place if primary is None else self._interface(primary)
        record.policy = NULL if policy is None else &policy.record
        record.listeners = self.nat.attachments[place].listeners
        self.nat.nodes = True
        try:
            self._set_address(number, &record)
        except ValueError:
            listeners_free(known)
            raise
        listeners_release(&self.nat.attachments[place])
        self.nat.attachments[place].listeners = known
        self.policies[number] = policy

    def set_endpoint(
        self, uint32_t number, *, address, interface, endpoint_id, uint32_t vpc=0,
        node=None, Policy policy=None, Policy admission=None, mtu=65535,
    ):
        """Make or change an address of an endpoint; ValueError when the number has another's flows.

        `interface` is the one by whose link the router of its VPC is reached.  It leads to `node`, the
        first address of a load balancer's node in any VPC, whose `admission` is asked besides its own
        `policy`, for new flows only; None: nowhere.
        """
        cdef uint16_t place = self._interface(number)
        cdef Attachment record = endpoint_attachment(
            number, address, vpc, self._interface(interface), endpoint_id, mtu
        )
        record.primary = place
        record.node = 0 if node is None else self._interface(node)
        record.policy = NULL if policy is None else &policy.record
        record.admission = NULL if admission is None else &admission.record
        self._set_address(number, &record)
        self.policies[number] = policy, admission

    def end_flows(
        self, uint32_t number, protocol, uint16_t port, target, uint64_t now_ms,
        uint32_t start=0, uint32_t limit=0xFFFFFFFF,
    ):
        """End the flows of a node's listener to a target among `limit` entries from `start`; how many.

        Whoever goes on with a TCP connection is answered with a reset.
        """
        return end_flows(
            self.nat, self._interface(number), protocol_number(protocol), swap16(port),
            BalancedTarget(address_number(target.address), swap16(target.port)), now_ms, start, limit,
        )

    cdef int _set_address(self, uint32_t number, Attachment* record) except -1:
        cdef uint16_t place = self._interface(number)
        cdef AttachmentRecord* former = &self.nat.records[place]
        if not admits_address(self.nat, place, record.address, record.role, record.serves):
            raise ValueError(f"interface {number} still has flows of another (sweep first)")
        if self.nat.attachments[place].address != record.address:
            fragments_forget(self.nat, place)
        if record.role != ROLE_LOAD_BALANCER and record.role != ROLE_ENDPOINT:
            record.interface = place
        if former.address != record.address:
            memset(former, 0, sizeof(AttachmentRecord))
        former.role = record.role
        former.serves = record.serves
        attachment_set(self.nat, place, record)
        addresses_index(self.nat)
        return 0

    def admits_interface(self, uint32_t number, address, role=0, host=None, nat_gateway=None, node=None):
        """Whether no flow of an interface that has another address, or is another, has this number."""
        return admits_address(
            self.nat, self._interface(number), address_number(address), role,
            served_by(self.nat, host, nat_gateway, node),
        )

    def set_route_table(self, uint32_t number, routes):
        """Have a route table, of (destination, RouteTarget, number of that) each; None removes it."""
        cdef list known = None if routes is None else []
        for destination, kind, target in routes or ():
            if kind == RouteTarget.HOST:
                place = self._host(target)
            else:
                place = 0 if kind == RouteTarget.BLACKHOLE else self._interface(target)
            known.append((destination, int(kind), place))
        route_table_set(self.nat, number, known)

    def set_network_acls(self, uint32_t vpc, subnets, exempt=()):
        """Have the subnets of a VPC with their network ACLs, for every packet from now on."""
        network_acls_set(self.nat, vpc, subnets, exempt)

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
        subnet=None, uint32_t link=0, mtu=65535, bint silent=False,
    ):
        """Make or change a slot; without `subnet` the inside network is a /30.

        With `interface` None the environment waits in the pool, and everything it sends is dropped.
        `link` tells environments apart that have the number one after the other; ValueError while flows
        of another remain.  Its link carries `mtu` bytes; nothing passes a `silent` one, either way.
        """
        if number >= self.nat.header.slots_max:
            raise ValueError(f"slot {number}: the state map has {self.nat.header.slots_max}")
        cdef uint16_t leaves_by = UNATTACHED if interface is None else self._interface(interface)
        if not self.admits_slot(number, interface, link):
            raise ValueError(f"slot {number} still has flows of another environment (sweep first)")
        cdef Attachment record = environment_attachment(
            number, address, gateway, subnet, environment_mac, gateway_mac, leaves_by, mtu
        )
        cdef uint64_t owner = owner_of(interface, link)
        cdef AttachmentRecord* former = &self.nat.records[number]
        record.primary = <uint16_t>number
        record.silent = silent
        if former.owner != owner:
            fragments_forget(self.nat, <uint16_t>number)
        if former.owner and (former.owner >> 16) != (owner >> 16):
            memset(former, 0, sizeof(AttachmentRecord))
        former.owner = owner
        attachment_set(self.nat, <uint16_t>number, &record)

    def admits_slot(self, uint32_t number, interface, uint32_t link=0):
        """Whether no flow of another environment, or by another interface, has this number."""
        return admits_owner(self.nat, number, owner_of(interface, link), 0)

    def remove_slot(self, uint32_t number):
        """Nothing passes a slot any more; `sweep` ends its flows."""
        if number < self.nat.header.slots_max:
            attachment_retire(self.nat, number)
            fragments_forget(self.nat, <uint16_t>number)

    def set_host(
        self, uint32_t number, *, address, router, host_mac, gateway_mac, interface,
        uint32_t vpc=0, uint32_t link=0, Policy policy=None, mtu=65535, uint64_t now_ms=0,
        route_table=None, bint source_check=True,
    ):
        """Make or change a host; ValueError when the number has another's flows.

        `interface` is the one by whose link the router of its VPC is reached; it may be set later.
        `router` is answered by ARP on the host's link.  `link` tells hosts apart that have the number
        one after the other.  A new policy concerns new flows only.  `mtu` is what its link carries, in
        bytes.  `now_ms` is the map's clock: since when it has the address, if it has not had it before.
        Without `source_check` it may send from any address, as one to which a route leads must.
        """
        cdef uint16_t place = self._host(number)
        if not self.admits_host(number, address, vpc, link):
            raise ValueError(f"host {number} still has flows of another (sweep first)")
        cdef Attachment record = host_attachment(
            number, address, router, host_mac, gateway_mac, self._interface(interface), vpc, mtu
        )
        cdef uint64_t owner = owner_of_host(vpc, link)
        cdef AttachmentRecord* former = &self.nat.records[place]
        record.route_table = table_number(f"host {number}", route_table)
        record.forwards = not source_check
        record.primary = place
        record.policy = NULL if policy is None else &policy.record
        if former.owner != owner or former.address != record.address:
            fragments_forget(self.nat, place)
            memset(former, 0, sizeof(AttachmentRecord))
            former.owner = owner
            former.since = now_ms
        self.host_policies[number] = policy
        attachment_set(self.nat, place, &record)
        addresses_index(self.nat)

    def admits_host(self, uint32_t number, address, uint32_t vpc=0, uint32_t link=0):
        """Whether no flow of another host has this number."""
        return admits_owner(
            self.nat, self._host(number), owner_of_host(vpc, link), address_number(address)
        )

    def remove_host(self, uint32_t number):
        """Nothing passes a host any more; `sweep` removes its flows."""
        cdef uint16_t place
        if number < self.nat.header.hosts_max:
            place = self._host(number)
            attachment_retire(self.nat, place)
            fragments_forget(self.nat, place)
            self.host_policies.pop(number, None)
            addresses_index(self.nat)

    cdef uint16_t _host(self, number) except? 0:
        """The attachment of a host number; ValueError where the map has no room for it."""
        if not 0 <= number < self.nat.header.hosts_max:
            raise ValueError(f"host {number}: the state map has {self.nat.header.hosts_max}")
        return <uint16_t>(first_host(self.nat.header) + <uint32_t>number)

    cdef uint16_t _interface(self, number) except? 0:
        """The attachment of an interface number; ValueError where the map has no room for it."""
        if not 0 <= number < self.nat.header.interfaces_max:
            raise ValueError(
                f"interface {number}: the state map has {self.nat.header.interfaces_max}"
            )
        return <uint16_t>(self.nat.header.slots_max + <uint32_t>number)

    def remove_strangers(self):
        """Remove every slot, interface and host that flows of a predecessor name and nobody has set."""
        strangers_retire(self.nat)

    def retiring(self):
        """Numbers of the slots and of the interfaces whose flows `sweep` has not dealt with yet."""
        cdef uint32_t slots = self.nat.header.slots_max, hosts = first_host(self.nat.header)
        return retiring_of(self.nat, 0, slots), retiring_of(self.nat, slots, hosts)

    def retiring_hosts(self):
        """The same of hosts."""
        return retiring_of(self.nat, first_host(self.nat.header), self.nat.attachments_max)

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
                  uint16_t gso_size=0, checksum_at=None, bint counted=False):
        """One frame through the engine; the frame given is not changed.
        `partial`: its transport checksum is the sum of the pseudo-header; `checksum_at` instead says
        where a checksum is to be completed, as the virtio-net header does: the first byte that it is
        about, and the field's place from there.  `counted`: the flow cache's program has, at an armed record.

        When more than one frame leaves, `take_extra` has the others until the next call.
        """
        verdict = translate_frame(
            self.nat, frame, side, port, now_ms, partial, gso_size, checksum_at, counted
        )
        self.extra = []
        self._collect()
        neighbours_ask(self.nat, now_ms)
        self._collect()
        self.activate()
        return verdict

    cdef void classify(self, Packet* packets, uint32_t count) noexcept nogil:
        classify_batch(self.nat, packets, count)

    cdef void apply(self, Packet* p, uint64_t now) noexcept nogil:
        nat_apply(self.nat, p, now)

    cdef void activate(self) noexcept nogil:
        if self.nat.cache != NULL and self.nat.cache.activations:
            cache_activate(self.nat)

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
        while self.nat.extras.used:
            self.extra += extras_of(self.nat)
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

    def host_flows(self):
        """Every committed entry of a flow of a host."""
        return self.state.host_flows()

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
