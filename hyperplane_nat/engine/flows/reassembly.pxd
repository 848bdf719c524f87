# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    # What unfinished datagrams may take at one destination, and the room that a piece takes beside
    # its own length, in bytes.
    SHARED_BYTES = 1572864
    PIECE_BYTES = 1024

# Zeroed memory is an account of which nothing is spent.
cdef struct Account:
    uint64_t aged
    uint32_t spent


cdef bint reassembly_charge(Account* sender, Account* destination, uint32_t cost, uint64_t now, uint32_t window) noexcept nogil
cdef void reassembly_refund(Account* account, uint32_t cost, uint64_t since, uint32_t window) noexcept nogil
