# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""UDP load from ordinary sockets, many datagrams to a system call, without the GIL.

Sockets take turns; each is connected to its one destination. A socket is a flow, so the gateway
sees as many flows as there are sockets. The contents never change, so nothing is written per
datagram.
"""

import errno

from libc.errno cimport EAGAIN, ECONNREFUSED, EINTR, ENOBUFS, errno as c_errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from bench.native.clock cimport LOOK_NS, SECOND, now_ns, sleep_ns, stop_requested

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    cdef struct mmsghdr:
        msghdr msg_hdr
    int sendmmsg(int descriptor, mmsghdr* messages, unsigned int count, int flags)

cdef enum:
    BATCH_MAX = 64
    PAYLOAD_MAX = 65507

cdef struct Load:
    int* descriptors
    uint32_t sockets
    uint32_t batch
    uint64_t rate
    uint64_t packets
    uint64_t deadline
    int stop_descriptor
    mmsghdr messages[BATCH_MAX]
    iovec vector
    # What came of it.
    uint64_t sent
    uint64_t refused
    int failure


cdef bint send_batch(Load* load, int descriptor, uint32_t count) noexcept nogil:
    """Send `count` messages; False when it cannot go on."""
    cdef uint32_t done = 0
    cdef int result
    while done < count:
        result = sendmmsg(descriptor, load.messages + done, count - done, 0)
        if result > 0:
            done += <uint32_t>result
            load.sent += <uint64_t>result
        elif c_errno == EINTR:
            continue
        elif c_errno == ECONNREFUSED or c_errno == EAGAIN or c_errno == ENOBUFS:
            # An ICMP error of an earlier datagram, or no room: the load goes on with the next.
            load.refused += 1
            done += 1
        else:
            load.failure = c_errno
            return False
    return True


cdef void run(Load* load) noexcept nogil:
    cdef uint64_t start = now_ns(), look = start, now, due, turn = 0
    cdef uint32_t count = load.batch
    while True:
        now = now_ns()
        if now >= load.deadline:
            return
        if now >= look:
            if stop_requested(load.stop_descriptor):
                return
            look = now + LOOK_NS
        if load.packets:
            if load.sent >= load.packets:
                return
            if load.packets - load.sent < count:
                count = <uint32_t>(load.packets - load.sent)
        if load.rate:
            due = start + load.sent * SECOND // load.rate
            if due > now:
                sleep_ns(due - now if due - now < LOOK_NS else LOOK_NS)
                if due > now_ns():
                    continue
        if not send_batch(load, load.descriptors[turn % load.sockets], count):
            return
        turn += 1


def send(
    list descriptors,
    *,
    int payload_bytes,
    double seconds,
    int stop_descriptor,
    int batch=BATCH_MAX,
    long rate_per_second=0,
    long packets=0,
):
    """Send until told to stop; see the type stub."""
    cdef Load* load
    cdef bytes payload = bytes(payload_bytes)
    cdef uint64_t start, end
    cdef int i
    if not descriptors or not 1 <= batch <= BATCH_MAX or not 0 <= payload_bytes <= PAYLOAD_MAX:
        raise ValueError("no sockets, or an impossible batch or size")
    load = <Load*>calloc(1, sizeof(Load))
    if load == NULL:
        raise MemoryError
    load.descriptors = <int*>calloc(len(descriptors), sizeof(int))
    if load.descriptors == NULL:
        free(load)
        raise MemoryError
    for i, descriptor in enumerate(descriptors):
        load.descriptors[i] = descriptor
    load.sockets = <uint32_t>len(descriptors)
    load.batch = <uint32_t>batch
    load.rate = <uint64_t>rate_per_second
    load.packets = <uint64_t>packets
    load.stop_descriptor = stop_descriptor
    load.vector.iov_base = <void*><const unsigned char*>payload
    load.vector.iov_len = <size_t>payload_bytes
    for i in range(BATCH_MAX):
        load.messages[i].msg_hdr.msg_iov = &load.vector
        load.messages[i].msg_hdr.msg_iovlen = 1
    try:
        start = now_ns()
        load.deadline = start + <uint64_t>(seconds * SECOND)
        with nogil:
            run(load)
        end = now_ns()
        if load.failure:
            raise OSError(load.failure, f"sendmmsg: {errno.errorcode.get(load.failure)}")
        return load.sent, load.refused, (end - start) / <double>SECOND
    finally:
        free(load.descriptors)
        free(load)
