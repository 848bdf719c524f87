# SPDX-License-Identifier: Apache-2.0
# Frames that leave besides the one that came: pieces of a packet that was cut, fragments that waited
# for their first, frames that waited for their next hop, questions for next hops.  They lie in an
# arena of their own, each behind room for a virtio-net header, zero unless it was said otherwise,
# until the caller has sent them (`extras_clear`).  One frame that came causes at most as many as one
# datagram has pieces, so that the arena is empty for every frame; of what waited for a next hop, and
# of questions, as many leave at a time as it has room for (`neighbours_let_go`, `neighbours_tick`).
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

cdef enum:
    EXTRAS_MAX = 512
    EXTRAS_BYTES = 262144
    EXTRA_ROOM = 16

cdef struct Extra:
    uint8_t* frame
    uint32_t length
    uint16_t port
    uint8_t action

cdef struct Extras:
    uint8_t* arena
    uint32_t used
    uint32_t count
    Extra frames[EXTRAS_MAX]


cdef inline uint8_t* extra_room(Extras* extras, uint32_t length) noexcept nogil:
    """Room for one more frame, NULL when there is none; taken by `extra_add` or `extra_hold`."""
    cdef uint8_t* room = extras.arena + extras.used
    if extras.count == EXTRAS_MAX or extras.used + EXTRA_ROOM + length > EXTRAS_BYTES:
        return NULL
    memset(room, 0, EXTRA_ROOM)
    return room + EXTRA_ROOM


cdef inline void extra_set(
    Extra* extra, uint32_t length, uint8_t action, uint16_t port
) noexcept nogil:
    """What is to be done with a frame that is in the arena."""
    extra.length = length
    extra.action = action
    extra.port = port


cdef inline void extra_hold(Extras* extras, uint32_t length) noexcept nogil:
    """The room given last is taken, by a frame that leaves in place of the one that came."""
    extras.used += (EXTRA_ROOM + length + 15) & ~<uint32_t>15


cdef inline void extra_add(
    Extras* extras, uint8_t* frame, uint32_t length, uint8_t action, uint16_t port
) noexcept nogil:
    """The frame in the room given last leaves, too."""
    cdef Extra* extra = &extras.frames[extras.count]
    extra.frame = frame
    extra_set(extra, length, action, port)
    extras.count += 1
    extra_hold(extras, length)


cdef inline void extras_clear(Extras* extras) noexcept nogil:
    extras.count = 0
    extras.used = 0
