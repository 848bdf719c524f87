# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t

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
    RuleSet egress
    uint32_t guarded_count
    uint32_t* guarded_addresses
    RuleSet* guarded


cdef class Policy:
    cdef PolicyRecord record


cdef int policy_check(
    const PolicyRecord* policy, uint8_t protocol, uint32_t address, uint16_t port
) noexcept nogil
