# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""ARP (RFC 826) on both sides, for the addresses that are ours.

On a slot the gateway address is answered, and nothing is learned: the slot's MAC address is
configuration, and a sender that claims another is counted as spoofing. In the VPC the
interface's own addresses are answered; a reply is believed only while that next hop is being asked
for, so that nobody can rename one unasked. Whatever else a host says of its address is a hint
(`neighbours`).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.nat cimport Attachment, Nat, count, drop
from hyperplane_nat.engine.flows.neighbours cimport neighbour_answer, neighbour_hint
from hyperplane_nat.engine.nat.classification cimport interface_of_address
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


cdef inline void answer_arp(Nat* nat, Packet* p, uint64_t now) noexcept nogil:
    cdef uint8_t* arp = p.frame + ETHERNET_BYTES
    cdef uint16_t operation, number = p.port
    cdef uint32_t sender, target
    cdef const Attachment* own = &nat.attachments[p.port]
    if (
        p.length < ETHERNET_BYTES + ARP_BYTES
        or load16(arp) != swap16(1)
        or load16(arp + 2) != swap16(0x0800)
        or arp[4] != 6
        or arp[5] != 4
    ):
        drop(nat, p, DROP_ARP_MALFORMED)
        return
    operation = swap16(load16(arp + 6))
    sender = load32(arp + 14)
    target = load32(arp + 24)
    if operation != ARP_REQUEST and operation != ARP_REPLY:
        drop(nat, p, DROP_ARP_MALFORMED)
        return
    if p.side == SIDE_INSIDE:
        if (
            memcmp(arp + 8, own.peer_mac, 6) != 0
            or memcmp(p.frame + 6, own.peer_mac, 6) != 0
            or (sender != own.address and sender != 0)
        ):
            drop(nat, p, DROP_ARP_SPOOFED)
        elif operation == ARP_REQUEST and target == own.router:
            reply(nat, p, own.mac, own.router)
        else:
            drop(nat, p, DROP_ARP_IGNORED)
        return
    if (
        interface_of_address(nat, &number, sender)
        or (arp[8] & 1)
        or memcmp(arp + 8, p.frame + 6, 6) != 0
    ):
        drop(nat, p, DROP_ARP_SPOOFED)
        return
    if (
        operation == ARP_REPLY
        and target == own.address
        and neighbour_answer(nat, p.port, sender, arp + 8, now)
    ):
        p.action = ACTION_LEARN
        p.reason = DROP_NONE
        return
    neighbour_hint(nat, p.port, sender, arp + 8, now)
    if operation == ARP_REPLY:
        drop(nat, p, DROP_ARP_UNSOLICITED)
    elif interface_of_address(nat, &number, target):
        reply(nat, p, own.mac, target)
    else:
        drop(nat, p, DROP_ARP_IGNORED)
