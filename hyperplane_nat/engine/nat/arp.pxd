# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""ARP (RFC 826) on both sides, for the addresses that are ours.

On a slot the gateway address is answered, and on a host's link the address of its router; nothing is
learned: the MAC address is configuration, and a sender that claims another is counted as spoofing. In the
VPC the interface's own addresses are answered, and those of the hosts that are reached by it; a reply is believed only while that next hop is being asked
for, so that nobody can rename one unasked. Whatever else a host says of its address is a hint
(`neighbours`).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.nat cimport Attachment, Nat, count, drop
from hyperplane_nat.engine.flows.neighbours cimport neighbour_answer, neighbour_hint
from hyperplane_nat.engine.nat.classification cimport (
    behind,
    interface_of_address,
    linkless_of_address,
)
from hyperplane_nat.engine.wire.checksum cimport load16, load32, store32, swap16
from hyperplane_nat.engine.wire.packet cimport (
    ARP_BYTES,
    ARP_REPLY,
    ARP_REQUEST,
    ETHERNET_BYTES,
    Packet,
)


cdef inline void reply(Nat* nat, Packet* p, const uint8_t* mac, uint32_t address) noexcept nogil:
    """Turn the request into its answer, in place."""
    cdef uint8_t* arp = p.frame + ETHERNET_BYTES
    memcpy(arp + 18, arp + 8, 10)
    memcpy(arp + 8, mac, 6)
    store32(arp + 14, address)
    arp[7] = ARP_REPLY
    memcpy(p.frame, p.frame + 6, 6)
    memcpy(p.frame + 6, mac, 6)
    p.action = ACTION_REPLY
    p.reason = DROP_NONE
    p.out_port = p.port
    p.out_frame = p.frame
    p.out_length = ETHERNET_BYTES + ARP_BYTES
    count(nat, C_REPLIES_ARP)


cdef inline bint malformed(const Packet* p) noexcept nogil:
    """Whether a frame is no request or answer about IPv4 on Ethernet."""
    cdef const uint8_t* arp = p.frame + ETHERNET_BYTES
    return (
        p.length < ETHERNET_BYTES + ARP_BYTES
        or load16(arp) != swap16(1)
        or load16(arp + 2) != swap16(0x0800)
        or arp[4] != 6
        or arp[5] != 4
        or (load16(arp + 6) != swap16(ARP_REQUEST) and load16(arp + 6) != swap16(ARP_REPLY))
    )


cdef inline void answer_environment(
    Nat* nat, Packet* p, bint asks, uint32_t sender, uint32_t target
) noexcept nogil:
    """What an environment or a host says or asks of an address: it hears where the gateway is."""
    cdef const uint8_t* arp = p.frame + ETHERNET_BYTES
    cdef const Attachment* own = &nat.attachments[p.port]
    if (
        memcmp(arp + 8, own.peer_mac, 6) != 0
        or memcmp(p.frame + 6, own.peer_mac, 6) != 0
        or (sender != own.address and sender != 0)
    ):
        drop(nat, p, DROP_ARP_SPOOFED)
    elif asks and target == own.router:
        reply(nat, p, own.mac, own.router)
    else:
        drop(nat, p, DROP_ARP_IGNORED)


cdef inline void answer_vpc(
    Nat* nat, Packet* p, bint asks, uint32_t sender, uint32_t target, uint64_t now
) noexcept nogil:
    """What somebody in the VPC says or asks of an address: it hears where ours are."""
    cdef const uint8_t* arp = p.frame + ETHERNET_BYTES
    cdef const Attachment* own = &nat.attachments[p.port]
    cdef uint16_t number = p.port
    if (
        interface_of_address(nat, &number, sender)
        or linkless_of_address(nat, own.vpc, sender)
        or (arp[8] & 1)
        or memcmp(arp + 8, p.frame + 6, 6) != 0
    ):
        drop(nat, p, DROP_ARP_SPOOFED)
        return
    if (
        not asks
        and target == own.address
        and neighbour_answer(nat, p.port, sender, arp + 8, now)
    ):
        p.action = ACTION_LEARN
        p.reason = DROP_NONE
        return
    neighbour_hint(nat, p.port, sender, arp + 8, now)
    if not asks:
        drop(nat, p, DROP_ARP_UNSOLICITED)
    elif interface_of_address(nat, &number, target) or behind(nat, p.port, target):
        reply(nat, p, own.mac, target)
    else:
        drop(nat, p, DROP_ARP_IGNORED)


cdef inline void answer_arp(Nat* nat, Packet* p, uint64_t now) noexcept nogil:
    cdef const uint8_t* arp = p.frame + ETHERNET_BYTES
    cdef bint asks
    if malformed(p):
        drop(nat, p, DROP_ARP_MALFORMED)
        return
    asks = load16(arp + 6) == swap16(ARP_REQUEST)
    if p.side == PEER_ORIGINATOR:
        answer_environment(nat, p, asks, load32(arp + 14), load32(arp + 24))
    else:
        answer_vpc(nat, p, asks, load32(arp + 14), load32(arp + 24), now)
