# SPDX-License-Identifier: Apache-2.0
# SipHash-1-3 over two 64-bit words.
#
# Whoever sends packets chooses ports and addresses, so the index of the flow table must not
# be predictable: a keyed hash with a key drawn at start, of the strength Python and Rust use
# for their own tables.  The input is always 16 bytes, hence no length block.
from libc.stdint cimport uint64_t

cdef struct HashKey:
    uint64_t k0
    uint64_t k1


cdef inline uint64_t rotl(uint64_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))


cdef inline uint64_t siphash(const HashKey* key, uint64_t first, uint64_t second) noexcept nogil:
    cdef uint64_t v0 = key.k0 ^ 0x736F6D6570736575ULL
    cdef uint64_t v1 = key.k1 ^ 0x646F72616E646F6DULL
    cdef uint64_t v2 = key.k0 ^ 0x6C7967656E657261ULL
    cdef uint64_t v3 = key.k1 ^ 0x7465646279746573ULL
    cdef int i
    v3 ^= first
    v0 += v1; v1 = rotl(v1, 13); v1 ^= v0; v0 = rotl(v0, 32)
    v2 += v3; v3 = rotl(v3, 16); v3 ^= v2
    v0 += v3; v3 = rotl(v3, 21); v3 ^= v0
    v2 += v1; v1 = rotl(v1, 17); v1 ^= v2; v2 = rotl(v2, 32)
    v0 ^= first
    v3 ^= second
    v0 += v1; v1 = rotl(v1, 13); v1 ^= v0; v0 = rotl(v0, 32)
    v2 += v3; v3 = rotl(v3, 16); v3 ^= v2
    v0 += v3; v3 = rotl(v3, 21); v3 ^= v0
    v2 += v1; v1 = rotl(v1, 17); v1 ^= v2; v2 = rotl(v2, 32)
    v0 ^= second
    v2 ^= 0xFF
    for i in range(3):
        v0 += v1; v1 = rotl(v1, 13); v1 ^= v0; v0 = rotl(v0, 32)
        v2 += v3; v3 = rotl(v3, 16); v3 ^= v2
        v0 += v3; v3 = rotl(v3, 21); v3 ^= v0
        v2 += v1; v1 = rotl(v1, 17); v1 ^= v2; v2 = rotl(v2, 32)
    return v0 ^ v1 ^ v2 ^ v3
