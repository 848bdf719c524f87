# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Network ACLs: whether a packet may leave one subnet and enter another.

Theory of operation
-------------------
They are stateless: every packet is asked about, answers too, whatever its flow. Entries are in the order of
their numbers, the first that matches decides, and what none matches is denied. An outbound entry is about
the destination of a packet, an inbound one about its source, and both about its destination port, or its
ICMP type and code (https://docs.aws.amazon.com/vpc/latest/userguide/vpc-network-acls.html).

A packet crosses a border where it goes from one place in the VPC to the next, and these are not in the same
subnet. Its way has one such leg, or two where it goes by a NAT gateway or a load balancer's node, of which the
second is in another VPC where it goes by an endpoint::

    client ─────────────────────────────── target
    client ──── entrance = exit ────────── target
    client ──── entrance     exit ──────── target

The client of an environment's flow is its interface; a host is in the subnet of its address, whatever
it forwards; behind the VPC's router everybody is where his address says; and the internet is in none. Of a
packet that leads on by two legs each has its own addresses and port. ICMP errors go the way of their flow, with
their own type and source.

Nothing of the VPC's router (the resolver, the first address of a subnet) nor of the link-local services is
asked about; an address of theirs as a source is theirs only on the router's link.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.flows.acl_table cimport (
    ACL_CELLS,
    ANY_ICMP,
    ANY_PROTOCOL,
    AclEntries,
    AclEntry,
    Ranges,
    SubnetAcl,
    VpcAcls,
)
from hyperplane_nat.engine.flows.entries cimport entrance_of, nat_gateway_of, node_of
from hyperplane_nat.engine.flows.nat cimport NOBODY, UNATTACHED, Attachment, Nat, apart
from hyperplane_nat.engine.flows.policy cimport last_not_above
from hyperplane_nat.engine.state.layout cimport (
    End,
    Entry,
    destination_translated,
    hop_of,
    is_extended,
    is_mapping,
)
from hyperplane_nat.engine.wire.checksum cimport swap16, swap32
from hyperplane_nat.engine.wire.packet cimport Packet

# The way of a flow.  What the client sends goes in at `entrance` and on from `exit`, attachments, 0 where
# it goes straight; from there it has another source and is for the target.
cdef struct Path:
    uint16_t originator
    uint16_t entrance
    uint16_t exit
    End client
    uint32_t source
    End target


# What becomes of a packet on its way: DROP_NONE, or why and where (AT_...) it is refused.
cdef struct Refusal:
    int reason
    uint8_t position


cdef inline Refusal refusal_at(int reason, uint8_t leaving, uint8_t entering) noexcept nogil:
    """A refusal on a leg from one position to another, at the border that its reason says."""
    return Refusal(reason, leaving if reason == DROP_NETWORK_ACL_EGRESS else entering)


cdef inline uint8_t entrance_of_path(const Path* path) noexcept nogil:
    return AT_NEAR if path.entrance == path.exit else AT_ENDPOINT


cdef inline const VpcAcls* acls_of(const Nat* nat, uint32_t vpc) noexcept nogil:
    """Those of a VPC; NULL where everything passes."""
    cdef const VpcAcls* found
    if nat.network_acls == NULL:
        return NULL
    found = nat.network_acls[vpc % ACL_CELLS]
    while found != NULL and found.vpc != vpc:
        found = found.following
    return found


cdef inline uint32_t range_of(const Ranges* ranges, uint32_t address) noexcept nogil:
    """The range that an address is in; the number of ranges if it is in none."""
    cdef uint32_t host = swap32(address)
    cdef uint32_t i = last_not_above(ranges.firsts, ranges.count, host)
    return i if i != ranges.count and host <= ranges.lasts[i] else ranges.count


cdef inline bint is_exempt(const VpcAcls* vpc, uint32_t address) noexcept nogil:
    return range_of(&vpc.exempt, address) != vpc.exempt.count


cdef inline bint matches(
    const AclEntry* entry, const Packet* p, uint32_t far, uint16_t port
) noexcept nogil:
    if entry.protocol != ANY_PROTOCOL and entry.protocol != p.protocol:
        return False
    if (far & entry.mask) != entry.prefix:
        return False
    if entry.protocol == ANY_PROTOCOL:
        return True
    if p.protocol == 1:
        return (entry.icmp_type == ANY_ICMP or entry.icmp_type == p.l4[0]) and (
            entry.icmp_code == ANY_ICMP or entry.icmp_code == p.l4[1]
        )
    return entry.first <= port <= entry.last


cdef inline bint lets_pass(
    const AclEntries* entries, const Packet* p, uint32_t far, uint16_t port
) noexcept nogil:
    cdef uint32_t i
    for i in range(entries.count):
        if matches(&entries.entries[i], p, far, port):
            return entries.entries[i].allows
    return False


cdef inline int leg_refusal(
    const Nat* nat,
    uint32_t number,
    const Packet* p,
    uint32_t leaves,
    uint32_t enters,
    uint32_t source,
    End destination,
) noexcept nogil:
    """Why a packet does not get from one place in a VPC, by its address (0: from outside), to another."""
    cdef const VpcAcls* vpc = acls_of(nat, number)
    cdef uint32_t none, out, into
    cdef uint16_t port = swap16(destination.port)
    if vpc == NULL:
        return DROP_NONE
    none = vpc.subnets.count
    out = range_of(&vpc.subnets, leaves) if leaves else none
    into = range_of(&vpc.subnets, enters) if enters else none
    if (
        out == into
        or is_exempt(vpc, destination.address)
        or (nat.attachments[p.link].kind == ATTACHMENT_INTERFACE and is_exempt(vpc, source))
    ):
        return DROP_NONE
    if out != none and not lets_pass(&vpc.acls[out].egress, p, destination.address, port):
        return DROP_NETWORK_ACL_EGRESS
    if into != none and not lets_pass(&vpc.acls[into].ingress, p, source, port):
        return DROP_NETWORK_ACL_INGRESS
    return DROP_NONE


cdef inline uint32_t place_of(const Nat* nat, uint16_t number, uint32_t address) noexcept nogil:
    """Where in its VPC an attachment is whose packets have this address; 0: outside.

    A host with a link-local address of its own sends from other's, and is where these are.
    """
    cdef const Attachment* attachment = &nat.attachments[number]
    if attachment.role == ROLE_INTERNET_GATEWAY:
        return 0
    if attachment.kind == ATTACHMENT_HOST and (attachment.address & 0xFFFF) != LINK_LOCAL:
        return attachment.address
    return address


cdef enum:
    # The first two bytes of 169.254.0.0/16.
    LINK_LOCAL = 0xFEA9


cdef inline uint32_t vpc_of_link(const Nat* nat, const Packet* p) noexcept nogil:
    """The VPC that a packet is in: one from the internet is in that of whom it is for."""
    cdef const Attachment* link = &nat.attachments[p.link]
    if link.kind == ATTACHMENT_ENVIRONMENT:
        return nat.attachments[link.interface].vpc
    if link.role == ROLE_INTERNET_GATEWAY:
        return nat.attachments[nat.attachments[p.port].serves].vpc
    return link.vpc


cdef inline bint unasked(const Nat* nat, const Entry* entry, const Packet* p) noexcept nogil:
    """Whether a packet of a flow that has one leg is in a VPC where everything passes."""
    return not is_extended(entry) and acls_of(nat, vpc_of_link(nat, p)) == NULL


cdef inline uint32_t source_of(const Nat* nat, const Packet* p, const Path* path) noexcept nogil:
    """The source of a packet in the VPC that it begins in."""
    if nat.attachments[p.link].kind == ATTACHMENT_ENVIRONMENT:
        return path.client.address
    return p.source


cdef inline Refusal refusal_out(const Nat* nat, const Packet* p, const Path* path) noexcept nogil:
    """Why a packet of a flow's originator does not get to its target, and where it is stopped."""
    cdef uint32_t source = source_of(nat, p, path)
    cdef uint32_t leaves = place_of(nat, p.link, source), enters = p.destination
    cdef End destination = End(p.destination, p.destination_port)
    cdef const Attachment* entrance = &nat.attachments[path.entrance]
    cdef const Attachment* exit = &nat.attachments[path.exit]
    cdef int reason
    if path.entrance == 0:
        if p.host:
            enters = nat.attachments[p.host].address
        elif p.gateway:
            enters = 0
        reason = leg_refusal(nat, vpc_of_link(nat, p), p, leaves, enters, source, destination)
        return refusal_at(reason, AT_CLIENT, AT_TARGET)
    reason = leg_refusal(nat, entrance.vpc, p, leaves, entrance.address, source, destination)
    if reason:
        return refusal_at(reason, AT_CLIENT, entrance_of_path(path))
    reason = leg_refusal(
        nat, exit.vpc, p, exit.address, path.target.address, path.source, path.target
    )
    return refusal_at(reason, AT_FAR, AT_TARGET)


cdef inline Refusal refusal_back(
    const Nat* nat, const Packet* p, const Path* path, uint32_t answers
) noexcept nogil:
    """Why a packet for a flow's originator does not get there, and where it is stopped; `answers` is the
    address that it has sent to.
    """
    cdef uint32_t leaves = place_of(nat, p.link, p.source)
    cdef uint32_t enters = place_of(nat, path.originator, path.client.address)
    cdef End destination = End(p.destination, p.destination_port)
    cdef const Attachment* entrance = &nat.attachments[path.entrance]
    cdef const Attachment* exit = &nat.attachments[path.exit]
    cdef int reason
    if path.entrance == 0:
        reason = leg_refusal(
            nat, vpc_of_link(nat, p), p, leaves, enters, p.source, path.client
        )
        return refusal_at(reason, AT_TARGET, AT_CLIENT)
    reason = leg_refusal(nat, exit.vpc, p, leaves, exit.address, p.source, destination)
    if reason:
        return refusal_at(reason, AT_TARGET, AT_FAR)
    reason = leg_refusal(nat, entrance.vpc, p, entrance.address, enters, answers, path.client)
    return refusal_at(reason, entrance_of_path(path), AT_CLIENT)


cdef inline Path path_of(const Nat* nat, uint32_t flow) noexcept nogil:
    """The way of a flow, or of a mapping."""
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef uint16_t hop = hop_of(entry, &nat.table.extensions[flow]), gateway
    cdef Path path
    path.originator = entry.originator
    path.entrance = 0
    path.exit = 0
    if not is_mapping(entry):
        path.entrance = entrance_of(nat, entry)
        path.exit = node_of(nat, entry)
    path.source = entry.translated_address
    gateway = nat_gateway_of(nat, entry)
    if gateway:
        path.entrance = gateway
        path.exit = gateway
        path.source = nat.attachments[gateway].address
    path.target = destination_translated(entry, &nat.table.extensions[flow])
    path.client = End(entry.source_address, entry.source_port)
    if entry.originator < nat.header.slots_max:
        path.client = End(entry.translated_address, entry.translated_port)
        if hop:
            path.client = End(
                nat.attachments[hop].address, nat.table.extensions[flow].hop_port
            )
    return path


cdef inline Path path_from(
    const Nat* nat, const Packet* p, uint32_t client
) noexcept nogil:
    """The straight way of a packet that begins a flow, of which its client has this address."""
    cdef Path path
    path.originator = p.port
    path.entrance = 0
    path.exit = 0
    path.client = End(client, p.source_port)
    path.source = client
    path.target = End(p.destination, p.destination_port)
    return path


cdef inline apart beginning_refusal(
    const Nat* nat, const Packet* p, uint32_t client, int* reason
) noexcept nogil:
    """Why a packet that begins a flow by the straight way does not get to its target, if it is not refused
    already.
    """
    cdef Path path
    if reason[0] == DROP_NONE:
        path = path_from(nat, p, client)
        reason[0] = refusal_out(nat, p, &path).reason


cdef inline Refusal gateway_border(
    const Nat* nat, const Packet* p, uint32_t client, uint16_t gateway
) noexcept nogil:
    """The same by a NAT gateway, of which an address is an attachment, and where it is stopped."""
    cdef Path path = path_from(nat, p, client)
    path.entrance = gateway
    path.exit = gateway
    path.source = nat.attachments[gateway].address
    return refusal_out(nat, p, &path)


cdef inline apart gateway_refusal(
    const Nat* nat, const Packet* p, uint32_t client, uint16_t gateway, int* reason
) noexcept nogil:
    """Why it does not get there."""
    reason[0] = gateway_border(nat, p, client, gateway).reason


cdef inline Refusal packet_border(const Nat* nat, uint32_t flow, const Packet* p) noexcept nogil:
    """Why a packet of a flow, or one that a mapping lets in, does not get to its other end, and where it is
    stopped.
    """
    cdef const Entry* entry = &nat.table.entries[flow]
    cdef Path path
    # What nobody's flow is sent goes nowhere.
    if entry.originator == NOBODY:
        return Refusal(DROP_NONE, AT_CLIENT)
    path = path_of(nat, flow)
    if p.side == PEER_ORIGINATOR:
        return refusal_out(nat, p, &path)
    return refusal_back(nat, p, &path, entry.destination_address)


cdef inline apart packet_refusal(
    const Nat* nat, uint32_t flow, const Packet* p, int* reason
) noexcept nogil:
    """Why it does not get there, if it is not refused already."""
    if reason[0] == DROP_NONE:
        reason[0] = packet_border(nat, flow, p).reason


cdef inline bint crosses_border(
    const Nat* nat, uint32_t number, uint32_t one, uint32_t other
) noexcept nogil:
    """Whether packets between two addresses of a VPC meet an ACL that may refuse some."""
    cdef const VpcAcls* vpc = acls_of(nat, number)
    return vpc != NULL and range_of(&vpc.subnets, one) != range_of(&vpc.subnets, other)


cdef inline bint meets_network_acl(const Nat* nat, uint32_t flow, uint16_t out) noexcept nogil:
    """Whether packets of a flow, of which its originator's leave by `out` (UNATTACHED: nobody knows), are
    asked about one by one, as those from the internet are wherever there are network ACLs.
    """
    cdef Path path
    cdef const Attachment* originator
    cdef const Attachment* entrance
    cdef const Attachment* exit
    cdef uint32_t client, target
    if nat.network_acls == NULL:
        return False
    path = path_of(nat, flow)
    originator = &nat.attachments[path.originator]
    if originator.role == ROLE_INTERNET_GATEWAY:
        return True
    client = place_of(nat, path.originator, path.client.address)
    if path.entrance:
        entrance = &nat.attachments[path.entrance]
        exit = &nat.attachments[path.exit]
        return crosses_border(nat, entrance.vpc, client, entrance.address) or crosses_border(
            nat, exit.vpc, exit.address, path.target.address
        )
    if originator.kind == ATTACHMENT_ENVIRONMENT:
        if originator.interface == UNATTACHED:
            return False
        originator = &nat.attachments[originator.interface]
    # A host that is sent what is for others is in its own subnet.
    target = path.target.address if out == UNATTACHED else place_of(nat, out, path.target.address)
    return crosses_border(nat, originator.vpc, client, target)
