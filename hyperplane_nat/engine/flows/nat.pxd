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
    STATES,
    Entry,
    Exhaustion,
    FlowRecord,
    Header,
    RecordRing,
    SlotCounters,
)
from hyperplane_nat.engine.wire.packet cimport Packet, wire_bytes

cdef enum:
    EVENTS_MAX = 256
    # The interface of a slot in the pool, and the slot of an entry that is nobody's any more: maps
    # have at most 65535 of each, so no number is as high.
    UNATTACHED = 0xFFFF
    NOBODY = 0xFFFF

cdef struct Slot:
    uint32_t address
    uint32_t gateway
    uint32_t subnet
    uint32_t subnet_mask
    uint32_t entries
    uint16_t interface
    uint16_t mtu
    uint8_t active
    uint8_t retiring
    uint8_t environment_mac[6]
    uint8_t gateway_mac[6]

cdef struct Interface:
    uint32_t address
    uint32_t subnet
    uint32_t subnet_mask
    uint32_t router
    uint32_t vpc
    uint32_t entries
    uint16_t mtu
    # An address of its own of the interface that is the primary; each primary has a chain of them.
    uint16_t primary
    uint16_t next_address
    uint16_t addresses
    const PolicyRecord* policy
    uint8_t active
    uint8_t retiring
    uint8_t mac[6]
    uint8_t destinations_count
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
    uint16_t interface
    uint16_t slot
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
    SlotCounters* slot_counters
    # INTERFACE_COUNTERS of them for each interface number.
    uint64_t* interface_counters
    uint32_t* slot_addresses
    uint32_t* interface_addresses
    Slot* slots
    Interface* interfaces
    uint32_t slots_max
    uint32_t interfaces_max
    uint32_t interfaces_used
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


cdef inline void count_interface(
    Nat* nat, uint32_t number, int counter, uint32_t times=1
) noexcept nogil:
    """Count at one of an interface's own counters; UNATTACHED has none."""
    if number < nat.interfaces_max:
        nat.interface_counters[number * INTERFACE_COUNTERS + counter] += times


cdef inline void count_passage(
    Nat* nat, uint32_t number, int counter, int own, const Packet* p
) noexcept nogil:
    """Count a packet and its bytes at `counter` and the next, and at `own` of the interface."""
    cdef uint32_t bytes = wire_bytes(p)
    cdef uint64_t* counters
    nat.counters[counter] += p.segments
    nat.counters[counter + 1] += bytes
    if number < nat.interfaces_max:
        counters = &nat.interface_counters[number * INTERFACE_COUNTERS + own]
        counters[0] += p.segments
        counters[1] += bytes


cdef inline void count_at_slot_out(Nat* nat, const Packet* p) noexcept nogil:
    """Count a packet that the environment of its slot has sent."""
    cdef SlotCounters* counters = &nat.slot_counters[p.port]
    counters.packets_out += p.segments
    counters.bytes_out += wire_bytes(p)


cdef inline void count_at_entry(Entry* entry, const Packet* p) noexcept nogil:
    """Count a packet at its flow."""
    entry.packets[p.side] += p.segments
    entry.bytes[p.side] += wire_bytes(p)


cdef inline void drop(Nat* nat, Packet* p, int reason) noexcept nogil:
    p.action = ACTION_DROP
    p.reason = <uint8_t>reason
    nat.counters[C_DROP_BASE + reason] += p.segments
    if p.side == SIDE_INSIDE and p.port < nat.slots_max:
        nat.slot_counters[p.port].drops += p.segments
        count_interface(nat, nat.slots[p.port].interface, I_DROPS, p.segments)
    elif p.side == SIDE_OUTSIDE:
        count_interface(nat, p.port, I_DROPS, p.segments)
