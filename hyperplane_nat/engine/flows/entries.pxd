# SPDX-License-Identifier: Apache-2.0
# What every module that makes, holds or frees entries does to them.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.state.layout cimport (
    MAPPED,
    STATES,
    SYN_REMEMBERED,
    Entry,
    Extension,
    age_of,
    first_host,
    hop_of,
    is_extended,
    is_mapping,
    is_plain,
    keeps_source,
    rewrites_source,
)
from hyperplane_nat.engine.state.snapshot cimport entry_settle, entry_unsettle
from hyperplane_nat.engine.flows.flow_table cimport table_unindex
from hyperplane_nat.engine.flows.nat cimport NOBODY, Nat, apart, unlikely
from hyperplane_nat.engine.flows.timers cimport wheel_add, wheel_remove


cdef inline bint over(uint8_t state) noexcept nogil:
    """Whether the flow has ended and only its port is held."""
    return state == STATE_TIME_WAIT or state == STATE_RESET or state == STATE_HELD


cdef inline const Extension* extension_of(const Nat* nat, const Entry* entry) noexcept nogil:
    """The extension of an entry of the table; whether it counts is the entry's to say."""
    return &nat.table.extensions[entry - nat.table.entries]


cdef inline uint16_t node_of(const Nat* nat, const Entry* entry) noexcept nogil:
    """The load balancer's node that a flow goes by, or 0."""
    return extension_of(nat, entry).node if unlikely(is_extended(entry)) else <uint16_t>0


cdef inline uint16_t endpoint_of(const Nat* nat, const Entry* entry) noexcept nogil:
    """The endpoint that a balanced flow's client sends to, or 0."""
    return extension_of(nat, entry).endpoint if node_of(nat, entry) else <uint16_t>0


cdef inline uint16_t entrance_of(const Nat* nat, const Entry* entry) noexcept nogil:
    """The attachment that a balanced flow's client sends to: an endpoint, or the node itself."""
    cdef uint16_t endpoint = endpoint_of(nat, entry)
    return endpoint if endpoint else node_of(nat, entry)


cdef inline bint leads_somewhere(const Nat* nat, uint16_t endpoint) noexcept nogil:
    """Whether what is sent to an endpoint goes on."""
    cdef uint16_t node = nat.attachments[endpoint].node
    return (
        nat.attachments[endpoint].active
        and node != 0
        and nat.attachments[node].active
        and nat.attachments[node].role == ROLE_LOAD_BALANCER
    )


cdef inline bint listener_times(uint8_t state) noexcept nogil:
    """Whether how long a balanced flow may be idle in a state is its listener's to say."""
    return (
        state == STATE_ESTABLISHED
        or state == STATE_FIN_INSIDE
        or state == STATE_FIN_OUTSIDE
        or state == STATE_UDP
        or state == STATE_UDP_REPLIED
    )


cdef inline void derive_soonest(Nat* nat) noexcept nogil:
    """Find out from which age on a flow of a state is to be looked at."""
    cdef int state
    for state in range(STATES):
        nat.soonest[state] = nat.timeouts[state]
        if listener_times(<uint8_t>state):
            nat.soonest[state] = min(nat.soonest[state], nat.shortest_idle)


cdef inline apart extended_timeout(
    const Nat* nat, const Entry* entry, uint32_t* timeout
) noexcept nogil:
    """The time of an extended entry's state, if it is its listener's to say."""
    if node_of(nat, entry) != 0 and listener_times(entry.state):
        timeout[0] = extension_of(nat, entry).idle


cdef inline uint32_t timeout_of(const Nat* nat, const Entry* entry) noexcept nogil:
    """How long the entry lasts after `last_seen`: a remembered SYN has the time of an opening."""
    cdef uint32_t timeout = nat.timeouts[entry.state]
    if unlikely(is_extended(entry)):
        extended_timeout(nat, entry, &timeout)
    if entry.flags & SYN_REMEMBERED and timeout < nat.timeouts[STATE_SYN_SENT]:
        return nat.timeouts[STATE_SYN_SENT]
    return timeout


cdef inline uint64_t deadline_of(const Nat* nat, const Entry* entry, uint64_t now) noexcept nogil:
    return now + timeout_of(nat, entry) - age_of(entry, now)


cdef inline void relink(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """Move a flow's timer to its new deadline."""
    wheel_remove(&nat.wheel, flow)
    wheel_add(&nat.wheel, flow, deadline_of(nat, &nat.table.entries[flow], now))


cdef inline bint one_to_one(const Nat* nat, uint16_t number) noexcept nogil:
    """Whether an interface address is the public one of a host."""
    cdef uint16_t serves = nat.attachments[number].serves
    # Nearly none serves anybody.
    return unlikely(serves) and serves >= first_host(nat.header)


cdef inline bint takes_no_port(const Nat* nat, const Entry* entry) noexcept nogil:
    """Whether a flow has its ports from its ends alone: nothing of it is translated, or an address one to
    one.  Nothing is held for it when it has ended.
    """
    if rewrites_source(entry):
        return one_to_one(nat, entry.responder)
    return is_plain(entry) or (entry.originator != NOBODY and one_to_one(nat, entry.originator))


cdef inline uint16_t nat_gateway_of(const Nat* nat, const Entry* entry) noexcept nogil:
    """The address of the NAT gateway that a flow goes by, or 0."""
    cdef uint16_t serves = nat.attachments[entry.responder].serves
    return serves if unlikely(serves) and serves < first_host(nat.header) else <uint16_t>0


cdef inline bint holds_port(const Nat* nat, const Entry* entry) noexcept nogil:
    """Whether a port of the responder is taken for the entry alone."""
    return (
        rewrites_source(entry)
        and (is_mapping(entry) or not entry.flags & MAPPED)
        and not keeps_source(entry)
        and not one_to_one(nat, entry.responder)
    )


cdef inline apart join_balanced(Nat* nat, const Entry* entry) noexcept nogil:
    """One more entry belongs to a node, to the endpoint before it and to the host that its target is,
    besides its responder.
    """
    cdef const Extension* extension = extension_of(nat, entry)
    if extension.idle < nat.shortest_idle:
        nat.shortest_idle = extension.idle
        derive_soonest(nat)
    nat.attachments[extension.node].entries += 1
    nat.attachments[extension.target].entries += extension.target != 0
    nat.attachments[extension.endpoint].entries += extension.endpoint != 0


cdef inline apart part_balanced(Nat* nat, const Entry* entry) noexcept nogil:
    cdef const Extension* extension = extension_of(nat, entry)
    leave(nat, extension.node)
    if extension.target:
        leave(nat, extension.target)
    if extension.endpoint:
        leave(nat, extension.endpoint)


cdef inline void join(Nat* nat, uint32_t flow) noexcept nogil:
    """One more entry belongs to its responder, and to its originator, NAT gateway and hop, if it has
    any.
    """
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef uint16_t hop = hop_of(entry, &nat.table.extensions[flow])
    cdef uint16_t gateway = nat_gateway_of(nat, entry)
    if gateway:
        nat.attachments[gateway].entries += 1
    if entry.originator != NOBODY:
        nat.attachments[entry.originator].entries += 1
    nat.attachments[entry.responder].entries += 1
    if hop:
        nat.attachments[hop].entries += 1
    if unlikely(node_of(nat, entry) != 0):
        join_balanced(nat, entry)
    if takes_no_port(nat, entry) or keeps_source(entry):
        nat.attachments[entry.originator].plain += 1
        nat.attachments[entry.responder].plain += 1


cdef inline void part(Nat* nat, uint32_t flow) noexcept nogil:
    """The reverse, for an entry that is about to be free."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef uint16_t hop = hop_of(entry, &nat.table.extensions[flow])
    cdef uint16_t gateway = nat_gateway_of(nat, entry)
    if gateway:
        leave(nat, gateway)
    if takes_no_port(nat, entry) or keeps_source(entry):
        nat.attachments[entry.originator].plain -= 1
        nat.attachments[entry.responder].plain -= 1
    if hop:
        leave(nat, hop)
    if unlikely(node_of(nat, entry) != 0):
        part_balanced(nat, entry)
    leave(nat, entry.originator)
    leave(nat, entry.responder)


cdef inline void leave(Nat* nat, uint16_t attachment) noexcept nogil:
    """One entry less belongs to an attachment; with the last one it is free if it retires."""
    if attachment == NOBODY:
        return
    nat.attachments[attachment].entries -= 1
    settle_retired(nat, attachment)


cdef inline void settle_retired(Nat* nat, uint32_t attachment) noexcept nogil:
    """An attachment that retires and has no entry is free."""
    if nat.attachments[attachment].entries == 0 and nat.attachments[attachment].retiring:
        nat.attachments[attachment].retiring = 0
        nat.retiring -= 1


cdef inline void disown(Nat* nat, uint32_t number, uint64_t now) noexcept nogil:
    """A held entry is nobody's from now on: whoever has its slot next cannot take it up."""
    cdef Entry* entry = &nat.table.entries[number]
    entry_unsettle(entry)
    table_unindex(&nat.table, number, PEER_ORIGINATOR)
    leave(nat, entry.originator)
    entry.originator = NOBODY
    entry_settle(entry)
    # Its deadline was that of its state, or of an opening while a SYN is remembered.
    relink(nat, number, now)
