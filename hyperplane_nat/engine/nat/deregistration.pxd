# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The end of flows whose target is taken away from a listener (`balancing`)."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.caching cimport cache_end
from hyperplane_nat.engine.flows.entries cimport over, relink
from hyperplane_nat.engine.flows.lifecycle cimport count_end, flow_orphan
from hyperplane_nat.engine.flows.nat cimport BalancedTarget, Nat
from hyperplane_nat.engine.state.layout cimport SYN_REMEMBERED, Entry, Extension, is_balanced


cdef inline void end_balanced(Nat* nat, uint32_t flow, uint64_t now) noexcept nogil:
    """End a flow whose target is taken away: whoever goes on with a TCP connection is told so."""
    cdef Entry* entry = &nat.table.entries[flow]
    if entry.protocol != 6:
        flow_orphan(nat, flow, now)
        return
    cache_end(nat, flow)
    count_end(nat, entry, END_REMOVED)
    entry.last_seen = <uint32_t>now
    entry.state = STATE_HELD
    entry.flags &= <uint8_t>~SYN_REMEMBERED
    relink(nat, flow, now)


cdef inline uint32_t end_flows(
    Nat* nat,
    uint16_t node,
    uint8_t protocol,
    uint16_t port,
    BalancedTarget target,
    uint64_t now,
    uint32_t start,
    uint32_t limit,
) noexcept nogil:
    """End the flows of a listener to one target among `limit` entries from `start`; how many it were."""
    cdef uint64_t end = min(<uint64_t>start + limit, <uint64_t>nat.header.entries_watermark)
    cdef uint32_t ended = 0, flow
    cdef const Entry* entry
    cdef const Extension* extension
    for flow in range(start, <uint32_t>end):
        entry = &nat.table.entries[flow]
        extension = &nat.table.extensions[flow]
        if (
            entry.state != STATE_FREE
            and entry.protocol == protocol
            and is_balanced(entry, extension)
            and extension.node == node
            and entry.destination_port == port
            and extension.destination_address == target.address
            and extension.destination_port == target.port
            and not over(entry.state)
        ):
            end_balanced(nat, flow, now)
            ended += 1
    return ended
