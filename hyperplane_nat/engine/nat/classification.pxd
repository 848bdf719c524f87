# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Everything about a frame that needs no flow.

Theory of operation
-------------------
In order: the link, lengths and addresses of the frame, the IPv4 header, identity (who may send from
here), source routes, destination, transport. The first refusal is the reason of the drop. Nothing is written but
counters.

Whether an address is that of a network interface is asked of every packet, and only the interfaces
of the same VPC count: other VPCs may use the same addresses. So (VPC, address) of every interface
is kept in a small open-addressed set, at most half full, derived anew when an interface changes.

A packet from outside arrives at the attachment of the primary address, which has the link; from here
on it is at that of the address it is for. Hosts are in the same set, so that who a packet is for is
known with it. What a host sends to an interface of its VPC is at that from here on, as if it had come by
the interface's link: there are flows of environments, whose answers it may be. What it sends elsewhere,
and what the VPC's router sends to a host, is not translated (`plain`).

A load balancer's node is an address without a link. What an environment sends to it goes on by its flow,
as what is for a host (`Packet.host` is the node); what others send to it is at it from here on, and may be
the answer of a target, or its client's (`balancing`). An endpoint is an address of the same kind.

A VPC's gateway endpoints are one interface, which is in the VPC, so that an answer is for the address of
it that has asked, and whose own address is none of the VPC's.

What is for none of the VPC's own addresses goes where the route table of its sender leads (`routing`). A
public address of a host is one where packets begin flows to that host; one of a node is where clients in
the internet send to it, and their flows begin there; one of a NAT gateway is an interface's as any other.
A host's route that leads nowhere is no refusal yet (`Packet.astray`): it may answer such a client.

Which end of its flow a packet is from (`side`) is a guess here, by the kind of the attachment; of what
is plain it is the end that begins the flow, unless it is the reply to an echo.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.counting cimport amount_of, count_arrival
from hyperplane_nat.engine.flows.entries cimport one_to_one
from hyperplane_nat.engine.flows.flow_table cimport FlowKey, flow_key, table_hash
from hyperplane_nat.engine.flows.nat cimport (
    UNATTACHED,
    Attachment,
    Nat,
    is_entrance,
    unlikely,
)
from hyperplane_nat.engine.nat.routing cimport route_away
from hyperplane_nat.engine.wire.checksum cimport load16, swap16
from hyperplane_nat.engine.wire.packet cimport (
    ETHERNET_BYTES,
    IP_BYTES,
    KIND_ARP,
    KIND_FLOW,
    KIND_FRAGMENT,
    KIND_ICMP_ERROR,
    Packet,
    fragment_offset,
    never_a_host,
    parse_fragment,
    parse_ip,
    parse_l4,
    source_routed,
)

cdef enum:
    # Addresses of an interface that are looked at one after the other.
    CHAIN_MAX = 8
    MORE_FRAGMENTS_OR_OFFSET = 0x3FFF
    ECHO_REPLY = 0
    UNREACHABLE = 3
    REDIRECT = 5
    ECHO_REQUEST = 8
    TIME_EXCEEDED = 11
    PARAMETER_PROBLEM = 12

cdef extern from *:
    """
    static const unsigned char HP_BROADCAST[6] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    """
    const unsigned char* BROADCAST "HP_BROADCAST"


cdef inline uint8_t presumed_side(const Attachment* attachment) noexcept nogil:
    """From which end of a flow a packet is that has none yet: environments and hosts begin them."""
    return PEER_RESPONDER if attachment.kind == ATTACHMENT_INTERFACE else PEER_ORIGINATOR


cdef inline FlowKey packet_key(const Packet* p) noexcept nogil:
    return flow_key(
        p.protocol,
        p.port,
        p.source,
        p.source_port,
        p.destination,
        p.destination_port,
    )


cdef inline uint64_t own_key(uint32_t vpc, uint32_t address) noexcept nogil:
    return (<uint64_t>vpc << 32) | address


cdef inline uint32_t own_cell(const Nat* nat, uint64_t key) noexcept nogil:
    # Fibonacci hashing: the high bits of the product depend on all bits of the key.
    return <uint32_t>((key * <uint64_t>0x9E3779B97F4A7C15) >> 40) & nat.own_mask


cdef inline void addresses_index(Nat* nat) noexcept nogil:
    """Derive the set of own addresses, and the chains of secondary ones, from interfaces and hosts."""
    cdef uint32_t i, cell
    cdef uint64_t key
    cdef Attachment* each
    cdef Attachment* primary
    memset(nat.own_addresses, 0, (<uint64_t>nat.own_mask + 1) * sizeof(uint64_t))
    # From the last, so that a chain has its numbers in order.
    for i in range(nat.header.slots_max, nat.attachments_used):
        each = &nat.attachments[i]
        each.addresses = 1
        each.next_address = UNATTACHED
        each.public_address = 0
        each.gateway = 0
    i = nat.attachments_used
    while i > nat.header.slots_max:
        i -= 1
        each = &nat.attachments[i]
        if not each.active or each.role == ROLE_GATEWAY_ENDPOINT:
            continue
        key = own_key(each.vpc, each.address)
        cell = own_cell(nat, key)
        while nat.own_addresses[cell] and nat.own_addresses[cell] != key:
            cell = (cell + 1) & nat.own_mask
        nat.own_addresses[cell] = key
        nat.own_numbers[cell] = <uint16_t>i
        if each.primary != i:
            primary = &nat.attachments[each.primary]
            each.next_address = primary.next_address
            primary.next_address = <uint16_t>i
            primary.addresses += 1
        if each.serves:
            nat.attachments[each.serves].public_address = <uint16_t>i
            each.gateway = (
                <uint16_t>i if one_to_one(nat, <uint16_t>i)
                else nat.attachments[each.serves].primary
            )


cdef inline bint interface_of_address(
    const Nat* nat, uint16_t* number, uint32_t address
) noexcept nogil:
    """Replace the number of a primary by that of its address; False when it has no such one."""
    cdef uint16_t each = number[0]
    if nat.attachments[each].addresses > CHAIN_MAX:
        each = number_of_address(nat, nat.attachments[each].vpc, address)
        if each == UNATTACHED or nat.attachments[each].primary != number[0]:
            return False
        number[0] = each
        return True
    while each != UNATTACHED:
        if nat.attachments[each].address == address:
            number[0] = each
            return True
        each = nat.attachments[each].next_address
    return False


cdef inline uint16_t number_of_address(
    const Nat* nat, uint32_t vpc, uint32_t address
) noexcept nogil:
    """The number of the interface address, or of the host, in this VPC; or UNATTACHED."""
    cdef uint64_t key = own_key(vpc, address)
    cdef uint32_t cell = own_cell(nat, key)
    while nat.own_addresses[cell]:
        if nat.own_addresses[cell] == key:
            return nat.own_numbers[cell]
        cell = (cell + 1) & nat.own_mask
    return UNATTACHED


cdef inline uint16_t linkless_of_address(
    const Nat* nat, uint32_t vpc, uint32_t address
) noexcept nogil:
    """The number of the host, load balancer's node or endpoint with an address in this VPC; or 0, which
    none has.
    """
    cdef uint16_t number = number_of_address(nat, vpc, address)
    if number == UNATTACHED or (
        nat.attachments[number].kind != ATTACHMENT_HOST and not is_entrance(nat, number)
    ):
        return 0
    return number


cdef inline uint16_t behind(
    const Nat* nat, uint16_t interface, uint32_t address
) noexcept nogil:
    """The same, if it is reached by this interface's link from the VPC's router."""
    cdef uint16_t number = linkless_of_address(nat, nat.attachments[interface].vpc, address)
    return number if number and nat.attachments[number].interface == interface else <uint16_t>0


cdef inline bint routed(const Attachment* out, uint32_t destination) noexcept nogil:
    """Whether an interface leads to an address."""
    cdef int i
    if out.active:
        for i in range(out.destinations_count):
            if (destination & out.destination_masks[i]) == out.destinations[i]:
                return True
    return False


cdef inline int check_from_inside(const Nat* nat, Packet* p) noexcept nogil:
    """Whether an environment may send from this address to that one."""
    cdef const Attachment* own = &nat.attachments[p.port]
    cdef const Attachment* out
    cdef uint16_t number
    if never_a_host(p.destination):
        return DROP_DESTINATION_INVALID
    if (p.destination & own.subnet_mask) == own.subnet or p.destination == own.router:
        return DROP_DESTINATION_GATEWAY
    out = &nat.attachments[own.interface]
    number = number_of_address(nat, out.vpc, p.destination)
    if number != UNATTACHED and nat.attachments[number].role != ROLE_INTERNET_GATEWAY:
        if nat.attachments[number].kind == ATTACHMENT_HOST or is_entrance(nat, number):
            p.host = number
            return DROP_NONE if out.active else DROP_NO_ROUTE
        if not nat.behaviour.hairpinning:
            return DROP_DESTINATION_HAIRPIN
        p.hairpin = 1
        return DROP_NONE if out.active else DROP_NO_ROUTE
    if unlikely(not routed(out, p.destination)):
        return route_away(nat, p, out) if out.active else DROP_NO_ROUTE
    return DROP_NONE


cdef inline int check_from_host(const Nat* nat, Packet* p) noexcept nogil:
    """Whether a host may send to that address; whose an interface's is, was found already."""
    cdef const Attachment* own = &nat.attachments[p.link]
    if never_a_host(p.destination) or p.host == p.link:
        return DROP_DESTINATION_INVALID
    if unlikely(
        p.plain and not p.host and not routed(&nat.attachments[own.interface], p.destination)
    ):
        p.astray = <uint8_t>route_away(nat, p, own)
    return DROP_NONE


cdef inline bint may_come_from(const Nat* nat, const Packet* p) noexcept nogil:
    """Whether a packet on an interface's link may have this source: an address of ours only where
    it has gone through the internet.
    """
    cdef uint16_t number
    if never_a_host(p.source):
        return False
    number = number_of_address(nat, nat.attachments[p.link].vpc, p.source)
    # An address of ours is rare there, and most packets need no more than this.
    return not unlikely(number != UNATTACHED) or (
        nat.attachments[number].role == ROLE_INTERNET_GATEWAY
        or nat.attachments[p.link].role == ROLE_INTERNET_GATEWAY
    )


cdef inline int check_addresses(const Nat* nat, Packet* p) noexcept nogil:
    """Whether a packet may go from here to there, and by whom; its ends tell, and there may be no frame
    (`cache_ways`).
    """
    cdef uint8_t kind = nat.attachments[p.link].kind
    if kind == ATTACHMENT_ENVIRONMENT:
        return check_from_inside(nat, p)
    if kind == ATTACHMENT_HOST:
        return check_from_host(nat, p)
    return DROP_NONE if may_come_from(nat, p) else DROP_SOURCE_INVALID


cdef inline int arrive_from_host(const Nat* nat, Packet* p) noexcept nogil:
    """Find whom a host's packet is for; or why it is not the host's."""
    cdef const Attachment* own = &nat.attachments[p.port]
    cdef uint16_t number
    if p.source != own.address and not own.forwards:
        return DROP_SOURCE_SPOOFED
    number = number_of_address(nat, own.vpc, p.destination)
    if number == UNATTACHED or nat.attachments[number].kind == ATTACHMENT_HOST:
        p.plain = 1
        p.host = 0 if number == UNATTACHED else number
        return DROP_NONE
    p.port = number
    p.side = PEER_RESPONDER
    return DROP_NONE


cdef inline int arrive_from_service(const Nat* nat, Packet* p) noexcept nogil:
    """Find whose address of the VPC a packet by its gateway endpoints is for, which begins no flow."""
    cdef uint16_t number = number_of_address(nat, nat.attachments[p.link].vpc, p.destination)
    if number == UNATTACHED:
        return DROP_NONE if p.destination == nat.attachments[p.link].address else DROP_NOT_OURS
    if nat.attachments[number].kind == ATTACHMENT_HOST:
        # A host's flow is one of this link.
        return DROP_NONE
    if nat.attachments[number].role != ROLE_NONE:
        return DROP_NOT_OURS
    p.port = number
    return DROP_NONE


cdef inline int arrive_from_vpc(const Nat* nat, Packet* p) noexcept nogil:
    """Find the address that a packet from the VPC's router or a neighbour is for."""
    cdef uint16_t number
    if unlikely(nat.attachments[p.link].role == ROLE_GATEWAY_ENDPOINT):
        return arrive_from_service(nat, p)
    if (
        p.destination != nat.attachments[p.port].address
        and not interface_of_address(nat, &p.port, p.destination)
    ):
        number = behind(nat, p.link, p.destination)
        if number == 0:
            return DROP_NOT_OURS
        if nat.attachments[number].kind == ATTACHMENT_HOST:
            p.host = number
            p.plain = 1
            p.side = PEER_ORIGINATOR
        else:
            p.port = number
    elif unlikely(nat.attachments[p.port].serves):
        if not nat.attachments[nat.attachments[p.port].serves].active:
            return DROP_UNKNOWN_LINK
        if is_entrance(nat, nat.attachments[p.port].serves):
            p.host = nat.attachments[p.port].serves
            p.side = PEER_ORIGINATOR
        elif one_to_one(nat, p.port):
            p.host = nat.attachments[p.port].serves
            p.plain = 1
            p.side = PEER_ORIGINATOR
    return DROP_NONE


cdef inline int arrive(const Nat* nat, Packet* p) noexcept nogil:
    """Find the attachment that a packet is at from here on; or why it may not be sent from its link. Its
    ends tell, and there may be no frame (`cache_ways`).
    """
    cdef const Attachment* own = &nat.attachments[p.link]
    if own.kind == ATTACHMENT_ENVIRONMENT:
        return DROP_NONE if p.source == own.address else DROP_SOURCE_SPOOFED
    return arrive_from_host(nat, p) if own.kind == ATTACHMENT_HOST else arrive_from_vpc(nat, p)


cdef inline bint about_an_error(const Packet* p) noexcept nogil:
    """Whether the packet is one about which no error is sent (RFC 1122 section 3.2.2): an ICMP
    error, or a later fragment.
    """
    cdef uint8_t kind
    if fragment_offset(p):
        return True
    if p.protocol != 1:
        return False
    kind = p.l4[0]
    return (
        UNREACHABLE <= kind <= REDIRECT or kind == TIME_EXCEEDED or kind == PARAMETER_PROBLEM
    )


cdef inline bint for_a_node(const Nat* nat, const Packet* p) noexcept nogil:
    """Whether a packet is for a load balancer's node, or for an endpoint."""
    return is_entrance(nat, p.port) or (p.host != 0 and is_entrance(nat, p.host))


cdef inline int classify_icmp(const Nat* nat, Packet* p) noexcept nogil:
    cdef uint8_t kind = p.l4[0]
    if kind != UNREACHABLE and for_a_node(nat, p):
        return DROP_LOAD_BALANCER_ICMP
    if p.plain and (kind == ECHO_REPLY or kind == ECHO_REQUEST):
        p.side = PEER_RESPONDER if kind == ECHO_REPLY else PEER_ORIGINATOR
    if kind == UNREACHABLE or kind == TIME_EXCEEDED or kind == PARAMETER_PROBLEM:
        p.kind = KIND_ICMP_ERROR
        return DROP_NONE
    if kind != (ECHO_REPLY if p.side else ECHO_REQUEST) or p.l4[1] != 0:
        return DROP_ICMP_TYPE
    if p.side:
        p.destination_port = load16(p.l4 + 4)
        p.source_port = 0
    else:
        p.source_port = load16(p.l4 + 4)
        p.destination_port = 0
    return DROP_NONE


cdef inline int classify_fragment(Nat* nat, Packet* p) noexcept nogil:
    cdef bint allowed
    cdef int reason
    if p.protocol == 6:
        allowed = nat.behaviour.tcp_fragments
    elif p.protocol == 17:
        allowed = nat.behaviour.udp_fragments
    elif p.protocol == 1:
        allowed = nat.behaviour.icmp_fragments
    else:
        return DROP_PROTOCOL
    if not allowed:
        return DROP_FRAGMENT_REFUSED
    p.kind = KIND_FLOW
    reason = parse_fragment(p)
    if reason:
        return reason
    if fragment_offset(p) == 0:
        if p.protocol == 1:
            reason = classify_icmp(nat, p)
            if reason:
                return reason
            if p.kind == KIND_ICMP_ERROR:
                # Errors quote little enough to be never cut (RFC 1812 section 4.3.2.3).
                return DROP_FRAGMENT
        p.hash = table_hash(&nat.table, packet_key(p))
    p.kind = KIND_FRAGMENT
    return DROP_TTL_EXCEEDED if p.ip[8] <= 1 else DROP_NONE


cdef inline int classify(Nat* nat, Packet* p) noexcept nogil:
    cdef const Attachment* own = &nat.attachments[p.port]
    cdef uint16_t ethertype
    cdef int reason
    if p.port >= nat.attachments_max or not own.active:
        return DROP_UNKNOWN_LINK
    if own.interface == UNATTACHED:
        return DROP_ENVIRONMENT_UNATTACHED
    if own.silent:
        return DROP_ENVIRONMENT_FROZEN
    p.side = presumed_side(own)
    if p.length < ETHERNET_BYTES:
        return DROP_FRAME_TRUNCATED
    ethertype = load16(p.frame + 12)
    if memcmp(p.frame, own.mac, 6) != 0:
        if ethertype != swap16(0x0806) or memcmp(p.frame, BROADCAST, 6) != 0:
            return DROP_NOT_OURS
    if ethertype == swap16(0x0806):
        p.kind = KIND_ARP
        return DROP_NONE
    if ethertype != swap16(0x0800):
        return DROP_IPV6 if ethertype == swap16(0x86DD) else DROP_ETHERTYPE
    p.kind = KIND_FLOW
    reason = parse_ip(p)
    if reason:
        return reason
    reason = arrive(nat, p)
    if reason:
        return reason
    count_arrival(nat, p.link, p.port, amount_of(p))
    if p.header_length > IP_BYTES and source_routed(p):
        return DROP_SOURCE_ROUTE
    reason = check_addresses(nat, p)
    if reason:
        return reason
    if load16(p.ip + 6) & swap16(MORE_FRAGMENTS_OR_OFFSET):
        return classify_fragment(nat, p)
    reason = parse_l4(p)
    if reason:
        return reason
    if p.protocol == 1:
        reason = classify_icmp(nat, p)
        if reason and p.ip[8] > 1:
            return reason
    if p.ip[8] <= 1:
        return DROP_TTL_EXCEEDED
    if p.kind == KIND_FLOW:
        p.hash = table_hash(&nat.table, packet_key(p))
    return DROP_NONE
