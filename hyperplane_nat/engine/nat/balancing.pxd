# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Load balancers' nodes: how a flow for a listener finds its target, and what becomes of it there.

Theory of operation
-------------------
A node is an address of a VPC without a link. What is for it arrives there as what is for any interface
address (`Packet.port` is the node's), for it may be the answer of a target to an address that the node's
NAT has given. What is no flow's there is a client's, and belongs to a flow that begins at the client's own
attachment (`node_turn`). An environment's packet is its own from the beginning.

A balanced flow is one entry, whatever it goes through::

    client            source as the target has it          responder (key of the answers)
    environment, NAT  port of the node's address           that address; interface is the hop
    host, NAT         port of the node's address           that address
    environment       port of its interface                its interface
    host              its own                              target, or the link of the VPC's router
    behind router     its own                              target
    internet          its own                              target

The last four keep the client's source. The target's answer to it is for the client's address, and finds
the flow as it would find one that the client had begun itself; so it can be only one of them
(FLOW_COLLISION). A target behind the router answers a client behind the router, or in the internet, without
coming by here (LOAD_BALANCER_RETURN_PATH).

A client in the internet sends to a node's public address, an attachment of the internet gateway, and that
is its flow's originator. The node answers it if the route table of its subnet leads back (NO_ROUTE,
ROUTE_BLACKHOLE), whatever the target's does.

An endpoint is one more way to a node, which may be of another VPC: an address where the client is, without
a link. What a client sends there is for the listener of the node that the endpoint leads to, and goes on
from there as anything else without the client's source, which says nothing in the other VPC. The flow
is one entry, with the endpoint in its extension. An endpoint that leads nowhere, because the service's owner
has not accepted it or its node is gone, drops in silence (ENDPOINT_UNAVAILABLE); so no target can be an
endpoint's address, and no path leads round.

Which target: that whose place among those that are eligible a keyed hash tells, of protocol, addresses,
ports and the number of the SYN, or of the client's address alone (`sticky`). A flow is its target's for
life; a client that opens another connection on the ports of one that is over gets another flow
(`chooses_again`).

A port of a node's address is one towards one target, as an interface's is towards a remote endpoint. It is
none of the node's listeners': what is for those is a client's.

Security groups: the client's, about the node; the node's own, about the client, and about the target; the
target's, which admit whoever they admit from the client's address or from the node's. So a rule that names
the balancer's group is one for its nodes' addresses, and holds with the client's source, too.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.admission cimport (
    client_address,
    egress_refusal,
    entrance_refusal,
    refusing_entrance,
)
from hyperplane_nat.engine.flows.allocation cimport (
    DRAWS,
    allocate,
    choose_hop,
    environment_full,
    first_address,
    following_address,
    refused,
    refused_by_interface,
    report,
)
from hyperplane_nat.engine.flows.counting cimport amount_of, count_at_balancer
from hyperplane_nat.engine.flows.entries cimport entrance_of, leads_somewhere
from hyperplane_nat.engine.flows.extensions cimport extension_open
from hyperplane_nat.engine.flows.flow_table cimport (
    flow_key,
    table_allocate,
    table_flow,
    table_give_back,
    table_hash,
)
from hyperplane_nat.engine.flows.lifecycle cimport flow_commit
from hyperplane_nat.engine.flows.nat cimport (
    UNATTACHED,
    Attachment,
    BalancedTarget,
    Listener,
    Nat,
    apart,
    count,
    count_at,
    count_at_node,
    counted_at,
    drop,
    unlikely,
)
from hyperplane_nat.engine.flows.network_acls cimport Path, Refusal, path_from, refusal_out
from hyperplane_nat.engine.flows.policy cimport PolicyRecord, policy_admits, policy_check
from hyperplane_nat.engine.flows.ports cimport ports_adopt, ports_give_back, ports_take
from hyperplane_nat.engine.flows.tombstones cimport is_remembered, refuse_idle, reply_reset
from hyperplane_nat.engine.nat.classification cimport number_of_address, packet_key
from hyperplane_nat.engine.nat.outbound cimport exit_of, send
from hyperplane_nat.engine.nat.proxying cimport cut_syn, proxy_leaves, proxy_length
from hyperplane_nat.engine.nat.routing cimport way_back_refusal
from hyperplane_nat.engine.state.layout cimport (
    KIND,
    NIL,
    End,
    Entry,
    Extension,
    Way,
)
from hyperplane_nat.engine.wire.packet cimport KIND_FLOW, Packet
from hyperplane_nat.engine.wire.siphash cimport siphash


# What a packet without a flow is to be made one of.
cdef struct Draft:
    const Listener* listener
    const BalancedTarget* target
    # The host that it is on, 0 behind the VPC's router.
    uint16_t host
    uint16_t node
    # That the client has sent to, 0: to the node.
    uint16_t endpoint
    uint16_t responder
    uint16_t hop
    uint32_t source
    uint16_t source_port
    # Where it is refused (AT_...).
    uint8_t position


cdef inline const Listener* listener_of(
    const Nat* nat, uint16_t node, uint8_t protocol, uint16_t port
) noexcept nogil:
    """The listener of a node's first address, or NULL."""
    cdef const Attachment* attachment = &nat.attachments[node]
    cdef uint32_t i
    if attachment.listeners != NULL:
        for i in range(attachment.listeners.count):
            if (
                attachment.listeners.listeners[i].port == port
                and attachment.listeners.listeners[i].protocol == protocol
            ):
                return &attachment.listeners.listeners[i]
    return NULL


# Arriving


cdef inline bint node_turn(Nat* nat, Packet* p) noexcept nogil:
    """Let a packet for a node or an endpoint, which has no flow there, be its sender's own; False: it was
    answered.

    A target's whose connection is over is told so, as long as that is remembered.
    """
    if p.protocol == 6 and p.segment != SEGMENT_SYN and is_remembered(nat, p):
        refuse_idle(nat, p)
        if p.action == ACTION_REPLY:
            count_at_node(nat, nat.attachments[p.port].primary, N_TCP_ELB_RESETS)
        return False
    p.host = p.port
    p.port = p.link
    p.side = PEER_ORIGINATOR
    p.hash = table_hash(&nat.table, packet_key(p))
    return True


# Choosing


cdef inline const BalancedTarget* target_for(
    const Nat* nat, const Packet* p, const Listener* listener
) noexcept nogil:
    """Which of a listener's targets is a new flow's."""
    cdef uint64_t first = <uint64_t>client_address(nat, p) << 32, second = 0, hash
    if not listener.sticky:
        first |= p.destination
        second = (<uint64_t>p.source_port << 48) | (<uint64_t>p.destination_port << 32)
        if p.protocol == 6:
            second |= p.sequence
    hash = siphash(&nat.table.key, first, second)
    # All environments behind an interface have its address.
    hash = siphash(
        &nat.table.key, hash, p.protocol | (0 if listener.sticky else <uint64_t>p.port << 8)
    )
    return &listener.targets[((hash >> 32) * listener.count) >> 32]


cdef inline bint is_over(const Nat* nat, uint32_t flow, const Packet* p) noexcept nogil:
    """Whether a packet of a client begins anew what is over, or as good as that: so is a flow to whoever
    had the node's address before.
    """
    cdef uint8_t state = nat.table.entries[flow].state
    if entrance_of(nat, &nat.table.entries[flow]) != p.host:
        return True
    if p.protocol != 6:
        return state == STATE_HELD
    if p.segment != SEGMENT_SYN:
        return False
    return state == STATE_HELD or (
        (state == STATE_FIN_BOTH or state == STATE_TIME_WAIT or state == STATE_RESET)
        and p.sequence != nat.table.tracks[flow].syn_sequence
    )


cdef inline int target_refusal(
    const Nat* nat, const Packet* p, const Draft* draft, uint32_t source
) noexcept nogil:
    """Why the security groups of node or target do not let a client reach it from this address."""
    cdef uint32_t own = nat.attachments[draft.node].address
    cdef uint16_t port = draft.target.port
    cdef const PolicyRecord* policy = nat.attachments[draft.node].policy
    cdef int reason = DROP_NONE
    if policy != NULL:
        reason = policy_check(policy, p.protocol, draft.target.address, port)
    if reason or draft.host == 0 or nat.attachments[draft.host].policy == NULL:
        return reason
    policy = nat.attachments[draft.host].policy
    reason = policy_admits(policy, p.protocol, source, port)
    return policy_admits(policy, p.protocol, own, port) if reason else reason


cdef inline int keep_source(Nat* nat, const Packet* p, Draft* draft, uint64_t now) noexcept nogil:
    """The responder and the source of a flow that keeps its client's; or why it cannot be."""
    cdef const Attachment* sender = &nat.attachments[p.port]
    cdef int reason
    if p.source == draft.target.address and sender.kind != ATTACHMENT_ENVIRONMENT:
        return DROP_LOAD_BALANCER_HAIRPIN
    if sender.kind == ATTACHMENT_INTERFACE and draft.host == 0:
        return DROP_LOAD_BALANCER_RETURN_PATH
    if sender.kind == ATTACHMENT_ENVIRONMENT:
        reason = allocate(
            nat,
            p,
            draft.target.address,
            draft.target.port,
            1,
            now,
            &draft.responder,
            &draft.source_port,
        )
        if reason:
            return reason
        draft.source = nat.attachments[draft.responder].address
    else:
        draft.source = p.source
        draft.source_port = p.source_port
        draft.responder = draft.host if draft.host else sender.interface
    reason = target_refusal(nat, p, draft, draft.source)
    if reason and sender.kind == ATTACHMENT_ENVIRONMENT:
        ports_give_back(
            &nat.ports,
            p.protocol,
            draft.responder,
            draft.target.address,
            draft.target.port,
            draft.source_port,
        )
    if reason or sender.kind == ATTACHMENT_ENVIRONMENT:
        return reason
    if sender.kind == ATTACHMENT_HOST and environment_full(nat, p.port, 1):
        return DROP_PORT_LIMIT_ENVIRONMENT
    key = flow_key(
        p.protocol,
        draft.responder,
        draft.target.address,
        draft.target.port,
        draft.source,
        draft.source_port,
    )
    if table_flow(&nat.table, key) != NIL:
        return DROP_FLOW_COLLISION
    return DROP_NONE


cdef inline bint draw_at_node(
    Nat* nat, const Packet* p, uint16_t number, Draft* draft
) noexcept nogil:
    """A port of a node's address that is free towards the target; False without."""
    cdef const BalancedTarget* target = draft.target
    cdef int draw
    for draw in range(DRAWS):
        if ports_take(
            &nat.ports, p.protocol, number, target.address, target.port, &draft.source_port
        ):
            return False
        if number != draft.node or (
            listener_of(nat, number, p.protocol, draft.source_port) == NULL
        ):
            return True
        ports_give_back(
            &nat.ports, p.protocol, number, target.address, target.port, draft.source_port
        )
    return False


cdef inline int take_source(Nat* nat, const Packet* p, Draft* draft, uint64_t now) noexcept nogil:
    """An address and port of the node for a flow, and the hop of an environment's; or why not."""
    cdef const BalancedTarget* target = draft.target
    cdef bint of_environment = nat.attachments[p.port].kind == ATTACHMENT_ENVIRONMENT
    cdef uint16_t number
    cdef uint32_t tries
    cdef int reason
    # The node's addresses have the groups of the first, and that is whom rules are about.
    reason = target_refusal(nat, p, draft, nat.attachments[draft.node].address)
    if reason:
        return reason
    if nat.attachments[p.port].kind != ATTACHMENT_INTERFACE and environment_full(nat, p.port, 1):
        reason = DROP_PORT_LIMIT_ENVIRONMENT
        if of_environment:
            refused_by_interface(nat, p, p.destination, p.destination_port, reason, now)
        return reason
    if of_environment:
        reason = choose_hop(nat, p, &draft.hop, now)
        if reason:
            return reason
    number = first_address(nat, p, draft.node, &tries)
    while tries:
        if draw_at_node(nat, p, number, draft):
            draft.responder = number
            draft.source = nat.attachments[number].address
            return DROP_NONE
        number = following_address(nat, draft.node, number)
        tries -= 1
    reason = DROP_LOAD_BALANCER_PORT_ALLOCATION
    refused(nat, p, draft.node, target.address, target.port, reason, now)
    return reason


cdef inline apart border_refusal(
    const Nat* nat, const Packet* p, Draft* draft, int* reason
) noexcept nogil:
    """Why the network ACLs on a client's way do not let it reach its target."""
    cdef uint32_t client = p.source
    cdef Path path
    cdef Refusal refusal
    if nat.attachments[p.port].kind == ATTACHMENT_ENVIRONMENT:
        client = nat.attachments[draft.hop].address if draft.hop else draft.source
    path = path_from(nat, p, client)
    path.entrance = draft.endpoint if draft.endpoint else draft.node
    path.exit = draft.node
    path.source = draft.source
    path.target = End(draft.target.address, draft.target.port)
    refusal = refusal_out(nat, p, &path)
    reason[0] = refusal.reason
    draft.position = refusal.position


cdef inline int draft_flow(Nat* nat, const Packet* p, Draft* draft, uint64_t now) noexcept nogil:
    """Where a client's first packet leads, and as whose; or why it leads nowhere."""
    cdef uint16_t number
    cdef int reason = egress_refusal(nat, p)
    if reason:
        return reason
    reason = entrance_refusal(nat, p, draft.endpoint if draft.endpoint else draft.node)
    if reason:
        count_at_node(nat, draft.node, N_SECURITY_GROUP_BLOCKED)
        draft.position = refusing_entrance(
            nat, p, draft.endpoint if draft.endpoint else draft.node
        )
        return reason
    if draft.listener.count == 0:
        return DROP_LOAD_BALANCER_NO_TARGET
    draft.target = target_for(nat, p, draft.listener)
    number = number_of_address(nat, nat.attachments[draft.node].vpc, draft.target.address)
    if number != UNATTACHED:
        if nat.attachments[number].kind != ATTACHMENT_HOST:
            return DROP_LOAD_BALANCER_TARGET
        draft.host = number
    if draft.listener.preserves and not draft.endpoint:
        reason = keep_source(nat, p, draft, now)
    else:
        reason = take_source(nat, p, draft, now)
    if reason:
        # Of the node's groups, if it is one of them, or of the target's.
        draft.position = AT_FAR if reason == DROP_SECURITY_GROUP_EGRESS else AT_TARGET
    elif unlikely(nat.network_acls != NULL):
        border_refusal(nat, p, draft, &reason)
        if reason:
            give_up(nat, p, draft)
    return reason


cdef inline void give_up(Nat* nat, const Packet* p, const Draft* draft) noexcept nogil:
    """A port that was taken for a flow is free: there is no room for it."""
    if draft.source_port == p.source_port and draft.source == p.source:
        return
    ports_give_back(
        &nat.ports,
        p.protocol,
        draft.responder,
        draft.target.address,
        draft.target.port,
        draft.source_port,
    )


cdef inline uint32_t room_for_flow(Nat* nat) noexcept nogil:
    """An entry with its extension, or NIL."""
    cdef uint32_t flow = table_allocate(&nat.table)
    if flow != NIL and not extension_open(&nat.table, flow):
        table_give_back(&nat.table, flow)
        return NIL
    return flow


cdef inline void entry_fill(Nat* nat, uint32_t flow, const Packet* p, const Draft* draft) noexcept nogil:
    cdef Entry* entry = &nat.table.entries[flow]
    cdef Extension* extension = &nat.table.extensions[flow]
    entry.source_address = p.source
    entry.destination_address = p.destination
    entry.source_port = p.source_port
    entry.destination_port = p.destination_port
    entry.originator = p.port
    entry.protocol = p.protocol
    entry.translated_address = draft.source
    entry.translated_port = draft.source_port
    entry.responder = draft.responder
    entry.flags = KIND
    memset(extension, 0, sizeof(Extension))
    extension.destination_address = draft.target.address
    extension.destination_port = draft.target.port
    extension.node = draft.node
    extension.endpoint = draft.endpoint
    extension.target = draft.host
    extension.idle = draft.listener.idle
    if draft.listener.proxies:
        extension.proxy_bytes = proxy_length(nat, extension)
    if draft.hop:
        extension.hop = draft.hop
        extension.hop_port = draft.source_port
        # It is counted there, and marked nowhere (`allocation`).
        ports_adopt(
            &nat.ports, p.protocol, draft.hop, p.destination, p.destination_port, 0
        )


cdef inline void count_new_at(Nat* nat, const Packet* p, uint16_t entrance) noexcept nogil:
    """Count a new flow at a node or an endpoint, where a SYN is one that has begun a flow."""
    if p.protocol == 6:
        count_at(nat, entrance, A_TCP_SYNS_FROM_SOURCE)
    else:
        count_at_node(nat, entrance, N_NEW_FLOWS_UDP)


cdef inline Way way_of_draft(const Nat* nat, const Packet* p, const Draft* draft) noexcept nogil:
    """The way of a packet that begins no flow, without a hop if it has not got as far as the node or the
    endpoint.
    """
    cdef const Attachment* node = &nat.attachments[draft.node]
    cdef Way way
    memset(&way, 0, sizeof(Way))
    if draft.position == AT_CLIENT:
        return way
    way.hop = draft.node
    way.endpoint = draft.endpoint
    way.position = draft.position
    way.hop_address = node.address
    way.source_address = draft.source if draft.source else node.address
    way.source_port = p.source_port
    if draft.target != NULL:
        way.target = draft.host
        way.far_address = draft.target.address
        way.far_port = draft.target.port
    return way


cdef inline int begin_balanced(
    Nat* nat, Packet* p, uint64_t now, uint32_t* flow, Draft* draft
) noexcept nogil:
    """A new flow for a client's packet, which is to leave by its target's link; or why there is none. The
    draft says how far it has got.
    """
    cdef int reason
    memset(draft, 0, sizeof(Draft))
    flow[0] = NIL
    draft.node = p.host
    if nat.attachments[p.host].role == ROLE_ENDPOINT:
        draft.endpoint = p.host
        if not leads_somewhere(nat, p.host):
            return DROP_ENDPOINT_UNAVAILABLE
        draft.node = nat.attachments[p.host].node
    reason = way_back_refusal(nat, p.port, draft.node, p.source)
    if reason:
        return reason
    draft.listener = listener_of(nat, draft.node, p.protocol, p.destination_port)
    if draft.listener == NULL:
        return DROP_LOAD_BALANCER_NO_LISTENER
    if p.protocol == 6:
        if p.segment != SEGMENT_SYN:
            return DROP_LOAD_BALANCER_STRAY
        if draft.listener.proxies:
            if p.kind != KIND_FLOW:
                return DROP_FRAGMENT_REFUSED
            cut_syn(p)
        count(nat, C_TCP_SYNS_FROM_SOURCE)
        count_at(nat, counted_at(nat, p.port), A_TCP_SYNS_FROM_SOURCE)
    reason = draft_flow(nat, p, draft, now)
    if reason:
        return reason
    flow[0] = room_for_flow(nat)
    if flow[0] == NIL:
        give_up(nat, p, draft)
        report(nat, p, counted_at(nat, p.port), now, EVENT_FLOW_TABLE_FULL)
        return DROP_FLOW_TABLE_FULL
    entry_fill(nat, flow[0], p, draft)
    flow_commit(nat, flow[0], p, now)
    count_new_at(nat, p, draft.node)
    if draft.endpoint:
        count_new_at(nat, p, draft.endpoint)
    p.host = exit_of(nat, flow[0])
    return DROP_NONE


cdef inline void reset_by_node(Nat* nat, Packet* p, uint16_t node, int reason) noexcept nogil:
    """Drop a TCP segment, and answer it with a reset unless it is one."""
    if reason == DROP_TCP_IDLE_TIMEOUT:
        refuse_idle(nat, p)
    else:
        drop(nat, p, reason)
        if p.segment != SEGMENT_RST:
            reply_reset(nat, p)
    if p.action == ACTION_REPLY:
        count_at_node(nat, node, N_TCP_ELB_RESETS)


# Leaving


cdef inline bint stopped(Nat* nat, Packet* p, uint32_t flow) noexcept nogil:
    """Whether a packet of a balanced flow, or an error about one, was dropped for want of the way."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef const Extension* extension = &nat.table.extensions[flow]
    cdef int reason
    if not nat.attachments[extension.node].active:
        drop(nat, p, DROP_UNKNOWN_LINK)
        return True
    if extension.endpoint and not leads_somewhere(nat, extension.endpoint):
        drop(nat, p, DROP_ENDPOINT_UNAVAILABLE)
        count_at(nat, extension.endpoint, A_DROPS, p.segments)
        return True
    reason = way_back_refusal(
        nat, entry.originator, extension.node, entry.source_address
    )
    if reason:
        drop(nat, p, reason)
        count_at(nat, extension.node, A_DROPS, p.segments)
    return reason != DROP_NONE


cdef inline void count_reset_at(Nat* nat, uint16_t entrance, int side) noexcept nogil:
    count_at_node(nat, entrance, N_TCP_TARGET_RESETS if side else N_TCP_CLIENT_RESETS)


cdef inline apart send_balanced(Nat* nat, Packet* p, uint32_t flow) noexcept nogil:
    """Send a packet of a balanced flow, translated as it is."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef const Extension* extension = &nat.table.extensions[flow]
    if stopped(nat, p, flow):
        return
    if extension.proxy_bytes:
        proxy_leaves(nat, p, flow)
    send(nat, p, entry.originator if p.side else exit_of(nat, flow))
    if p.action == ACTION_DROP:
        return
    count_at_balancer(nat, extension, p.side, amount_of(p))
    if p.protocol == 6 and p.segment == SEGMENT_RST:
        count_reset_at(nat, extension.node, p.side)
        if extension.endpoint:
            count_reset_at(nat, extension.endpoint, p.side)
