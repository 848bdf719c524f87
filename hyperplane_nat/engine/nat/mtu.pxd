# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Packets that are too large for where they go, and the option that prevents them.

Theory of operation
-------------------
A packet is compared with the MTU of the link it will leave on, before anything of it is translated,
so that the error can quote it as its sender knows it:

* with don't-fragment it is dropped and its sender told the MTU (RFC 1191, RFC 4787 REQ-13);
* without, it goes on and leaves in pieces (`outbound`);
* a super-frame is as large as its segments will be. One of TCP without don't-fragment gets smaller
  segments, which TCP cannot tell from others.  One of UDP leaves as the pieces of its segments, for
  those are datagrams, and their size is the sender's.

What is larger than ENDPOINT_MTU goes by no endpoint, and nobody is told ("AWS PrivateLink quotas": path MTU
discovery is not supported).

SYN and SYN-ACK carry the largest segment that their sender takes; it is lowered, never raised, to
what fits both links (RFC 9293 section 3.7.1; AWS clamps it, too).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.entries cimport endpoint_of
from hyperplane_nat.engine.flows.nat cimport Nat, count, count_at, drop, unlikely
from hyperplane_nat.engine.nat.icmp cimport ICMP_FRAGMENTATION_NEEDED, ICMP_UNREACHABLE, reply_error
from hyperplane_nat.engine.nat.outbound cimport leaves_by
from hyperplane_nat.engine.state.layout cimport Entry
from hyperplane_nat.engine.wire.checksum cimport load16, replaced16, store16, swap16, updated
from hyperplane_nat.engine.wire.packet cimport (
    DONT_FRAGMENT,
    TCP_BYTES,
    TCP_SYN,
    Packet,
    count_segments,
    fragment_field,
    next_option,
    too_large,
)

cdef enum:
    HEADERS_BYTES = 40
    OPTION_MSS = 2
    MSS_BYTES = 4
    ENDPOINT_MTU = 8500


cdef inline bint needs_fitting(const Nat* nat, const Packet* p, const Entry* entry) noexcept nogil:
    """Whether `fit` has anything to do with a packet: it is large, or opens a connection."""
    cdef uint16_t target = entry.originator if p.side else leaves_by(nat, p, entry)
    return (
        p.total_length > nat.attachments[target].mtu
        or p.flags & TCP_SYN
        or unlikely(p.total_length > ENDPOINT_MTU)
    )


cdef inline uint16_t responders_link(
    const Nat* nat, const Packet* p, const Entry* entry
) noexcept nogil:
    """The attachment whose link a flow's responder is on: that of a host or of gateway endpoints, where it is
    behind one.
    """
    if p.side == PEER_ORIGINATOR:
        return leaves_by(nat, p, entry)
    if (
        nat.attachments[p.link].kind == ATTACHMENT_HOST
        or nat.attachments[p.link].role == ROLE_GATEWAY_ENDPOINT
    ):
        return p.link
    return entry.responder


cdef inline void clamp_mss(Nat* nat, Packet* p, uint16_t largest) noexcept nogil:
    cdef const uint8_t* end = p.l4 + (p.l4[12] >> 4) * 4
    cdef uint8_t* option = next_option(p.l4 + TCP_BYTES, end)
    cdef uint16_t old, new
    while option != NULL:
        if option[0] == OPTION_MSS and option[1] == MSS_BYTES:
            old = load16(option + 2)
            if swap16(old) > largest:
                new = swap16(largest)
                store16(option + 2, new)
                if not p.partial:
                    # At an odd place the value straddles two words of the sum, as if swapped.
                    if (option - p.l4) & 1:
                        old = swap16(old)
                        new = swap16(new)
                    store16(p.l4 + 16, updated(load16(p.l4 + 16), replaced16(old, new)))
                count(nat, C_MSS_CLAMPED)
        option = next_option(option + option[1], end)


cdef inline bint fit(Nat* nat, Packet* p, const Entry* entry) noexcept nogil:
    """Make a packet of a flow fit its way, as far as can be; True when it goes no further."""
    cdef uint16_t originators = nat.attachments[entry.originator].mtu
    cdef uint16_t responders = nat.attachments[responders_link(nat, p, entry)].mtu
    cdef uint16_t mtu = originators if p.side else responders
    cdef bint whole = (fragment_field(p) & DONT_FRAGMENT) != 0
    cdef bint segmented = p.gso_size != 0 and p.protocol != 17
    cdef bint by_endpoint = endpoint_of(nat, entry) != 0
    if by_endpoint and too_large(p, ENDPOINT_MTU):
        drop(nat, p, DROP_ENDPOINT_MTU)
        count_at(nat, endpoint_of(nat, entry), A_DROPS, p.segments)
        return True
    if too_large(p, mtu):
        if whole or (segmented and p.headers >= mtu):
            drop(nat, p, DROP_MTU_EXCEEDED)
            if whole:
                reply_error(nat, p, ICMP_UNREACHABLE, ICMP_FRAGMENTATION_NEEDED, mtu)
            return True
        if segmented:
            p.gso_size = mtu - p.headers
            p.offload_changed = 1
            count_segments(p)
    if p.flags & TCP_SYN and nat.behaviour.mss_clamping:
        mtu = min(originators, responders)
        clamp_mss(nat, p, (min(mtu, ENDPOINT_MTU) if by_endpoint else mtu) - HEADERS_BYTES)
    return False
