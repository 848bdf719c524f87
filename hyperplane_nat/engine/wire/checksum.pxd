# SPDX-License-Identifier: Apache-2.0
# Internet checksums (RFC 1071) and their incremental update (RFC 1624).
#
# Sums are taken over 16-bit words as they lie in memory: one's complement addition commutes
# with byte order, so nothing is swapped.
#
# A checksum has two spellings of zero.  A full computation over a header or pseudo-header never
# yields 0xffff, since their sum is never zero; the incremental update here ends the same way, so
# that both always agree.  UDP writes an arithmetical zero as 0xffff (RFC 768), and an ICMP
# message, which has no pseudo-header, may truly sum to zero.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef inline uint16_t load16(const uint8_t* p) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, p, 2)
    return value


cdef inline uint32_t load32(const uint8_t* p) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, p, 4)
    return value


cdef inline void store16(uint8_t* p, uint16_t value) noexcept nogil:
    memcpy(p, &value, 2)


cdef inline void store32(uint8_t* p, uint32_t value) noexcept nogil:
    memcpy(p, &value, 4)


cdef inline uint16_t swap16(uint16_t value) noexcept nogil:
    return <uint16_t>((value << 8) | (value >> 8))


cdef inline uint32_t swap32(uint32_t value) noexcept nogil:
    return (
        ((value & 0xFF) << 24) | ((value & 0xFF00) << 8) | ((value >> 8) & 0xFF00) | (value >> 24)
    )


cdef inline uint16_t fold(uint64_t total) noexcept nogil:
    total = <uint64_t><uint32_t>total + (total >> 32)
    total = <uint64_t><uint32_t>total + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>total


cdef inline uint64_t sum_bytes(const uint8_t* p, uint32_t length, uint64_t total) noexcept nogil:
    """Add `length` bytes to a running sum; a 64 KiB packet cannot overflow it."""
    cdef uint64_t second = 0
    cdef uint32_t value
    cdef uint16_t half
    while length >= 8:
        memcpy(&value, p, 4)
        total += value
        memcpy(&value, p + 4, 4)
        second += value
        p += 8
        length -= 8
    total += second
    while length >= 2:
        memcpy(&half, p, 2)
        total += half
        p += 2
        length -= 2
    if length:
        half = 0
        memcpy(&half, p, 1)
        total += half
    return total


cdef inline uint64_t pseudo_header(
    uint32_t source, uint32_t destination, uint8_t protocol, uint16_t length
) noexcept nogil:
    """Sum of the pseudo-header; addresses in network order, `length` in host order."""
    return (
        <uint64_t>source + destination + swap16(<uint16_t>protocol) + swap16(length)
    )


cdef inline uint16_t complement(uint64_t total) noexcept nogil:
    return <uint16_t>~fold(total)


cdef inline uint64_t replaced16(uint16_t old, uint16_t new) noexcept nogil:
    """What the replacement of a 16-bit word adds to a sum (RFC 1624, equation 3)."""
    return <uint64_t><uint16_t>~old + new


cdef inline uint64_t replaced32(uint32_t old, uint32_t new) noexcept nogil:
    return <uint64_t><uint32_t>~old + new


cdef inline uint16_t updated(uint16_t checksum, uint64_t delta) noexcept nogil:
    """The checksum after words changed by `delta`; never 0xffff."""
    cdef uint16_t result = <uint16_t>~fold(<uint64_t><uint16_t>~checksum + delta)
    return 0 if result == 0xFFFF else result
