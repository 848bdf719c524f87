# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from hyperplane_nat.io.sender cimport Sender

cdef enum:
    FRAME_BYTES_MAX = 65600
    OVERSIZE_BUFFERS = 1024
    OVERSIZE_CACHED = 32

cdef enum:
    FRAME_OK = 0
    FRAME_NONE = 1
    FRAME_BAD = 2
    FRAME_LATER = 3

cdef enum:
    # The origin of a frame that has come by the punt link without a tag.
    NO_ORIGIN = 0xFFFFFFFF

# A received frame; its virtio-net header lies right before `data`. Its origin is the index of the
# link that it came by, or, by the punt link, the number of the attachment.
cdef struct Frame:
    uint8_t* data
    uint32_t length
    uint32_t origin
    uint32_t position
    uint8_t vlan
    # By the punt link: the flow cache's program has counted it at an armed record.
    uint8_t counted

# What the virtio-net header and the ring say of a frame.
cdef struct Offload:
    uint16_t checksum_start
    uint16_t checksum_offset
    uint16_t gso_size
    # UDP datagrams that the frame holds; 1 for any other than of UDP segmentation.
    uint16_t datagrams
    uint8_t partial
    uint8_t checked

# What is kept of a slot between its arrival and its release.
cdef struct Slot:
    uint8_t* data
    uint32_t length
    uint32_t origin
    uint16_t oversize
    uint8_t checked
    uint8_t counted
    uint8_t held

cdef struct Ring:
    uint8_t* memory
    uint32_t slots
    uint32_t slot_bytes
    uint32_t head
    int descriptor
    bint punted
    Slot* kept
    uint8_t* oversize
    uint16_t free[OVERSIZE_BUFFERS]
    uint32_t free_count
    uint64_t oversize_received
    uint64_t truncated


cdef int ring_next(Ring* ring, Frame* frame) noexcept nogil
cdef bint ring_filled(const Ring* ring, uint32_t ahead) noexcept nogil
cdef uint32_t ring_waiting(const Ring* ring) noexcept nogil
cdef void ring_frame(const Ring* ring, uint32_t position, Frame* frame, Offload* offload) noexcept nogil
cdef void ring_disown(Ring* ring, uint32_t origin) noexcept nogil
cdef void ring_release(Ring* ring, uint32_t position) noexcept nogil


cdef class PacketIO:
    cdef Ring ring
    cdef Sender sender
    cdef object receiver
    cdef object transmitter
