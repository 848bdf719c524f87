# SPDX-License-Identifier: Apache-2.0
# The clock of every native loop, and how such a loop learns that it should end.
from libc.stdint cimport uint64_t

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int clock_gettime(int clock, timespec* now)
    int clock_nanosleep(int clock, int flags, const timespec* wanted, timespec* rest)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd* descriptors, unsigned long count, int milliseconds)
    short POLLIN

cdef enum:
    SECOND = 1000000000
    # How often a loop looks whether it should end: rarely enough to cost nothing.
    LOOK_NS = 2000000


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <uint64_t>now.tv_sec * SECOND + <uint64_t>now.tv_nsec


cdef inline void sleep_ns(uint64_t duration) noexcept nogil:
    cdef timespec wanted
    wanted.tv_sec = <long>(duration // SECOND)
    wanted.tv_nsec = <long>(duration % SECOND)
    clock_nanosleep(CLOCK_MONOTONIC, 0, &wanted, NULL)


cdef inline bint stop_requested(int descriptor) noexcept nogil:
    """Whether the coordinator has closed (or written to) the pipe that it holds."""
    cdef pollfd pipe
    pipe.fd = descriptor
    pipe.events = POLLIN
    pipe.revents = 0
    return poll(&pipe, 1, 0) > 0
