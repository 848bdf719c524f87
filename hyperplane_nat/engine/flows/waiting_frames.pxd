# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Where frames lie that wait for their next hop.

Theory of operation
-------------------
A frame is copied to as many blocks of a fixed size as it needs; queues are chains of frames, and no
byte is moved when one is taken out. Pages of blocks that were never used are never touched.

Who may take a block is a rule of proportion (dynamic thresholds, Choudhury and Hahne 1998): an
interface may while it has less than is free, and an environment while it has less than is then left
for its interface. So one alone may have a third of everything, and however many fill their share,
there is always something left for one who has nothing yet.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from hyperplane_nat.engine.wire.packet cimport OFFLOAD_BYTES

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


cdef inline int waiting_init(WaitingFrames* waiting, uint32_t attachments_max) noexcept:
    """Make an empty one of a zeroed one; -1 where there is no memory for it."""
    waiting.free_count = WAITING_BLOCKS
    waiting.by_interface = <uint32_t*>calloc(attachments_max, sizeof(uint32_t))
    waiting.by_asker = <uint32_t*>calloc(attachments_max + 1, sizeof(uint32_t))
    waiting.memory = <uint8_t*>calloc(WAITING_BLOCKS, WAITING_BLOCK_BYTES)
    if waiting.by_interface == NULL or waiting.by_asker == NULL or waiting.memory == NULL:
        return -1
    return 0


cdef inline void waiting_release_memory(WaitingFrames* waiting) noexcept:
    free(waiting.by_interface)
    free(waiting.by_asker)
    free(waiting.memory)


cdef inline bint may_take(
    const WaitingFrames* waiting, uint16_t interface, uint16_t asker, uint32_t blocks
) noexcept nogil:
    """Whether the share of both leaves room for so many more."""
    cdef int64_t left = <int64_t>waiting.free_count - waiting.by_interface[interface]
    return blocks <= waiting.free_count and waiting.by_asker[asker] < left


cdef inline uint16_t block_take(WaitingFrames* waiting) noexcept nogil:
    """A block, one that was used before if there is one; there must be one."""
    cdef uint16_t block = waiting.free
    if waiting.free_count > WAITING_BLOCKS - waiting.used:
        waiting.free = waiting.blocks[block].following
    else:
        block = <uint16_t>waiting.used
        waiting.used += 1
    waiting.free_count -= 1
    return block


cdef inline bint waiting_add(
    WaitingFrames* waiting,
    FrameQueue* queue,
    uint16_t interface,
    uint16_t asker,
    const uint8_t* header,
    const uint8_t* frame,
    uint32_t length,
    uint16_t segments,
) noexcept nogil:
    """Copy a frame and its virtio-net header behind those of the queue; False when it has no room."""
    cdef uint32_t whole = OFFLOAD_BYTES + length
    cdef uint32_t blocks = (whole + WAITING_BLOCK_BYTES - 1) // WAITING_BLOCK_BYTES
    cdef uint32_t position = min(length, <uint32_t>(WAITING_BLOCK_BYTES - OFFLOAD_BYTES)), size
    cdef uint16_t first, block, last
    cdef uint8_t* memory
    if not may_take(waiting, interface, asker, blocks):
        return False
    first = last = block_take(waiting)
    memory = waiting.memory + <size_t>first * WAITING_BLOCK_BYTES
    memcpy(memory, header, OFFLOAD_BYTES)
    memcpy(memory + OFFLOAD_BYTES, frame, position)
    while position < length:
        size = min(length - position, <uint32_t>WAITING_BLOCK_BYTES)
        block = block_take(waiting)
        memcpy(waiting.memory + <size_t>block * WAITING_BLOCK_BYTES, frame + position, size)
        waiting.blocks[last].following = block
        last = block
        position += size
    waiting.blocks[first].length = whole
    waiting.blocks[first].asker = asker
    waiting.blocks[first].segments = segments
    waiting.by_interface[interface] += blocks
    waiting.by_asker[asker] += blocks
    if queue.frames:
        waiting.blocks[queue.last].behind = first
    else:
        queue.first = first
    queue.last = first
    queue.frames += 1
    return True


cdef inline void waiting_take(
    WaitingFrames* waiting, FrameQueue* queue, uint16_t interface, uint8_t* frame
) noexcept nogil:
    """Take the first frame out of a queue that is not empty, with its header; nowhere if `frame` is NULL."""
    cdef uint16_t block = queue.first, following
    cdef uint32_t length = waiting.blocks[block].length, position = 0, size
    cdef uint16_t asker = waiting.blocks[block].asker
    queue.first = waiting.blocks[block].behind
    queue.frames -= 1
    while position < length:
        size = min(length - position, <uint32_t>WAITING_BLOCK_BYTES)
        if frame != NULL:
            memcpy(frame + position, waiting.memory + <size_t>block * WAITING_BLOCK_BYTES, size)
        following = waiting.blocks[block].following
        waiting.blocks[block].following = waiting.free
        waiting.free = block
        waiting.free_count += 1
        waiting.by_interface[interface] -= 1
        waiting.by_asker[asker] -= 1
        block = following
        position += size
