# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Where to a packet goes that is for none of its VPC's addresses.

Theory of operation
-------------------
The route table is that of the subnet of who sends: an environment's interface, a host, a NAT gateway. The
longest prefix decides, for each packet anew, so a route that changes stops or moves flows there are,
too. A route whose target is not there leads nowhere (blackhole), as on AWS.

Through an internet gateway leaves who has a public address: a host its own, a NAT gateway's flows one of
the gateway's. An environment has none. What a NAT gateway sends on goes by its own table, and there an
internet gateway is the only way: what is private has no way out, and gateway endpoints are passed over.

By a gateway endpoint a packet leaves as it would to a host: a host's as it is, an environment's with a
port of its interface. A host's flow is one of the endpoint's link, so it ends when its route leads
elsewhere.

What a load balancer's node answers to the internet leaves as a NAT gateway's does, by its own table; its
target's table is not asked, because the answer leaves the target's subnet for the node.

Nothing is forwarded to 169.254.168.0/22, whatever route covers it: AWS's services there are each instance's
own (https://docs.aws.amazon.com/vpc/latest/userguide/subnet-route-tables.html).

A table is a short list in the order of the lengths of its prefixes, and is searched from its begin.
"""

from libc.stdint cimport uint16_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.caching cimport cache_forget_shared
from hyperplane_nat.engine.flows.nat cimport (
    ROUTE_TABLES_MAX,
    ROUTES_MAX,
    UNATTACHED,
    Attachment,
    Nat,
    Route,
    RouteTable,
)
from hyperplane_nat.engine.wire.packet cimport Packet
from hyperplane_nat.engine.wire.text cimport prefix_numbers


cdef inline const Route* route_to(
    const Nat* nat, const Attachment* sender, uint32_t destination, bint by_endpoint
) noexcept nogil:
    """The route of a sender's table to an address, if it may be `by_endpoint` one to a gateway endpoint; or
    NULL.
    """
    cdef const RouteTable* table
    cdef uint32_t i
    if sender.route_table == 0 or nat.route_tables[sender.route_table - 1] == NULL:
        return NULL
    table = nat.route_tables[sender.route_table - 1]
    for i in range(table.count):
        if (destination & table.routes[i].mask) != table.routes[i].prefix:
            continue
        if by_endpoint or table.routes[i].kind != ROUTE_TO_GATEWAY_ENDPOINT:
            return &table.routes[i]
    return NULL


cdef inline bint has_public_address(const Nat* nat, uint16_t gateway) noexcept nogil:
    """Whether an address of a NAT gateway has a public one."""
    while gateway != UNATTACHED:
        if nat.attachments[gateway].public_address:
            return True
        gateway = nat.attachments[gateway].next_address
    return False


cdef inline bint stands(const Nat* nat, const Route* route) noexcept nogil:
    """Whether the target of a route is there, and what it was when the route was made."""
    cdef const Attachment* target = &nat.attachments[route.target]
    if route.kind == ROUTE_TO_BLACKHOLE or not target.active:
        return False
    if route.kind == ROUTE_TO_HOST:
        return target.kind == ATTACHMENT_HOST
    if route.kind == ROUTE_TO_GATEWAY_ENDPOINT:
        return target.role == ROLE_GATEWAY_ENDPOINT
    return target.role == (
        ROLE_NAT_GATEWAY if route.kind == ROUTE_TO_NAT_GATEWAY else ROLE_INTERNET_GATEWAY
    )


cdef inline int leave_by_nat_gateway(
    const Nat* nat, Packet* p, uint16_t gateway
) noexcept nogil:
    """Whether a NAT gateway sends on what it is given."""
    cdef const Route* route = route_to(nat, &nat.attachments[gateway], p.destination, False)
    if route == NULL:
        return DROP_NO_ROUTE
    if not stands(nat, route):
        return DROP_ROUTE_BLACKHOLE
    if route.kind != ROUTE_TO_INTERNET_GATEWAY:
        return DROP_NO_ROUTE
    if not has_public_address(nat, gateway):
        return DROP_NAT_GATEWAY_PRIVATE
    p.plain = 0
    p.gateway = gateway
    return DROP_NONE


cdef inline int leave_by_internet_gateway(
    const Nat* nat, Packet* p, uint16_t gateway
) noexcept nogil:
    """Whether who sends a packet has a public address for it."""
    cdef const Attachment* sender = &nat.attachments[p.link]
    cdef uint16_t public_address = sender.public_address
    if (
        sender.kind != ATTACHMENT_HOST
        or public_address == 0
        or nat.attachments[public_address].primary != gateway
        or p.source != sender.address
    ):
        return DROP_NO_PUBLIC_ADDRESS
    p.gateway = public_address
    return DROP_NONE


cdef enum:
    # 169.254.168.0/22, in network order.
    RESERVED = 0x00A8FEA9
    RESERVED_MASK = 0x00FCFFFF


cdef inline int route_away(const Nat* nat, Packet* p, const Attachment* sender) noexcept nogil:
    """Find by whom a packet leaves that is for no address of its VPC; or why it goes nowhere.

    `sender` is who has the route table: a host, or an environment's interface.
    """
    cdef const Route* route
    if (p.destination & RESERVED_MASK) == RESERVED:
        return DROP_DESTINATION_INVALID
    route = route_to(nat, sender, p.destination, True)
    if route == NULL:
        return DROP_NO_ROUTE
    if not stands(nat, route):
        return DROP_ROUTE_BLACKHOLE
    if route.kind == ROUTE_TO_NAT_GATEWAY:
        return leave_by_nat_gateway(nat, p, route.target)
    if route.kind == ROUTE_TO_INTERNET_GATEWAY:
        return leave_by_internet_gateway(nat, p, route.target)
    if route.target == p.link:
        return DROP_DESTINATION_INVALID
    # A host, or a gateway endpoint.
    p.host = route.target
    return DROP_NONE


cdef inline int way_back_refusal(
    const Nat* nat, uint16_t originator, uint16_t node, uint32_t client
) noexcept nogil:
    """Why a load balancer's node cannot answer a client by the route table of its subnet; who has not come
    by the internet gateway needs no route.
    """
    cdef const Route* route
    if nat.attachments[originator].role != ROLE_INTERNET_GATEWAY:
        return DROP_NONE
    route = route_to(nat, &nat.attachments[node], client, False)
    if route == NULL:
        return DROP_NO_ROUTE
    if not stands(nat, route):
        return DROP_ROUTE_BLACKHOLE
    return DROP_NONE if route.kind == ROUTE_TO_INTERNET_GATEWAY else DROP_NO_ROUTE


cdef inline bint same_routes(const RouteTable* one, const RouteTable* other) noexcept nogil:
    if one == NULL or other == NULL:
        return one == other
    return (
        one.count == other.count
        and memcmp(one.routes, other.routes, one.count * sizeof(Route)) == 0
    )


cdef inline int route_table_set(Nat* nat, uint32_t number, list routes) except -1:
    """Have these routes, (prefix, kind, attachment) each; None is no table.  They are checked already."""
    cdef RouteTable* table = NULL
    cdef uint32_t i, prefix, mask
    if number >= ROUTE_TABLES_MAX:
        raise ValueError(f"route table {number}: there are {ROUTE_TABLES_MAX}")
    if routes is not None:
        if len(routes) > ROUTES_MAX:
            raise ValueError(f"route table {number}: at most {ROUTES_MAX} routes")
        table = <RouteTable*>malloc(sizeof(uint32_t) + max(len(routes), 1) * sizeof(Route))
        if table == NULL:
            raise MemoryError
        table.count = len(routes)
        for i, (text, kind, target) in enumerate(
            sorted(routes, key=lambda route: -int(route[0].partition("/")[2] or 32))
        ):
            prefix, mask = prefix_numbers(text)
            table.routes[i] = Route(prefix, mask, kind, target)
    if not same_routes(nat.route_tables[number], table):
        cache_forget_shared(nat)
    free(nat.route_tables[number])
    nat.route_tables[number] = table
    return 0


cdef inline void route_tables_release(Nat* nat) noexcept:
    cdef uint32_t number
    if nat.route_tables != NULL:
        for number in range(ROUTE_TABLES_MAX):
            free(nat.route_tables[number])
    free(nat.route_tables)
    nat.route_tables = NULL
