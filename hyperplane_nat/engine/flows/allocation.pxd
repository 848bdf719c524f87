# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Which address and port a new flow or mapping gets, and whether it may have one.

Theory of operation
-------------------
An environment may hold a number of entries, and so may an address; both are counted already, so a
limit is one comparison. The addresses of a network interface are attachments of their own, chained
to the primary. A new port comes from a random one of them, as RFC 4787 REQ-2 calls
"arbitrary" pooling, and from the next when that has none left; all are tried once, so this is
bounded. With paired pooling the environment's number chooses the address and there is no other.

Whoever is refused is remembered in the state map, for those who read it: which interface ran out
towards which remote endpoint, how often, when last and by whom. A limit is not about a remote
endpoint and is remembered for 0.0.0.0:0. The table is small and open-addressed: a new endpoint
takes the oldest of the PROBES cells where it may stand.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.flow_table cimport flow_key, table_hash
from hyperplane_nat.engine.flows.nat cimport (
    EVENTS_MAX,
    UNATTACHED,
    Event,
    Nat,
    count,
    count_at,
)
from hyperplane_nat.engine.flows.ports cimport ports_random, ports_take
from hyperplane_nat.engine.state.layout cimport Exhaustion
from hyperplane_nat.engine.wire.packet cimport Packet

cdef enum:
    PROBES = 8


cdef inline void report(Nat* nat, const Packet* p, uint64_t now, int kind) noexcept nogil:
    """Leave an event for whoever drains them; one too many is counted."""
    cdef Event* event
    if nat.events_count == EVENTS_MAX:
        count(nat, C_EVENTS_LOST)
        return
    event = &nat.events[nat.events_count]
    nat.events_count += 1
    event.now = now
    event.kind = <uint8_t>kind
    event.protocol = p.protocol
    event.originator = p.port
    event.responder = nat.attachments[p.port].interface
    event.remote_address = p.destination
    event.remote_port = p.destination_port


cdef inline Exhaustion* exhaustion_cell(
    Nat* nat, const Packet* p, uint16_t responder, uint32_t address, uint16_t port
) noexcept nogil:
    """The cell of a remote endpoint; with `errors` 0 when it is new."""
    cdef uint64_t hash = table_hash(
        &nat.table, flow_key(p.protocol, responder, address, port, 0, 0)
    )
    cdef Exhaustion* oldest = NULL
    cdef Exhaustion* cell
    cdef uint32_t probe
    for probe in range(PROBES):
        cell = &nat.exhaustions[(hash + probe) % EXHAUSTIONS]
        if (
            cell.errors
            and cell.address == address
            and cell.port == port
            and cell.responder == responder
            and cell.protocol == p.protocol
        ):
            return cell
        if oldest == NULL or (
            oldest.errors and (cell.errors == 0 or cell.last < oldest.last)
        ):
            oldest = cell
    oldest.errors = 0
    oldest.address = address
    oldest.port = port
    oldest.responder = responder
    oldest.protocol = p.protocol
    return oldest


cdef inline void refused(
    Nat* nat,
    const Packet* p,
    uint32_t remote_address,
    uint16_t remote_port,
    int reason,
    uint64_t now,
) noexcept nogil:
    """Count, remember and report that a packet got no port."""
    cdef Exhaustion* cell = exhaustion_cell(
        nat, p, nat.attachments[p.port].interface, remote_address, remote_port
    )
    cell.last = now
    cell.originator = p.port
    cell.reason = <uint8_t>reason
    cell.errors += 1
    count(nat, C_PORT_ALLOCATION_ERRORS)
    count_at(nat, nat.attachments[p.port].interface, A_PORT_ALLOCATION_ERRORS)
    report(nat, p, now, EVENT_PORT_ALLOCATION)


cdef inline bint environment_full(const Nat* nat, uint16_t number, uint32_t entries) noexcept nogil:
    cdef uint32_t limit = nat.behaviour.limit_per_environment
    return limit != 0 and nat.attachments[number].entries + entries > limit


cdef inline bint address_full(const Nat* nat, uint16_t number, uint32_t entries) noexcept nogil:
    cdef uint32_t limit = nat.behaviour.limit_per_interface
    return limit != 0 and nat.attachments[number].entries + entries > limit


cdef inline int admit_entry(
    Nat* nat, const Packet* p, uint16_t interface, uint64_t now
) noexcept nogil:
    """Whether one more entry may be made that takes no port; the reason when not."""
    cdef int reason = DROP_NONE
    if environment_full(nat, p.port, 1):
        reason = DROP_PORT_LIMIT_ENVIRONMENT
    elif address_full(nat, interface, 1):
        reason = DROP_PORT_LIMIT_INTERFACE
    if reason:
        refused(nat, p, 0, 0, reason, now)
    return reason


cdef inline int allocate(
    Nat* nat,
    const Packet* p,
    uint32_t remote_address,
    uint16_t remote_port,
    uint32_t entries,
    uint64_t now,
    uint16_t* interface,
    uint16_t* nat_port,
) noexcept nogil:
    """An address and a port towards a remote endpoint for the environment that sent a packet.

    `entries` is how many entries are about to be made with it.  Returns DROP_NONE, or why there is
    none: PORT_ALLOCATION when an address that may have more entries has no port left.
    """
    cdef uint16_t primary = nat.attachments[p.port].interface, number = primary
    cdef uint32_t addresses = nat.attachments[primary].addresses, tries = addresses, i
    cdef int reason = DROP_PORT_LIMIT_INTERFACE
    if environment_full(nat, p.port, entries):
        refused(nat, p, 0, 0, DROP_PORT_LIMIT_ENVIRONMENT, now)
        return DROP_PORT_LIMIT_ENVIRONMENT
    if addresses > 1:
        if nat.behaviour.paired_pooling:
            i = p.port % addresses
            tries = 1
        else:
            i = ports_random(&nat.ports, addresses)
        while i:
            number = nat.attachments[number].next_address
            i -= 1
    while tries:
        if not address_full(nat, number, entries):
            if ports_take(
                &nat.ports, p.protocol, number, remote_address, remote_port, nat_port
            ) == 0:
                interface[0] = number
                return DROP_NONE
            reason = DROP_PORT_ALLOCATION
        number = nat.attachments[number].next_address
        if number == UNATTACHED:
            number = primary
        tries -= 1
    if reason == DROP_PORT_ALLOCATION:
        refused(nat, p, remote_address, remote_port, reason, now)
    else:
        refused(nat, p, 0, 0, reason, now)
    return reason
