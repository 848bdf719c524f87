# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    WAITING_BLOCKS = 4096
    WAITING_BLOCK_BYTES = 2048

# `following` is the frame's next block.  The others are of a frame's first block: how long the
# frame is with its virtio-net header, whose it is, how many segments it will be, and the first block
# of the frame behind it.
cdef struct Block:
    uint32_t length
    uint16_t following
    uint16_t behind
    uint16_t asker
    uint16_t segments

# Frames that wait for the same, in order.
cdef struct FrameQueue:
    uint16_t frames
    uint16_t first
    uint16_t last

cdef struct WaitingFrames:
    uint32_t free_count
    uint32_t used
    uint16_t free
    Block blocks[WAITING_BLOCKS]
    # How many blocks each interface and each asker has.
    uint32_t* by_interface
    uint32_t* by_asker
    uint8_t* memory


cdef inline uint32_t waiting_length(
    const WaitingFrames* waiting, const FrameQueue* queue
) noexcept nogil:
    """Bytes of the frame that is first in a queue that is not empty, with its virtio-net header."""
    return waiting.blocks[queue.first].length


cdef inline uint32_t waiting_segments(
    const WaitingFrames* waiting, const FrameQueue* queue
) noexcept nogil:
    """Segments of the frame that is first in a queue that is not empty."""
    return waiting.blocks[queue.first].segments


cdef int waiting_init(
    WaitingFrames* waiting, uint32_t slots_max, uint32_t interfaces_max
) noexcept
cdef void waiting_release_memory(WaitingFrames* waiting) noexcept
cdef bint waiting_add(
    WaitingFrames* waiting,
    FrameQueue* queue,
    uint16_t interface,
    uint16_t asker,
    const uint8_t* header,
    const uint8_t* frame,
    uint32_t length,
    uint16_t segments,
) noexcept nogil
cdef void waiting_take(
    WaitingFrames* waiting, FrameQueue* queue, uint16_t interface, uint8_t* frame
) noexcept nogil
