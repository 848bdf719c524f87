# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from hyperplane_nat.engine.state._constants cimport *
from hyperplane_nat.engine.wire.checksum cimport swap16, swap32
from hyperplane_nat.engine.wire.packet cimport protocol_index

# Whom the rules of one protocol admit.  Interval i is the ports from starts[i] to starts[i + 1] - 1
# and admits the address ranges from offsets[i] to offsets[i + 1] - 1; all in host byte order.
cdef struct PortTable:
    uint32_t intervals
    uint32_t* starts
    uint32_t* offsets
    uint32_t* firsts
    uint32_t* lasts

cdef struct RuleSet:
    PortTable tables[3]

cdef struct PolicyRecord:
    uint8_t filters_egress
    uint8_t filters_ingress
    uint8_t withholds
    RuleSet egress
    RuleSet ingress
    RuleSet withheld
    uint32_t guarded_count
    uint32_t* guarded_addresses
    RuleSet* guarded


cdef class Policy:
    cdef PolicyRecord record


cdef inline uint32_t last_not_above(
    const uint32_t* values, uint32_t count, uint32_t value
) noexcept nogil:
    """Index of the last of the sorted values that is not above `value`; `count` if there is none."""
    cdef uint32_t low = 0, high = count, middle
    while low < high:
        middle = (low + high) >> 1
        if values[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low - 1 if low else count


cdef inline bint admits(
    const RuleSet* rules, uint8_t protocol, uint32_t address, uint16_t port
) noexcept nogil:
    cdef const PortTable* table = &rules.tables[protocol_index(protocol)]
    cdef uint32_t interval, begin, count, i
    if table.intervals == 0:
        return False
    interval = last_not_above(table.starts, table.intervals, port)
    begin = table.offsets[interval]
    count = table.offsets[interval + 1] - begin
    i = last_not_above(table.firsts + begin, count, address)
    return i != count and address <= table.lasts[begin + i]


cdef inline int policy_check(
    const PolicyRecord* policy, uint8_t protocol, uint32_t address, uint16_t port
) noexcept nogil:
    """DROP_NONE when the interface may begin this flow, else why not; in network byte order."""
    cdef uint32_t host = swap32(address), i
    cdef uint16_t number = 0 if protocol == 1 else swap16(port)
    if policy.withholds and admits(&policy.withheld, protocol, host, number):
        return DROP_LAMBDA_ICMP if protocol == 1 else DROP_LAMBDA_PORT
    if policy.filters_egress and not admits(&policy.egress, protocol, host, number):
        return DROP_SECURITY_GROUP_EGRESS
    if policy.guarded_count == 0:
        return DROP_NONE
    i = last_not_above(policy.guarded_addresses, policy.guarded_count, host)
    if i == policy.guarded_count or policy.guarded_addresses[i] != host:
        return DROP_NONE
    # Whether this interface is the rule's source was settled when the policy was compiled.
    if not admits(&policy.guarded[i], protocol, 0, number):
        return DROP_SECURITY_GROUP_INGRESS
    return DROP_NONE


cdef inline int policy_admits(
    const PolicyRecord* policy, uint8_t protocol, uint32_t source, uint16_t port
) noexcept nogil:
    """DROP_NONE when a flow from this address may reach the host, else why not; in network order."""
    cdef uint16_t number = 0 if protocol == 1 else swap16(port)
    if policy.filters_ingress and not admits(&policy.ingress, protocol, swap32(source), number):
        return DROP_SECURITY_GROUP_INGRESS
    return DROP_NONE
