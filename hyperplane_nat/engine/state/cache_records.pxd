# SPDX-License-Identifier: Apache-2.0
# What the engine and the flow cache's program share: the values of its maps, in memory of both.
#
# `flow_cache.bpf.c` says what each field means, and how the program changes it meanwhile.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    static inline uint64_t hp_exchange(uint64_t *word, uint64_t value) {
        return __atomic_exchange_n(word, value, __ATOMIC_ACQ_REL);
    }
    static inline int hp_replace(uint64_t *word, uint64_t known, uint64_t value) {
        return __atomic_compare_exchange_n(word, &known, value, 0, __ATOMIC_ACQ_REL,
                                           __ATOMIC_RELAXED);
    }
    #define HP_FENCE() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    uint64_t hp_exchange(uint64_t* word, uint64_t value) noexcept nogil
    bint hp_replace(uint64_t* word, uint64_t known, uint64_t value) noexcept nogil
    void HP_FENCE() noexcept nogil

cdef enum:
    CACHE_LIMITS = 6
    # Which of them is whose: TCP's are even, UDP's odd.  The first of each are those of the states, the
    # others those of listeners.
    CACHE_LIMIT_TCP = 0
    CACHE_LIMIT_UDP = 1
    LIMITS_OF_STATES = 2

cdef extern from *:
    """
    #define HP_ARMED ((uint64_t)1 << 63)
    """
    uint64_t ARMED "HP_ARMED"

cdef struct CacheRecord:
    uint64_t last_use
    uint64_t packets
    uint64_t bytes
    uint32_t sequence_end
    uint32_t acknowledged
    uint32_t source
    uint32_t destination
    uint16_t source_port
    uint16_t destination_port
    uint16_t address_difference
    uint16_t port_difference
    uint8_t next_hop[6]
    uint16_t out
    uint16_t in_generation
    uint16_t out_generation
    uint16_t window
    uint8_t limit
    uint8_t zero

cdef struct CacheLink:
    uint32_t index
    uint16_t generation
    uint16_t mtu
    uint8_t address[6]
    uint16_t flags

cdef struct CacheControl:
    int64_t clock_offset
    uint64_t limits[CACHE_LIMITS]
    uint32_t punt
    uint32_t grace

cdef struct CacheKey:
    uint32_t source
    uint32_t destination
    uint16_t source_port
    uint16_t destination_port
    uint16_t attachment
    uint8_t protocol
    uint8_t zero


cdef inline uint8_t protocol_of(const CacheRecord* record) noexcept nogil:
    return 17 if record.limit & 1 else 6
