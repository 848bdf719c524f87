# SPDX-License-Identifier: Apache-2.0
# The engine's state as one C structure, shared by the modules that each do a part of the work.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
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

cdef enum:
    EVENTS_MAX = 256

# What a packet can come from or leave by; what every packet of it needs comes first.  The kind
# decides little: who is on the link (one host, or next hops that are asked for), and who may begin
# flows.
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
    # By which what comes from it leaves, and at which it is counted: of an interface itself.
    uint16_t interface
    # Ours on its link, and the environment's.
    uint8_t mac[6]
    uint8_t peer_mac[6]
    # Which has the link: an address of its own of an interface is an attachment, too, and each primary
    # has a chain of them.
    uint16_t primary
    uint16_t next_address
    uint16_t addresses
    uint32_t vpc
    uint32_t entries
    const PolicyRecord* policy
    uint32_t destinations[DESTINATIONS_MAX]
    uint32_t destination_masks[DESTINATIONS_MAX]

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
    uint32_t retiring
    uint32_t sweep_position
    uint32_t timeouts[STATES]
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


cdef inline void count(Nat* nat, int counter) noexcept nogil:
    nat.counters[counter] += 1


cdef inline void count_at(
    Nat* nat, uint32_t number, int counter, uint32_t times=1
) noexcept nogil:
    """Count at one of an attachment's own counters; UNATTACHED has none."""
    if number < nat.attachments_max:
        nat.records[number].counters[counter] += times


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


cdef inline void count_sent(Nat* nat, const Packet* p) noexcept nogil:
    """Count a packet that its environment has sent at that."""
    cdef AttachmentRecord* record = &nat.records[p.port]
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
