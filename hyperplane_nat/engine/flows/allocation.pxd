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

By a NAT gateway a flow leaves with a public address of that, and a port that is free there towards the
remote endpoint. An environment's is counted at an address of its interface, too, as one more port
towards that endpoint: it is the same port, and no two flows have it there. No packet is ever looked for
by it, so it is in no index and in no bitmap; that another flow of that address has it already, by another
public address, is found by looking there, and then another port is drawn, a few times.

Whoever is refused is remembered in the state map, for those who read it: which interface ran out
towards which remote endpoint, how often, when last and by whom. A limit is not about a remote
endpoint and is remembered for 0.0.0.0:0. The table is small and open-addressed: a new endpoint
takes the oldest of the PROBES cells where it may stand.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.flow_table cimport flow_key, table_flow, table_hash
from hyperplane_nat.engine.flows.nat cimport (
    EVENTS_MAX,
    UNATTACHED,
    Attachment,
    Event,
    Nat,
    count,
    count_at,
)
from hyperplane_nat.engine.flows.ports cimport (
    ports_full,
    ports_give_back,
    ports_random,
    ports_take,
)
from hyperplane_nat.engine.state.layout cimport NIL, Exhaustion, first_host, hop_of
from hyperplane_nat.engine.wire.packet cimport Packet

cdef enum:
    PROBES = 8
    # Ports that are drawn for a flow by a NAT gateway before it is refused one.
    DRAWS = 16


cdef inline void report(
    Nat* nat, const Packet* p, uint16_t responder, uint64_t now, int kind
) noexcept nogil:
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
    event.responder = responder
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
    uint16_t responder,
    uint32_t remote_address,
    uint16_t remote_port,
    int reason,
    uint64_t now,
) noexcept nogil:
    """Count, remember and report that a packet got no port of an interface or NAT gateway."""
    cdef Exhaustion* cell = exhaustion_cell(nat, p, responder, remote_address, remote_port)
    cell.last = now
    cell.originator = p.port
    cell.reason = <uint8_t>reason
    cell.errors += 1
    count(nat, C_PORT_ALLOCATION_ERRORS)
    count_at(nat, responder, A_PORT_ALLOCATION_ERRORS)
    report(nat, p, responder, now, EVENT_PORT_ALLOCATION)


cdef inline void refused_by_interface(
    Nat* nat,
    const Packet* p,
    uint32_t remote_address,
    uint16_t remote_port,
    int reason,
    uint64_t now,
) noexcept nogil:
    """The same at the interface of whoever sends the packet, for want of a port or by a limit."""
    if reason != DROP_PORT_ALLOCATION:
        remote_address = 0
        remote_port = 0
    refused(nat, p, nat.attachments[p.port].interface, remote_address, remote_port, reason, now)


cdef inline bint environment_full(const Nat* nat, uint16_t number, uint32_t entries) noexcept nogil:
    cdef uint32_t limit = nat.behaviour.limit_per_environment
    return limit != 0 and nat.attachments[number].entries + entries > limit


cdef inline bint address_full(const Nat* nat, uint16_t number, uint32_t entries) noexcept nogil:
    cdef uint32_t limit = nat.behaviour.limit_per_interface
    cdef const Attachment* address = &nat.attachments[number]
    return limit != 0 and address.entries - address.plain + entries > limit


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
        refused_by_interface(nat, p, p.destination, p.destination_port, reason, now)
    return reason


cdef inline uint16_t first_address(
    Nat* nat, const Packet* p, uint16_t primary, uint32_t* tries
) noexcept nogil:
    """The address of an interface or gateway to begin with, and how many there are to be tried."""
    cdef uint32_t addresses = nat.attachments[primary].addresses, i
    cdef uint16_t number = primary
    tries[0] = addresses
    if addresses > 1:
        if nat.behaviour.paired_pooling:
            i = p.port % addresses
            tries[0] = 1
        else:
            i = ports_random(&nat.ports, addresses)
        while i:
            number = nat.attachments[number].next_address
            i -= 1
    return number


cdef inline uint16_t following_address(
    const Nat* nat, uint16_t primary, uint16_t number
) noexcept nogil:
    number = nat.attachments[number].next_address
    return primary if number == UNATTACHED else number


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
    cdef uint16_t primary = nat.attachments[p.port].interface, number
    cdef uint32_t tries
    cdef int reason = DROP_PORT_LIMIT_INTERFACE
    if environment_full(nat, p.port, entries):
        reason = DROP_PORT_LIMIT_ENVIRONMENT
        refused_by_interface(nat, p, remote_address, remote_port, reason, now)
        return reason
    number = first_address(nat, p, primary, &tries)
    while tries:
        if not address_full(nat, number, entries):
            if ports_take(
                &nat.ports, p.protocol, number, remote_address, remote_port, nat_port
            ) == 0:
                interface[0] = number
                return DROP_NONE
            reason = DROP_PORT_ALLOCATION
        number = following_address(nat, primary, number)
        tries -= 1
    refused_by_interface(nat, p, remote_address, remote_port, reason, now)
    return reason


cdef inline int choose_hop(Nat* nat, const Packet* p, uint16_t* hop, uint64_t now) noexcept nogil:
    """The address of its interface where an environment's flow by a NAT gateway is counted."""
    cdef uint16_t primary = nat.attachments[p.port].interface
    cdef uint32_t tries
    cdef int reason = DROP_PORT_LIMIT_INTERFACE
    hop[0] = first_address(nat, p, primary, &tries)
    while tries:
        if not address_full(nat, hop[0], 1):
            if not ports_full(&nat.ports, p.protocol, hop[0], p.destination, p.destination_port):
                return DROP_NONE
            reason = DROP_PORT_ALLOCATION
        hop[0] = following_address(nat, primary, hop[0])
        tries -= 1
    refused_by_interface(nat, p, p.destination, p.destination_port, reason, now)
    return reason


cdef inline bint taken_at_hop(
    const Nat* nat, const Packet* p, uint16_t hop, uint16_t public_address, uint16_t port
) noexcept nogil:
    """Whether another flow is counted at an interface address with this port towards a packet's
    destination: it leaves by another public address of the same internet gateway.
    """
    cdef uint16_t number = nat.attachments[public_address].primary
    cdef const Attachment* each
    cdef uint32_t flow
    while number != UNATTACHED:
        each = &nat.attachments[number]
        if number != public_address and 0 < each.serves < first_host(nat.header):
            key = flow_key(
                p.protocol, number, p.destination, p.destination_port, each.address, port
            )
            flow = table_flow(&nat.table, key)
            if flow != NIL and hop_of(
                &nat.table.entries[flow], &nat.table.extensions[flow]
            ) == hop:
                return True
        number = each.next_address
    return False


cdef inline bint draw_at(
    Nat* nat, const Packet* p, uint16_t public_address, uint16_t hop, uint16_t* port
) noexcept nogil:
    """A port of a public address of a NAT gateway that is free at the hop, too; False without."""
    cdef int draw
    for draw in range(DRAWS):
        if ports_take(
            &nat.ports, p.protocol, public_address, p.destination, p.destination_port, port
        ):
            return False
        if hop == 0 or not taken_at_hop(nat, p, hop, public_address, port[0]):
            return True
        ports_give_back(
            &nat.ports, p.protocol, public_address, p.destination, p.destination_port, port[0]
        )
    return False


cdef inline int allocate_at_gateway(
    Nat* nat, const Packet* p, uint64_t now, uint16_t* public_address, uint16_t* port, uint16_t* hop
) noexcept nogil:
    """A public address and a port of the NAT gateway that a packet goes by, and the hop of an
    environment's; or why there are none.
    """
    cdef uint16_t gateway = p.gateway, number, candidate
    cdef uint32_t tries
    cdef int reason
    if environment_full(nat, p.port, 1):
        reason = DROP_PORT_LIMIT_ENVIRONMENT
        refused_by_interface(nat, p, p.destination, p.destination_port, reason, now)
        return reason
    hop[0] = 0
    if nat.attachments[p.port].kind == ATTACHMENT_ENVIRONMENT:
        reason = choose_hop(nat, p, hop, now)
        if reason:
            return reason
    number = first_address(nat, p, gateway, &tries)
    while tries:
        candidate = nat.attachments[number].public_address
        if (
            candidate
            and not nat.attachments[number].draining
            and draw_at(nat, p, candidate, hop[0], port)
        ):
            public_address[0] = candidate
            return DROP_NONE
        number = following_address(nat, gateway, number)
        tries -= 1
    refused(nat, p, gateway, p.destination, p.destination_port, DROP_PORT_ALLOCATION, now)
    return DROP_PORT_ALLOCATION
