# SPDX-License-Identifier: Apache-2.0
# What the compiler has built in: loads and stores in an order that other processes see, and bits.
from libc.stdint cimport uint8_t, uint16_t, uint64_t

cdef extern from *:
    """
    #define HP_LOAD_ACQUIRE(pointer) __atomic_load_n((pointer), __ATOMIC_ACQUIRE)
    #define HP_LOAD(pointer) __atomic_load_n((pointer), __ATOMIC_RELAXED)
    #define HP_STORE(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELAXED)
    #define HP_STORE_RELEASE(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELEASE)
    #define HP_FENCE_RELEASE() __atomic_thread_fence(__ATOMIC_RELEASE)
    #define HP_FENCE_ACQUIRE() __atomic_thread_fence(__ATOMIC_ACQUIRE)
    #define HP_PREFETCH(pointer) __builtin_prefetch((pointer), 1, 3)
    #define HP_CTZ64(value) ((unsigned)__builtin_ctzll(value))
    """
    void HP_STORE8_RELEASE "HP_STORE_RELEASE"(uint8_t* pointer, uint8_t value) noexcept nogil
    uint16_t HP_LOAD16_ACQUIRE "HP_LOAD_ACQUIRE"(const uint16_t* pointer) noexcept nogil
    uint16_t HP_LOAD16 "HP_LOAD"(const uint16_t* pointer) noexcept nogil
    void HP_STORE16 "HP_STORE"(uint16_t* pointer, uint16_t value) noexcept nogil
    void HP_STORE16_RELEASE "HP_STORE_RELEASE"(uint16_t* pointer, uint16_t value) noexcept nogil
    uint64_t HP_LOAD64_ACQUIRE "HP_LOAD_ACQUIRE"(const uint64_t* pointer) noexcept nogil
    void HP_STORE64_RELEASE "HP_STORE_RELEASE"(uint64_t* pointer, uint64_t value) noexcept nogil
    void HP_FENCE_RELEASE() noexcept nogil
    void HP_FENCE_ACQUIRE() noexcept nogil
    void HP_PREFETCH(const void* pointer) noexcept nogil
    unsigned int HP_CTZ64(uint64_t value) noexcept nogil
