# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Where packets that pass are counted.

Theory of operation
-------------------
A packet is counted where it arrives, before its flow is looked for, and where it leaves: at the lab's sums
and at an attachment each time. What an environment sends, or is sent, is counted at its interface, and
at itself when it has passed. So is what the flow cache's program has forwarded, many at a time.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.entries cimport nat_gateway_of
from hyperplane_nat.engine.flows.nat cimport UNATTACHED, Nat, unlikely
from hyperplane_nat.engine.state.layout cimport Entry, Extension
from hyperplane_nat.engine.wire.packet cimport Packet, wire_bytes

# Packets, and their bytes of IP: a super-frame is its segments.
cdef struct Amount:
    uint64_t packets
    uint64_t bytes


cdef inline Amount amount_of(const Packet* p) noexcept nogil:
    return Amount(p.segments, wire_bytes(p))


cdef inline void count_amount(Nat* nat, uint32_t number, int counter, Amount amount) noexcept nogil:
    """Count at one of an attachment's own counters for packets, and the next, for bytes; UNATTACHED has
    none.
    """
    if number < nat.attachments_max:
        nat.records[number].counters[counter] += amount.packets
        nat.records[number].counters[counter + 1] += amount.bytes


cdef inline void count_passage(
    Nat* nat, uint32_t number, int counter, int own, Amount amount
) noexcept nogil:
    """Count at `counter` of the lab and the next, and at `own` of the attachment."""
    nat.counters[counter] += amount.packets
    nat.counters[counter + 1] += amount.bytes
    count_amount(nat, number, own, amount)


cdef inline void count_sent(Nat* nat, uint16_t link, Amount amount) noexcept nogil:
    """Count what an environment or a host has sent at that."""
    if nat.attachments[link].kind != ATTACHMENT_INTERFACE:
        count_amount(nat, link, A_PACKETS_OUT_TO_DESTINATION, amount)


cdef inline void count_arrival(Nat* nat, uint16_t link, uint16_t port, Amount amount) noexcept nogil:
    """Count what has come by a link, and is at the attachment `port` from here on."""
    if nat.attachments[link].kind == ATTACHMENT_ENVIRONMENT:
        count_passage(
            nat,
            nat.attachments[link].interface,
            C_PACKETS_IN_FROM_SOURCE,
            A_PACKETS_IN_FROM_SOURCE,
            amount,
        )
    elif nat.attachments[link].kind == ATTACHMENT_HOST and port == link:
        count_passage(nat, port, C_PACKETS_IN_FROM_SOURCE, A_PACKETS_IN_FROM_SOURCE, amount)
    else:
        count_passage(
            nat, port, C_PACKETS_IN_FROM_DESTINATION, A_PACKETS_IN_FROM_DESTINATION, amount
        )


cdef inline void count_departure(
    Nat* nat, uint16_t number, uint16_t port, uint16_t link, Amount amount
) noexcept nogil:
    """Count what leaves by an attachment: it came by a link, and was at the attachment `port`."""
    if nat.attachments[number].kind == ATTACHMENT_INTERFACE:
        count_passage(
            nat, number, C_PACKETS_OUT_TO_DESTINATION, A_PACKETS_OUT_TO_DESTINATION, amount
        )
    else:
        count_amount(nat, number, A_PACKETS_OUT_TO_SOURCE, amount)
        if nat.attachments[number].kind == ATTACHMENT_ENVIRONMENT:
            count_passage(
                nat,
                nat.attachments[number].interface,
                C_PACKETS_OUT_TO_SOURCE,
                A_PACKETS_OUT_TO_SOURCE,
                amount,
            )
        elif nat.attachments[port].kind == ATTACHMENT_ENVIRONMENT:
            count_passage(
                nat,
                nat.attachments[port].interface,
                C_PACKETS_OUT_TO_DESTINATION,
                A_PACKETS_OUT_TO_DESTINATION,
                amount,
            )
        else:
            count_passage(nat, UNATTACHED, C_PACKETS_OUT_TO_SOURCE, 0, amount)
    count_sent(nat, link, amount)


cdef inline void count_at_gateway(
    Nat* nat, const Entry* entry, int side, Amount amount
) noexcept nogil:
    """Count what has passed by a flow as what its NAT gateway has from its users or sends them, if it has
    one: at the flow's responder.
    """
    if unlikely(nat_gateway_of(nat, entry) != 0):
        count_amount(
            nat,
            entry.responder,
            A_PACKETS_OUT_TO_SOURCE if side else A_PACKETS_IN_FROM_SOURCE,
            amount,
        )


cdef inline void count_at_hop(Nat* nat, uint32_t hop, int side, Amount amount) noexcept nogil:
    """Count what has passed by a flow that is counted at an environment's interface address besides."""
    if hop:
        count_amount(
            nat,
            hop,
            A_PACKETS_IN_FROM_DESTINATION if side else A_PACKETS_OUT_TO_DESTINATION,
            amount,
        )


cdef inline void count_at_balancer(
    Nat* nat, const Extension* extension, int side, Amount amount
) noexcept nogil:
    """Count what has passed by a balanced flow at its node and endpoint; at an environment's hop, if it is
    not counted there.
    """
    cdef int counter = A_PACKETS_OUT_TO_SOURCE if side else A_PACKETS_OUT_TO_DESTINATION
    count_amount(nat, extension.node, counter, amount)
    if extension.endpoint:
        count_amount(nat, extension.endpoint, counter, amount)
    if extension.target == 0 or side:
        count_at_hop(nat, extension.hop, side, amount)
