# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Network ACLs as they are told, compiled for `engine/flows/network_acls.pxd`; ValueError for what cannot be."""

from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free

from hyperplane_nat.engine.flows.acl_table cimport (
    ACL_CELLS,
    ANY_ICMP,
    ANY_PROTOCOL,
    AclEntries,
    AclEntry,
    Ranges,
    SubnetAcl,
    VpcAcls,
    vpc_acls_free,
)
from hyperplane_nat.engine.flows.caching cimport cache_forget_shared
from hyperplane_nat.engine.flows.nat cimport Nat
from hyperplane_nat.engine.wire.checksum cimport swap32
from hyperplane_nat.engine.wire.text cimport prefix_numbers


cdef inline uint8_t entry_protocol(protocol) except? 255:
    known = {"all": ANY_PROTOCOL, "icmp": 1, "tcp": 6, "udp": 17}
    if protocol not in known:
        raise ValueError(f"protocol {protocol!r} of a network ACL: use {', '.join(known)}")
    return known[protocol]


cdef inline int entries_fill(AclEntries* filled, entries) except -1:
    cdef AclEntry* record
    cdef uint32_t prefix, mask
    filled.entries = <AclEntry*>calloc(max(len(entries), 1), sizeof(AclEntry))
    if filled.entries == NULL:
        raise MemoryError
    for entry in entries:
        if not 0 <= entry.first <= entry.last <= 65535:
            raise ValueError(f"ports {entry.first} to {entry.last} of a network ACL")
        for number in (entry.icmp_type, entry.icmp_code):
            if not ANY_ICMP <= number <= 255:
                raise ValueError(f"ICMP type or code {number} of a network ACL")
        record = &filled.entries[filled.count]
        prefix, mask = prefix_numbers(entry.cidr)
        record.prefix = prefix
        record.mask = mask
        record.first = entry.first
        record.last = entry.last
        record.icmp_type = entry.icmp_type
        record.icmp_code = entry.icmp_code
        record.protocol = entry_protocol(entry.protocol)
        record.allows = bool(entry.allow)
        filled.count += 1
    return 0


cdef inline int ranges_fill(Ranges* ranges, list cidrs) except -1:
    """Have the ranges of these, which are sorted by address."""
    cdef uint32_t prefix, mask, i
    ranges.firsts = <uint32_t*>calloc(max(len(cidrs), 1), 4)
    ranges.lasts = <uint32_t*>calloc(max(len(cidrs), 1), 4)
    if ranges.firsts == NULL or ranges.lasts == NULL:
        raise MemoryError
    for i, cidr in enumerate(cidrs):
        prefix, mask = prefix_numbers(cidr)
        ranges.firsts[i] = swap32(prefix)
        ranges.lasts[i] = swap32(prefix | ~mask)
        if i and ranges.firsts[i] <= ranges.lasts[i - 1]:
            raise ValueError(f"{cidr} and {cidrs[i - 1]} of a network ACL's VPC overlap")
        ranges.count = i + 1
    return 0


cdef inline list in_order(cidrs):
    def place(each):
        prefix, _ = prefix_numbers(each)
        return swap32(<uint32_t>prefix)

    return sorted(set(cidrs), key=place)


cdef inline VpcAcls* vpc_acls_from(uint32_t number, list subnets, list exempt) except NULL:
    """What is said of the subnets of a VPC, in memory of its own."""
    cdef VpcAcls* made = <VpcAcls*>calloc(1, sizeof(VpcAcls))
    cdef uint32_t i
    if made == NULL:
        raise MemoryError
    made.vpc = number
    try:
        if len({subnet.cidr for subnet in subnets}) < len(subnets):
            raise ValueError(f"VPC {number}: a subnet has two network ACLs")
        by_cidr = {subnet.cidr: subnet for subnet in subnets}
        cidrs = in_order(by_cidr)
        made.acls = <SubnetAcl*>calloc(max(len(cidrs), 1), sizeof(SubnetAcl))
        if made.acls == NULL:
            raise MemoryError
        ranges_fill(&made.subnets, cidrs)
        ranges_fill(&made.exempt, in_order(exempt))
        for i, cidr in enumerate(cidrs):
            entries_fill(&made.acls[i].ingress, by_cidr[cidr].ingress)
            entries_fill(&made.acls[i].egress, by_cidr[cidr].egress)
    except BaseException:
        vpc_acls_free(made)
        raise
    return made


cdef inline int network_acls_set(Nat* nat, uint32_t number, subnets, exempt) except -1:
    """Have these of a VPC from the next packet on: of subnets whose ACL may refuse something, and prefixes
    of which no ACL is asked; without any everything passes there.
    """
    cdef VpcAcls* made = NULL
    cdef VpcAcls** place
    cdef VpcAcls* former
    if subnets:
        made = vpc_acls_from(number, list(subnets), list(exempt))
    if nat.network_acls == NULL:
        if made == NULL:
            return 0
        nat.network_acls = <VpcAcls**>calloc(ACL_CELLS, sizeof(VpcAcls*))
        if nat.network_acls == NULL:
            vpc_acls_free(made)
            raise MemoryError
    place = &nat.network_acls[number % ACL_CELLS]
    while place[0] != NULL and place[0].vpc != number:
        place = &place[0].following
    former = place[0]
    if made != NULL:
        made.following = NULL if former == NULL else former.following
        place[0] = made
    elif former != NULL:
        place[0] = former.following
    vpc_acls_free(former)
    forget_empty(nat)
    cache_forget_shared(nat)
    return 0


cdef inline void forget_empty(Nat* nat) noexcept:
    """Packets of a lab without an ACL do not look for one."""
    cdef int cell
    for cell in range(ACL_CELLS):
        if nat.network_acls[cell] != NULL:
            return
    free(nat.network_acls)
    nat.network_acls = NULL
