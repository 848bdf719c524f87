# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    BATCH_MAX = 512

cdef struct Sender:
    int descriptor
    # Frames that wait, and the messages that they make: one each, but for those that were joined.
    uint32_t frames
    uint32_t messages
    uint64_t sent
    uint64_t joined
    uint64_t full
    uint64_t errors
    void* headers
    void* vectors
    void* addresses


cdef int sender_init(Sender* sender, int descriptor) noexcept
cdef void sender_free(Sender* sender) noexcept
cdef void sender_add(Sender* sender, uint8_t* frame, uint32_t length, uint32_t interface_index) noexcept nogil
cdef void sender_join(Sender* sender, uint8_t* data, uint32_t length) noexcept nogil
cdef void sender_flush(Sender* sender) noexcept nogil
cdef tuple sender_message(const Sender* sender, uint32_t message)
