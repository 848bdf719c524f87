# SPDX-License-Identifier: Apache-2.0
# The engine's state as one C structure, shared by the modules that each do a part of the work.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.acl_table cimport VpcAcls
from hyperplane_nat.engine.flows.cache_table cimport FlowCache
from hyperplane_nat.engine.flows.extras cimport Extras
from hyperplane_nat.engine.flows.flow_table cimport FlowTable
from hyperplane_nat.engine.flows.fragment_table cimport FragmentTable
from hyperplane_nat.engine.flows.identification cimport IdentificationTable
from hyperplane_nat.engine.flows.neighbour_table cimport NeighbourTable
from hyperplane_nat.engine.flows.policy cimport PolicyRecord
from hyperplane_nat.engine.flows.ports cimport PortAllocator
from hyperplane_nat.engine.flows.timers cimport TimerWheel
from hyperplane_nat.engine.flows.tracker cimport Tracker
from hyperplane_nat.engine.state.layout cimport (
    DESTINATIONS_MAX,
    NOBODY,
    STATES,
    UNATTACHED,
    AttachmentRecord,
    Entry,
    Exhaustion,
    FlowRecord,
    Header,
    RecordRing,
)
from hyperplane_nat.engine.wire.packet cimport Packet, wire_bytes

cdef extern from *:
    """
    #define HP_APART __attribute__((cold)) void
    #define HP_APART_BINT __attribute__((cold, noinline)) int
    """
    # What is so for few packets; Cython has it for its own code.
    bint unlikely(bint condition) noexcept nogil
    # What a function returns that only they need: inlined it would take registers from all others.
    ctypedef void apart "HP_APART"
    # The same of one that answers a question.
    ctypedef bint apart_bint "HP_APART_BINT"

cdef enum:
    EVENTS_MAX = 256
    ROUTES_MAX = 1000
    ROUTE_TABLES_MAX = 65536

# Whom a listener sends new flows to; address and port in network byte order.
cdef struct BalancedTarget:
    uint32_t address
    uint16_t port

# What a load balancer's node listens to.  `idle` in ms.
cdef struct Listener:
    uint16_t port
    uint8_t protocol
    uint8_t sticky
    uint8_t preserves
    uint32_t idle
    uint32_t count
    BalancedTarget* targets

cdef struct Listeners:
    uint32_t count
    Listener* listeners

# What a packet can come from or leave by; what every packet of it needs comes first.  The kind
# decides little: who is on the link (one host, or next hops that are asked for), and who may begin
# which flows.  Its size is a power of two, because the table is indexed several times for each packet.
cdef struct Attachment:
    uint32_t address
    # Whoever is the router of its network: ourselves for an environment, the VPC's for an interface.
    uint32_t router
    uint32_t subnet
    uint32_t subnet_mask
    uint8_t kind
    uint8_t active
    uint8_t retiring
    uint8_t destinations_count
    uint16_t mtu
    # By which what comes from it leaves: of an interface itself, of a load balancer's node the one by
    # whose link the VPC's router is reached.
    uint16_t interface
    # Ours on its link, and the environment's or the host's.
    uint8_t mac[6]
    uint8_t peer_mac[6]
    # Which has the link: an address of its own of an interface is an attachment, too, and each primary
    # has a chain of them.
    uint16_t primary
    uint16_t next_address
    uint16_t addresses
    # An environment that stands still: nothing passes its link.
    uint8_t silent
    # A gateway's: which, and that new flows take another address of it.
    uint8_t role
    uint8_t draining
    # A host may send from addresses that are not its own.
    uint8_t forwards
    # By which gateway a flow of which this is the responder leaves: the one that its sender's route
    # leads to, be it a NAT gateway or a public address of the sender.  0: by none.
    uint16_t gateway
    # Of an internet gateway's address: for whom it stands, and of that one: the address; or 0.
    uint16_t serves
    uint16_t public_address
    # Where to what is not in its VPC goes: number + 1, 0 without a table.
    uint32_t route_table
    uint32_t vpc
    uint32_t entries
    # Of these, flows that have no port of it: nothing of them is translated.
    uint32_t plain
    const PolicyRecord* policy
    uint32_t destinations[DESTINATIONS_MAX]
    uint32_t destination_masks[DESTINATIONS_MAX]
    # Of a load balancer's node, whose first address it is; NULL without any.
    Listeners* listeners
    uint8_t room[40]

# What `configure` was told of `settings.Behaviour`; flags are 0 or 1.
cdef struct BehaviourRecord:
    uint8_t mapping
    uint8_t filtering
    uint8_t hairpinning
    uint8_t paired_pooling
    uint8_t exhaustion_icmp
    uint8_t idle_reset
    uint8_t tcp_fragments
    uint8_t udp_fragments
    uint8_t icmp_fragments
    uint8_t mss_clamping
    uint32_t tombstones
    uint32_t fragment_ms
    uint32_t limit_per_interface
    uint32_t limit_per_environment

# Those of a table are in the order of their prefixes' lengths, the longest first.
cdef struct Route:
    uint32_t prefix
    uint32_t mask
    # ROUTE_TO_..., and the attachment that it leads to.
    uint16_t kind
    uint16_t target

cdef struct RouteTable:
    uint32_t count
    Route routes[ROUTES_MAX]

cdef struct Event:
    uint64_t now
    uint32_t remote_address
    uint16_t remote_port
    uint16_t responder
    uint16_t originator
    uint8_t protocol
    uint8_t kind

# Where flow records go; without a ring nobody asked for them.
cdef struct RecordSink:
    RecordRing* ring
    FlowRecord* records
    uint32_t* lost
    uint64_t period
    uint32_t refusals

cdef struct Nat:
    FlowTable table
    PortAllocator ports
    TimerWheel wheel
    Tracker tracker
    NeighbourTable neighbours
    Header* header
    uint64_t* counters
    AttachmentRecord* records
    Attachment* attachments
    uint32_t attachments_max
    # Numbers at or above it are not in use.
    uint32_t attachments_used
    uint64_t* own_addresses
    uint16_t* own_numbers
    uint32_t own_mask
    # By number; NULL where there is none.
    RouteTable** route_tables
    # By the low bits of their VPCs' numbers; NULL where every packet passes every border.
    VpcAcls** network_acls
    # Whether there has been a load balancer's node.
    bint nodes
    uint32_t retiring
    uint32_t sweep_position
    uint32_t timeouts[STATES]
    # What is younger than this is within the time of its state, be it of a listener or not.
    uint32_t soonest[STATES]
    # The shortest time that a balanced flow of the table may be idle, in ms.
    uint32_t shortest_idle
    # Entries at or above it may have a timer of other timeouts than these; NIL when none has.
    uint32_t retimed
    BehaviourRecord behaviour
    uint64_t* tombstones
    uint32_t tombstones_count
    Exhaustion* exhaustions
    FragmentTable fragments
    Extras extras
    RecordSink sink
    Event events[EVENTS_MAX]
    uint32_t events_count
    IdentificationTable identifications
    # NULL where the kernel has none of it.
    FlowCache* cache


cdef inline void count(Nat* nat, int counter) noexcept nogil:
    nat.counters[counter] += 1


cdef inline void count_at(
    Nat* nat, uint32_t number, int counter, uint32_t times=1
) noexcept nogil:
    """Count at one of an attachment's own counters; UNATTACHED has none."""
    if number < nat.attachments_max:
        nat.records[number].counters[counter] += times


cdef inline void listeners_free(Listeners* listeners) noexcept nogil:
    cdef uint32_t i
    if listeners == NULL:
        return
    for i in range(listeners.count):
        free(listeners.listeners[i].targets)
    free(listeners.listeners)
    free(listeners)


cdef inline void listeners_release(Attachment* attachment) noexcept nogil:
    """Have no listeners any more."""
    listeners_free(attachment.listeners)
    attachment.listeners = NULL


cdef inline void count_at_node(Nat* nat, uint16_t node, int counter) noexcept nogil:
    """Count at what only a load balancer's node has."""
    nat.records[node].balanced[counter] += 1


cdef inline void count_passage(
    Nat* nat, uint32_t number, int counter, int own, const Packet* p
) noexcept nogil:
    """Count a packet and its bytes at `counter` and the next, and at `own` of the attachment."""
    cdef uint32_t bytes = wire_bytes(p)
    nat.counters[counter] += p.segments
    nat.counters[counter + 1] += bytes
    if number < nat.attachments_max:
        nat.records[number].counters[own] += p.segments
        nat.records[number].counters[own + 1] += bytes


cdef inline uint16_t counted_at(const Nat* nat, uint16_t number) noexcept nogil:
    """At which it is counted what an attachment begins: an environment's interface, or itself."""
    if nat.attachments[number].kind == ATTACHMENT_ENVIRONMENT:
        return nat.attachments[number].interface
    return number


cdef inline void count_sent(Nat* nat, const Packet* p) noexcept nogil:
    """Count a packet that an environment or a host has sent at that."""
    cdef AttachmentRecord* record = &nat.records[p.link]
    if nat.attachments[p.link].kind == ATTACHMENT_INTERFACE:
        return
    record.counters[<int>A_PACKETS_OUT_TO_DESTINATION] += p.segments
    record.counters[<int>A_BYTES_OUT_TO_DESTINATION] += wire_bytes(p)


cdef inline void count_at_entry(Entry* entry, const Packet* p) noexcept nogil:
    """Count a packet at its flow."""
    entry.packets[p.side] += p.segments
    entry.bytes[p.side] += wire_bytes(p)


cdef inline void drop(Nat* nat, Packet* p, int reason) noexcept nogil:
    p.action = ACTION_DROP
    p.reason = <uint8_t>reason
    nat.counters[C_DROP_BASE + reason] += p.segments
    count_at(nat, p.port, A_DROPS, p.segments)
    if p.port < nat.attachments_max and nat.attachments[p.port].kind == ATTACHMENT_ENVIRONMENT:
        count_at(nat, nat.attachments[p.port].interface, A_DROPS, p.segments)
    elif p.link != p.port and nat.attachments[p.link].kind == ATTACHMENT_HOST:
        count_at(nat, p.link, A_DROPS, p.segments)


cdef inline uint32_t next_hop_to(const Attachment* link, uint32_t destination) noexcept nogil:
    """Who is sent what leaves by an interface for a destination."""
    return destination if (destination & link.subnet_mask) == link.subnet else link.router


cdef inline bint stands_still(const Nat* nat, uint16_t number) noexcept nogil:
    """Whether what is for this attachment, or for nobody, is for an environment that stands still."""
    return number < nat.attachments_max and nat.attachments[number].silent


cdef inline void drop_frozen(Nat* nat, Packet* p, uint16_t number) noexcept nogil:
    """Drop what is for an environment that stands still; it is counted there, too."""
    drop(nat, p, DROP_ENVIRONMENT_FROZEN)
    count_at(nat, number, A_DROPS, p.segments)


cdef inline void count_at_hop(
    Nat* nat, uint32_t hop, const Packet* p
) noexcept nogil:
    """Count a packet of a flow by a NAT gateway at the environment's interface address, too."""
    cdef int counter = A_PACKETS_IN_FROM_DESTINATION if p.side else A_PACKETS_OUT_TO_DESTINATION
    if hop:
        nat.records[hop].counters[counter] += p.segments
        nat.records[hop].counters[counter + 1] += wire_bytes(p)
