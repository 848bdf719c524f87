# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# Network ACLs as they are asked: by VPC, and in a VPC by the subnet that an address is in.
#
# Only subnets whose ACL may refuse something are here, and only VPCs that have one of these: the others
# cost nothing.
from libc.stdint cimport int16_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free

cdef enum:
    # VPCs are found by the low bits of their numbers.
    ACL_CELLS = 256
    ANY_ICMP = -1
    ANY_PROTOCOL = 0

# Addresses in network byte order, ports in host byte order and both included.
cdef struct AclEntry:
    uint32_t prefix
    uint32_t mask
    uint16_t first
    uint16_t last
    int16_t icmp_type
    int16_t icmp_code
    uint8_t protocol
    uint8_t allows

# In the order in which they are asked.
cdef struct AclEntries:
    uint32_t count
    AclEntry* entries

cdef struct SubnetAcl:
    AclEntries ingress
    AclEntries egress

# Address ranges in host byte order, sorted and disjoint.
cdef struct Ranges:
    uint32_t count
    uint32_t* firsts
    uint32_t* lasts

# Of one VPC: the ranges of its subnets with their ACLs, and what no ACL is asked about.
cdef struct VpcAcls:
    uint32_t vpc
    Ranges subnets
    SubnetAcl* acls
    Ranges exempt
    VpcAcls* following


cdef inline void ranges_free(Ranges* ranges) noexcept nogil:
    free(ranges.firsts)
    free(ranges.lasts)


cdef inline void vpc_acls_free(VpcAcls* vpc) noexcept nogil:
    cdef uint32_t i
    if vpc == NULL:
        return
    if vpc.acls != NULL:
        for i in range(vpc.subnets.count):
            free(vpc.acls[i].ingress.entries)
            free(vpc.acls[i].egress.entries)
    free(vpc.acls)
    ranges_free(&vpc.subnets)
    ranges_free(&vpc.exempt)
    free(vpc)


cdef inline void acl_cells_free(VpcAcls** cells) noexcept nogil:
    cdef VpcAcls* vpc
    cdef VpcAcls* following
    cdef int cell
    if cells == NULL:
        return
    for cell in range(ACL_CELLS):
        vpc = cells[cell]
        while vpc != NULL:
            following = vpc.following
            vpc_acls_free(vpc)
            vpc = following
    free(cells)
