# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    VNET_BYTES = 10
    FRAME_BYTES_MAX = 65600
    OVERSIZE_BUFFERS = 32
    BATCH_MAX = 512

cdef enum:
    FRAME_OK = 0
    FRAME_NONE = 1
    FRAME_BAD = 2
    FRAME_LATER = 3

# A received frame with its virtio-net header right before it.
cdef struct Frame:
    uint8_t* data
    uint32_t length
    uint32_t interface_index
    uint16_t checksum_start
    uint16_t checksum_offset
    uint16_t gso_size
    uint8_t partial
    uint8_t checked
    uint8_t vlan

cdef struct Ring:
    uint8_t* memory
    uint32_t slots
    uint32_t slot_bytes
    uint64_t head
    uint64_t tail
    int descriptor
    uint8_t* oversize
    uint32_t oversize_used
    uint64_t oversize_received
    uint64_t truncated

cdef struct Sender:
    int descriptor
    uint32_t queued
    uint64_t sent
    uint64_t full
    uint64_t errors
    void* messages
    void* vectors
    void* addresses


cdef int ring_next(Ring* ring, Frame* frame) noexcept nogil
cdef void ring_release(Ring* ring) noexcept nogil
cdef void sender_add(Sender* sender, uint8_t* frame, uint32_t length, uint32_t interface_index) noexcept nogil
cdef void sender_flush(Sender* sender) noexcept nogil


cdef class PacketIO:
    cdef Ring ring
    cdef Sender sender
    cdef object receiver
    cdef object transmitter
