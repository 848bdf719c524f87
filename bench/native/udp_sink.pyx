# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""An application that receives datagrams, many to a system call, and counts them."""

from libc.errno cimport EAGAIN, EINTR, errno as c_errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from bench.native.clock cimport POLLIN, SECOND, now_ns, poll, pollfd, timespec

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        void* msg_name
        unsigned int msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
    cdef struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    int recvmmsg(int descriptor, mmsghdr* messages, unsigned int count, int flags, timespec* wait)
    int MSG_DONTWAIT

cdef enum:
    BATCH = 64
    ROOM = 2048
    WAIT_MS = 5

cdef struct Sink:
    mmsghdr messages[BATCH]
    iovec vectors[BATCH]
    unsigned char room[BATCH][ROOM]


cdef long count(Sink* sink, pollfd* watched, int sockets, uint64_t start, uint64_t end) noexcept nogil:
    """Datagrams received between two moments; -1 when the pipe (the last descriptor) says stop."""
    cdef long received = 0
    cdef int i, result
    cdef uint64_t now
    while True:
        if poll(watched, sockets + 1, WAIT_MS) < 0 and c_errno != EINTR:
            return -1
        if watched[sockets].revents:
            return -1
        now = now_ns()
        if now >= end:
            return received
        for i in range(sockets):
            if not watched[i].revents:
                continue
            result = recvmmsg(watched[i].fd, sink.messages, BATCH, MSG_DONTWAIT, NULL)
            if result > 0 and now >= start:
                received += result


def receive(list descriptors, *, double warm_up_seconds, double seconds, int stop_descriptor):
    """Count datagrams; see the type stub."""
    cdef int sockets = <int>len(descriptors), i
    cdef Sink* sink = <Sink*>calloc(1, sizeof(Sink))
    cdef pollfd* watched = <pollfd*>calloc(sockets + 1, sizeof(pollfd))
    cdef uint64_t start, end
    cdef long received
    try:
        if sink == NULL or watched == NULL:
            raise MemoryError
        for i in range(BATCH):
            sink.vectors[i].iov_base = &sink.room[i][0]
            sink.vectors[i].iov_len = ROOM
            sink.messages[i].msg_hdr.msg_iov = &sink.vectors[i]
            sink.messages[i].msg_hdr.msg_iovlen = 1
        for i in range(sockets):
            watched[i].fd = descriptors[i]
            watched[i].events = POLLIN
        watched[sockets].fd = stop_descriptor
        watched[sockets].events = POLLIN
        start = now_ns() + <uint64_t>(warm_up_seconds * SECOND)
        end = start + <uint64_t>(seconds * SECOND)
        with nogil:
            received = count(sink, watched, sockets, start, end)
        return received
    finally:
        free(sink)
        free(watched)
