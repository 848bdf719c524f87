# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Security groups at both ends of a flow: who may begin it, and whom it may reach.

An environment's are those of its interface; a host has its own, both ways, and is asked with the
source that it sees, and a load balancer's node with its client's; so is an endpoint, with the groups of
the load balancer behind it. A VPC's router has none. They are asked when a flow begins, and for a
host that has its address since later than a flow of an environment to that address, with each packet
of it: what was admitted to whoever had the address before is not admitted to the host.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.entries cimport entrance_of
from hyperplane_nat.engine.flows.nat cimport Attachment, Nat, apart
from hyperplane_nat.engine.flows.policy cimport PolicyRecord, policy_admits, policy_check
from hyperplane_nat.engine.state.layout cimport Entry, created_of, source_translated
from hyperplane_nat.engine.wire.packet cimport Packet


cdef inline int egress_refusal(const Nat* nat, const Packet* p) noexcept nogil:
    """Why the security groups of who sends a packet do not let it begin a flow, or DROP_NONE."""
    cdef const Attachment* sender = &nat.attachments[p.port]
    cdef const PolicyRecord* policy = sender.policy
    if sender.kind == ATTACHMENT_INTERFACE:
        return DROP_NONE
    if sender.kind == ATTACHMENT_ENVIRONMENT:
        policy = nat.attachments[sender.interface].policy
    if policy == NULL:
        return DROP_NONE
    return policy_check(policy, p.protocol, p.destination, p.destination_port)


cdef inline int ingress_refusal(const Nat* nat, const Packet* p, uint32_t source) noexcept nogil:
    """Why those of the host that a packet is for do not let it in from this address, or DROP_NONE."""
    cdef const PolicyRecord* policy
    if p.host == 0:
        return DROP_NONE
    policy = nat.attachments[p.host].policy
    if policy == NULL:
        return DROP_NONE
    return policy_admits(policy, p.protocol, source, p.destination_port)


cdef inline uint32_t client_address(const Nat* nat, const Packet* p) noexcept nogil:
    """Whose a packet for a load balancer's node is in the VPC: an environment's is of its interface, of
    which the first address stands for all.
    """
    cdef const Attachment* sender = &nat.attachments[p.port]
    if sender.kind == ATTACHMENT_ENVIRONMENT:
        return nat.attachments[sender.interface].address
    return p.source


cdef inline int entrance_refusal(const Nat* nat, const Packet* p, uint16_t entrance) noexcept nogil:
    """Why those of a load balancer's node do not let a client in, or of an endpoint and what is behind it;
    or DROP_NONE.
    """
    cdef const Attachment* own = &nat.attachments[entrance]
    cdef uint32_t client = client_address(nat, p)
    cdef int reason = DROP_NONE
    if own.policy != NULL:
        reason = policy_admits(own.policy, p.protocol, client, p.destination_port)
    if reason == DROP_NONE and own.admission != NULL:
        reason = policy_admits(own.admission, p.protocol, client, p.destination_port)
    return reason


cdef inline uint8_t refusing_entrance(
    const Nat* nat, const Packet* p, uint16_t entrance
) noexcept nogil:
    """Where those are (AT_...) that do not let a client in at a node or an endpoint."""
    cdef const Attachment* own = &nat.attachments[entrance]
    if own.role == ROLE_ENDPOINT and own.policy != NULL and policy_admits(
        own.policy, p.protocol, client_address(nat, p), p.destination_port
    ):
        return AT_ENDPOINT
    return AT_NEAR


cdef inline apart ask_again(
    const Nat* nat, uint32_t flow, const Packet* p, int* reason
) noexcept nogil:
    """Why they do not let the originator of a flow begin another in its place."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef uint16_t entrance = entrance_of(nat, entry)
    reason[0] = egress_refusal(nat, p)
    if reason[0]:
        return
    if entrance:
        reason[0] = entrance_refusal(nat, p, entrance)
    else:
        reason[0] = ingress_refusal(nat, p, source_translated(entry).address)


cdef inline int newcomer_refusal(const Nat* nat, uint32_t flow, const Packet* p) noexcept nogil:
    """Why a packet of an environment's flow does not reach a host that was not there when it began."""
    cdef const Entry* entry = &nat.table.entries[flow]
    if p.plain or created_of(entry, &nat.table.tracks[flow]) >= nat.records[p.host].since:
        return DROP_NONE
    return ingress_refusal(nat, p, source_translated(entry).address)
